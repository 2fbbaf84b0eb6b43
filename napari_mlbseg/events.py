"""What a job tells: frozen events and their JSON form, one object a line.

A job sends any number of `Started`, `Progress`, `Losses`, `Preview`, `Metrics` and `HeldOut`, then **exactly one**
terminal event: `Finished`, `Cancelled` or `Failed`. The file ``events.jsonl`` of a job folder holds them in order.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "Cancelled",
    "Event",
    "Failed",
    "FinishReason",
    "Finished",
    "HeldOut",
    "Losses",
    "Metrics",
    "Preview",
    "Progress",
    "Stage",
    "Started",
    "TerminalEvent",
    "from_json",
    "is_terminal",
    "to_json",
]


class Stage(StrEnum):
    """What a job is doing, in order."""

    PREPARE = "prepare"
    INITIAL_LABELS = "initial labels"
    BOOTSTRAP = "bootstrap"
    TRAIN = "train"
    PREDICT = "predict"


class FinishReason(StrEnum):
    """Why a training that ended by itself ended."""

    STEPS = "steps"  # the step budget was used up
    TIME = "time"  # the time budget was used up
    NOTHING_TO_TRAIN = "nothing to train"  # a prediction, or a budget of zero steps


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class Started(_Event):
    """The worker has read its request and begins."""

    type: Literal["started"] = "started"
    device: str = Field(description="Device in words, such as 'CPU, 2 threads' or 'CUDA, NVIDIA H200'.")
    seed: int
    pid: int = 0
    version: str = ""


class Progress(_Event):
    """How far the job has come."""

    type: Literal["progress"] = "progress"
    stage: Stage
    fraction: float = Field(ge=0, le=1, description="Share of the whole job that is done.")
    step: int = 0
    seconds: float = Field(0.0, description="Seconds since the job began.")
    seconds_left: float | None = Field(None, description="Estimated seconds to the end.")
    message: str = ""


class Losses(_Event):
    """Losses and statistics of the weights, averaged since the last such event."""

    type: Literal["losses"] = "losses"
    stage: Stage
    step: int
    values: dict[str, float | None]


class Preview(_Event):
    """Slices of result arrays that were just written."""

    type: Literal["preview"] = "preview"
    volume: str
    slices: tuple[int, ...] = Field(description="Indices along the slice axis.")
    arrays: tuple[str, ...] = Field(description="Names of the result arrays in which they changed.")
    stage: Stage
    seconds: float = 0.0
    statistics: dict[str, tuple[float | None, ...]] = Field(
        default_factory=dict,
        description="Name of a statistic -> one value for each of `slices`, None where not known; see "
        "`napari_mlbseg.training.slice_statistics` for names and units.",
    )


class Metrics(_Event):
    """Figures about the job: seconds per stage, peak memory, choices that were made."""

    type: Literal["metrics"] = "metrics"
    values: dict[str, float | int | str | None] = Field(
        description="By name; under names that begin with note_, sentences for the person who started the job."
    )

    @property
    def notes(self) -> list[str]:
        """Sentences for the person who started the job."""
        return [str(value) for name, value in self.values.items() if name.startswith("note_")]


class HeldOut(_Event):
    """How well a clean slice was predicted by a training that had not seen it."""

    type: Literal["held_out"] = "held_out"
    volume: str
    slice: int = Field(description="Index along the slice axis.")
    dice: float = Field(description="Overlap of the foreground with what was painted, 0 to 1; 1 where both are empty.")
    hd95: float | None = Field(
        description="95th percentile of the distances between both outlines, within the slice, in the unit of the "
        "spacing. None where one of them is empty."
    )
    classes: dict[int, tuple[float, float | None]] = Field(
        default={}, description="The same two of each class in either, by label number."
    )


class Finished(_Event):
    """Terminal: the job did what it was asked."""

    type: Literal["finished"] = "finished"
    reason: FinishReason
    steps: int
    seconds: float
    unreached: int = Field(0, description="Slices that the time did not suffice to predict at the end.")


class Cancelled(_Event):
    """Terminal: the user stopped the job; what it had is kept."""

    type: Literal["cancelled"] = "cancelled"
    steps: int = 0
    seconds: float = 0.0


class Failed(_Event):
    """Terminal: the job could not go on."""

    type: Literal["failed"] = "failed"
    message: str = Field(description="What went wrong, in one sentence.")
    advice: str = Field("", description="What to do about it.")
    returncode: int | None = None
    log_tail: str = Field("", description="Last lines of the worker's log.")


TerminalEvent = Finished | Cancelled | Failed
Event = Started | Progress | Losses | Preview | Metrics | HeldOut | Finished | Cancelled | Failed
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def to_json(event: Event) -> str:
    """One line of JSON, without the newline."""
    return event.model_dump_json()


def from_json(line: str | bytes) -> Event:
    """The event of one line.

    Raises
    ------
    pydantic.ValidationError
        If the line is no event.
    """
    return _ADAPTER.validate_json(line)


def is_terminal(event: Event) -> bool:
    """Whether no event follows this one."""
    return isinstance(event, TerminalEvent)
