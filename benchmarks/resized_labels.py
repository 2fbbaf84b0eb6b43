"""How much Dice the reference's way to resize masks costs before anything is learnt, and how much ours does.

    python -m benchmarks.resized_labels --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --out DIR

The reference squashes slices to squares and resizes masks with bilinear interpolation, then takes every pixel above 0
for foreground, which dilates the structure. Here masks are interpolated as probabilities and decided at a half. The
first column compares the reference's mask on the square with one decided at a half; the others bring the mask to the
square, decide, bring it back to its own size the same way, and compare it with what it was. A network that learns from
such masks perfectly would score so much.
"""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.runs import training_parser
from benchmarks.volumes import find_volumes, load_volume
from napari_mlbseg.method.metrics import dice

__all__ = ["main", "on_square", "there_and_back"]

_REFERENCE, _HERE = 0.0, 0.5  # above which an interpolated mask counts as foreground
_COLUMNS = ("reference, on the square", "reference, there and back", "here, there and back")


def main(arguments: list[str] | None = None) -> None:
    """Print and write the mean Dice of both ways."""
    parser = training_parser("resized_labels", __doc__)
    parser.add_argument("--size", type=int, default=144, help="side of the square; the reference's is 144")
    options = parser.parse_args(arguments)
    rows = []
    for path in find_volumes(options.volumes):
        truth = np.asarray(load_volume(path, 2).labels) > 0
        scores = (
            dice(on_square(truth, options.size, _REFERENCE), on_square(truth, options.size, _HERE)),
            dice(there_and_back(truth, options.size, _REFERENCE), truth),
            dice(there_and_back(truth, options.size, _HERE), truth),
        )
        rows.append({"volume": path.name, **dict(zip(_COLUMNS, scores, strict=True))})
    table = ["| volume | " + " | ".join(_COLUMNS) + " |", "|---" * (1 + len(_COLUMNS)) + "|"]
    table += ["| " + " | ".join([row["volume"], *(f"{row[name]:.4f}" for name in _COLUMNS)]) + " |" for row in rows]
    means = {name: float(np.mean([row[name] for row in rows])) for name in _COLUMNS}
    table.append("| **mean** | " + " | ".join(f"**{means[name]:.4f}**" for name in _COLUMNS) + " |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "summary.json").write_text(json.dumps({"size": options.size, "mean": means, "runs": rows}, indent=1))
    (options.out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def on_square(mask: np.ndarray, size: int, threshold: float) -> np.ndarray:
    """A mask (Z, Y, X) brought to squares of `size` pixels a side and cut at `threshold`, (Z, size, size)."""
    return _resized(mask, (size, size), threshold)


def there_and_back(mask: np.ndarray, size: int, threshold: float) -> np.ndarray:
    """A mask (Z, Y, X) brought to squares and back, each time interpolated and cut at `threshold`."""
    return _resized(on_square(mask, size, threshold), mask.shape[1:], threshold)


def _resized(mask: np.ndarray, size: tuple[int, ...], threshold: float) -> np.ndarray:
    slices = torch.from_numpy(mask)[:, None].float()
    return (F.interpolate(slices, size, mode="bilinear", align_corners=False) > threshold)[:, 0].numpy()


if __name__ == "__main__":
    main()
