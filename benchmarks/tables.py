"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["markdown"]


def markdown(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table with a line for each row; numbers come as they should stand there."""
    lines = [_line(header), "|---" * len(header) + "|", *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
