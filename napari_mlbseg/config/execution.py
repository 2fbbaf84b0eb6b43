"""Where, how long and with which seed a job runs: what does not belong to the method."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from napari_mlbseg.config.cluster_address import checked_address

__all__ = ["Device", "ExecutionConfig", "declared", "empty_is_none", "field_group", "field_unit"]

Device = Literal["auto", "cpu", "cuda", "mps"]


def declared(default: Any, group: str, description: str, *, unit: str = "", **bounds: Any) -> Any:
    """Declare a parameter: its default, the form group that shows it, its help, unit and bounds."""
    return Field(default, description=description, json_schema_extra={"group": group, "unit": unit}, **bounds)


def field_group(field: FieldInfo) -> str:
    """Name of the form group in which `field` is shown."""
    extra = field.json_schema_extra
    return str(extra.get("group", "")) if isinstance(extra, dict) else ""


def field_unit(field: FieldInfo) -> str:
    """Unit of `field`, or an empty string where it has none."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def empty_is_none(value: Any) -> Any:
    """An empty text or 'none' stands for no limit."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "none") else value


class ExecutionConfig(BaseModel):
    """Parameters of a job whatever it computes; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device = declared(
        "auto", "Run", "Where to compute. 'auto' takes CUDA, then Apple's MPS, then the CPU, whichever is there."
    )
    cluster: str = declared(
        "",
        "Run",
        "Address of a Dask scheduler whose workers compute, such as tls://server:8786. Empty: this machine computes.",
    )
    seed: int = declared(0, "Run", "Seed of every random choice: on a CPU, the same seed gives the same result.", ge=0)
    time_budget: float | None = declared(
        300.0,
        "Run",
        "Seconds for the whole job, the last result included; importing PyTorch does not count. Empty: no limit.",
        unit="s",
        ge=5,
        le=604800,
    )
    preview_interval: float = declared(
        4.0, "Run", "Least seconds between two previews of the slices in the window.", unit="s", ge=0.2, le=600
    )

    @field_validator("time_budget", mode="before")
    @classmethod
    def _empty_budget(cls, value: Any) -> Any:
        return empty_is_none(value)

    @field_validator("cluster")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return checked_address(value) if value.strip() else ""
