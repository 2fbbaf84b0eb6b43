"""Units of length."""

from __future__ import annotations

__all__ = ["conversion_factor"]

_METRES = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "inch": 0.0254, "angstrom": 1e-10}


def conversion_factor(unit: str, to: str) -> float:
    """How many of `to` one `unit` is; 1 where one of them is no length."""
    return _METRES[unit] / _METRES[to] if unit in _METRES and to in _METRES else 1.0
