"""In which memory layout a network computes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["usual_layout"]

_USUAL_LAYOUT: ContextVar[bool] = ContextVar("_USUAL_LAYOUT", default=False)


@contextmanager
def usual_layout() -> Iterator[None]:
    """Networks compute in torch's usual layout: torch has no forward mode for a group norm in the other."""
    token = _USUAL_LAYOUT.set(True)
    try:
        yield
    finally:
        _USUAL_LAYOUT.reset(token)
