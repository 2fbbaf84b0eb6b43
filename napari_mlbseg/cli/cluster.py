"""``--cluster``: the options of a job that runs on a Dask cluster."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from napari_mlbseg.cli.options import InputError
from napari_mlbseg.config.cluster_address import WHY_EXPOSED, checked_address, is_exposed

if TYPE_CHECKING:
    from napari_mlbseg.jobs.dask.connection import ClusterFacts

__all__ = ["add_cluster_options", "cluster_facts", "cluster_option"]


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cluster`` and what belongs to it."""
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="run on a worker of the Dask scheduler there, such as tls://server:8786"
    )
    parser.add_argument(
        "--unencrypted", action="store_true", help="for --cluster: send images to another machine without TLS"
    )


def cluster_option(options: argparse.Namespace) -> str:
    """The address, or an empty text for this machine.

    Asks once, where there is somebody to ask, whether images may be sent unencrypted.

    Raises
    ------
    InputError
        If that is not wanted.
    ValueError
        If it is no address.
    """
    if not options.cluster:
        return ""
    address = checked_address(options.cluster)
    if is_exposed(address) and not options.unencrypted:
        why = WHY_EXPOSED.format(address=address)
        if not sys.stdin.isatty():
            raise InputError(f"{why} Use a tls:// address or an SSH tunnel (docs/cluster.md), or add --unencrypted.")
        print(f"napari-mlbseg: {why} Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if input().strip().lower() not in ("y", "yes"):
            raise InputError("Nothing was sent: use a tls:// address or an SSH tunnel (docs/cluster.md).")
    return address


def cluster_facts(address: str) -> ClusterFacts:
    """What the cluster has; raises ValueError (a sentence) if no scheduler answers there."""
    try:
        from napari_mlbseg.jobs.dask.connection import look_at
    except ImportError:
        raise InputError("For --cluster, install the extra of that name: pip install napari-mlbseg[cluster].") from None
    return look_at(address)
