"""What window, worker and command line log, and how much of it: to stderr, for whoever wants to know.

Modules log by ``logging.getLogger(__name__)``; nothing is set up by an import.
"""

from __future__ import annotations

import logging
import os
import re

__all__ = ["LOG_VARIABLE", "configure", "is_log_line"]

#: Environment variable that says from which level on is logged.
LOG_VARIABLE = "NAPARI_MLBSEG_LOG"

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ napari_mlbseg")


def configure(level: str | None) -> None:
    """Log to stderr from `level` on, or from that which the environment names: whichever tells more.

    Parameters
    ----------
    level : str, optional
        One of debug, info, warning and error; None: only where the environment names one.
    """
    named = os.environ.get(LOG_VARIABLE, "").strip().lower()
    wanted = [_LEVELS[name] for name in (named, level) if name in _LEVELS]
    if not wanted and not named:
        return
    logger = logging.getLogger("napari_mlbseg")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    logger.setLevel(min(wanted, default=logging.WARNING))
    logger.propagate = False  # napari's own handlers would say it a second time
    if named and named not in _LEVELS:
        logger.warning("%s is '%s', which is no level: use %s.", LOG_VARIABLE, named, ", ".join(_LEVELS))


def is_log_line(line: str) -> bool:
    """Whether a line of a worker's log was logged, and is not what a dying interpreter said."""
    return _LINE.match(line) is not None
