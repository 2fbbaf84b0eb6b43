"""Dock *Weight inspector*: how far each pixel's labels are trusted, in numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import napari.viewer
import numpy as np
from qtpy.QtCore import QSignalBlocker, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QVBoxLayout,
    QWidget,
)

from napari_mlbseg.events import Event, Preview
from napari_mlbseg.viewer.docks.registry import INSPECTOR
from napari_mlbseg.viewer.docks.side_dock import SideDock
from napari_mlbseg.viewer.layers.binding import VolumeBinding, to_data, voxel_spacing
from napari_mlbseg.viewer.layers.map_values import MAP_KINDS, SliceMeans, VolumeMaps, histogram
from napari_mlbseg.viewer.layers.untrusted import UntrustedLayer
from napari_mlbseg.viewer.panels.panel import WrappedLabel, hint
from napari_mlbseg.viewer.widgets.map_export import MapSaver
from napari_mlbseg.viewer.widgets.map_picture import MapView
from napari_mlbseg.viewer.widgets.plots import Curve, Plot, theme_colours

if TYPE_CHECKING:
    from napari_mlbseg.viewer.layers.result_kinds import ResultKind

__all__ = ["WeightInspectorDock"]

_REFRESH_MILLISECONDS = 300
_CURSOR_MILLISECONDS = 50
_SCROLL_MILLISECONDS = 40  # several slices that pass by meanwhile are one
_MEANS_MILLISECONDS = 25  # between two bites of the profile
_MEANS_SECONDS = 0.01  # that a bite may take, so that the window stays alive
_DRAW_EVERY = 10  # bites between two drawings of the profile
_FEWEST = 0.5  # pixels, below the 1 of the log axis

_NO_DOCK = "Open the dock MLB-Seg: its results are inspected here."
_NO_IMAGE = "Choose an image in the dock MLB-Seg: the weights of its pixels are shown here."
_NO_WEIGHTS = (
    "There are no weights yet. They come while a training runs, once it has begun to learn from the slices that are "
    "not clean: press Train in the dock MLB-Seg."
)
_POINT = "Move the mouse over the image to read the weights of a pixel."


class WeightInspectorDock(SideDock):
    """The weight maps of the current volume: the slice in view, a pixel, a profile along the slices, and files.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(INSPECTOR, napari_viewer)
        self._maps: VolumeMaps | None = None
        self._means: SliceMeans | None = None
        self._in_view: dict[str, np.ndarray] | None = None  # maps of the slice in view
        self._rewritten: set[int] = set()
        self._bites = 0
        self._was_pointed = False  # the cursor has a position before the mouse was ever over the image
        self.untrusted = UntrustedLayer(self.viewer)
        self._make_widgets()
        self._lay_out()
        self._news = self._timer(_REFRESH_MILLISECONDS, self._refresh)
        self._scrolled = self._timer(_SCROLL_MILLISECONDS, self._on_scrolled)
        self._moved = self._timer(_CURSOR_MILLISECONDS, self._show_cursor)
        self._reading = self._timer(_MEANS_MILLISECONDS, self._read_on)
        self._connect()

    # -- set up --------------------------------------------------------------------------------------------------

    def _make_widgets(self) -> None:
        self.headline = WrappedLabel()
        self.empty = hint("")
        self.body = QWidget()
        self.kinds = QComboBox()
        for key, kind in MAP_KINDS.items():
            self.kinds.addItem(kind.words, key)
        self.kinds.setAccessibleName("Which map")
        self.kinds.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.kinds.setMinimumContentsLength(8)  # else the longest words set the width of the dock
        self.map = MapView()
        self.pixel = WrappedLabel(_POINT)
        self.over_image = QCheckBox("Show this &map over the image too")
        self.counts = Plot("Pixels of this slice", [Curve("counts", "pixels")], "Value", "Pixels", steps=True)
        self.profile = Plot("Mean of every slice", [Curve("mean", "mean")], "Slice", "Mean value")
        self.profile.setToolTip("Click to go to a slice. The upright line is the slice in view.")
        self.mark = QCheckBox("Mark &untrusted pixels")
        self.mark.setToolTip(
            "<p>Pixels that neither weight trusts: both together are below this value, of which the average is 1. They "
            "lie where both labels contradict your clean slices, and also where nothing is left to learn.</p>"
        )
        self.threshold = QDoubleSpinBox(minimum=0.0, maximum=10.0, singleStep=0.05, decimals=2, value=0.1)
        self.threshold.setPrefix("below ")
        self.threshold.setKeyboardTracking(False)
        self.share = WrappedLabel()
        self.files = MapSaver()

    def _lay_out(self) -> None:
        limit = QHBoxLayout()
        limit.addWidget(self.mark, stretch=1)
        limit.addWidget(self.threshold)
        rows = QVBoxLayout(self.body)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(6)
        for row in (self.kinds, self.map, self.pixel, self.over_image, self.counts, self.profile, limit, self.share):
            (rows.addLayout if isinstance(row, QHBoxLayout) else rows.addWidget)(row)
        rows.addWidget(self.files)
        for widget in (self.headline, self.empty, self.body):
            self.column.addWidget(widget)
        self.column.addStretch(1)

    def _timer(self, milliseconds: int, slot: Any) -> QTimer:
        timer = QTimer(self, singleShot=True, interval=milliseconds)
        timer.timeout.connect(slot)
        return timer

    def _connect(self) -> None:
        self.kinds.activated.connect(self._on_kind)
        self.map.hovered.connect(self._show_pixel)
        self.over_image.clicked.connect(self._on_over_image)
        self.profile.clicked.connect(self._on_profile)
        self.mark.clicked.connect(self._show_untrusted)
        self.threshold.valueChanged.connect(self._show_untrusted)
        self.untrusted.removed.connect(self._on_untrusted_removed)

    # -- what is shown -------------------------------------------------------------------------------------------

    @property
    def kind(self) -> ResultKind:
        """The map that is chosen."""
        return MAP_KINDS[self.kinds.currentData()]

    @property
    def binding(self) -> VolumeBinding | None:
        """The volume that is inspected."""
        return self.controller.workspace.current if self.controller is not None else None

    @property
    def z(self) -> int | None:
        """The slice in view."""
        return self.controller.workspace.current_slice if self.controller is not None else None

    def on_followed(self) -> None:
        if self.controller is not None:
            self.listen(self.controller.workspace.slice_changed, self._on_slice_changed)
            self.listen(self.controller.workspace.layers_changed, self._on_news)
            self.listen(self.controller.results.changed, self._on_news)
            self.listen(self.controller.session.event_received, self._on_event)
            self.listen(self.viewer.cursor.events.position, self._on_cursor)
        self._means = None  # nobody told what was written meanwhile
        self._refresh()

    def on_left(self) -> None:
        for timer in (self._news, self._scrolled, self._moved, self._reading):
            timer.stop()
        self._maps = self._means = self._in_view = None  # whoever keeps a reader keeps its files
        self.files.set_value(None, self.kind, None, 1.0, "")

    def on_ended(self) -> None:
        super().on_ended()
        self.untrusted.remove()

    def on_theme_changed(self) -> None:
        for plot in (self.counts, self.profile):
            plot.set_colours(theme_colours(self.viewer.theme))

    def _on_news(self, *news: object) -> None:
        if not self._news.isActive():
            self._news.start()

    def _on_event(self, event: Event) -> None:
        binding = self.binding
        if not isinstance(event, Preview) or self.controller is None or binding is None:
            return
        if self.controller.results.origin_of(binding.image)[1] == event.volume:
            self._rewritten.update(event.slices)
            self._on_news()

    def _on_slice_changed(self) -> None:
        if not self._scrolled.isActive():
            self._scrolled.start()

    def _on_scrolled(self) -> None:
        """Show another slice, or another volume: that of the layer which is selected now."""
        if self._maps is not None and self.binding is not None and self.binding.image == self._maps.image:
            self._look()
        else:
            self._refresh()

    def _on_cursor(self, event: Any) -> None:
        self._was_pointed = True
        if not self._moved.isActive():
            self._moved.start()

    def _refresh(self) -> None:
        """Show the volume and slice in view as they are now."""
        binding = self.binding
        maps = VolumeMaps.of(self.controller.results, binding.image) if self.controller and binding else None
        if maps is None or self._means is None or not maps.reads_like(self._maps):
            self._means = SliceMeans(maps.n_slices, maps.slice) if maps is not None else None
        elif self._rewritten:
            self._means.forget(self._rewritten)
        self._rewritten.clear()
        self._maps = maps
        self.empty.setText(_NO_DOCK if self.controller is None else _NO_IMAGE if binding is None else _NO_WEIGHTS)
        self.empty.setVisible(maps is None)
        self.body.setVisible(maps is not None)
        self._look()
        self._show_profile()
        self._show_untrusted()
        if self._means is not None and not self._means.is_complete:
            self._reading.start()

    def _look(self) -> None:
        """Read and show the slice in view."""
        self.headline.setText(self._where())
        self._in_view = self._maps.slice(self.z) if self._maps is not None and self.z is not None else None
        self._show_slice()
        self._show_cursor()
        self._show_share()
        self.profile.set_mark(self.z)

    def _where(self) -> str:
        """Volume, round and slice in words."""
        binding = self.binding
        if binding is None or self.controller is None:
            return ""
        shown, _ = self.controller.results.origin_of(binding.image)
        parts = [binding.image.name, *([f"round {shown.number}"] if shown is not None else [])]
        return ", ".join([*parts, "no slice in view" if self.z is None else f"slice {self.z}"])

    def _show_slice(self) -> None:
        values = self._in_view[self.kind.key] if self._in_view is not None else None
        self.map.set_value(values, self.kind, self._aspect())
        self.files.set_value(self._maps, self.kind, values, self._aspect(), self._where())
        low, high = self.kind.options["contrast_limits"]
        counts, edges = histogram(values if values is not None else np.empty(0), (low, high))
        self.counts.set_values("counts", edges, np.log10(np.maximum(counts, _FEWEST)))
        highest = max(2, math.ceil(np.log10(max(1, counts.max()))))
        self.counts.set_y_ticks({power: f"{10**power:,}" for power in range(highest + 1)})
        self.counts.item.setXRange(low, high, padding=0.02)
        if self.controller is not None:
            with QSignalBlocker(self.over_image):
                self.over_image.setChecked(self.controller.results.is_visible(self.kind.key))

    def _aspect(self) -> float:
        """Height of a pixel of a slice divided by its width."""
        if self._maps is None:
            return 1.0
        rows, columns = (
            value for axis, value in enumerate(voxel_spacing(self._maps.image)) if axis != self._maps.slice_axis
        )
        return rows / columns if columns else 1.0

    # -- a pixel -------------------------------------------------------------------------------------------------

    def _show_cursor(self) -> None:
        """Tell the weights under the mouse in the viewer."""
        if self._maps is None or not self._was_pointed:
            return
        place = np.round(to_data(self.viewer, self._maps.image, self.viewer.cursor.position)).astype(int).tolist()
        z = place.pop(self._maps.slice_axis)
        if z == self.z:
            self._show_pixel(*place)
        else:
            self.pixel.setText(_POINT)

    def _show_pixel(self, row: int, column: int) -> None:
        maps = self._in_view
        if maps is None:
            self.pixel.setText("This slice was not weighed yet." if self.z is not None else _POINT)
            return
        rows, columns = maps["preference"].shape
        if not (0 <= row < rows and 0 <= column < columns):
            self.pixel.setText(_POINT)
            return
        initial, pseudo, preferred = (float(maps[key][row, column]) for key in MAP_KINDS)
        self.pixel.setText(
            f"Row {row}, column {column}:  wⁿ {initial:.2f},  wᵖ {pseudo:.2f},  preference {preferred:+.2f}"
        )

    # -- along the slices ----------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        """Read a few slices more of the profile."""
        if self._means is None:
            return
        self._means.advance(_MEANS_SECONDS)
        self._bites += 1
        if self._means.is_complete or self._bites % _DRAW_EVERY == 0:
            self._show_profile()
        if not self._means.is_complete:
            self._reading.start()

    def _show_profile(self) -> None:
        means = self._means.means[self.kind.key] if self._means is not None else np.empty(0)
        known = np.flatnonzero(~np.isnan(means))
        self.profile.set_values("mean", known, means[known])
        self.profile.set_lowest(self.kind.options["contrast_limits"][0])
        self.profile.item.setXRange(0, max(1, len(means) - 1), padding=0.02)

    def _on_profile(self, x: float) -> None:
        if self.controller is not None and self._maps is not None:
            self.controller.workspace.go_to(min(self._maps.n_slices - 1, max(0, round(x))))

    # -- which map, and where ------------------------------------------------------------------------------------

    def _on_kind(self, index: int) -> None:
        if self.controller is not None and self.over_image.isChecked():
            for key in MAP_KINDS:
                self.controller.results.set_visible(key, key == self.kind.key)
        self._show_slice()
        self._show_profile()

    def _on_over_image(self, checked: bool) -> None:
        if self.controller is not None:
            self.controller.results.set_visible(self.kind.key, checked)

    def _show_untrusted(self, *changed: object) -> None:
        """Bring the marks of untrusted pixels up to date."""
        binding = self.binding
        if not self.mark.isChecked() or self._maps is None or binding is None:
            self.untrusted.remove()
        else:
            self.untrusted.show(self._maps, binding, self.threshold.value())
        self._show_share()

    def _show_share(self) -> None:
        """Tell how much of the slice in view is marked."""
        maps = self._in_view if self.mark.isChecked() else None
        if maps is not None:
            total = maps["weight_initial"] + maps["weight_pseudo"]
            self.share.setText(f"{(total < self.threshold.value()).mean():.1%} of this slice is marked, in turquoise.")
        self.share.setVisible(maps is not None)

    def _on_untrusted_removed(self) -> None:
        self.mark.setChecked(False)
        self.share.hide()
