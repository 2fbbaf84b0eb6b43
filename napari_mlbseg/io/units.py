"""Units of length: one spelling for each, and how many of one another is."""

from __future__ import annotations

__all__ = ["conversion_factor", "is_length", "unit_name"]

_METRES = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "inch": 0.0254, "angstrom": 1e-10}
_NAMES = {
    "nanometer": "nm",
    "micrometer": "um",
    "micron": "um",
    "\N{MICRO SIGN}m": "um",
    "\N{GREEK SMALL LETTER MU}m": "um",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": "angstrom",
}


def unit_name(unit: object) -> str:
    """The short name of a unit of length as napari (pint) and files write it; another unit's name as it is."""
    name = str(unit)
    return _NAMES.get(name, name)


def conversion_factor(unit: str, to: str) -> float:
    """How many of `to` one `unit` is; 1 where one of them is no length."""
    return _METRES[unit] / _METRES[to] if unit in _METRES and to in _METRES else 1.0


def is_length(unit: str) -> bool:
    """Whether a short name is that of a length."""
    return unit in _METRES
