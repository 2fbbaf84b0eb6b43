"""Which device computes."""

from __future__ import annotations

import torch

from napari_mlbseg.task import TaskError

__all__ = ["describe_device", "find_device"]


def find_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is CUDA, then Apple's MPS, then the CPU, whichever is there.

    Raises
    ------
    TaskError
        If it is not there.
    """
    there = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if name != "auto" and name not in there:
        raise TaskError(f"The device '{name}' is not there: choose {' or '.join(there)}, or auto.")
    return torch.device(there[0] if name == "auto" else name)


def describe_device(device: torch.device) -> str:
    """`device` in words."""
    if device.type == "cuda":
        return f"CUDA, {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return "Apple GPU (MPS)"
    return f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
