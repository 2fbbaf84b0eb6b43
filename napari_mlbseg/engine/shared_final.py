"""The last pass over all slices, shared by the ranks: each computes some of them, rank 0 gathers and shows them.

Slices are computed in rounds, a batch of them by each rank at the same time. Rank 0 says before every round what is to
be done, for all alike, so that no rank waits for one that has turned elsewhere; then it takes the batches in the order
in which one process would have computed them. One batch of another rank is in its memory at a time: the others keep
theirs until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from napari_mlbseg.engine.predict import in_batches
from napari_mlbseg.engine.ranks import Ranks

__all__ = ["Found", "gathered", "rounds", "seeded"]

#: What a rank has found of a batch.
Found = Sequence[Tensor | None]


def rounds(ranks: Ranks, slices: Sequence[int], size: int) -> Iterator[list[list[int]]]:
    """Rank 0's `slices` in batches, as many at a time as there are ranks.

    Parameters
    ----------
    ranks : Ranks
    slices : sequence of int
        In the order in which they are shown; the others' count nothing.
    size : int
        Most slices of a batch: fewer where otherwise a rank would have none.
    """
    wanted = ranks.list_of_first(slices)
    even = -(-len(wanted) // ranks.size)
    batches = list(in_batches(wanted, max(1, min(size, even))))
    for first in range(0, len(batches), ranks.size):
        yield batches[first : first + ranks.size]


def gathered(
    ranks: Ranks, batches: Sequence[list[int]], compute: Callable[[list[int]], Found]
) -> Iterator[tuple[list[int], Found, bool]]:
    """What the ranks find of a round's batches, each of its own: on rank 0 all in order, on the others nothing.

    Parameters
    ----------
    ranks : Ranks
    batches : sequence of list of int
        At most one for each rank.
    compute : callable
        What is found of a batch.

    Yields
    ------
    batch : list of int
    found : sequence of (Tensor or None)
        Of another rank, in the memory of the CPU.
    is_own : bool
        Whether rank 0 has computed it.
    """
    rank = 0 if ranks.size == 1 else ranks.place.rank
    own = compute(batches[rank]) if rank < len(batches) else None
    if rank and own is not None:
        ranks.send(own)
    if rank or own is None:
        return
    yield batches[0], own, True
    del own
    for other, batch in enumerate(batches[1:], start=1):
        yield batch, ranks.receive(other), False


@contextmanager
def seeded(generators: Sequence[torch.Generator], *seed: int) -> Iterator[None]:
    """Draw by a seed of one's own meanwhile: what a slice gets depends neither on the slices before nor on the rank."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with ExitStack() as afterwards:
        for generator in generators:
            afterwards.callback(generator.set_state, generator.get_state())
            generator.manual_seed(number)
        yield
