"""One thread for what may be slow, so that the window never waits for a disk."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Background"]

_Done = Callable[[Any], None]
_Failed = Callable[[Exception], None]


class Background:
    """Does one thing after another in a thread of its own; what came of it is told where `poll` is called.

    The thread is a daemon: a disk that hangs does not keep the program from ending.
    """

    def __init__(self, name: str = "mlbseg-background") -> None:
        self._name = name
        self._waiting: queue.Queue[tuple[Callable[[], Any], _Done, _Failed] | None] = queue.Queue()
        self._finished: queue.Queue[Callable[[], None]] = queue.Queue()
        self._unfinished = 0
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(
        self, action: Callable[[], Any], done: _Done = lambda result: None, failed: _Failed = lambda error: None
    ) -> None:
        """Do `action` after all that came before; then `done` is called with its result, or `failed` with its error."""
        with self._idle:
            self._unfinished += 1
        self._waiting.put((action, done, failed))
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether everything was done."""
        return self._unfinished == 0

    def poll(self) -> None:
        """Tell what was finished since the last call."""
        while True:
            try:
                tell = self._finished.get_nowait()
            except queue.Empty:
                return
            tell()

    def flush(self, seconds: float) -> bool:
        """Wait until everything is done, at most so long; whether it is. Also tells."""
        end = time.monotonic() + seconds
        with self._idle:
            while self._unfinished and (left := end - time.monotonic()) > 0:
                self._idle.wait(left)
        self.poll()
        return self.is_idle

    def close(self) -> None:
        """End the thread once everything is done; does not wait."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            action, done, failed = item
            try:
                result = action()
            except Exception as error:  # whatever it is, it belongs to whoever asked
                self._finished.put(lambda failed=failed, error=error: failed(error))  # type: ignore[misc]
            else:
                self._finished.put(lambda done=done, result=result: done(result))  # type: ignore[misc]
            with self._idle:
                self._unfinished -= 1
                self._idle.notify_all()
