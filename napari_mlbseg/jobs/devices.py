"""Which compute devices are there, asked without importing torch into this process."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from functools import cache

__all__ = ["available_devices", "check_device"]

_ASK = (
    "import json, torch; mps = getattr(torch.backends, 'mps', None); print(json.dumps("
    "(['cuda'] if torch.cuda.is_available() else []) + (['mps'] if mps and mps.is_available() else []) + ['cpu']))"
)


@cache
def available_devices() -> tuple[str, ...]:
    """Names of the devices, best first; the last is always ``"cpu"``.

    Where no driver of an accelerator is installed, the answer comes at once; otherwise a short-lived process asks
    torch.
    """
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if not apple and shutil.which("nvidia-smi") is None and shutil.which("rocm-smi") is None:
        return ("cpu",)
    try:
        answer = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=120, check=True)
        return tuple(json.loads(answer.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return ("cpu",)


def check_device(name: str) -> str:
    """The device that `name` means here: ``"auto"`` becomes the best one.

    Raises
    ------
    ValueError
        If the device is not there; one sentence that says what to do.
    """
    devices = available_devices()
    if name == "auto":
        return devices[0]
    if name not in devices:
        raise ValueError(f"The device '{name}' is not there: choose {' or '.join(devices)}, or auto.")
    return name
