"""The strip of slices: what is drawn, where a click or a key leads, and what it costs with thousands of slices."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QToolTip

from napari_mlbseg.viewer.widgets.slice_strip import SliceStrip, StripLegend, StripState

pytestmark = pytest.mark.gui

MANY = StripState(
    n_slices=5000,
    clean={40, 2500},
    accepted={2500, 3000},
    painted={40, 700},
    rejected={1200},
    predicted=range(5000),
    suggested={4000: "the views disagree most here", 41: "far from any clean slice"},
    doubt=np.linspace(0, 1, 5000),
    current=100,
)


@pytest.fixture
def strip(qtbot):
    """A strip 300 pixels wide that is shown, and the slices that it asked for."""
    strip = SliceStrip()
    qtbot.addWidget(strip)
    strip.resize(300, strip.sizeHint().height())
    strip.show()
    qtbot.waitExposed(strip)
    asked = []
    strip.slice_wanted.connect(asked.append)
    return strip, asked


def colours(strip, z):
    """Distinct colours down the middle of a slice's cell."""
    picture = strip.grab().toImage()
    x = int((z + 0.5) * strip.width() / strip.value().n_slices)
    return {picture.pixelColor(x, y).name() for y in range(picture.height())}


def test_every_kind_of_slice_looks_different_and_is_said_in_words(strip):
    strip, _ = strip
    strip.set_value(
        StripState(7, clean={0, 1}, accepted={1, 2}, painted={2, 3}, rejected={4}, predicted={4, 5}, current=None)
    )
    picture, grey = strip.grab().toImage(), []
    plain = [picture.pixelColor(int(6.5 * strip.width() / 7), y) for y in range(picture.height())]
    for z in range(7):  # without colour vision: which rows of the cell are drawn at all
        x = int((z + 0.5) * strip.width() / 7)
        grey.append(tuple(picture.pixelColor(x, y) != plain[y] for y in range(picture.height())))
    assert len(set(grey)) == 7, "the marks alone tell them apart"
    assert [strip.value().sentence(z).partition(": ")[2] for z in range(7)] == [
        "clean",
        "clean, taken over from a prediction",
        "taken over from a prediction, not yet clean",
        "painted, not yet clean",
        "prediction rejected",
        "predicted",
        "nothing painted",
    ]


def test_a_suggestion_says_why(qtbot, strip):
    strip, _ = strip
    strip.set_value(StripState(n_slices=60, suggested={41: "the views disagree most here"}, painted={41}))
    assert strip.value().sentence(41) == ("Slice 41: painted, not yet clean; suggested, the views disagree most here")
    strip.set_value(StripState(n_slices=60, suggested={41: "the views disagree most here"}, predicted=range(60)))
    x = int(41.5 * strip.width() / 60)
    qtbot.mouseMove(strip, QPoint(x - 40, 15))
    qtbot.mouseMove(strip, QPoint(x, 15))
    qtbot.waitUntil(lambda: QToolTip.text() == "Slice 41: suggested, the views disagree most here")
    assert "0.25" in StripState(n_slices=2, doubt=np.array([0.25, np.nan])).sentence(0)
    assert "doubt" not in StripState(n_slices=2, doubt=np.array([0.25, np.nan])).sentence(1)


def test_rare_slices_among_thousands_are_seen_and_can_be_hit(qtbot, strip):
    strip, asked = strip
    strip.set_value(MANY)
    plain = colours(strip, 2000)
    for z in (40, 700, 1200, 2500, 3000):
        assert colours(strip, z) - plain, f"slice {z} cannot be seen"
        x = int((z + 0.5) * 300 / 5000)
        qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(x, 15))
        assert asked[-1] == (z if z != 40 else asked[-1])
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(240, 3))
    assert asked[-1] == 4000, "a click on a marker means the suggested slice"
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(150 + 60, 15))
    assert asked[-1] == strip.slice_at(210)


def test_dragging_goes_through_the_slices(qtbot, strip):
    strip, asked = strip
    strip.set_value(StripState(n_slices=10, current=0))
    qtbot.mousePress(strip, Qt.MouseButton.LeftButton, pos=QPoint(45, 15))
    for x in (75, 105, 900):
        qtbot.mouseMove(strip, QPoint(x, 15))
    qtbot.mouseRelease(strip, Qt.MouseButton.LeftButton, pos=QPoint(299, 15))
    assert asked[0] == 1
    assert asked[-1] == 9, "beyond the end is the last"
    before = len(asked)
    qtbot.mouseClick(strip, Qt.MouseButton.RightButton, pos=QPoint(45, 15))
    assert len(asked) == before


@pytest.mark.parametrize(
    ("key", "current", "wanted"),
    [
        (Qt.Key.Key_Left, 5, 4),
        (Qt.Key.Key_Right, 5, 6),
        (Qt.Key.Key_Left, 0, None),
        (Qt.Key.Key_Right, 9, None),
        (Qt.Key.Key_Home, 5, 0),
        (Qt.Key.Key_End, 5, 9),
        (Qt.Key.Key_PageUp, 5, 4),
        (Qt.Key.Key_PageUp, 4, 2),
        (Qt.Key.Key_PageDown, 5, 8),
        (Qt.Key.Key_PageDown, 8, None),
        (Qt.Key.Key_S, 5, 7),
        (Qt.Key.Key_S, 7, 1),
        (Qt.Key.Key_S, 1, 7),
        (Qt.Key.Key_Left, None, None),
        (Qt.Key.Key_S, None, 7),
    ],
)
def test_keys(qtbot, strip, key, current, wanted):
    strip, asked = strip
    strip.set_value(StripState(n_slices=10, clean={2, 4, 8}, suggested={7: "first", 1: "second"}, current=current))
    qtbot.keyClick(strip, key)
    assert asked == ([] if wanted is None else [wanted])


def test_keys_with_control_belong_to_napari(qtbot, strip):
    strip, asked = strip
    strip.set_value(StripState(n_slices=10, suggested={7: ""}, current=0))
    qtbot.keyClick(strip, Qt.Key.Key_S, Qt.KeyboardModifier.ControlModifier)
    assert asked == []


def test_an_empty_stack_is_quiet(qtbot, strip):
    strip, asked = strip
    strip.set_value(StripState())
    strip.grab()
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(45, 15))
    for key in (Qt.Key.Key_Left, Qt.Key.Key_End, Qt.Key.Key_PageDown, Qt.Key.Key_S):
        qtbot.keyClick(strip, key)
    assert asked == []


def test_the_slices_are_drawn_anew_only_if_they_changed(monkeypatch, strip):
    strip, _ = strip
    drawn = []
    draw = SliceStrip._draw

    def counted(self, size, ratio):
        drawn.append(size)
        return draw(self, size, ratio)

    monkeypatch.setattr(SliceStrip, "_draw", counted)
    strip.set_value(MANY)
    strip.grab()
    assert len(drawn) == 1
    for current in range(100, 120):  # scrolling
        strip.set_value(
            StripState(**{name: getattr(MANY, name) for name in MANY.__dataclass_fields__} | {"current": current})
        )
        strip.grab()
    assert len(drawn) == 1
    strip.set_value(StripState(n_slices=5000, clean={3}))
    strip.grab()
    assert len(drawn) == 2
    strip.resize(200, strip.height())
    strip.grab()
    assert len(drawn) == 3
    strip.setStyleSheet("QWidget { color: red }")  # as a change of napari's theme
    strip.grab()
    assert len(drawn) == 4


def test_a_set_that_changes_later_is_noticed():
    clean = {1}
    state = StripState(n_slices=5, clean=clean)
    clean.add(2)
    assert not StripState(n_slices=5, clean=clean).looks_like(state)
    with pytest.raises(ValueError, match="5 slices"):
        StripState(n_slices=5, doubt=np.zeros(4))


def test_doubt_that_is_not_known_is_not_drawn(strip):
    strip, _ = strip
    strip.set_value(StripState(n_slices=4, doubt=np.array([0.0, 1.0, np.nan, 0.5])))
    picture = strip.grab().toImage()
    y = picture.height() - 3
    sure, unsure, unknown, half = (picture.pixelColor(int((z + 0.5) * 75), y).name() for z in range(4))
    nothing = picture.pixelColor(0, 2).name()
    assert unknown == nothing
    assert len({sure, unsure, half, nothing}) == 4


def test_the_legend_explains_what_is_there_on_as_many_lines_as_it_needs(qtbot):
    legend = StripLegend()
    qtbot.addWidget(legend)
    legend.show()
    legend.resize(300, 10)
    legend.set_value(StripState(n_slices=5))
    assert legend.words() == []
    legend.set_value(StripState(n_slices=5, clean={1}, painted={2}))
    assert legend.words() == ["clean", "painted"]
    one_line = legend.height()
    legend.set_value(MANY)
    assert legend.words() == ["clean", "accepted", "painted", "rejected", "predicted", "suggested", "doubt"]
    assert legend.height() == 2 * one_line
    legend.resize(120, 10)
    qtbot.waitUntil(lambda: legend.height() > 2 * one_line)
    legend.grab()
