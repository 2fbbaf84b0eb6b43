"""Plots of benchmarks, as PNG. Without matplotlib there are none, and the benchmark says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Curve", "plot_curves"]

_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Curve:
    """A curve, a point if it has one, or a level across the whole plot where `x` is empty.

    Attributes
    ----------
    label : str
    x, y : sequence of float
    colour, style : int
        Numbers; curves that belong together share one.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    style: int = 0


def plot_curves(
    path: Path, curves: Sequence[Curve], *, title: str, xlabel: str, ylabel: str, xticks: Sequence[float] | None = None
) -> bool:
    """Draw curves into a PNG file; whether that was possible."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plot: install napari-mlbseg[bench] for it.")
        return False
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, title=title)
    if xticks is not None:
        axes.set_xticks(list(xticks))
    for curve in curves:
        look: dict[str, Any] = {
            "color": f"C{curve.colour}",
            "linestyle": _STYLES[curve.style % len(_STYLES)],
            "label": curve.label,
        }
        if len(curve.x):
            axes.plot(curve.x, curve.y, marker="o", **look)
        else:
            axes.axhline(curve.y[0], linewidth=1, **look)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    return True
