"""Reaching a Dask scheduler: the connection, what its workers have, and whether both ends fit."""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import distributed
from dask import config as dask_config

from napari_mlbseg._version import __version__
from napari_mlbseg.jobs.dask import remote

__all__ = [
    "ClusterFacts",
    "UnreachableError",
    "ask",
    "call",
    "check_versions",
    "connect",
    "facts_of",
    "leave",
    "look_at",
    "task_state",
]

_Answer = TypeVar("_Answer")

_CONNECT_SECONDS = 10.0
_HANDSHAKE_SECONDS = 1.0  # after the connection
_CALL_SECONDS = 10.0  # that the other end may take for an answer; one that hangs must not hang this one too

#: What Dask raises where the scheduler or the worker that was asked is gone, or does not answer in time.
_SILENCES = (OSError, TimeoutError, KeyError, ValueError, RuntimeError)


class UnreachableError(Exception):
    """The scheduler, or the worker that was asked, is gone or does not answer."""


class ClusterFacts(NamedTuple):
    """What a cluster has now."""

    n_workers: int
    has_gpu: bool  # whether a worker has the resource GPU


def look_at(address: str) -> ClusterFacts:
    """What the cluster at an address has.

    Raises
    ------
    ValueError
        If no scheduler answers there, or its workers have another version of this package; a sentence.
    """
    client = connect(address)
    try:
        check_versions(client, address)
        return facts_of(client)
    except UnreachableError as error:
        raise ValueError(_no_answer(address, error.__cause__ or error)) from None
    finally:
        leave(client)


def facts_of(client: distributed.Client) -> ClusterFacts:
    """What the cluster of a client has; raises UnreachableError."""
    workers = ask(lambda: client.scheduler_info(n_workers=-1))["workers"].values()
    return ClusterFacts(len(workers), any("GPU" in worker.get("resources", {}) for worker in workers))


def connect(address: str, seconds: float | None = None) -> distributed.Client:
    """A client of the scheduler; its TLS certificates come from Dask's own configuration.

    Raises
    ------
    ValueError
        If no scheduler answers within so many seconds, or the certificates do not fit; a sentence.
    """
    seconds = _CONNECT_SECONDS if seconds is None else seconds
    dask_config.set({"distributed.comm.timeouts.connect": f"{seconds:g}s"})
    try:
        return _within(
            seconds + _HANDSHAKE_SECONDS,
            lambda: distributed.Client(address, timeout=seconds, set_as_default=False, name="napari-mlbseg"),
        )
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(_no_answer(address, error)) from None


def _no_answer(address: str, error: BaseException) -> str:
    """Why there is no connection, and what to do, in one sentence."""
    reasons = list(_chain(error))
    if certificate := next((reason for reason in reasons if isinstance(reason, ssl.SSLError)), None):
        why = getattr(certificate, "verify_message", "") or certificate.reason or "it is not trusted"
        return (
            f"The scheduler at {address} and this machine do not accept each other's certificates ({why}): see that "
            "Dask's configuration (distributed.comm.tls) names the same authority on both."
        )
    tls = urlsplit(address).scheme == "tls"
    hint = " and that Dask's configuration names your certificates (distributed.comm.tls)" if tls else ""
    return (
        f"No Dask scheduler answers at {address} ({' '.join(str(error).split()) or type(error).__name__}): see "
        f"that it runs and can be reached from here{hint}."
    )


def _chain(error: BaseException | None) -> Sequence[BaseException]:
    """An error and what caused it."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def leave(client: distributed.Client) -> None:
    """Close a client, whether or not its scheduler is still there."""
    with suppress(Exception):  # a scheduler that is gone cannot be taken leave of
        client.close(timeout=2)


def check_versions(client: distributed.Client, address: str) -> None:
    """The workers must have this very version: both ends read each other's files.

    Raises
    ------
    ValueError
        If they have not; a sentence.
    UnreachableError
    """
    try:
        versions = set(_within(_CALL_SECONDS, lambda: client.run(remote.version)).values())
    except (OSError, TimeoutError) as error:
        raise UnreachableError from error
    except Exception as error:  # an import that fails over there comes back as whatever it was
        raise ValueError(
            f"The workers of the cluster at {address} cannot load napari-mlbseg ({type(error).__name__}: {error}): "
            f"install napari-mlbseg {__version__} there."
        ) from None
    if others := sorted(versions - {__version__}):
        raise ValueError(
            f"The workers of the cluster at {address} have napari-mlbseg {', '.join(others)} but this machine has "
            f"{__version__}: install the same version on both."
        )


def call(client: distributed.Client, worker: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns on a Dask worker; raises UnreachableError."""
    return ask(lambda: client.run(function, *arguments, workers=[worker])[worker])


def task_state(client: distributed.Client, key: str) -> str | None:
    """What the scheduler does with a task, in its own words; None if it does not know it. Raises UnreachableError."""

    def status() -> Any:
        if client.scheduler is None:
            raise OSError("the connection is closed")
        return client.sync(client.scheduler.get_task_status, keys=[key])

    return ask(status)[key]


def ask(question: Callable[[], _Answer], seconds: float | None = None) -> _Answer:
    """What Dask answers within so many seconds; raises UnreachableError."""
    try:
        return _within(_CALL_SECONDS if seconds is None else seconds, question)
    except _SILENCES as error:
        raise UnreachableError from error


def _within(seconds: float, question: Callable[[], _Answer]) -> _Answer:
    """The answer to a question; raises TimeoutError where Dask would wait for ever, for a scheduler that hangs."""
    answers: queue.SimpleQueue[tuple[_Answer | None, BaseException | None]] = queue.SimpleQueue()

    def wait() -> None:
        try:
            answers.put((question(), None))
        except BaseException as error:  # it belongs to whoever asked
            answers.put((None, error))

    threading.Thread(target=wait, name="mlbseg-ask", daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("it does not answer") from None
    if error is not None:
        raise error
    return cast("_Answer", answer)
