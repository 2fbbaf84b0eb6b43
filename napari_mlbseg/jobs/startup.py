"""How a process that works for a job starts and ends, without what no job uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

__all__ = ["run"]

#: What MONAI loads wherever it is installed, and works without: more than half of the time that it takes to import.
_UNUSED = ("matplotlib", "pandas", "scipy.signal", "scipy.stats", "skimage", "sklearn")


def run(main: Callable[[], int]) -> NoReturn:
    """Make this process one that does `main` and nothing else; its return value is the exit code."""
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's way to say: there is no such module
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # a full disk, or no such stream
            stream.flush()
    os._exit(code)  # an orderly end searches all that was imported for garbage, which takes more than a second
