"""A synthetic heart with a left atrium, for demonstrations and tests: no patient, and the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Phantom", "make_phantom"]

_BLOOD, _MUSCLE, _FAT, _LUNG = 1750.0, 850.0, 1250.0, 130.0  # intensities of late-enhancement MRI, 12 bits
_EDGE_MM = 1.1  # width over which a tissue's edge is smeared (partial volume, heart motion)
_EXTENT_MM = np.array([55.0, 84.0, 112.0])  # field of view along (z, y, x)

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Phantom:
    """An image and its truth.

    Attributes
    ----------
    image : ndarray of uint16, (Z, Y, X)
    labels : ndarray of uint8, (Z, Y, X)
        1 where the left atrium is.
    spacing : tuple of float
        Distance of voxels along (z, y, x) in millimetres.
    """

    image: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float, float]


def make_phantom(shape: tuple[int, int, int] = (64, 112, 128), seed: int = 0, noise: float = 170.0) -> Phantom:
    """Generate a phantom; the same arguments give the same one.

    A body that changes its shape from slice to slice, four pulmonary veins and an appendage; next to it an aorta, a
    ventricle behind an open valve, the right heart and the pulmonary artery, all as bright as the atrium; vertebra,
    lung, a bias field and Rician noise.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X); the field of view stays the same, so the spacing follows.
    seed : int
        Varies the anatomy, the bias field and the noise.
    noise : float
        Standard deviation of the noise in each of the two channels of the scanner; blood has an intensity of 1750.
    """
    random = np.random.default_rng(seed)
    spacing = _EXTENT_MM / np.array(shape)
    z, y, x = np.meshgrid(
        *((np.arange(n) + 0.5) * step for n, step in zip(shape, spacing, strict=True)), indexing="ij", sparse=True
    )
    warp = 1.3 * _smooth_noise(random, shape, spacing, 10.0)  # mm that every surface is dented by
    place = _Place(z, y, x, random)
    atrium = _left_atrium(place) + warp
    image = _tissue(random, shape, spacing, place, atrium, warp)
    image *= 1 + 0.1 * _smooth_noise(random, shape, spacing, 35.0)  # receiver coil
    channels = random.normal(scale=noise, size=(2, *shape)).astype(np.float32)
    channels = ndimage.gaussian_filter(channels, (0, 0.4, 0.55, 0.55)) * 1.6  # noise of real scans is correlated
    image = np.hypot(image + channels[0], channels[1])
    return Phantom(
        image=np.clip(image, 0, 4095).astype(np.uint16),
        labels=_largest_part(atrium < 0).astype(np.uint8),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


class _Place:
    """Signed distances (mm, negative inside) of simple bodies, each moved a little at random."""

    def __init__(self, z: Array, y: Array, x: Array, random: np.random.Generator) -> None:
        self.z, self.y, self.x, self._random = z, y, x, random

    def ellipsoid(self, centre: tuple[float, ...], radii: tuple[float, ...], tilt: float = 0.0) -> Array:
        """Ellipsoid, turned by `tilt` degrees in the plane of a slice."""
        (z, y, x), (a, b, c) = self._moved(centre, 1.2), radii
        cosine, sine = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
        dz, dy, dx = self.z - z, self.y - y, self.x - x
        dy, dx = cosine * dy - sine * dx, sine * dy + cosine * dx
        radius = np.sqrt((dz / a) ** 2 + (dy / b) ** 2 + (dx / c) ** 2)
        gradient = np.sqrt((dz / a**2) ** 2 + (dy / b**2) ** 2 + (dx / c**2) ** 2) + 1e-6
        return radius * (radius - 1) / gradient  # exact to first order at the surface

    def tube(self, points: tuple[tuple[float, ...], ...], radii: tuple[float, ...], jitter: float = 1.5) -> Array:
        """Tube along a polyline, its radius linear between the points."""
        moved = [np.array(points[0]), *(self._moved(point, jitter) for point in points[1:])]
        segments = zip(moved[:-1], moved[1:], radii[:-1], radii[1:], strict=True)
        distances = [self._segment(*segment) for segment in segments]
        return np.minimum.reduce(distances)

    def _segment(self, start: Array, end: Array, start_radius: float, end_radius: float) -> Array:
        direction = end - start
        dz, dy, dx = self.z - start[0], self.y - start[1], self.x - start[2]
        along = (dz * direction[0] + dy * direction[1] + dx * direction[2]) / (direction @ direction)
        along = np.clip(along, 0, 1)
        squares = (dz - along * direction[0]) ** 2 + (dy - along * direction[1]) ** 2 + (dx - along * direction[2]) ** 2
        return np.sqrt(squares) - (start_radius + along * (end_radius - start_radius))

    def _moved(self, point: tuple[float, ...], by: float) -> Array:
        return np.array(point) + self._random.normal(scale=by, size=3)


def _left_atrium(place: _Place) -> Array:
    """Signed distance of the atrium: a body of two lobes, an appendage and four veins of different course."""
    body = place.ellipsoid((27, 40, 55), (14, 12, 24), tilt=12)
    lobe = place.ellipsoid((20, 37, 49), (11, 12, 15), tilt=-25)
    appendage = place.tube(((27, 34, 70), (30, 27, 80), (33, 24, 84)), (7, 4.5, 2.5))
    veins = [
        place.tube(((28, 45, 40), (25, 52, 26), (23, 57, 15)), (6.5, 5.0, 4.0)),  # right inferior
        place.tube(((33, 38, 42), (37, 38, 26), (39, 35, 14)), (6.5, 5.0, 4.0)),  # right superior
        place.tube(((31, 45, 70), (31, 53, 80), (30, 58, 86)), (6.0, 4.5, 3.5)),  # left inferior
        place.tube(((34, 38, 70), (39, 38, 77), (42, 37, 81)), (6.0, 5.0, 3.5)),  # left superior, climbs
    ]
    atrium = _blend(body, lobe, 4.0)
    for part in (appendage, *veins):
        atrium = _blend(atrium, part, 3.0)
    return atrium


def _tissue(
    random: np.random.Generator, shape: tuple[int, ...], spacing: Array, place: _Place, atrium: Array, warp: Array
) -> Array:
    """Intensities without bias and noise: tissues painted over each other from the outside in."""
    texture = _smooth_noise(random, shape, spacing, 3.0)
    clutter = _smooth_noise(random, shape, spacing, 4.5)
    heart = place.ellipsoid((20, 24, 62), (40, 40, 50), tilt=8) + warp
    image = np.broadcast_to(np.float32(_LUNG), shape).copy()
    image += np.maximum(clutter - 1.1, 0) * 900  # vessels of the lung
    image = _paint(image, heart, _MUSCLE + 220 * texture)
    image = _paint(image, np.abs(heart) - 1.5, _FAT + 200 * texture)  # pericardium
    image = _paint(image, 3 * (0.4 - clutter) + np.maximum(heart + 4, 0), 380.0)  # gaps between the vessels
    spine = place.ellipsoid((28, 84, 40), (90, 17, 17))
    image = _paint(image, spine, 420 + 150 * texture)
    image = _paint(image, np.abs(spine) - 1.0, _FAT)

    # Neighbours as bright as the atrium; a wall of a millimetre or two lies between, but for the open valve.
    aorta = place.tube(((-5, 68, 66), (60, 66, 62)), (8.2, 7.6))
    ventricle = place.ellipsoid((10, 16, 86), (22, 15, 27), tilt=-32) + warp
    right_heart = place.ellipsoid((14, 14, 34), (27, 18, 20), tilt=20) + warp
    root = place.tube(((22, 18, 58), (60, 14, 54)), (9.5, 9.0))
    pulmonary = place.tube(((47, 12, 78), (51, 28, 68), (51, 40, 48), (51, 46, 30)), (9.0, 7.5, 7.0, 6.0))
    cava = place.tube(((30, 24, 30), (60, 22, 28)), (7.0, 6.5))
    valve = place.tube(((17, 28, 66), (13, 22, 74)), (7.5, 7.5))
    wall = np.maximum(np.abs(atrium - 0.9) - 0.9, -(valve + 1))
    blood = 70 * texture
    for body, level in ((ventricle, 0.9), (right_heart, 0.88), (root, 0.93), (pulmonary, 0.98), (cava, 0.92)):
        image = _paint(image, body - 1.3, _MUSCLE + 150 * texture)
        image = _paint(image, body, level * _BLOOD + blood)
    image = _paint(image, aorta - 1.2, 500.0)
    image = _paint(image, aorta, 1.02 * _BLOOD + blood)
    image = _paint(image, valve, 0.95 * _BLOOD + blood)
    image = _paint(image, wall, _MUSCLE + 500 * np.maximum(texture, 0))  # scar enhances
    return _paint(image, atrium, _BLOOD + blood)


def _largest_part(mask: Array) -> Array:
    """The largest connected part: dents may cut the tip off a vein."""
    parts, _ = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _paint(image: Array, distance: Array, intensity: Array | float) -> Array:
    """Cover `image` where `distance` is negative; the edge is smeared."""
    share = np.clip(0.5 - distance / (2 * _EDGE_MM), 0, 1)
    return image + share * (intensity - image)


def _blend(a: Array, b: Array, width: float) -> Array:
    """Union of two bodies with a rounded seam of `width` millimetres."""
    overlap = np.clip(0.5 + (b - a) / (2 * width), 0, 1)
    return b + overlap * (a - b) - width * overlap * (1 - overlap)


def _smooth_noise(random: np.random.Generator, shape: tuple[int, ...], spacing: Array, length: float) -> Array:
    """Noise of unit variance, correlated over `length` millimetres; made on a coarse grid, as it is smooth."""
    coarse = [max(4, round(n * step / length) + 3) for n, step in zip(shape, spacing, strict=True)]
    noise = random.normal(size=coarse).astype(np.float32)
    positions = [1 + np.linspace(0, size - 3, n, dtype=np.float32) for n, size in zip(shape, coarse, strict=True)]
    for axis, position in enumerate(positions):  # separable cubic interpolation, one axis at a time
        noise = _interpolate(noise, position, axis)
    return (noise - noise.mean()) / noise.std()


def _interpolate(array: Array, positions: Array, axis: int) -> Array:
    """Cubic (Catmull-Rom) interpolation along one axis at `positions`, at least 1 from either end."""
    base = np.minimum(positions.astype(int), array.shape[axis] - 3)
    t = positions - base
    weights = (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    along = [1] * array.ndim
    along[axis] = len(positions)
    terms = (
        np.take(array, base + step, axis=axis) * weight.reshape(along).astype(np.float32)
        for step, weight in zip((-1, 0, 1, 2), weights, strict=True)
    )
    return np.add.reduce(list(terms))
