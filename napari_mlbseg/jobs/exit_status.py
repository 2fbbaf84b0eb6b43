"""What a worker that ended without a terminal event died of, in words."""

from __future__ import annotations

import signal

from napari_mlbseg._util.logs import is_log_line
from napari_mlbseg.events import Failed

__all__ = ["describe_exit"]

_MEMORY_ADVICE = (
    "Close other programs, or train with a smaller batch_size or patch_size (Advanced). What you painted is safe; "
    "press Train to try again."
)


def describe_exit(returncode: int | None, log_tail: str) -> Failed:
    """The `Failed` event of a worker that died silently.

    Parameters
    ----------
    returncode : int or None
        As `subprocess` gives it: negative for a signal; None if the process is not ours and its code unknown.
    log_tail : str
        Last lines of its log.
    """
    advice = "The worker's log says more. What you painted is safe; press Train to try again."
    if returncode is None:
        message = "The worker is gone and did not say why (was the machine restarted?)."
    elif returncode == -9:
        message = "The worker was killed (signal 9, SIGKILL): the system probably ran out of memory."
        advice = _MEMORY_ADVICE
    elif returncode < 0:
        message = f"The worker was ended by signal {-returncode} ({_signal_name(-returncode)})."
    elif returncode == 137:  # a shell's or container's way to say SIGKILL
        message = "The worker was killed (exit code 137): the system probably ran out of memory."
        advice = _MEMORY_ADVICE
    else:
        message = f"The worker ended with exit code {returncode} before it had finished."
        said = [line for line in log_tail.splitlines() if line.strip() and not is_log_line(line)]
        if said:
            message += f" Its log ends with: {said[-1]}"
    return Failed(message=message, advice=advice, returncode=returncode, log_tail=log_tail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
