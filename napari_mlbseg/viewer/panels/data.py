"""Panel *Data*: which images, painted on which layers, sliced along which axis."""

from __future__ import annotations

from napari.layers import Image, Labels
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QFrame, QHBoxLayout, QPushButton, QWidget

from napari_mlbseg.viewer import messages
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
    axis_name,
    is_result,
    make_annotation,
    matching_annotation,
    matching_pyramid,
    misplaced,
    pixels_of,
    spatial_shape,
    turned_onto,
)
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel
from napari_mlbseg.viewer.widgets.layer_combo import LayerCombo

__all__ = ["DataPanel", "VolumeRow"]

_NARROWEST = 60  # pixels


class VolumeRow(QFrame):
    """One image and its annotation."""

    changed = Signal()
    new_wanted = Signal()
    restore_wanted = Signal()
    removal_wanted = Signal()

    def __init__(self, removable: bool) -> None:
        super().__init__()
        self.image = LayerCombo("open an image first")
        self.annotation = LayerCombo("press New")
        self.new = QPushButton("&New")
        self.new.setToolTip("Make an empty layer to paint on, lying exactly on the image.")
        self.remove = QPushButton("Leave out")
        self.remove.setToolTip("Do not train on this image. No layer is deleted.")
        self.remove.setVisible(removable)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("&Image", _beside(self.image, self.remove))
        self.restore = QPushButton("Restore")
        self.annotation.setMinimumWidth(_NARROWEST)  # or both buttons would make the dock wider than it is
        form.addRow("&Annotation", _beside(self.annotation, self.new, self.restore))
        form.labelForField(form.itemAt(0, QFormLayout.ItemRole.FieldRole).widget()).setBuddy(self.image)
        form.labelForField(form.itemAt(1, QFormLayout.ItemRole.FieldRole).widget()).setBuddy(self.annotation)
        self.image.setAccessibleName("Image")
        self.annotation.setAccessibleName("Annotation")
        self.image.layer_chosen.connect(self._on_chosen)
        self.annotation.layer_chosen.connect(self._on_chosen)
        self.new.clicked.connect(self.new_wanted)
        self.restore.clicked.connect(self.restore_wanted)
        self.remove.clicked.connect(self.removal_wanted)

    def _on_chosen(self, layer: object) -> None:
        self.changed.emit()


class DataPanel(Panel):
    """Shows and changes the controller's bindings."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Data")
        self._controller = controller
        self.volume_rows: list[VolumeRow] = []
        self.add = QPushButton("Train on &another image too")
        self.add.setToolTip("Several images are learnt as one task; each may have clean slices or none.")
        self.slice_axis = QComboBox()
        self.independent = QCheckBox("Slices are &unrelated images")
        self.independent.setToolTip(
            "Tick for a stack of separate 2D pictures: nothing is filled in between neighbours."
        )
        self.problem = WrappedLabel()
        self.copy = QPushButton("Make an &editable copy")
        self.copy.setToolTip("Copy the labels at full resolution into a layer to paint on. The file stays as it is.")
        axis = QWidget()
        form = QFormLayout(axis)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("&Slices along", self.slice_axis)
        self.slice_axis.setToolTip("The axis you scroll through while painting: usually the coarsest.")
        for widget in (self.add, axis, self.independent, self.problem, self.copy):
            self.rows.addWidget(widget)
        self.add.clicked.connect(self._on_add)
        self.copy.clicked.connect(self._on_copy)
        self.slice_axis.activated.connect(self._on_slices)
        self.independent.toggled.connect(self._on_slices)
        self.listen(controller.workspace.layers_changed, self._on_layers_changed)
        self.listen(controller.workspace.slice_changed, self._on_slice_changed)
        self._on_layers_changed()

    # -- to the controller ---------------------------------------------------------------------------------------

    def _on_row_changed(self) -> None:
        bindings, viewer = self._controller.workspace.bindings, self._controller.viewer
        chosen = [(row.image.value(), row.annotation.value()) for row in self.volume_rows]
        used = [binding.image for binding in bindings]
        for image, labels in chosen:
            if labels is not None and image is not None and (reason := misplaced(labels, image)):
                self._controller.complained.emit(reason)
                self._on_layers_changed()
                return
            if labels is not None and (labels.multiscale or (image and turned_onto(labels, image) is not None)):
                self._controller.workspace.annotate_with_copy(next(b for b in bindings if b.image == image), labels)
                self._on_layers_changed()  # until it is there, the annotation is what it was
                return
        # an image that was just chosen does not take over the annotation of the one before
        pairs = [(im, label if im in used else matching_annotation(im, viewer)) for im, label in chosen if im]
        shown = self._shown()
        if len(shown) < len(bindings):  # the others stay as they are
            (pair,) = pairs
            pairs = [pair if binding in shown else (binding.image, binding.annotation) for binding in bindings]
        self._controller.workspace.set_layers(pairs)

    def _on_new(self) -> None:
        row, shown = self.volume_rows.index(self.sender()), self._shown()
        if row >= len(shown):
            self._controller.complained.emit("There is no image to annotate: open one, or try File > Open Sample.")
            return
        binding = shown[row]
        annotation = make_annotation(binding.image)
        pairs = [(b.image, annotation if b is binding else b.annotation) for b in self._controller.workspace.bindings]
        self._controller.viewer.add_layer(annotation)
        self._controller.workspace.set_layers(pairs)
        self._controller.viewer.layers.selection.active = annotation
        annotation.mode = "paint"

    def _on_restore(self) -> None:
        shown, row = self._shown(), self.volume_rows.index(self.sender())
        if row < len(shown):
            self._controller.files.restore_annotation(shown[row])

    def _on_copy(self) -> None:
        for binding, labels in self._offered():
            self._controller.workspace.annotate_with_copy(binding, labels)

    def _on_add(self) -> None:
        image = self._unused_images()[0]
        pairs = [(b.image, b.annotation) for b in self._controller.workspace.bindings]
        self._controller.workspace.set_layers([*pairs, (image, None)])

    def _on_removal(self) -> None:
        row = self.volume_rows.index(self.sender())
        pairs = [(b.image, b.annotation) for b in self._controller.workspace.bindings]
        self._controller.workspace.set_layers(pairs[:row] + pairs[row + 1 :])

    def _on_slices(self) -> None:
        self._controller.workspace.set_slices(max(0, self.slice_axis.currentIndex()), self.independent.isChecked())

    # -- from the controller -------------------------------------------------------------------------------------

    def _shown(self) -> list[VolumeBinding]:
        """Volumes that have a row here: all of them, or the one in view where the table of volumes has the others."""
        current = self._controller.workspace.current
        return (
            [current]
            if self._controller.workspace.closed and current is not None
            else self._controller.workspace.bindings
        )

    def _on_slice_changed(self) -> None:
        if [row.image.value() for row in self.volume_rows] != [binding.image for binding in self._shown()]:
            self._on_layers_changed()

    def _on_layers_changed(self) -> None:
        bindings = self._shown()
        self._have_rows(max(1, len(bindings)))
        unused = self._unused_images()
        self.add.setVisible(bool(bindings) and bool(unused))
        for number, row in enumerate(self.volume_rows):
            self._fill(row, bindings[number] if bindings else None, unused)
        self._show_axes(bindings[0] if bindings else None)
        nothing = "Choose an image." if unused else "Open an image, or File > Open Sample."
        problems = [self._problem(binding) for binding in bindings] or [nothing]
        problem = next(filter(None, problems), "")
        self.problem.setText(problem)
        self.problem.setVisible(bool(problem))
        self.copy.setVisible(any(not self._controller.editable.reason(labels) for _, labels in self._offered()))

    def _problem(self, binding: VolumeBinding) -> str:
        """What keeps a person from painting, and what to do; empty if nothing does."""
        reason_of = self._controller.editable.reason
        pyramid = matching_pyramid(binding.image, self._controller.viewer)
        reason = reason_of(binding.annotation) or reason_of(pyramid)
        if not reason and pyramid is not None and binding.annotation is None:
            reason = f"'{pyramid.name}' has several resolutions, so napari cannot paint on it."
        return _problem(binding.image) or self._loss(binding) or reason or self._misfit(binding)

    def _misfit(self, binding: VolumeBinding) -> str:
        """That there are labels, but of no image's shape; empty without any, or where there is an annotation."""
        layers = [layer for layer in self._controller.viewer.layers if not is_result(layer)]
        shapes = [spatial_shape(layer) for layer in layers if isinstance(layer, Image)]
        labels = [layer for layer in layers if isinstance(layer, Labels)]
        elsewhere = next(filter(None, (misplaced(layer, binding.image) for layer in labels)), "")
        if binding.annotation is None and elsewhere:
            return elsewhere
        unfit = next((layer for layer in labels if tuple(pixels_of(layer).shape) not in shapes), None)
        if binding.annotation is not None or unfit is None:
            return ""
        return (
            f"'{unfit.name}' ({messages.by(pixels_of(unfit).shape)}) does not fit '{binding.image.name}' "
            f"({messages.by(spatial_shape(binding.image))}): open labels of the image's shape, or press New."
        )

    def _offered(self) -> list[tuple[VolumeBinding, Labels]]:
        """Labels that napari can only show, of images that have no annotation yet."""
        missing = [binding for binding in self._shown() if binding.annotation is None]
        fitting = [(binding, matching_pyramid(binding.image, self._controller.viewer)) for binding in missing]
        return [(binding, labels) for binding, labels in fitting if labels is not None]

    def _loss(self, binding: VolumeBinding) -> str:
        """That an annotation was deleted and nothing has taken its place; empty if not."""
        if binding.annotation is not None or self._controller.workspace.removed_annotation(binding) is None:
            return ""
        return f"The annotation of '{binding.image.name}' was deleted. What you painted is kept: press Restore."

    def _have_rows(self, number: int) -> None:
        while len(self.volume_rows) > number:
            row = self.volume_rows.pop()
            self.rows.removeWidget(row)
            row.hide()
            row.deleteLater()
        while len(self.volume_rows) < number:
            row = VolumeRow(removable=bool(self.volume_rows))
            row.changed.connect(self._on_row_changed)
            row.new_wanted.connect(self._on_new)
            row.restore_wanted.connect(self._on_restore)
            row.removal_wanted.connect(self._on_removal)
            self.rows.insertWidget(len(self.volume_rows), row)
            self.volume_rows.append(row)

    def _fill(self, row: VolumeRow, binding: VolumeBinding | None, unused: list[Image]) -> None:
        layers = [layer for layer in self._controller.viewer.layers if not is_result(layer)]
        fitting = matching_pyramid(binding.image, self._controller.viewer) if binding is not None else None
        labels = [layer for layer in layers if isinstance(layer, Labels) and (not layer.multiscale or layer == fitting)]
        if binding is None:
            row.image.set_choices(unused, None)
            row.annotation.set_choices(labels, None)
        else:
            row.image.set_choices([binding.image, *unused], binding.image)
            row.annotation.set_choices(labels, binding.annotation)
        row.new.setEnabled(binding is not None)
        removed = self._controller.workspace.removed_annotation(binding) if binding is not None else None
        row.restore.setVisible(removed is not None)
        if removed is not None:
            row.restore.setToolTip(
                "Bring back what was painted on this image before, with its marks: "
                f"{removed.n_painted} painted slices, {removed.n_clean} clean ones."
            )

    def _unused_images(self) -> list[Image]:
        used = [binding.image for binding in self._controller.workspace.bindings]
        layers = [
            layer for layer in self._controller.viewer.layers if isinstance(layer, Image) and not is_result(layer)
        ]
        return [layer for layer in layers if layer not in used]

    def _show_axes(self, binding: VolumeBinding | None) -> None:
        with QSignalBlocker(self.slice_axis), QSignalBlocker(self.independent):
            self.slice_axis.clear()
            if binding is not None:
                shape = spatial_shape(binding.image)
                names = [f"{axis_name(binding.image, axis)}: {n} slices" for axis, n in enumerate(shape)]
                self.slice_axis.addItems(names)
                self.slice_axis.setCurrentIndex(self._controller.workspace.slice_axis)
            self.independent.setChecked(self._controller.workspace.independent_slices)


def _problem(image: Image) -> str:
    """Why an image cannot be segmented here; empty if it can."""
    n_axes = len(spatial_shape(image))
    if n_axes < 3:
        return "This is one 2D image, not a stack: stack several first (select them, right-click, Merge to Stack)."
    if n_axes > 3:
        return "This image has more than three axes: choose one time point first (right-click it, Split Stack)."
    return ""


def _beside(left: QWidget, *others: QWidget) -> QWidget:
    both = QWidget()
    row = QHBoxLayout(both)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(left, stretch=1)
    for other in others:
        row.addWidget(other)
    return both
