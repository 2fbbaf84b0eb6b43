"""Questions that do not stop the window: the answer comes when there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

__all__ = ["Question", "ask", "ask_for_file", "ask_for_files", "ask_for_folder", "ask_where_to_save"]

_Then = Callable[[Path], object]


@dataclass(frozen=True)
class Question:
    """A question that is mostly to be answered with no.

    Attributes
    ----------
    text : str
    why : str
        Why it is asked.
    then : callable
        Called after a yes.
    """

    text: str
    why: str
    then: Callable[[], object]


def ask(parent: QWidget, question: Question) -> QMessageBox:
    """Ask a question; it stays open until it is answered, and the window lives meanwhile."""
    buttons = QMessageBox.StandardButton
    box = QMessageBox(
        QMessageBox.Icon.Warning,
        question.text,
        f"{question.text}\n\n{question.why}",
        buttons.Yes | buttons.No,
        parent,
    )
    box.setDefaultButton(buttons.No)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.button(buttons.Yes).clicked.connect(lambda: question.then())
    box.open()
    return box


def ask_for_folder(parent: QWidget, title: str, then: _Then) -> QFileDialog:
    """Let the person choose a folder that is there."""
    dialog = _dialog(parent, title, then)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    dialog.open()
    return dialog


def ask_for_file(parent: QWidget, title: str, then: _Then) -> QFileDialog:
    """Let the person choose a file that is there."""
    dialog = _dialog(parent, title, then)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    dialog.open()
    return dialog


def ask_for_files(parent: QWidget, title: str, kind: str, then: Callable[[list[Path]], object]) -> QFileDialog:
    """Let the person choose some files that are there; `kind` describes them, such as ``"Table (*.csv)"``."""
    dialog = QFileDialog(parent, title)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
    dialog.setNameFilter(kind)
    dialog.filesSelected.connect(lambda paths: then([Path(path) for path in paths]))
    dialog.open()
    return dialog


def ask_where_to_save(parent: QWidget, title: str, start: Path, kind: str, then: _Then) -> QFileDialog:
    """Let the person choose a name that need not be there yet; `kind` describes it, such as ``"Table (*.csv)"``."""
    dialog = _dialog(parent, title, then)
    dialog.setFileMode(QFileDialog.FileMode.AnyFile)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setNameFilter(kind)
    dialog.setDirectory(str(start.parent))
    dialog.selectFile(start.name)
    dialog.open()
    return dialog


def _dialog(parent: QWidget, title: str, then: _Then) -> QFileDialog:
    dialog = QFileDialog(parent, title)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.fileSelected.connect(lambda path: then(Path(path)))
    return dialog
