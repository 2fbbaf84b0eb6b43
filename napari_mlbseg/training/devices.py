"""Which device computes."""

from __future__ import annotations

from functools import cache

import torch

from napari_mlbseg.task import TaskError

__all__ = ["computes_in_half", "describe_device", "find_device"]


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


def computes_in_half(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16; one that only imitates it would be slower than in full precision."""
    return device.type == "cuda" or (device.type == "cpu" and _cpu_computes_in_half())


@cache
def _cpu_computes_in_half() -> bool:
    capabilities: dict[str, bool | str | int] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older versions of torch do not tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def describe_device(device: torch.device) -> str:
    """`device` in words."""
    if device.type == "cuda":
        return f"CUDA, {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return "Apple GPU (MPS)"
    return f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
