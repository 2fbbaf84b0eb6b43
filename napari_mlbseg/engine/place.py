"""Which of the processes of a training this one is. Torch-free: the first labels are shown before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MEETING", "Place"]

#: Environment variable that names the file by which processes that our own worker starts find each other.
MEETING = "NAPARI_MLBSEG_MEETING"


@dataclass(frozen=True)
class Place:
    """Place of this process among those that share the batches of one training.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are. Rank 0 decides, speaks and writes.
    local_rank, local_size : int
        The same among those on this machine.
    meeting : Path, optional
        File by which they find each other, on one machine; by default over the network, as torchrun's environment says.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    meeting: Path | None = None

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str] | None = None) -> Place:
        """The place that torchrun, or our own worker, wrote into the environment; without one, it is alone.

        Raises
        ------
        ValueError
            If the environment contradicts itself.
        """
        environment = os.environ if environment is None else environment
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        try:
            rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local_rank = int(environment.get("LOCAL_RANK", rank))
            local_size = int(environment.get("LOCAL_WORLD_SIZE", size))
        except ValueError:
            rank, size, local_rank, local_size = 0, 0, 0, 0
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            raise ValueError(
                "The environment variables RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE contradict each other: "
                "start with torchrun, or unset them."
            )
        meeting = environment.get(MEETING)
        return cls(rank, size, local_rank, local_size, Path(meeting) if meeting else None)

    def environment(self) -> dict[str, str]:
        """The environment that `of_this_process` reads."""
        numbers = {
            "RANK": self.rank,
            "WORLD_SIZE": self.size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_size,
        }
        meeting = {} if self.meeting is None else {MEETING: str(self.meeting)}
        return {name: str(number) for name, number in numbers.items()} | meeting
