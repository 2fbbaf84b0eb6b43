"""What the window says, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Event, Failed, Finished, FinishReason, Progress, Stage
from napari_mlbseg.jobs.inputs import CopyProgress
from napari_mlbseg.session.rounds import Check, Round, Run

__all__ = ["by", "clock", "copying", "device", "ending", "place", "rest", "size", "stage", "unit"]


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 0:42; hours where there are any."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def by(shape: Sequence[int]) -> str:
    """A shape, such as 12 x 48 x 40."""
    return " x ".join(map(str, shape))


def unit(name: str) -> str:
    """Short form of a unit of length."""
    return {"millimeter": "mm", "micrometer": "µm", "nanometer": "nm", "pixel": "px"}.get(name, name)


def size(n_bytes: int) -> str:
    """Room on a disk, such as 12 MB."""
    amount, unit = n_bytes / 1e3, "kB"
    if amount >= 1000:
        amount, unit = amount / 1e3, "MB"
    if amount >= 1000:
        amount, unit = amount / 1e3, "GB"
    return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"


def place(config: TrainingConfig) -> str:
    """Where a training will compute."""
    if config.cluster:
        return f"Computes on the cluster at {config.cluster}."
    return "Computes on this machine" + (f" ({config.device.upper()})." if config.device != "auto" else ".")


def device(name: str, cluster: str) -> str:
    """Where a training computes, once its device is known; `cluster` is an address or empty."""
    return f"On {name}" + (f", at {cluster}" if cluster else "")


def copying(copied: CopyProgress, *, several: bool) -> str:
    """What is copied before a training begins, and how far that is; `several` volumes have names."""
    part = {"image": "image", "labels": "labels", "initial_labels": "first labels"}[copied.part]
    name = f" of {copied.volume}" if several else ""
    return f"Copying the {part}{name}: slice {min(copied.done + 1, copied.total)} of {copied.total}"


def rest(n_slices: int) -> str:
    """To predict what a round had no time for."""
    return "Predict the last slice" if n_slices == 1 else f"Predict the other {n_slices:,} slices"


def stage(event: Progress, n_clean: int) -> str:
    """What the worker is doing, and for how long."""
    slices = "1 clean slice" if n_clean == 1 else f"{n_clean} clean slices"
    doing = {
        Stage.PREPARE: "Getting ready",
        Stage.INITIAL_LABELS: "Making a first guess",
        Stage.BOOTSTRAP: f"Learning from {slices}",
        Stage.TRAIN: "Learning which labels to trust",
        Stage.PREDICT: "Segmenting every slice",
    }[event.stage]
    left = "" if event.seconds_left is None else f" {clock(event.seconds_left)} left"
    return f"{doing}…{left}"


def ending(event: Event, run: Run | None) -> str:
    """How a training, a prediction of the rest, or an estimate of the accuracy ended, and what to do next."""
    is_check = isinstance(run, Check)
    if is_check and isinstance(event, Finished):
        return f"Estimated in {clock(event.seconds)}: see Rounds."
    if isinstance(event, Finished) and event.reason is FinishReason.TIME and event.steps == 0:
        return f"The time was up after {clock(event.seconds)}, before any training step: raise the time budget."
    if isinstance(event, Finished) and event.unreached:
        return (
            f"The time was up after {clock(event.seconds)}: {event.unreached} slices still show an earlier guess. "
            "Predict them now, or train again with more time."
        )
    if isinstance(event, Finished) and isinstance(run, Round) and not run.task.config.learns:
        return f"Every slice is predicted, in {clock(event.seconds)}. Correct a slice, mark it clean, train again."
    if isinstance(event, Finished) and event.reason is FinishReason.NOTHING_TO_TRAIN:
        return f"Done in {clock(event.seconds)}, without training steps."
    if isinstance(event, Finished):
        return f"Done in {clock(event.seconds)}. Correct a slice, mark it clean, train again."
    if isinstance(event, Cancelled):
        return "Stopped. What was there is kept."
    if isinstance(event, Failed):
        return "The training failed."
    return ""
