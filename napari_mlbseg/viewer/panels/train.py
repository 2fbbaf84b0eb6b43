"""Panel *Train*: how, for how long, from which first labels; the button; and how far it is."""

from __future__ import annotations

from typing import Any

from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QFrame, QHBoxLayout, QProgressBar, QPushButton, QToolButton, QWidget

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.config.cluster_address import LOOPBACK, WHY_EXPOSED, checked_address, is_exposed
from napari_mlbseg.events import Event, Metrics, Progress, is_terminal
from napari_mlbseg.jobs.inputs import CopyProgress
from napari_mlbseg.session import Round, SessionState
from napari_mlbseg.viewer import messages
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.docks.registry import CURVES, open_beside
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel
from napari_mlbseg.viewer.widgets.dialogs import Question, ask
from napari_mlbseg.viewer.widgets.form import ConfigForm, FieldEditor
from napari_mlbseg.viewer.widgets.layer_combo import LayerCombo

__all__ = ["TrainPanel"]

_UP_FRONT = ("preset", "time_budget", "initial_labels")
#: What a new preset leaves alone: it says how to train, not where.
_KEPT = ("device", "cluster", "seed")


class TrainPanel(Panel):
    """Shows and changes the session's config, starts and stops."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Train")
        self._controller = controller
        self._session = controller.session
        self._config = self._session.config  # of what runs, or ran last
        self.editors = {name: FieldEditor(name) for name in _UP_FRONT}
        self.given_rows = QWidget()
        self._given_form = QFormLayout(self.given_rows)
        self._given_form.setContentsMargins(0, 0, 0, 0)
        self.given: list[LayerCombo] = []
        self.button = QPushButton("&Train")
        self.button.setToolTip("Learn from the clean slices and segment all the others.")
        self.curves = QPushButton("Curv&es")
        self.curves.setToolTip("See how the losses fall, which labels are trusted, and how good every round was.")
        self.stage = WrappedLabel()
        self.bar = QProgressBar(textVisible=False, maximum=1000)
        self.bar.setFixedHeight(8)
        self.rest = QPushButton()
        self.rest.setToolTip(
            "Segment what there was no time for, with what was learnt and no time budget. Stop keeps what is there."
        )
        self.notes = WrappedLabel()
        self.device = WrappedLabel()
        self.complaint = ErrorBanner()
        self.advanced = Panel("Ad&vanced", folded=True)
        self.form = ConfigForm(without=set(_UP_FRONT))
        self.advanced.rows.addWidget(self.form)
        self._lay_out()
        self._connect()
        self._on_config_changed(self._session.config)
        self._on_layers_changed()
        self._on_state_changed(self._session.state)
        for widget in (self.stage, self.bar, self.notes):
            widget.hide()

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for name, text in zip(_UP_FRONT, ("&Preset", "Time &budget", "&First labels from"), strict=True):
            form.addRow(text, self.editors[name])
        self.rows.addLayout(form)
        self.button.setMinimumHeight(34)
        self.button.setStyleSheet("QPushButton { font-weight: bold; }")
        row = QHBoxLayout()
        row.addWidget(self.button, stretch=1)
        row.addWidget(self.curves)
        self.rows.addWidget(self.given_rows)
        self.rows.addLayout(row)
        for widget in (self.stage, self.bar, self.notes, self.rest, self.device, self.complaint, self.advanced):
            self.rows.addWidget(widget)

    def _connect(self) -> None:
        for editor in self.editors.values():
            editor.changed.connect(self._on_edited)
        self.form.changed.connect(self._on_edited)
        self.button.clicked.connect(self._on_button)
        self.curves.clicked.connect(self._on_curves)
        self.rest.clicked.connect(self._controller.predict_rest)
        self.listen(self._session.config_changed, self._on_config_changed)
        self.listen(self._session.state_changed, self._on_state_changed)
        self.listen(self._session.image_copied, self._on_copied)
        self.listen(self._session.not_begun, self._on_not_begun)
        self.listen(self._session.round_started, self._on_started)
        self.listen(self._session.check_started, self._on_started)
        self.listen(self._session.event_received, self._on_event)
        self.listen(self._session.rounds_changed, self._offer_rest)
        self.listen(self._controller.workspace.layers_changed, self._on_layers_changed)
        self.listen(self._controller.complained, self.complaint.say)

    # -- to the session ------------------------------------------------------------------------------------------

    def _on_edited(self, name: str, value: Any) -> None:
        config = self._session.config
        try:
            if name == "cluster" and value != config.cluster and is_exposed(checked_address(value or LOOPBACK)):
                self._ask_about(value)
            elif name == "preset":
                kept = {field: getattr(config, field) for field in _KEPT}
                self._session.config = TrainingConfig.from_preset(value, **kept)
            else:
                self._set(name, value)
            self.complaint.say("")
        except ValueError as error:
            self.complaint.say(str(error))
            self._on_config_changed(config)

    def _ask_about(self, address: str) -> None:
        """Take an address only if the person knows that what is sent there can be read on the way."""
        self._on_config_changed(self._session.config)  # the old one, until there is an answer
        why = WHY_EXPOSED.format(address=checked_address(address))
        self.question = ask(self, Question("Send images unencrypted?", why, lambda: self._set("cluster", address)))

    def _set(self, name: str, value: Any) -> None:
        self._session.config = self._session.config.updated(**{name: value})

    def _on_button(self) -> None:
        if self._session.state is SessionState.IDLE:
            self._controller.start()
        else:
            self._controller.stop()

    def _on_curves(self) -> None:
        open_beside(self._controller.viewer, CURVES)

    def _on_given(self, layer: Labels | None) -> None:
        row = self.given.index(self.sender())
        self._controller.workspace.set_initial_labels(self._controller.workspace.bindings[row], layer)

    # -- from the session ----------------------------------------------------------------------------------------

    def _on_config_changed(self, config: TrainingConfig) -> None:
        for name, editor in self.editors.items():
            editor.set_value(getattr(config, name))
        self.form.set_value(config)
        if self._session.state is SessionState.IDLE:
            self.device.setText(messages.place(config))
        self.given_rows.setVisible(config.initial_labels == "given")

    def _on_state_changed(self, state: SessionState) -> None:
        texts = {SessionState.IDLE: "&Train", SessionState.STOPPING: "Stopping…"}
        self.button.setText(texts.get(state, "S&top"))
        self.button.setEnabled(state is not SessionState.STOPPING)
        if state is SessionState.PREPARING:
            self._show_busy("Saving what you painted…")
        self._offer_rest()

    def _offer_rest(self) -> None:
        """Offer to predict what the round in view had no time for."""
        shown = self._session.shown_round
        n_slices = shown.n_unreached if shown is not None and self._session.state is SessionState.IDLE else 0
        self.rest.setText(messages.rest(n_slices))
        self.rest.setVisible(n_slices > 0)

    def _show_busy(self, words: str) -> None:
        """Nobody knows yet for how long."""
        self.bar.setRange(0, 0)
        self.stage.setText(words)
        self.stage.show()
        self.bar.show()

    def _on_copied(self, copied: CopyProgress) -> None:
        self.bar.setRange(0, copied.total)
        self.bar.setValue(copied.done)
        self.stage.setText(messages.copying(copied, several=len(self._session) > 1))

    def _on_not_begun(self, error: Exception | None) -> None:
        self.bar.hide()
        self.stage.setText("Stopped before it began." if error is None else "")
        self.stage.setVisible(error is None)

    def _on_started(self, started: Round | None = None) -> None:
        self._show_busy("Starting…")
        self.notes.setText("")
        self.notes.hide()
        self._config = started.task.config if started is not None else self._session.config
        self.device.setText(messages.place(self._config))
        for event in started.events if started is not None else ():  # of a round that was found running
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Metrics):
            if "device" in event.values:  # it is chosen when torch has been loaded
                self.device.setText(messages.device(str(event.values["device"]), self._config.cluster))
            if event.notes:
                self.notes.setText("\n".join(filter(None, [self.notes.text(), *event.notes])))
                self.notes.show()
        elif isinstance(event, Progress):
            self.bar.setRange(0, 1000 if event.fraction else 0)  # at 0, as at the start: busy
            self.bar.setValue(round(1000 * event.fraction))
            current = self._session.current_round
            n_clean = sum(len(v.clean_slices) for v in current.task.volumes) if current is not None else 0
            self.stage.setText(messages.stage(event, n_clean) + (f"\n{event.message}" if event.message else ""))
        elif is_terminal(event):
            self.bar.hide()
            self.stage.setText(messages.ending(event, self._session.run))

    # -- from the controller -------------------------------------------------------------------------------------

    def _on_layers_changed(self) -> None:
        """One combo for every volume's given labels."""
        bindings = self._controller.workspace.bindings
        while len(self.given) > len(bindings):
            self._given_form.removeRow(self.given.pop())
        while len(self.given) < len(bindings):
            combo = LayerCombo("choose a labels layer")
            combo.layer_chosen.connect(self._on_given)
            self._given_form.addRow("Layer", combo)
            self.given.append(combo)
        labels = [layer for layer in self._controller.viewer.layers if isinstance(layer, Labels)]
        for binding, combo in zip(bindings, self.given, strict=True):
            combo.set_choices([layer for layer in labels if layer != binding.annotation], binding.initial_labels)
            label = self._given_form.labelForField(combo)
            label.setText(f"Layer for {binding.image.name}" if len(bindings) > 1 else "Layer")


class ErrorBanner(QFrame):
    """One sentence that says what is wrong and what to do, until it is dismissed or all is well."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("complaint")
        self.setStyleSheet(
            "#complaint { background: rgba(229, 72, 77, 45); border-left: 4px solid rgb(229, 72, 77); }"
            "#complaint QLabel { background: transparent; }"
        )
        self.label = WrappedLabel()
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.label.setTextFormat(Qt.TextFormat.PlainText)
        dismiss = QToolButton(text="\u00d7")  # a multiplication sign looks like a cross
        dismiss.setToolTip("Hide this message")
        dismiss.setStyleSheet("QToolButton { border: none; background: transparent; }")
        dismiss.clicked.connect(self.hide)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 6, 2, 6)
        row.addWidget(self.label, stretch=1)
        row.addWidget(dismiss, alignment=Qt.AlignmentFlag.AlignTop)
        self.hide()

    def say(self, sentence: str) -> None:
        """Show a sentence, or hide with an empty one."""
        self.label.setText(sentence)
        self.setVisible(bool(sentence))

    def text(self) -> str:
        """The sentence that is shown, or an empty text."""
        return self.label.text() if not self.isHidden() else ""
