"""How many planted errors *look again* finds, at how many false alarms, beside plainer detectors.

    python -m benchmarks.look_again --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --slices 7 --out DIR

One error is planted into one clean slice, a training runs, and every detector gives a map of all clean slices. A place
is a connected region of a map above a threshold (`error_regions`). The error is found if half of some place lies
within 3 pixels of it; every place on the other clean slices is a false alarm. For each detector the threshold is that
which finds most within the wanted false alarms over all runs, the same for every kind of error. Steps, not seconds, so
that the machine's load changes nothing. Runs are lines of ``runs.jsonl``; those that stand there are not repeated.
"""

from __future__ import annotations

import itertools
import json
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from benchmarks.errors import auroc, in_halves, plant
from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.volumes import find_volumes, load_volume
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.method.pixel_weights import alignment
from napari_mlbseg.method.shape_prior import soft_labels
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.dataset import Key, Pool
from napari_mlbseg.training.error_regions import FEWEST_PIXELS, ErrorRegion, find_error_regions
from napari_mlbseg.training.inference import Predictor
from napari_mlbseg.training.label_errors import BLUR, LookAgain
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.stages import Training
from napari_mlbseg.training.step import Learner

__all__ = ["KINDS", "main"]

KINDS = ("shifted", "missed", "spurious", "swapped")
RATES = (0.25, 0.5, 1.0)  # false alarms per untouched clean slice

_SMALLEST = 300  # pixels of the structure on a slice that gets an error
_NEAR = 3  # pixels from the error that still count as it
_THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-5, 7, 97)))  # dense near 1, where most maps saturate


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the tables."""
    parser = training_parser("look_again", __doc__)
    parser.add_argument("--slices", type=int, default=7, help="number of clean slices")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--steps", default="75+20", help="bootstrap and weighted steps")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "runs.jsonl"
    done = {run["key"] for run in read_runs(lines)}
    config = config_of(options, options.steps)
    for path, kind in itertools.product(find_volumes(options.volumes), options.kinds.split(",")):
        settings = (path.name, options.slices, kind, options.steps, options.preset, options.seed, *options.set)
        key = "|".join(map(str, settings))
        if key in done:
            continue
        run = _run(load_volume(path, options.slices), kind, config, options.device)
        append_run(lines, {"key": key, "kind": kind, "seed": options.seed, **run})
        print(path.name, kind, f"slice {run['slice']}, {run['seconds']:.0f} s", flush=True)
    _summarise(options.out, read_runs(lines))


# -- errors ----------------------------------------------------------------------------------------------------------


def _with_error(volume: Volume, kind: str, seed: int) -> tuple[Volume, int, np.ndarray]:
    """The volume with an error on one clean slice; that slice, and its wrong pixels (Y, X)."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{volume.name} {kind}".encode())])
    labels = (np.asarray(volume.labels) > 0).astype(np.uint8)
    if kind == "swapped":
        labels = in_halves(labels)
    classes = range(1, labels.max() + 1)
    able = [z for z in volume.clean_slices if min((labels[z] == k).sum() for k in classes) * len(classes) >= _SMALLEST]
    z = int(rng.choice(able))
    painted = labels.copy()
    painted[z] = plant(kind, labels[z], rng)
    return replace(volume, labels=painted), z, painted[z] != labels[z]


# -- a run -----------------------------------------------------------------------------------------------------------


def _run(volume: Volume, kind: str, config: TrainingConfig, device: str) -> dict[str, Any]:
    """Train on a volume with one error; for every detector, what is found at each threshold."""
    wrong, z, error = _with_error(volume, kind, config.seed)
    task = resolve_task([wrong], config)
    start = time.monotonic()
    known = {wrong.name: known_labels(task, wrong, config.initial_labels)}
    training = Training(task, device, MemoryResults(task), lambda: False, lambda: None, None, None, start)
    for stage in (training.initial_labels(known), training.bootstrap(), training.weighted()):
        for _ in stage:
            pass
    look = LookAgain(training.pool, training.learner)
    detectors: dict[str, dict[str, Any]] = {}
    for clean in wrong.clean_slices:
        for name, doubt in _detectors(training, look, clean).items():
            found = detectors.setdefault(name, {"alarms": np.zeros(len(_THRESHOLDS), int), "found": [], "auroc": 0.0})
            if clean == z:
                found["found"] = [_is_found(doubt, error, threshold) for threshold in _THRESHOLDS]
                found["auroc"] = auroc(doubt, error)
            else:
                found["alarms"] += [len(_places(doubt, threshold)) for threshold in _THRESHOLDS]
    return {
        "volume": wrong.name,
        "slice": z,
        "error_pixels": int(error.sum()),
        "untouched": len(wrong.clean_slices) - 1,
        "seconds": time.monotonic() - start,
        "detectors": {name: {**found, "alarms": found["alarms"].tolist()} for name, found in detectors.items()},
    }


def _detectors(training: Training, look: LookAgain, z: int) -> dict[str, np.ndarray]:
    """Doubt maps (Y, X) of a clean slice, each 0 to 1 and blurred alike."""
    pool, learner, key = training.pool, training.learner, (0, z)
    painted = pool.clean_labels(key)
    predict = Predictor(learner.teacher.network, pool.task.config, n_views=1)
    outline = look.outline(key)
    after = look.after_step(key)[0].cpu().numpy()
    without, held, own = (
        predict([x])[0][0].cpu().numpy()
        for x in (pool.seen_with(key, None), pool.seen_with(key, outline), pool.network_input(key))
    )
    drawn = soft_labels(pool.prior.distances(outline, pool.task.n_classes)[None])[0].cpu().numpy()
    against = {"own": own, "held": held, "without": without, "after": after, "drawn": drawn}
    doubt = {name: 1 - np.take_along_axis(p, painted[None], 0)[0] for name, p in against.items()}
    maps = {
        "look again, two opinions": np.sqrt(doubt["after"] * doubt["without"]),
        "two opinions, no virtual step": np.sqrt(doubt["held"] * doubt["without"]),
        "virtual step, others' outline": doubt["after"],
        "prediction, others' outline": doubt["held"],
        "prediction, no outline": doubt["without"],
        "prediction, own outline": doubt["own"],
        "others' outline alone": doubt["drawn"],
        "signed alignment": _contradiction(look, learner, pool, key),
    }
    blurred = {name: ndimage.gaussian_filter(doubt, BLUR) for name, doubt in maps.items()}
    return {"look again": look.doubt(key), **blurred}


def _contradiction(look: LookAgain, learner: Learner, pool: Pool, key: Key) -> np.ndarray:
    """The meta weight itself: how negative the alignment of the painted label is, squeezed into 0 to 1, (Y, X)."""
    x = look.padded(pool.seen_with(key, look.outline(key)))[None]
    logits, tangent = learner.tangent(x, look.direction(key))
    rows, columns = pool.task.volumes[key[0]].slice_shape
    painted = F.one_hot(torch.from_numpy(pool.clean_labels(key)), pool.task.n_classes).movedim(-1, 0)[None]
    size = tangent.square().mean().sqrt().clamp(min=1e-12)
    aligned = alignment(logits[..., :rows, :columns], (tangent / size)[..., :rows, :columns], painted.to(logits))
    against = (-aligned[0]).clamp(min=0)
    return (against / (1 + against)).cpu().numpy()


def _places(doubt: np.ndarray, threshold: float) -> list[ErrorRegion]:
    return find_error_regions(doubt, np.zeros(doubt.shape, np.uint8), threshold=threshold)


def _is_found(doubt: np.ndarray, error: np.ndarray, threshold: float) -> bool:
    """Whether half of some place lies on the error or near it."""
    near = ndimage.binary_dilation(error, iterations=_NEAR)
    numbered, n = ndimage.label(doubt >= threshold, structure=np.ones((3, 3)))
    sizes = np.bincount(numbered.ravel(), minlength=n + 1)[1:]
    on_it = np.bincount(numbered[near], minlength=n + 1)[1:]
    return bool(((sizes >= FEWEST_PIXELS) & (2 * on_it >= sizes)).any())


# -- tables ----------------------------------------------------------------------------------------------------------


def _summarise(out: Path, runs: list[dict[str, Any]]) -> None:
    """Found shares and AUROC by detector and kind of error, as a Markdown table and as JSON."""
    kinds = [kind for kind in KINDS if any(run["kind"] == kind for run in runs)]
    rows = []
    for name in runs[0]["detectors"]:
        found = {kind: [run["detectors"][name] for run in runs if run["kind"] == kind] for kind in kinds}
        alarms = np.sum([run["detectors"][name]["alarms"] for run in runs], 0) / sum(run["untouched"] for run in runs)
        shares = {kind: np.mean([one["found"] for one in members], 0) for kind, members in found.items()}
        at = {wanted: _threshold(alarms, np.mean(list(shares.values()), 0), wanted) for wanted in RATES}
        rows.append(
            {
                "detector": name,
                "runs": {kind: len(members) for kind, members in found.items()},
                "threshold": {wanted: None if i is None else float(_THRESHOLDS[i]) for wanted, i in at.items()},
                "alarms": {wanted: 0.0 if i is None else float(alarms[i]) for wanted, i in at.items()},
                "found": {
                    wanted: {kind: 0.0 if i is None else float(share[i]) for kind, share in shares.items()}
                    for wanted, i in at.items()
                },
                "auroc": {kind: float(np.mean([one["auroc"] for one in members])) for kind, members in found.items()},
            }
        )
    (out / "summary.json").write_text(json.dumps(rows, indent=1))
    table = _table(rows, kinds)
    (out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def _threshold(rate: np.ndarray, found: np.ndarray, wanted: float) -> int | None:
    """The threshold at which most errors are found with no more alarms than wanted; of several, the highest."""
    if rate.min() > wanted:
        return None
    able = np.flatnonzero(rate <= wanted)
    return int(able[found[able] == found[able].max()].max())


def _table(rows: list[dict[str, Any]], kinds: list[str]) -> list[str]:
    head = [*(f"{kind} ({rows[0]['runs'][kind]})" for kind in kinds), "all kinds"]
    table = [
        f"| found at {' / '.join(map(str, RATES))} false alarms a slice | " + " | ".join(head) + " | pixel AUROC |"
    ]
    table.append("|---" * (len(head) + 2) + "|")
    for row in rows:
        shares = [[row["found"][rate][kind] for rate in RATES] for kind in kinds]
        cells = [" / ".join(f"{share:.2f}" for share in one) for one in [*shares, np.mean(shares, 0)]]
        table.append(f"| {row['detector']} | " + " | ".join(cells) + f" | {np.mean(list(row['auroc'].values())):.3f} |")
    return table


if __name__ == "__main__":
    main()
