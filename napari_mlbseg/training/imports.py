"""Importing torch and MONAI. Torch-free itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["gc_disabled"]


@contextmanager
def gc_disabled() -> Iterator[None]:
    """While thousands of modules are imported, nothing of them is garbage: Python does not look for any."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
