"""``napari-mlbseg doctor``: what a report of a mistake needs to say of the machine and of what is installed."""

from __future__ import annotations

import argparse
import json
from typing import Any

from napari_mlbseg.cli.exit_code import ExitCode
from napari_mlbseg.session.environment import as_text, environment_facts

__all__ = ["add_doctor_parser"]


def add_doctor_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a command line."""
    doctor = commands.add_parser("doctor", help="versions, devices and memory, for a report of a mistake")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _doctor(options: argparse.Namespace, start: float) -> int:
    facts = environment_facts()
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))
    return ExitCode.DONE
