"""A tiny data set in the layouts that the left-atrium protocol knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.threads import one_thread  # noqa: F401

MakeCases = Callable[..., Path]


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise, slices along the last axis as in the published files: image and label, (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices((34, 38, 10))
    middle = rng.uniform(15, 19, 2)
    label = ((2.6 * (z - 5)) ** 2 + (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < 12**2).astype(np.uint8)
    return (2 * label + rng.normal(0, 0.4, label.shape)).astype(np.float32), label


@pytest.fixture
def make_cases(tmp_path: Path) -> MakeCases:
    """Writes cases and lists into a folder."""

    def make(
        names: Sequence[str], *, kind: str = "nifti", lists: tuple[Sequence[str], Sequence[str]] | None = None
    ) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for seed, name in enumerate(names):
            image, label = ball(seed)
            if kind == "h5":
                h5py = pytest.importorskip("h5py")
                (folder / name).mkdir()
                with h5py.File(folder / name / "mri_norm2.h5", "w") as file:
                    file.create_dataset("image", data=image, compression="gzip")
                    file.create_dataset("label", data=label, compression="gzip")
            else:
                affine = np.diag([0.625, 0.625, 0.625, 1])
                nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
                nibabel.save(nibabel.Nifti1Image(label, affine), folder / f"{name}_label.nii.gz")
        for part, chosen in zip(("train", "test"), lists or (), strict=False):
            (folder / f"{part}.list").write_text("\n".join(chosen) + "\n\n")
        return folder

    return make
