"""Jobs on a cluster from the dock: where it will compute is said, and a job outlives the window."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_mlbseg.events import Losses, Metrics
from napari_mlbseg.session import SessionState
from tests.gui.gui_actions import make_ready

pytestmark = pytest.mark.gui

FAR = "tls://workstation.example.org:8786"
#: Plays a training on the Dask worker: labels at once, more of them when it is let.
PLAYED = """
import sys, time
from pathlib import Path
from napari_mlbseg.events import *
from napari_mlbseg.jobs.folder import JobFolder, ZarrResults
folder, gate = JobFolder(sys.argv[1]), Path(__file__).with_name("go on")
results = ZarrResults(folder, folder.open_task(folder.read_request()))["heart"]
folder.append_event(Started(device="CPU", seed=0))
folder.append_event(Metrics(values={"device": "CPU, 1 thread"}))
for label in (0, 1):
    results["pseudo_labels"][:] = label
    slices = tuple(range(results["pseudo_labels"].shape[0]))
    folder.append_event(Preview(volume="heart", slices=slices, arrays=("pseudo_labels",), stage="train"))
    folder.append_event(Losses(stage="train", step=label, values={}))
    while not gate.exists() and not folder.cancel_file.exists():
        time.sleep(0.02)
folder.model_file.write_bytes(b"weights")
folder.append_event(Cancelled() if folder.cancel_file.exists() else Finished(reason="steps", steps=2, seconds=1))
"""


@pytest.mark.usefixtures("fake_jobs")
def test_where_it_computes_is_said(heart, wait_for):
    _viewer, dock, annotation = heart
    train, session = dock.train, dock.controller.session
    assert train.device.isVisible()
    assert train.device.text() == "Computes on this machine."
    session.config = session.config.updated(device="cpu")
    assert train.device.text() == "Computes on this machine (CPU)."
    train.form.editors["cluster"].editor.setText(FAR)
    train.form.editors["cluster"].editor.editingFinished.emit()
    assert train.device.text() == f"Computes on the cluster at {FAR}."
    job = make_ready(dock, annotation)
    session.config = session.config.updated(cluster="")
    assert train.device.text() == f"Computes on the cluster at {FAR}.", "this one, whatever the next will do"
    job.say(Metrics(values={"device": "CUDA, a GPU"}))
    wait_for(lambda: train.device.text() == f"On CUDA, a GPU, at {FAR}")


def test_an_address_fits_into_its_field(heart, wait_for):
    _viewer, dock, _annotation = heart
    train = dock.train
    train.advanced.heading.setChecked(True)
    field = train.form.editors["cluster"].editor
    field.setText(FAR)
    wait_for(field.isVisible)
    dock.scroll.ensureWidgetVisible(field)
    assert field.fontMetrics().horizontalAdvance(FAR) < field.width() - 12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")
def test_a_job_outlives_the_window_and_even_this_machine(
    open_dock, make_napari_viewer, image, tmp_path, wait_for, monkeypatch
):
    pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    from tests.jobs.dask_cluster import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    dask = Cluster(tmp_path, dict(os.environ))
    try:
        dask.add_worker()
        dask.script.write_text(PLAYED)
        viewer = make_napari_viewer(strict_qt="raise")
        viewer.add_image(image, name="heart")
        viewer, dock = open_dock(viewer)
        dock.data.volume_rows[0].new.click()
        session = dock.controller.session
        session.config = session.config.updated(cluster=dask.address)
        make_ready(dock, viewer.layers["heart annotation"])
        wait_for(lambda: any(isinstance(event, Losses) for event in session.current_round.events), 30)
        folder, relay = session.folder, psutil.Process(session.current_round.job.pid)
        viewer.window.remove_dock_widget(dock)
        assert relay.is_running(), "closing the window does not end it"
        assert relay.status() != psutil.STATUS_ZOMBIE
        relay.send_signal(signal.SIGKILL)  # this machine was restarted
        wait_for(lambda: not relay.is_running() or relay.status() == psutil.STATUS_ZOMBIE)
        assert not dask.is_idle, "it goes on over there"

        notices: list[str] = []
        monkeypatch.setattr("napari_mlbseg.viewer.controllers.notifications.show_info", notices.append)
        viewer = make_napari_viewer(show=True, strict_qt="raise")
        _, dock = open_dock(viewer)
        session = dock.controller.session
        dock.controller.files.open(folder)
        wait_for(lambda: session.state is SessionState.RUNNING, 20)
        assert any(f"round 1 was found running on the cluster at {dask.address}" in notice for notice in notices)
        assert dock.train.button.text() == "S&top"
        assert dask.address in dock.train.device.text()
        (dask.script.parent / "go on").touch()
        wait_for(lambda: session.state is SessionState.IDLE, 30)
        assert session.current_round.outcome.type == "finished"
        wait_for(lambda: (np.asarray(viewer.layers["heart pseudo-labels"].data) == 1).all(), 10)
        steps = [event.step for event in session.current_round.events if isinstance(event, Losses)]
        assert steps == [0, 1], "each once"
        if pictures := os.environ.get("MLBSEG_PICTURES"):
            dock.train.advanced.heading.setChecked(True)
            viewer.screenshot(str(Path(pictures) / "cluster.png"), canvas_only=False, flash=False)
    finally:
        dask.close()
