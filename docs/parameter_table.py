"""Writes the table of parameters from `TrainingConfig`, so that it is never out of date."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from napari_mlbseg.config import PRESETS, TrainingConfig, field_group, field_unit

__all__ = ["markdown", "write"]

_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def markdown() -> str:
    """One table for each group of parameters."""
    groups: dict[str, list[str]] = {}
    for name, field in TrainingConfig.model_fields.items():
        groups.setdefault(field_group(field), []).append(_row(name, field))
    header = f"| parameter | default | {' | '.join(PRESETS)} | allowed | meaning |"
    rule = "|" + "---|" * (5 + len(PRESETS) - 1)
    tables = ["\n".join([f"## {group}", "", header, rule, *rows, ""]) for group, rows in groups.items()]
    return "\n".join(tables)


def write(folder: Path) -> None:
    """Write ``_parameters.md`` into `folder`, unless it is up to date."""
    target, text = folder / "_parameters.md", markdown()
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def _row(name: str, field: FieldInfo) -> str:
    presets = [_value(values[name]) if name in values else "" for values in PRESETS.values()]
    description = str(field.description).replace("|", "\\|")
    return f"| `{name}` | {_value(field.default)} | {' | '.join(presets)} | {_allowed(field)} | {description} |"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return "none" if value is None else f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not None and all(isinstance(arg, str) for arg in get_args(field.annotation)):
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = [
        f"{sign} {getattr(bound, key):g}"
        for bound in field.metadata
        for key, sign in _SIGNS.items()
        if getattr(bound, key, None) is not None
    ]
    return " ".join(filter(None, [", ".join(bounds), field_unit(field)]))
