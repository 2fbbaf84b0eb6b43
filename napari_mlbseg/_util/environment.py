"""What a report of a mistake needs to say of the machine and of what is installed.

Every fact is asked for on its own: where something is missing or broken, the others are told all the same. So nothing
but Python itself is imported with this module.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_mlbseg._util.logs import LOG_VARIABLE
from napari_mlbseg._version import __version__

__all__ = ["as_text", "machine_facts", "shortened", "told", "without_names", "without_paths"]

_PACKAGES = (
    *("torch", "monai", "napari", "npe2", "QtPy", "PyQt6", "PySide6", "PyQt5", "psygnal", "pydantic", "numpy", "scipy"),
    *("scikit-image", "zarr", "nibabel", "tifffile", "filelock", "dask", "distributed"),
)
_VARIABLES = ("QT_API", LOG_VARIABLE)
_GIB = 2**30
_ASK_SECONDS = 120  # that a process may take to import torch
# Asked in processes of their own: neither a window nor the command line imports torch, the command line no Qt, and
# what crashes there takes nothing with it.
_ASK_TORCH = """
import json, torch
found = {"threads": torch.get_num_threads(), "devices": []}
if torch.cuda.is_available():
    found["cuda"] = torch.version.cuda
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        found["devices"].append(f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
mps = getattr(torch.backends, "mps", None)
if mps and mps.is_available():
    found["devices"].append("Apple MPS")
found["devices"] = found["devices"] or ["CPU only"]
print(json.dumps(found))
"""
_ASK_QT = """
import json, qtpy
from qtpy import QtWidgets
print(json.dumps(f"{qtpy.API_NAME} {qtpy.PYQT_VERSION or qtpy.PYSIDE_VERSION}, Qt {qtpy.QT_VERSION}"))
"""
_ADDRESS = re.compile(r"\b(tcp|tls|ucx|wss?|https?)://[^\s'\",;]+")
_PART = r"[^\s/\\:'\"<>|,;()]+"
_PATH = re.compile(
    r"(?<=[\"'])(?:[A-Za-z]:)?[/\\][^\"'\n]+(?=[\"'])"  # in quotes, where it may hold blanks
    rf"|(?<![\w.~/\\…])(?:[A-Za-z]:)?[/\\]{_PART}(?:[/\\]{_PART})+"
)


def machine_facts() -> dict[str, Any]:
    """Versions, machine, devices and plugin, by name; takes some seconds, since torch is asked for its devices."""
    asked: dict[str, Callable[[], Any]] = {
        "napari-mlbseg": lambda: __version__,
        "Python": lambda: f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform,
        "processor": lambda: f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": _memory,
        "packages": _versions,
        "torch": lambda: _ask(_ASK_TORCH),
        "Qt": lambda: _ask(_ASK_QT),
        "plugin": _plugin,
        "environment": lambda: {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    return {name: told(ask) for name, ask in asked.items()}


def told(ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or that it is not known and why."""
    try:
        return ask()
    except Exception as error:  # a broken installation may raise anything, and that is what is to be told
        return f"not known ({type(error).__name__}: {without_paths(str(error))})"


def as_text(facts: Mapping[str, Any], indent: int = 0) -> str:
    """Facts as lines to read and to paste."""
    lines = []
    for name, value in facts.items():
        head = f"{'  ' * indent}{name}:"
        if isinstance(value, Mapping):
            lines += [head, as_text(value, indent + 1)] if value else [f"{head} none"]
        elif isinstance(value, list) and any(isinstance(each, str) for each in value):
            lines += [head, *(f"{'  ' * (indent + 1)}{each}" for each in value)]
        else:
            lines.append(f"{head} {value}")
    return "\n".join(lines)


def shortened(path: Path) -> str:
    """A path without what says who somebody is: below the home folder ``~/...``, elsewhere its last two parts."""
    try:
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    except (ValueError, RuntimeError):  # elsewhere, or nobody's
        return "/".join(("…", *path.parts[-2:]))


def without_paths(text: str, *known: Path) -> str:
    """Text such as a log, its paths as `shortened` makes them, and addresses of other machines left out.

    Where a path that holds blanks ends is only clear in quotes, or if it is one of those that are `known`.
    """
    text = _ADDRESS.sub(r"\1://…", text)
    for path in known:
        text = text.replace(str(path), shortened(path))
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    return _PATH.sub(lambda found: "/".join(("…", *re.split(r"[/\\]", found[0])[-2:])), text)


def without_names(text: str, names: Iterable[str]) -> str:
    """Text in which images are numbered: their names may be those of patients."""
    numbered = sorted(enumerate(names, 1), key=lambda each: -len(each[1]))
    for number, name in numbered:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", f"volume {number}", text)
    return text


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _ask(code: str) -> Any:
    """What a Python process prints, read as JSON."""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_ASK_SECONDS)
    if answer.returncode:
        raise RuntimeError(answer.stderr.strip().rpartition("\n")[2] or f"exit code {answer.returncode}")
    return json.loads(answer.stdout.splitlines()[-1])


def _plugin() -> str:
    from npe2 import PluginManager

    manager = PluginManager()
    manager.discover()
    commands = manager.get_manifest("napari-mlbseg").contributions.commands
    return f"manifest found, {len(commands or ())} commands"
