"""``napari-mlbseg doctor``: what a report of a mistake needs to say of the machine and of what is installed.

It has to work where another package is missing or broken, so none is imported with this module.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from napari_mlbseg._util.environment import as_text, machine_facts, told
from napari_mlbseg.cli.exit_code import ExitCode

__all__ = ["add_doctor_parser"]


def add_doctor_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a command line."""
    doctor = commands.add_parser("doctor", help="versions, devices and memory, for a report of a mistake")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _doctor(options: argparse.Namespace, start: float) -> int:
    facts = {**machine_facts(), "sessions": told(_sessions)}
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))
    return ExitCode.DONE


def _sessions() -> dict[str, Any]:
    from napari_mlbseg.session.environment import sessions_facts

    return sessions_facts()
