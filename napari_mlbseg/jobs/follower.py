"""A follower: ``python -m napari_mlbseg.jobs.follower JOB_DIR`` computes a share of the batches of a job's training.

It is another rank than 0 (see `napari_mlbseg.engine.ranks`), as its environment says. The worker of the job, rank 0,
tells it what to train; it writes nothing but, if it fails, why.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

import psutil

from napari_mlbseg.engine.imports import without_collector
from napari_mlbseg.engine.place import Place
from napari_mlbseg.events import Failed
from napari_mlbseg.jobs.failures import failure, is_out_of_memory
from napari_mlbseg.jobs.folder import JobFolder, Request, write_atomically
from napari_mlbseg.jobs.processes import be_modest, lives, parent
from napari_mlbseg.jobs.startup import run

__all__ = ["LOST", "main", "read_note"]

#: Exit code of a follower that failed because another process of the training is gone.
LOST = 75

_LOOK_SECONDS = 0.2  # between two looks whether rank 0 lives


def main(arguments: list[str] | None = None) -> int:
    """Follow the job in the folder given as the only argument; 0 unless that failed."""
    folder = JobFolder((arguments or sys.argv[1:])[0])
    place = Place.of_this_process()
    threading.Thread(target=_watch, args=(parent(), place), name="watch", daemon=True).start()
    be_modest(None)
    try:
        _follow(folder, place)
    except Exception as error:  # the one place where any failure becomes a note for rank 0
        from napari_mlbseg.engine.ranks import has_lost_another

        if folder.cancel_file.exists():
            return 0
        traceback.print_exc()
        if has_lost_another(error):
            return LOST
        note = {"failed": failure(error, folder).model_dump(mode="json"), "out_of_memory": is_out_of_memory(error)}
        write_atomically(folder.note_of_rank(place.rank), json.dumps(note))
        return 1
    return 0


def read_note(path: Path) -> tuple[Failed, bool] | None:
    """Why a follower failed, and whether for want of memory; None if it left no word."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return Failed.model_validate(note["failed"]), bool(note["out_of_memory"])
    except (OSError, ValueError, KeyError):
        return None


def _follow(folder: JobFolder, place: Place) -> None:
    with without_collector():
        from napari_mlbseg.engine.ranks import join
        from napari_mlbseg.engine.training import follow

    ranks = join(place)
    request = Request.model_validate_json(ranks.text_of_first(""))
    previous = None if request.previous is None else JobFolder(request.previous).model_file
    follow(folder.open_task(request), request.config.device, ranks, previous)


def _watch(worker: psutil.Process | None, place: Place) -> None:
    """End this process when rank 0's is gone: nobody else would tell one that waits for it on a GPU."""
    while worker is not None:
        if not lives(worker):
            if place.meeting is not None:
                shutil.rmtree(place.meeting.parent, ignore_errors=True)
            os._exit(LOST)
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    run(main)
