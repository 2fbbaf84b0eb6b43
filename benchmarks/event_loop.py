"""How late a window's event loop is: a timer that should fire every 20 ms tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

__all__ = ["TICK", "Ticks", "play", "ticking"]

TICK = 0.020  # seconds


class Ticks:
    """When the timer fired, since `ticking` began."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []

    def take(self) -> None:
        """It fires now."""
        self.times.append(time.perf_counter())

    def delays(self) -> dict[str, float]:
        """Median, 95th and 99th percentile and maximum of how late it was, in ms, and how often it fired."""
        late = 1000 * (np.diff([self.began, *self.times]) - TICK).clip(min=0)
        return {
            "delay_p50_ms": float(np.percentile(late, 50)),
            "delay_p95_ms": float(np.percentile(late, 95)),
            "delay_p99_ms": float(np.percentile(late, 99)),
            "delay_max_ms": float(late.max()),
            "ticks": len(self.times),
        }


@contextmanager
def ticking(meanwhile: Callable[[int], object] = lambda ticks: None, every: float = 0.5) -> Iterator[Ticks]:
    """Note when a timer fires, and call `meanwhile` every so many seconds with the number of ticks so far."""
    ticks = Ticks()
    ticker, other = QTimer(), QTimer()
    ticker.timeout.connect(ticks.take)
    other.timeout.connect(lambda: meanwhile(len(ticks.times)))
    ticker.start(round(1000 * TICK))
    other.start(round(1000 * every))
    try:
        yield ticks
    finally:
        ticker.stop()
        other.stop()


def play(until: Callable[[], bool], at_most: float = 600.0) -> float:
    """Let the window live until something is true; the seconds it took, or SystemExit after too many."""
    start = time.perf_counter()
    while not until():
        if time.perf_counter() - start > at_most:
            raise SystemExit(f"The window did not come to it within {at_most:.0f} s.")
        QApplication.processEvents()
        time.sleep(0.001)
    return time.perf_counter() - start
