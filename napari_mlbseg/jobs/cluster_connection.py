"""Reaching a Dask scheduler: the connection, what its workers have, and whether both ends fit."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import distributed
from dask import config as dask_config

from napari_mlbseg import __version__
from napari_mlbseg.jobs import remote

__all__ = ["ClusterFacts", "check_versions", "connect", "facts_of", "look_at"]

_CONNECT_SECONDS = 10.0


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
    finally:
        client.close(timeout=2)


def facts_of(client: distributed.Client) -> ClusterFacts:
    """What the cluster of a client has."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return ClusterFacts(len(workers), any("GPU" in worker.get("resources", {}) for worker in workers))


def connect(address: str) -> distributed.Client:
    """A client of the scheduler; its TLS certificates come from Dask's own configuration."""
    dask_config.set({"distributed.comm.timeouts.connect": f"{_CONNECT_SECONDS:g}s"})
    try:
        return distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False, name="napari-mlbseg")
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        tls = urlsplit(address).scheme == "tls"
        hint = " and that Dask's configuration names your certificates (distributed.comm.tls)" if tls else ""
        raise ValueError(
            f"No Dask scheduler answers at {address} ({' '.join(str(error).split()) or type(error).__name__}): see "
            f"that it runs and can be reached from here{hint}."
        ) from None


def check_versions(client: distributed.Client, address: str) -> None:
    """The workers must have this very version: both ends read each other's files."""
    try:
        versions = set(client.run(remote.version).values())
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
