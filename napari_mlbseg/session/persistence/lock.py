"""One program at a time writes a session folder; the others know who it is.

On one computer the operating system decides: it lets go of the file ``.lock`` when a program ends, however it ends. On
a disk that several computers share it may not know of the others: there the file ``lock`` decides, which names the
owner and is touched again and again for as long as they live.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_mlbseg.session.persistence.schema import SessionError

__all__ = ["LOCK_FILES", "SessionBusyError", "SessionLock"]

#: Names within a session folder that belong to whoever has it open.
LOCK_FILES = (".lock", "lock")

_BEAT_SECONDS = 20.0
_DEAD_SECONDS = 100.0  # after which an owner on another computer that was not heard of is taken for dead
#: What a disk says that has no locks; the owner's file is all there is then.
_NO_LOCKS = {getattr(errno, name) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)}


class SessionBusyError(SessionError):
    """Another session has the folder open; the message says which."""


class _Owner(BaseModel):
    """Who has a session open."""

    model_config = ConfigDict(extra="ignore")

    host: str
    pid: int
    since: str = "some time"
    token: str = ""

    def in_words(self) -> str:
        if self.host != socket.gethostname():
            return f"on the computer {self.host} since {self.since} (process {self.pid})"
        if self.pid == os.getpid():
            return "in this program already"
        return f"in another window since {self.since} (process {self.pid})"


class SessionLock:
    """The right to write a session folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._system_file, self._owner_file = (folder / name for name in LOCK_FILES)
        self._system: FileLock | None = None
        self._token = ""
        self._ended = threading.Event()

    def acquire(self) -> None:
        """Take the folder; does nothing where this lock holds it.

        Raises
        ------
        SessionBusyError
            If another session has it open, in this program, another one or on another computer.
        OSError
            If the folder cannot be written.
        """
        if self.is_held:
            return
        self.release()  # what was lost is taken anew
        self._folder.mkdir(parents=True, exist_ok=True)
        self._system = self._system_lock()
        try:
            self._token = self._become_owner()
        except BaseException:
            self._release_system()
            raise
        self._ended = threading.Event()
        threading.Thread(target=self._beat, args=(self._ended,), name="mlbseg-lock", daemon=True).start()

    def release(self) -> None:
        """Let go of the folder, if this lock holds it."""
        self._ended.set()
        if self.is_held:
            with suppress(OSError):
                self._owner_file.unlink()
        self._token = ""
        self._release_system()

    @property
    def is_held(self) -> bool:
        """Whether this lock holds the folder still: a computer that slept may have lost it to another one."""
        owner = self._owner()
        return bool(self._token) and owner is not None and owner.token == self._token

    # -- parts ---------------------------------------------------------------------------------------------------

    def _system_lock(self) -> FileLock | None:
        """The operating system's lock; None on a disk that has none."""
        lock = FileLock(self._system_file, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise self._busy(self._owner()) from None
        except NotImplementedError:
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        return lock

    def _release_system(self) -> None:
        if self._system is not None:
            with suppress(OSError):  # the folder was deleted
                self._system.release()
        self._system = None

    def _become_owner(self) -> str:
        """Write the owner's file, which only one can make; a dead owner's is moved out of the way first."""
        me = _Owner(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=f"{datetime.now():%Y-%m-%d %H:%M}",
            token=uuid.uuid4().hex,
        )
        while True:
            try:
                number = os.open(self._owner_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                self._remove_dead_owner()
                continue
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(me.model_dump_json())
                file.flush()
                os.fsync(number)
            return me.token

    def _remove_dead_owner(self) -> None:
        """Make room for another owner; raises SessionBusyError if the present one may live."""
        with suppress(FileNotFoundError):  # it was removed meanwhile
            owner, beaten = self._owner(), self._owner_file.stat().st_mtime
            is_here = self._system is not None and owner is not None and owner.host == socket.gethostname()
            if not is_here and self._now() - beaten < _DEAD_SECONDS:
                raise self._busy(owner)
            aside = self._owner_file.with_name(f"lock.{uuid.uuid4().hex}")
            self._owner_file.rename(aside)
            is_another = aside.stat().st_mtime != beaten  # somebody else was faster, and is the owner
            if is_another and not self._owner_file.exists():
                aside.rename(self._owner_file)
                raise self._busy(self._owner())
            aside.unlink()

    def _now(self) -> float:
        """The time by the clock of the disk, which all computers share."""
        with suppress(OSError):
            os.utime(self._system_file)
            return self._system_file.stat().st_mtime
        return time.time()

    def _owner(self) -> _Owner | None:
        try:
            return _Owner.model_validate(json.loads(self._owner_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError):
            return None

    def _busy(self, owner: _Owner | None) -> SessionBusyError:
        where = owner.in_words() if owner is not None else "in another window"
        is_away = owner is not None and owner.host != socket.gethostname()
        wait = " (if that computer has crashed, wait two minutes)" if is_away else ""
        return SessionBusyError(
            f"The session {self._folder.name} is open {where}: close it there{wait}, then open it again here."
        )

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(_BEAT_SECONDS):
            if self.is_held:
                with suppress(OSError):
                    os.utime(self._owner_file)
