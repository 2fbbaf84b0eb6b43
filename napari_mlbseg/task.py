"""What is to be segmented: volumes, frozen and validated into a task.

Axis 0 of every array here is the slice axis; the session moves the user's axis there and back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.instances import CLASSES, LOOKED_AT, MANY, are_instances, to_classes

__all__ = ["FEWEST_TO_LEAVE_OUT", "SegmentationTask", "TaskError", "Volume", "check_images", "resolve_task"]

#: Clean slices from which on one can be left out: two remain to learn from.
FEWEST_TO_LEAVE_OUT = 3

#: Images up to this many bytes are searched whole for finite values; of larger ones, some slices are.
_WHOLE_CHECK_BYTES = 2**29

_LISTED = 3  # label numbers in a sentence


class TaskError(ValueError):
    """The input cannot be trained on; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A stack of slices with its annotation.

    Attributes
    ----------
    name : str
        Unique within a task; names the folder of its results.
    image : array-like, (Z, Y, X) or (Z, C, Y, X)
        Any number type; may be lazy (memory-mapped, zarr): slices are read one by one.
    labels : array-like of int, (Z, Y, X)
        The user's label numbers, 0 = background. Read on clean slices only.
    clean : array of bool, (Z,)
        Slices that the user painted completely and vouches for.
    initial_labels : array-like of int, (Z, Y, X), optional
        Labels from elsewhere for the unannotated slices (y^n).
    spacing : tuple of float
        Distance of voxels along (z, y, x), in `unit`.
    independent_slices : bool
        A stack of unrelated 2D images: nothing is interpolated or propagated between neighbours.
    focus : int, optional
        Slice that the user looks at: predicted first.
    slice_direction : str
        Where the slice axis lies along in the world, ``"x"``, ``"y"``, ``"z"`` or another letter of the image's axes;
        empty: nobody said so.
    """

    name: str
    image: Any
    labels: Any
    clean: np.ndarray
    initial_labels: Any | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    independent_slices: bool = False
    focus: int | None = None
    slice_direction: str = ""

    @property
    def n_slices(self) -> int:
        """Number of slices, Z."""
        return int(self.image.shape[0])

    @property
    def n_channels(self) -> int:
        """Number of image channels, C."""
        return int(self.image.shape[1]) if self.image.ndim == 4 else 1

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice, (Y, X)."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return (self.n_slices, *self.slice_shape)

    @property
    def clean_slices(self) -> tuple[int, ...]:
        """Indices of the clean slices, ascending."""
        return tuple(int(z) for z in np.flatnonzero(self.clean))

    @property
    def unlabelled_slices(self) -> tuple[int, ...]:
        """Indices of all other slices, ascending."""
        return tuple(int(z) for z in np.flatnonzero(~np.asarray(self.clean)))

    def image_slice(self, z: int) -> np.ndarray:
        """Slice `z` of the image with a channel axis, (C, Y, X), in its own number type."""
        image = np.asarray(self.image[z])
        return image[None] if image.ndim == 2 else image

    def image_window(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """Part of slice `z` of the image with a channel axis, (C, y, x); a lazy array reads no more than that."""
        image = np.asarray(self.image[z, ..., rows, columns])
        return image[None] if image.ndim == 2 else image

    def label_slice(self, z: int) -> np.ndarray:
        """Slice `z` of the annotation, (Y, X)."""
        return np.asarray(self.labels[z])


@dataclass(frozen=True, eq=False)
class SegmentationTask:
    """A validated, frozen task: what `engine.train` takes. Made by `resolve_task`.

    Attributes
    ----------
    volumes : tuple of Volume
    class_values : tuple of int
        The user's label numbers in ascending order, background (0) first. Channel c of a probability belongs to
        ``class_values[c]``. Of instances, `napari_mlbseg.instances.CLASSES`.
    config : TrainingConfig
    last_instance : int, optional
        Largest number of an object, where the user's label numbers are those of single objects; new ones get larger
        ones. None: label numbers are classes.
    note : str
        What a person should know of how the task was understood; empty where there is nothing to say.
    """

    volumes: tuple[Volume, ...]
    class_values: tuple[int, ...]
    config: TrainingConfig = field(default_factory=TrainingConfig)
    last_instance: int | None = None
    note: str = ""

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_values)

    @property
    def n_channels(self) -> int:
        """Number of image channels, the same in every volume."""
        return self.volumes[0].n_channels

    @property
    def slice_direction(self) -> str:
        """Where the slices of all volumes lie along in the world; empty where they differ."""
        directions = {volume.slice_direction for volume in self.volumes}
        return directions.pop() if len(directions) == 1 else ""

    def class_indices(self, labels: np.ndarray) -> np.ndarray:
        """Label numbers (..., Y, X) -> class indices 0..K-1 (int64); those outside `class_values` become background."""
        labels = np.asarray(labels)
        if self.last_instance is not None:
            return to_classes(labels)
        index = np.searchsorted(self.class_values, labels).clip(max=self.n_classes - 1)
        known = np.asarray(self.class_values)[index] == labels
        return np.where(known, index, 0).astype(np.int64)


def resolve_task(
    volumes: Sequence[Volume],
    config: TrainingConfig,
    *,
    elsewhere: Mapping[int, str] | None = None,
    unread: Collection[str] = (),
) -> SegmentationTask:
    """Validate volumes and freeze them into a task. Pure: nothing is written, no array is changed.

    Parameters
    ----------
    volumes : sequence of Volume
    config : TrainingConfig
    elsewhere : mapping of int to str, optional
        Label numbers that somebody painted, also on slices that are not clean, and where: ``"slice 13 of 'heart'"``.
        What occurs on no clean slice is not learnt, and the task's note says so.
    unread : collection of str
        Names of volumes whose images are not looked at, since that would take time: `check_images` has to follow.

    Raises
    ------
    TaskError
        A `ValueError` with one sentence that names what is missing or wrong, and what to do.
    """
    if not volumes:
        raise TaskError("There is no image: choose an image layer or file.")
    names = [volume.name for volume in volumes]
    if len(set(names)) < len(names):
        raise TaskError(f"Two images have the same name ({', '.join(sorted(names))}): rename one of them.")
    for volume in volumes:
        _check_shapes(volume)
        _check_clean(volume)
    channels = {volume.n_channels for volume in volumes}
    if len(channels) > 1:
        raise TaskError(
            f"The images have different numbers of channels ({', '.join(map(str, sorted(channels)))}): "
            "train on images of one kind together."
        )
    if not any(volume.clean.any() for volume in volumes):
        raise TaskError("No slice is marked clean: paint at least one slice completely and mark it clean.")
    check_images([volume for volume in volumes if volume.name not in unread])
    if config.initial_labels == "given" and all(volume.initial_labels is None for volume in volumes):
        raise TaskError("The initial labels are to be given, but there are none: choose a layer or file for them.")
    present = {0}
    for volume in volumes:
        present |= _clean_values(volume)
    if len(present) == 1:
        raise TaskError(
            "Nothing is painted on the clean slices, only background: paint the structure on at least one slice and "
            "mark it clean."
        )
    elsewhere = {int(value): where for value, where in (elsewhere or {}).items()}
    if _holds_instances(volumes, config, len(present) - 1):
        return SegmentationTask(tuple(volumes), CLASSES, config, last_instance=max(present | elsewhere.keys()))
    return SegmentationTask(tuple(volumes), tuple(sorted(present)), config, note=_forgotten(present, elsewhere))


def check_images(volumes: Sequence[Volume], before_each: Callable[[], object] = lambda: None) -> None:
    """Refuse images without any number, and clean slices without; reads as few slices as that takes.

    Parameters
    ----------
    volumes : sequence of Volume
    before_each : callable
        Called before a slice is read; what it raises ends the search.

    Raises
    ------
    TaskError
        As `resolve_task`.
    """
    for volume in volumes:
        _check_image(volume, before_each)


def _forgotten(present: Collection[int], elsewhere: Mapping[int, str]) -> str:
    """What there is to say of label numbers that no clean slice has."""
    missing = sorted(elsewhere.keys() - present)
    if not missing:
        return ""
    which = ", ".join(f"{value} ({elsewhere[value]})" for value in missing[:_LISTED])
    more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    label, occurs, its = ("Label", "occurs", "it is") if len(missing) == 1 else ("Labels", "occur", "they are")
    objects = " If each stands for a single object, such as a cell, set label_kind to 'instances'." if more else ""
    return f"{label} {which}{more} {occurs} on no clean slice: {its} not learnt.{objects}"


def _holds_instances(volumes: Sequence[Volume], config: TrainingConfig, n_labels: int) -> bool:
    """Whether label numbers stand for single objects: as the config says, or as they look."""
    if config.label_kind != "auto":
        return config.label_kind == "instances"
    clean = [(volume, z) for volume in volumes for z in volume.clean_slices]
    looked_at = clean[:: max(1, len(clean) // LOOKED_AT)]
    return n_labels > MANY and are_instances([volume.label_slice(z) for volume, z in looked_at])


def _check_shapes(volume: Volume) -> None:
    name, image, labels = volume.name, volume.image, volume.labels
    if image.ndim not in (3, 4):
        raise TaskError(
            f"The image '{name}' has shape {_by(image.shape)}: a stack of slices with three axes is needed "
            "(a fourth may hold channels)."
        )
    if 0 in image.shape:
        raise TaskError(f"The image '{name}' is empty (shape {_by(image.shape)}): choose another.")
    if np.dtype(image.dtype).kind not in "biuf":
        raise TaskError(f"The image '{name}' holds {image.dtype}, not real numbers: convert it first.")
    if volume.n_slices < 2:
        raise TaskError(
            f"The image '{name}' has only one slice: at least two are needed. If the slices lie along another axis, "
            "change the slice axis."
        )
    for what, array in (("labels", labels), ("initial labels", volume.initial_labels)):
        if array is None:
            continue
        if tuple(array.shape) != volume.shape:
            raise TaskError(
                f"The {what} of '{name}' have shape {_by(array.shape)} but the image has {_by(volume.shape)}: choose "
                f"{what} that belong to this image."
            )
        if np.dtype(array.dtype).kind not in "biu":
            raise TaskError(f"The {what} of '{name}' are {array.dtype}, not integers: convert them to label numbers.")
    if len(volume.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in volume.spacing):
        raise TaskError(f"The spacing of '{name}' is {volume.spacing}: three positive distances are needed.")


def _check_clean(volume: Volume) -> None:
    clean = np.asarray(volume.clean)
    if clean.dtype != bool or clean.shape != (volume.n_slices,):
        raise TaskError(
            f"The clean slices of '{volume.name}' must be one yes or no for each of its {volume.n_slices} slices, "
            f"not {clean.dtype} of shape {clean.shape}."
        )


def _check_image(volume: Volume, before_each: Callable[[], object]) -> None:
    """At least some voxels, and some on every clean slice, must be numbers."""
    if np.dtype(volume.image.dtype).kind != "f" or getattr(volume.image, "is_finite", False):
        return  # or somebody looked already, when it was read

    def has_numbers(z: int) -> bool:
        before_each()
        return bool(np.isfinite(volume.image_slice(z)).any())

    clean = volume.clean_slices
    blind = next((z for z in clean if not has_numbers(z)), None)
    if clean and blind is None:
        return
    others: Sequence[int] = volume.unlabelled_slices if blind is None else range(volume.n_slices)
    if int(np.prod(volume.image.shape)) * np.dtype(volume.image.dtype).itemsize > _WHOLE_CHECK_BYTES:
        spread = np.linspace(0, volume.n_slices - 1, 16).astype(int).tolist()
        others = sorted({*spread, *clean})
    if not any(has_numbers(z) for z in others):
        raise TaskError(f"The image '{volume.name}' holds no number, only NaN: choose another image.")
    if blind is not None:
        raise TaskError(f"Slice {blind} of '{volume.name}' is marked clean but its image holds only NaN: unmark it.")


def _clean_values(volume: Volume) -> set[int]:
    """Label numbers on the clean slices; refuses negative ones."""
    values: set[int] = set()
    known = getattr(volume.labels, "values_of", None)  # of a snapshot: somebody looked when it was made
    for z in volume.clean_slices:
        values |= known(z) if known is not None else {int(value) for value in np.unique(volume.label_slice(z))}
    if values and min(values) < 0:
        raise TaskError(
            f"The labels of '{volume.name}' hold the negative number {min(values)}: label numbers start at 0, "
            "the background."
        )
    return values


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(int(n)) for n in shape)
