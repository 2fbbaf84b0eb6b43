"""Editors made from the fields of `TrainingConfig`: default, bounds, unit and help are read from there."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_mlbseg.config import TrainingConfig, field_group, field_unit

__all__ = ["ConfigForm", "FieldEditor"]

_LARGEST_INT = 2**31 - 1


class FieldEditor(QWidget):
    """Edits one field of `TrainingConfig`.

    Parameters
    ----------
    name : str
        Name of the field.
    """

    changed = Signal(str, object)  # name, value; only by a person

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        field = TrainingConfig.model_fields[name]
        self._kind, self._optional = _kind_of(field)
        self.editor = self._make(field)
        self.editor.setToolTip(f"<p>{field.description}</p>")
        self.editor.setAccessibleName(name.replace("_", " "))
        self.setToolTip(self.editor.toolTip())
        self.setFocusProxy(self.editor)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.editor)

    @property
    def is_long(self) -> bool:
        """Whether it needs a row for itself: an address would not fit beside its label."""
        return self._kind is str

    def set_value(self, value: Any) -> None:
        """Show `value`. Emits nothing."""
        editor = self.editor
        with QSignalBlocker(editor):
            if isinstance(editor, QCheckBox):
                editor.setChecked(value)
            elif isinstance(editor, QComboBox):
                editor.setCurrentIndex(editor.findData(value))
            elif isinstance(editor, (QSpinBox, QDoubleSpinBox)):
                editor.setValue(editor.minimum() if value is None else value)
            elif isinstance(value, str):
                editor.setText(value)
            else:
                editor.setText(", ".join(f"{part:g}" for part in value))

    def value(self) -> Any:
        """What is shown; text for lists, which the config parses."""
        editor = self.editor
        if isinstance(editor, QCheckBox):
            return editor.isChecked()
        if isinstance(editor, QComboBox):
            return editor.currentData()
        if isinstance(editor, (QSpinBox, QDoubleSpinBox)):
            return None if self._optional and editor.value() == editor.minimum() else editor.value()
        return editor.text()

    def _make(self, field: FieldInfo) -> QWidget:
        if self._kind is bool:
            box = QCheckBox()
            box.toggled.connect(self._on_edited)
            return box
        if get_origin(self._kind) is Literal:
            return self._make_choice()
        if self._kind in (int, float):
            return self._make_number(field)
        line = QLineEdit()
        line.editingFinished.connect(self._on_edited)
        return line

    def _make_choice(self) -> QWidget:
        choice = _Choice()
        for value in get_args(self._kind):
            choice.addItem(str(value), value)
        choice.activated.connect(self._on_edited)
        return choice

    def _make_number(self, field: FieldInfo) -> QWidget:
        number = _Integer() if self._kind is int else _Real()
        low, high = _bounds(field)
        step = 1 if self._kind is int else 10**-_Real.DECIMALS
        number.setRange(low - step if self._optional else low, high)
        if self._optional:
            number.setSpecialValueText("no limit")
        unit = field_unit(field)
        number.setSuffix(f" {unit}" if unit else "")
        number.setKeyboardTracking(False)  # half a number is not a value
        number.setStepType(QSpinBox.StepType.AdaptiveDecimalStepType)
        number.valueChanged.connect(self._on_edited)
        return number

    def _on_edited(self) -> None:
        self.changed.emit(self.name, self.value())


class ConfigForm(QWidget):
    """A row for every field of `TrainingConfig` but those edited elsewhere, under the headings of their groups.

    Parameters
    ----------
    without : set of str
        Names of fields to leave out.
    """

    changed = Signal(str, object)

    def __init__(self, without: set[str]) -> None:
        super().__init__()
        self.editors: dict[str, FieldEditor] = {}
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        group = ""
        for name, field in TrainingConfig.model_fields.items():
            if name in without:
                continue
            if field_group(field) != group:
                group = field_group(field)
                heading = QLabel(f"<b>{group}</b>")
                form.addRow(heading)
            editor = FieldEditor(name)
            editor.changed.connect(self.changed)
            label = QLabel(name.replace("_", " "))
            label.setToolTip(editor.toolTip())
            if editor.is_long:
                form.addRow(label)
                form.addRow(editor)
            else:
                form.addRow(label, editor)
            self.editors[name] = editor

    def set_value(self, config: TrainingConfig) -> None:
        """Show `config`. Emits nothing."""
        for name, editor in self.editors.items():
            editor.set_value(getattr(config, name))


class _Choice(QComboBox):
    """Leaves the wheel to the scroll area, so that scrolling past changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: Any) -> None:
        event.ignore()


class _Integer(QSpinBox):
    """Leaves the wheel to the scroll area."""

    def wheelEvent(self, event: Any) -> None:
        event.ignore()


class _Real(QDoubleSpinBox):
    """Shows 0.002 rather than 0.002000, and leaves the wheel to the scroll area."""

    DECIMALS = 6

    def __init__(self) -> None:
        super().__init__(decimals=self.DECIMALS)

    def textFromValue(self, value: float) -> str:
        return f"{value:.{self.DECIMALS}f}".rstrip("0").rstrip(".")

    def wheelEvent(self, event: Any) -> None:
        event.ignore()


def _kind_of(field: FieldInfo) -> tuple[Any, bool]:
    """Type of a field without None, and whether None is allowed."""
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return kinds[0], True
    return kind, False


def _bounds(field: FieldInfo) -> tuple[Any, Any]:
    """Smallest and largest value; an open bound is left to the config's validation."""
    low: Any = 0
    high: Any = _LARGEST_INT
    for bound in field.metadata:
        if isinstance(bound, (Ge, Gt)):
            low = bound.ge if isinstance(bound, Ge) else bound.gt
        elif isinstance(bound, (Le, Lt)):
            high = bound.le if isinstance(bound, Le) else bound.lt
    return low, high
