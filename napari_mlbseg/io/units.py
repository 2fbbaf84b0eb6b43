"""Units of length: one spelling for each, and how many of one another is."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["conversion_factor", "in_one_unit", "is_length", "unit_name", "word_of"]

_METRES = {
    "pm": 1e-12,
    "angstrom": 1e-10,
    "nm": 1e-9,
    "um": 1e-6,
    "mm": 1e-3,
    "cm": 1e-2,
    "dm": 1e-1,
    "m": 1.0,
    "km": 1e3,
    "inch": 0.0254,
}
_WORDS = {
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
}
_NAMES = {word: short for short, word in _WORDS.items()} | {
    "micron": "um",
    "\N{MICRO SIGN}m": "um",
    "\N{GREEK SMALL LETTER MU}m": "um",
    "\N{MICRO SIGN}": "um",
    "\N{LATIN SMALL LETTER A WITH RING ABOVE}": "angstrom",
    "\N{ANGSTROM SIGN}": "angstrom",
    "\N{LATIN SMALL LETTER A WITH RING ABOVE}ngstr\N{LATIN SMALL LETTER O WITH DIAERESIS}m": "angstrom",
    "inche": "inch",  # the plural's s is taken off
    "in": "inch",
    '"': "inch",
    "": "pixel",
}


def unit_name(unit: object) -> str:
    """The short name of a unit of length, however napari (pint) and files write it; another unit's name as it is."""
    given = str(unit).strip()
    name = given
    for escape in ("\\u00B5", "\\u00b5", "\\u03BC", "\\u03bc"):  # as ImageJ writes a micro sign
        name = name.replace(escape, "\N{MICRO SIGN}")
    for escape in ("\\u00C5", "\\u00c5", "\\u212B", "\\u212b"):
        name = name.replace(escape, "\N{ANGSTROM SIGN}")
    name = name.lower().replace("metre", "meter")
    for candidate in (name, name.removesuffix("s")):
        if candidate in _METRES or candidate == "pixel":
            return candidate
        if candidate in _NAMES:
            return _NAMES[candidate]
    return given


def word_of(unit: str) -> str:
    """The word for a short name, as OME has it; the name itself where it is a word."""
    return _WORDS.get(unit, unit)


def conversion_factor(unit: str, to: str) -> float:
    """How many of `to` one `unit` is; 1 where one of them is no length."""
    known = unit in _METRES and to in _METRES
    return float(f"{_METRES[unit] / _METRES[to]:.12g}") if known else 1.0  # 1000 and not 999.9999999999999


def is_length(unit: str) -> bool:
    """Whether a short name is that of a length."""
    return unit in _METRES


def in_one_unit(units: Sequence[str]) -> tuple[list[float], str, str]:
    """Bring the units of several axes to that of the last.

    Parameters
    ----------
    units : sequence of str
        Of each axis, as the file writes it; empty where it tells none.

    Returns
    -------
    factors : list of float
        By which distances along each axis are multiplied.
    unit : str
        Short name of the unit, ``"pixel"`` where it is not known.
    note : str
        What a person should know of units that are not known; empty where there is nothing to say.
    """
    names = [unit_name(unit) for unit in units]
    strange = sorted({name for name in names if not is_length(name) and name != "pixel"})
    if strange or not all(map(is_length, names)):
        note = ""
        if strange or any(map(is_length, names)):
            listed = ", ".join(f"'{unit}'" for unit in units)
            note = (
                f"The units of its axes ({listed}) are no lengths that can be compared: distances are taken as numbers."
            )
        return [1.0] * len(names), "pixel", note
    return [conversion_factor(name, names[-1]) for name in names], names[-1] if names else "pixel", ""
