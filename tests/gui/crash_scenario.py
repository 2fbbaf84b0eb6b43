"""The first act of the whole session, in a process of its own, which ends with kill -9 while a training runs.

python crash_scenario.py IMAGE LABELS SESSION_FOLDER PICTURES SECONDS
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import napari
import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from gui_driver import Person, outlines

from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.commands import find_dock


def main(image: str, labels: str, session_folder: str, pictures: str, seconds: float) -> None:
    truth = np.asarray(nibabel.load(labels).dataobj).T  # as the layer shows it, (k, j, i)
    viewer = napari.Viewer(title="napari")
    viewer.window.resize(1280, 800)
    viewer.open(image, plugin="napari-mlbseg")
    dock = find_dock(viewer)
    person = Person(viewer, dock, Path(pictures) if pictures else None)
    session = dock.controller.session
    person.wait_for(lambda: bool(dock.controller.workspace.bindings))
    person.picture("01-open")

    person.click(dock.data.volume_rows[0].new)
    shown = np.flatnonzero(truth.any(axis=(1, 2)))
    clean = [int(z) for z in np.linspace(shown[0] + 2, shown[-1] - 2, 3).round()]
    for z in clean:
        person.go_to(z)
        for polygon in outlines(truth[z] > 0):
            person.outline(polygon)
        if z == clean[1]:
            person.picture("02-painted")
        person.click(dock.clean.mark)
    person.type_number(dock.train.editors["time_budget"].editor, seconds)
    person.go_to(clean[1] - 2)
    person.picture("03-three-clean-slices")

    def train(first: str = "") -> None:
        person.click(dock.train.button)
        assert dock.train.complaint.text() == ""
        if first:
            person.wait_for(lambda: dock.controller.results.is_available("pseudo_labels"))
            person.picture(first)
        person.wait_for(lambda: session.state is SessionState.IDLE, 300)

    train(first="04-training")
    person.picture("05-trained")
    person.go_to_suggestion()
    while not dock.controller.reviewer.prediction().any():  # beyond the structure there is nothing to accept
        person.click(dock.review.skip)
        person.go_to_suggestion()
    suggested = dock.controller.workspace.current_slice
    person.picture("06-suggested")
    annotation = viewer.layers.selection.active
    assert not annotation.data[suggested].any()
    person.press("G")
    assert annotation.data[suggested].any(), "accepted"
    person.wait_for(
        lambda: suggested in session.accepted_slices(session.volume(dock.controller.workspace.current.image.name).name)
    )
    person.picture("07-accepted")
    rows = np.argwhere(annotation.data[suggested])
    lowest = rows[rows[:, 0].argmax()]
    person.use("1", "erase")
    person.stroke([(lowest[0] + 2, lowest[1] + d) for d in (-6, -3, 0, 3, 6)])  # a correction along its lower edge
    person.use("2", "paint")
    name = dock.controller.workspace.current.image.name
    person.wait_for(lambda: session.provenance(name, suggested).value == "corrected")
    person.press("K")
    person.wait_for(lambda: session.rounds[0].held_out_dice is not None)
    person.picture("08-corrected-and-clean")
    train()
    person.click(dock.rounds.table)
    person.picture("09-second-round")
    person.click_row(dock.rounds.table, 1)
    person.click(dock.rounds.restore)
    assert session.restored is session.rounds[0]
    person.picture("10-restored")

    person.click(dock.session.save)
    person.choose_in_dialog(Path(session_folder))
    assert str(session.folder) == session_folder, dock.train.complaint.text()
    person.picture("11-saved")
    person.click(dock.train.button)
    person.wait_for(lambda: session.current_round.number == 3 and len(session.current_round.events) > 1, 60)
    person.wait(1.0)
    print(
        json.dumps(
            {
                "name": name,
                "clean": sorted(session.volume(name).clean),
                "suggested": suggested,
                "painted": annotation.data.sum().item(),
                "worker": session.current_round.job.pid,
                "held_out": session.rounds[0].held_out_dice,
            }
        ),
        flush=True,
    )
    np.save(Path(session_folder).parent / "painted.npy", annotation.data)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:5], float(sys.argv[5]))
