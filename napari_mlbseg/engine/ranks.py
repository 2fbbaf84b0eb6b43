"""Ranks: the processes that train one network together, each on its share of every batch (data-parallel).

Every rank draws the same whole batch, by the same random numbers, and computes the losses of its share of the samples.
What is a sum over the batch (losses, their denominators, the total of the weights, gradients) is summed over the ranks,
so that all take the very step that one process would take with the whole batch. What depends on clocks and files (when
a stage ends, whether somebody asked to stop) is decided by rank 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from napari_mlbseg.engine.place import Place

__all__ = ["ALONE", "Ranks", "Share", "has_lost_another", "join"]

_PATIENCE = timedelta(minutes=30)  # with another rank that is busy: rank 0 registers, predicts and writes meanwhile


class Share(NamedTuple):
    """A rank's share of a batch.

    Attributes
    ----------
    rows : slice
        Samples of the batch; at least one.
    counts : bool
        False where there are fewer samples than ranks: then the one row is a stand-in whose mask is empty, so that
        every rank takes part in every sum.
    """

    rows: slice
    counts: bool

    def of(self, x: Tensor) -> Tensor:
        """The share of a batch (B, ...)."""
        return x[self.rows]

    def mask(self, mask: Tensor) -> Tensor:
        """The share of the batch's mask (B, ...)."""
        return self.of(mask) if self.counts else torch.zeros_like(self.of(mask))


class Ranks:
    """All ranks of a training, seen from one of them; by default it is alone, and nothing is sent anywhere.

    Every rank has to call the same methods in the same order.

    Parameters
    ----------
    place : Place
        See `join`, which makes one that is connected to the others.
    """

    def __init__(self, place: Place = Place()) -> None:  # noqa: B008  (frozen)
        self.place = place
        self._is_apart = place.size == 1

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Ranks:
        """A network that is copied keeps its ranks."""
        return self

    @property
    def size(self) -> int:
        """How many ranks share a batch now: 1 while this one is apart."""
        return 1 if self._is_apart else self.place.size

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which decides, speaks and writes."""
        return self.place.rank == 0

    @contextmanager
    def apart(self) -> Iterator[None]:
        """For what a rank computes for itself, whole batches and all: nothing is shared meanwhile."""
        before, self._is_apart = self._is_apart, True
        try:
            yield
        finally:
            self._is_apart = before

    def leave(self) -> None:
        """What was shared is done: from here on this rank is apart."""
        if not self._is_apart:
            dist.destroy_process_group()
        self._is_apart = True

    # -- a batch -------------------------------------------------------------------------------------------------

    def share(self, n: int) -> Share:
        """Share of this rank of a batch of `n` samples."""
        if self._is_apart:
            return Share(slice(0, n), True)
        rank, size = self.place.rank, self.place.size
        start, stop = n * rank // size, n * (rank + 1) // size
        return Share(slice(start, stop), True) if stop > start else Share(slice(0, 1), False)

    def total(self, value: Tensor) -> Tensor:
        """Sum of `value` over the ranks, with the gradient of this rank's part: gradients are summed later."""
        return value if self._is_apart else _Total.apply(value)

    def summed(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum of every gradient over the ranks."""
        if self._is_apart:
            return dict(gradients)
        flat = torch.cat([value.reshape(-1) for value in gradients.values()])
        dist.all_reduce(flat)
        parts = flat.split([value.numel() for value in gradients.values()])
        return {name: part.view_as(gradients[name]) for name, part in zip(gradients, parts, strict=True)}

    def gathered(self, values: Tensor, n: int) -> Tensor:
        """The whole batch's values, (V, n, ...), of those of every rank's share, (V, B, ...)."""
        if self._is_apart:
            return values
        share = self.share(n)
        whole = values.new_zeros((values.shape[0], n, *values.shape[2:]))
        if share.counts:
            whole[:, share.rows] = values
        dist.all_reduce(whole)
        return whole

    # -- what every rank has found for itself --------------------------------------------------------------------

    def send(self, tensors: Sequence[Tensor | None]) -> None:
        """Give rank 0, which has to `receive` them, some tensors; returns once it has them."""
        held = [None if x is None else x.detach().cpu().contiguous() for x in tensors]
        described = [None if x is None else [str(x.dtype).removeprefix("torch."), list(x.shape)] for x in held]
        header = np.frombuffer(json.dumps(described).encode(), np.uint8).copy()
        dist.send(torch.tensor([len(header)]), 0)
        dist.send(torch.from_numpy(header), 0)
        for x in held:
            if x is not None:
                dist.send(x.view(-1).view(torch.uint8), 0)

    def receive(self, rank: int) -> list[Tensor | None]:
        """What another rank sends to this one, rank 0; in the memory of the CPU."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, rank)
        header = torch.zeros(int(length), dtype=torch.uint8)
        dist.recv(header, rank)
        received: list[Tensor | None] = []
        for described in json.loads(header.numpy().tobytes()):
            x = None if described is None else torch.empty(described[1], dtype=getattr(torch, described[0]))
            if x is not None:
                dist.recv(x.view(-1).view(torch.uint8), rank)
            received.append(x)
        return received

    # -- what rank 0 knows ---------------------------------------------------------------------------------------

    def of_first(self, *values: float) -> tuple[float, ...]:
        """Rank 0's `values`, whatever the others hold."""
        if self._is_apart:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(numbers, 0)
        return tuple(numbers.tolist())

    def list_of_first(self, numbers: Sequence[int]) -> list[int]:
        """Rank 0's `numbers`, however many they are."""
        if self._is_apart:
            return list(numbers)
        (length,) = self.of_first(len(numbers))
        sent = np.array(numbers, np.int64) if self.is_first else np.zeros(int(length), np.int64)
        if length:
            self.array_of_first(sent)
        return [int(number) for number in sent]

    def array_of_first(self, array: np.ndarray) -> None:
        """Overwrite an array, contiguous, by rank 0's."""
        if not self._is_apart:
            dist.broadcast(_bytes_of(array), 0)

    def text_of_first(self, text: str) -> str:
        """Rank 0's `text`."""
        sent = np.frombuffer(text.encode(), np.uint8).copy()
        (length,) = self.of_first(len(sent))
        if not self.is_first:
            sent = np.zeros(int(length), np.uint8)
        self.array_of_first(sent)
        return sent.tobytes().decode()

    def same_as_first(self, network: nn.Module) -> None:
        """Give a network rank 0's parameters and buffers."""
        if not self._is_apart:
            for value in (*network.parameters(), *network.buffers()):
                dist.broadcast(value.detach(), 0)

    def joined(self, array: np.ndarray) -> None:
        """Put together, in place, an array of which every rank has filled other places and left the rest 0."""
        if not self._is_apart:
            dist.all_reduce(_bytes_of(array))  # no byte is carried into the next: one rank alone has it


#: Ranks of a training in one process.
ALONE = Ranks()


def join(place: Place) -> Ranks:
    """Meet the other ranks; returns once all are there.

    Collective operations go over gloo between CPUs and over NCCL between NVIDIA's GPUs.

    Raises
    ------
    RuntimeError
        If they do not come.
    """
    if place.size == 1:
        return Ranks(place)
    if dist.is_initialized():  # an earlier attempt, whose other ranks are gone
        dist.destroy_process_group()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    if place.meeting is None:
        dist.init_process_group(backend, rank=place.rank, world_size=place.size, timeout=_PATIENCE)
    else:
        store = dist.FileStore(str(place.meeting), place.size)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=_PATIENCE)
    return Ranks(place)


def has_lost_another(error: BaseException) -> bool:
    """Whether `error` says that another rank is gone, and not what went wrong here."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in words for word in ("gloo", "nccl", "by peer"))
    )


class _Total(torch.autograd.Function):
    """Sum over the ranks; its gradient is that of this rank's part."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _bytes_of(array: np.ndarray) -> Tensor:
    """The memory of a contiguous array as (n,) uint8."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))
