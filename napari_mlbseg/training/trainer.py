"""The training: a generator of events. Readable top to bottom; what each step does is `learner`'s.

This module imports no torch at its top: the first initial labels are written, and on the user's screen, before torch
and MONAI are imported, which takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from napari_mlbseg.events import Event, Progress, Stage, Started
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.task import SegmentationTask
from napari_mlbseg.training.imports import gc_disabled
from napari_mlbseg.training.initial_label_writer import InitialWriter
from napari_mlbseg.training.progress import Focus
from napari_mlbseg.training.results import NullResults, Results

__all__ = ["train"]


def train(
    task: SegmentationTask,
    device: str = "auto",
    *,
    results: Results | None = None,
    stop: Callable[[], bool] = lambda: False,
    focus: Callable[[], Focus | None] = lambda: None,
    warm_start: Path | None = None,
    save_to: Path | None = None,
    start: float | None = None,
    only: Collection[Focus] | None = None,
) -> Iterator[Event]:
    """Bootstrap on the clean slices, learn from all others by meta weights, predict everything.

    Parameters
    ----------
    task : SegmentationTask
    device : {"auto", "cpu", "cuda", "mps"}
    results : Results, optional
        Where the arrays go, written slice by slice; a `Preview` names what was. By default nowhere.
    stop : callable
        Asked between steps; once it says yes, the last event is `Cancelled` and what was written stays.
    focus : callable
        Slice that the user looks at now, as (name of the volume, slice): it is predicted first.
    warm_start : Path, optional
        Weights (safetensors) of an earlier round to start from, where they fit.
    save_to : Path, optional
        Where the model is written, as safetensors with a JSON beside it.
    start : float, optional
        `time.monotonic` at the start of the job: the time budget counts from there, but for imports of libraries.
    only : collection of (str, int), optional
        Slices that are wanted, as (name of the volume, slice): no other is predicted or keeps weight maps. By default
        all; none if it is only the model that counts.

    Yields
    ------
    Event
        Last of them exactly one of `Finished` and `Cancelled`. Errors are raised.

    Raises
    ------
    TaskError
        If the device is not there.

    Notes
    -----
    Wei et al., "Consistency-guided Meta-Learning for Bootstrapping Semi-Supervised Medical Image Segmentation",
    MICCAI 2023. With a step budget and no time budget, the same seed gives the same result on a CPU.
    """
    start = time.monotonic() if start is None else start
    results = NullResults() if results is None else results
    yield Started(device=device, seed=task.config.seed)
    if task.config.learns:
        yield Progress(stage=Stage.INITIAL_LABELS, fraction=0, message="Initial labels from the clean slices")
    else:
        yield Progress(stage=Stage.PREPARE, fraction=0)
    known = {volume.name: known_labels(task, volume, task.config.initial_labels) for volume in task.volumes}
    writer = InitialWriter(results, task, start)
    for volume in task.volumes:
        yield from writer.write(volume, known[volume.name])

    began = time.monotonic()
    with gc_disabled():
        from napari_mlbseg.training.stages import Training
    # a budget is time to learn: what imports take depends on the machine, and on nothing that anybody chose
    importing = time.monotonic() - began

    numbers = {volume.name: number for number, volume in enumerate(task.volumes)}
    keys = None if only is None else [(numbers[name], z) for name, z in only]
    training = Training(task, device, results, stop, focus, warm_start, save_to, start, keys, writer, importing)
    yield from training.initial_labels(known)
    yield from training.bootstrap()
    yield from training.weighted()
    yield from training.finish()
