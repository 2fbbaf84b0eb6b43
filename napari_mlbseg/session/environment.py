"""What a report of a mistake needs to say of the machine and of what is installed. Every fact is asked for on its own:
where something is missing or broken, the others are told all the same.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from napari_mlbseg._util.logs import LOG_VARIABLE
from napari_mlbseg._version import __version__
from napari_mlbseg.session.persistence.session_paths import sessions_home, unsaved_sessions

if TYPE_CHECKING:
    from napari_mlbseg.session.session import SegmentationSession

__all__ = ["as_text", "environment_facts", "session_facts", "shortened"]

_PACKAGES = (
    *("torch", "monai", "napari", "npe2", "PyQt6", "PySide6", "PyQt5", "magicgui", "numpy", "scipy", "scikit-image"),
    *("zarr", "nibabel", "tifffile", "pydantic", "distributed"),
)
_VARIABLES = ("QT_API", LOG_VARIABLE)
_GIB = 2**30
_ASK_SECONDS = 120  # that a process may take to import torch
#: Asked in a process of its own: neither a window nor the command line imports torch.
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
print(json.dumps(found))
"""


def environment_facts() -> dict[str, Any]:
    """Versions, machine, devices and plugin, by name; takes some seconds, since torch is asked for its devices."""
    asked: dict[str, Callable[[], Any]] = {
        "napari-mlbseg": lambda: __version__,
        "Python": lambda: f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform,
        "processor": lambda: f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": _memory,
        "packages": _versions,
        "torch": _torch,
        "plugin": _plugin,
        "environment": lambda: {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "sessions": _sessions,
    }
    return {name: _told(ask) for name, ask in asked.items()}


def session_facts(session: SegmentationSession) -> dict[str, Any]:
    """What there is to say of a session: shapes and counts, no pixels, no full paths."""
    last = session.current_round
    return {
        "folder": shortened(session.folder),
        "read only": session.read_only or "no",
        "classes": session.known_classes(),
        "volumes": {
            volume.name: {
                "shape": list(volume.annotation.shape),
                "types": f"{volume.image.dtype} image, {volume.annotation.dtype} annotation",
                "slice axis": volume.slice_axis,
                "clean": len(volume.clean),
                "painted": len(session.painted_slices(volume.name)),
            }
            for volume in session
        },
        "rounds": [
            f"{past.number}: {past.outcome.type if past.outcome is not None else 'running'}" for past in session.rounds
        ],
        "config": session.config.model_dump(mode="json", exclude_defaults=True),
        "last log": [] if last is None else [_without_home(line) for line in last.job.folder.log_tail().splitlines()],
    }


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


def _told(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # a broken installation may raise anything, and that is what is to be told
        return f"not known ({type(error).__name__}: {_without_home(str(error))})"


def _without_home(text: str) -> str:
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _torch() -> dict[str, Any]:
    answer = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_ASK_SECONDS)
    if answer.returncode:
        raise RuntimeError(answer.stderr.strip().rpartition("\n")[2] or f"exit code {answer.returncode}")
    facts: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    facts["devices"] = facts["devices"] or ["CPU only"]
    return facts


def _plugin() -> str:
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-mlbseg")
    return f"manifest found, {len(manifest.contributions.commands or ())} commands"


def _sessions() -> dict[str, Any]:
    home = sessions_home()
    existing = next(path for path in (home, *home.parents) if path.exists())
    return {
        "folder": shortened(home),
        "not saved": len(unsaved_sessions()),
        "disk": f"{shutil.disk_usage(existing).free / _GIB:.1f} GiB free",
    }
