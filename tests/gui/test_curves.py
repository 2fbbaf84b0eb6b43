"""The dock *Curves*: what it draws of a round, and that it costs nothing while nobody sees it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtWidgets import QApplication, QMenu

from napari_mlbseg.events import Finished, FinishReason, Losses, Stage
from napari_mlbseg.session import Round
from napari_mlbseg.viewer.docks.curves import CurvesDock
from napari_mlbseg.viewer.docks.registry import docks
from tests.gui.gui_actions import press_train

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]

DONE = Finished(reason=FinishReason.TIME, steps=1, seconds=1)


def bootstrap(step, clean):
    return Losses(stage=Stage.BOOTSTRAP, step=step, values={"clean": clean})


def weighted(step, clean=0.1, **values):
    return Losses(
        stage=Stage.TRAIN,
        step=step,
        values={"clean": clean, "weighted": 0.5, "consistency": 0.01, "share_positive": 0.6, "share_pseudo": 0.25}
        | values,
    )


@pytest.fixture
def begun(open_dock, make_napari_viewer, image):
    """A shown viewer with both docks and a training that has begun: (viewer, dock, curves, job)."""
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    _, dock = open_dock(viewer)
    curves = CurvesDock(viewer)
    viewer.window.add_dock_widget(curves, name="Curves", area="right")
    dock.data.volume_rows[0].new.click()
    viewer.layers["heart annotation"].data[3, 8:16, 8:16] = 1
    dock.controller.mark_clean(True, 3)
    press_train(dock)
    return viewer, dock, curves, dock.controller.session.current_round.job


def test_losses_and_shares_are_drawn_as_they_come(begun, wait_for):
    _, _, curves, job = begun
    assert curves.empty.isVisible(), "says what will appear"
    wait_for(lambda: "has not begun" in curves.headline.text())
    assert not curves.losses.isVisible()
    job.say(bootstrap(10, 1.5), bootstrap(20, 0.8), weighted(21), weighted(22, clean=0.2, share_pseudo=0.75))
    wait_for(lambda: len(curves.losses.values("clean")[0]) == 4)
    assert not curves.empty.isVisible()
    steps, clean = curves.losses.values("clean")
    assert steps.tolist() == [10, 20, 21, 22]
    assert clean.tolist() == [1.5, 0.8, 0.1, 0.2]
    assert np.isnan(curves.losses.values("weighted")[1]).tolist() == [True, True, False, False]
    assert curves.shares.values("share_positive")[1][2] == pytest.approx(60)
    assert curves.shares.values("share_pseudo")[1][2:].tolist() == pytest.approx([25, 75])
    assert curves.shares.values("share_initial")[1][2:].tolist() == pytest.approx([75, 25])
    assert curves.losses.mark.value() == 20, "where learning from the other slices began"
    assert "Round 1, step 22" in curves.headline.text()


def test_without_any_weight_there_is_no_share(begun, wait_for):
    _, _, curves, job = begun
    job.say(weighted(5, share_positive=0.0, share_pseudo=0.0), weighted(6, consistency=None))
    wait_for(lambda: len(curves.shares.values("share_pseudo")[0]) == 2)
    assert math.isnan(curves.shares.values("share_initial")[1][0])
    assert math.isnan(curves.shares.values("share_pseudo")[1][0])
    assert math.isnan(curves.losses.values("consistency")[1][1])


def test_many_events_are_one_drawing(monkeypatch, begun, qtbot):
    _, _, curves, _job = begun
    drawn = []
    monkeypatch.setattr(curves, "_show_steps", lambda current: drawn.append(current))
    curves._timer.stop()
    for step in range(500):
        curves._on_event(weighted(step))
    assert drawn == []
    qtbot.waitUntil(lambda: len(drawn) == 1)


def test_hidden_it_listens_to_nothing_and_shown_again_it_catches_up(begun, wait_for):
    _, dock, curves, job = begun
    session = dock.controller.session
    n_listeners = len(session.event_received)
    job.say(bootstrap(10, 1.5))
    wait_for(lambda: len(curves.losses.values("clean")[0]) == 1)
    curves.hide()
    assert len(session.event_received) == n_listeners - 1
    assert not curves.is_following
    assert not curves._timer.isActive()
    job.say(bootstrap(20, 0.8), DONE)
    wait_for(lambda: session.current_round.outcome is not None)
    assert len(curves.losses.values("clean")[0]) == 1
    curves.show()
    assert curves.losses.values("clean")[0].tolist() == [10, 20]
    assert len(session.event_received) == n_listeners


def test_a_new_round_begins_anew(begun, wait_for):
    _, dock, curves, job = begun
    job.say(bootstrap(10, 1.5), DONE)
    wait_for(lambda: len(curves.losses.values("clean")[0]) == 1)
    wait_for(lambda: dock.train.button.text() == "&Train")
    press_train(dock)
    wait_for(lambda: "Round 2" in curves.headline.text())
    assert len(curves.losses.values("clean")[0]) == 0


def test_held_out_scores_are_shown_by_round_where_there_are_any(monkeypatch, open_dock, make_napari_viewer, wait_for):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(np.random.default_rng(0).random((5, 32, 32)), name="heart")
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    viewer.layers["heart annotation"].data[2, 8:16, 8:16] = 1
    dock.controller.mark_clean(True, 2)
    curves = CurvesDock(viewer)
    viewer.window.add_dock_widget(curves)
    session = dock.controller.session
    for _ in range(3):
        press_train(dock)
        session.current_round.job.say(DONE)
        wait_for(lambda: session.current_round.outcome is not None)
    wait_for(lambda: curves.no_scores.isVisible())
    assert not curves.scores.isVisible()
    scores = {1: None, 2: 0.7, 3: 0.9}
    monkeypatch.setattr(Round, "held_out_dice", property(lambda past: scores[past.number]))
    session.scores_changed.emit()
    wait_for(lambda: curves.scores.isVisible())
    assert [part.tolist() for part in curves.scores.values("dice")] == [[2, 3], [0.7, 0.9]]
    assert not curves.no_scores.isVisible()


@pytest.mark.parametrize("lowest", [0.9, 0.5, 0.02, 1e-3, 1e-6, 1e-15])
def test_marks_of_the_losses_lie_apart_and_one_is_a_power_of_ten(begun, wait_for, lowest):
    _, _, curves, job = begun
    job.say(bootstrap(1, 1.1), bootstrap(2, lowest))
    wait_for(lambda: len(curves.losses.values("clean")[0]) == 2)
    axis = curves.losses.item.getAxis("left")
    picture = QPixmap(10, 10)
    painter = QPainter(picture)
    marks = sorted((rect.top(), rect.bottom(), text) for rect, _, text in axis.generateDrawSpecs(painter)[2])
    painter.end()
    assert len(marks) >= 2
    assert any(text in {"1", "0.1"} or "10" in text for *_, text in marks)
    assert all(above[1] <= below[0] for above, below in itertools.pairwise(marks))


def test_colours_follow_the_theme(begun):
    viewer, _, curves, _ = begun
    for theme, is_dark in (("light", False), ("dark", True)):
        viewer.theme = theme
        background = curves.losses.view.backgroundBrush().color()
        text = curves.losses.item.getAxis("left").textPen().color()
        curve = curves.losses.lines["clean"].opts["pen"].color()
        assert (background.lightness() < 128) is is_dark
        assert abs(text.lightness() - background.lightness()) > 100
        assert abs(curve.lightness() - background.lightness()) > 60


def test_pyqtgraph_shows_no_menus(begun, wait_for):
    _, _, curves, job = begun
    job.say(bootstrap(10, 1.5))
    wait_for(lambda: curves.losses.isVisible())
    assert not [menu for menu in curves.findChildren(QMenu) if menu.isVisible()]


def test_a_round_that_ends_without_a_step_says_so(begun, wait_for):
    _, _, curves, job = begun
    job.say(DONE)
    wait_for(lambda: "ended without" in curves.headline.text())


def test_curves_differ_without_colour(begun):
    _, _, curves, _ = begun
    for plot in (curves.losses, curves.shares):
        styles = [line.opts["pen"].style() for line in plot.lines.values()]
        assert len(set(styles)) == len(styles)


def test_closing_lets_go_of_everything_and_leaks_no_widget(begun, wait_for):
    viewer, dock, curves, _ = begun
    session = dock.controller.session
    before = {w for w in QApplication.topLevelWidgets() if w.isVisible()}
    following = len(docks.changed), len(session.event_received)
    destroyed = []
    curves.destroyed.connect(lambda *_: destroyed.append(True))
    viewer.window.remove_dock_widget(curves)
    wait_for(lambda: bool(destroyed))
    assert (len(docks.changed), len(session.event_received)) == (following[0] - 1, following[1] - 1)
    assert not {w for w in QApplication.topLevelWidgets() if w.isVisible()} - before


def test_without_the_main_dock_it_opens_it_and_follows_the_newest(make_napari_viewer, image, wait_for):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    curves = CurvesDock(viewer)
    viewer.window.add_dock_widget(curves)
    assert docks.find(viewer) is None
    wait_for(lambda: docks.find(viewer) is not None)
    main = docks.find(viewer)
    assert curves.controller is main.controller
    viewer.window.remove_dock_widget(main)
    wait_for(lambda: docks.find(viewer) is None)
    assert curves.controller is None
    assert not curves.is_following
    assert curves.empty.isVisible()
