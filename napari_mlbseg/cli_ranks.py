"""``torchrun -m napari_mlbseg train ...``: which of its processes this one is."""

from __future__ import annotations

import argparse

from napari_mlbseg.cli_inputs import InputError
from napari_mlbseg.engine.place import Place

__all__ = ["place_option"]


def place_option(options: argparse.Namespace) -> Place:
    """Place of this process; under torchrun ``--nproc`` is what torchrun says.

    Raises
    ------
    InputError
        If more is asked for than torchrun started, or a cluster.
    """
    place = Place.of_this_process()
    if place.size > 1:
        if options.nproc is not None and options.nproc != str(place.size):
            raise InputError(f"torchrun has started {place.size} processes: leave out --nproc {options.nproc}.")
        if options.cluster:
            raise InputError("torchrun and --cluster both say where to compute: use one of them.")
        options.nproc = str(place.size)
    return place
