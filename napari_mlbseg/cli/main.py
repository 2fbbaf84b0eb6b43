"""The command line: the jobs of the dock without a window.

Result paths go to stdout, the progress bar and complaints to stderr; see `ExitCode`.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from napari_mlbseg._util.files import FULL_DISK
from napari_mlbseg._util.logs import LOG_VARIABLE, configure
from napari_mlbseg._version import __version__
from napari_mlbseg.cli.doctor import add_doctor_parser
from napari_mlbseg.cli.exit_code import ExitCode

__all__ = ["main"]

_LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    start, options = time.monotonic(), argparse.Namespace()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        # the doctor has to work where what the others need cannot even be imported
        options = _parser(with_others=list(words[:1]) != ["doctor"]).parse_args(words)
        configure("info" if options.verbose else None)
        _LOG.info("napari-mlbseg %s: %s", __version__, " ".join(words))
        return int(options.run(options, start))
    except (ValueError, OSError) as error:  # InputError, TaskError, ImageFileError, and files that resist
        message = str(error)
        if isinstance(error, OSError) and error.strerror:  # numpy and zarr do not say which file it was
            where = error.filename or getattr(options, "out", None) or getattr(options, "export", None) or "A file"
            advice = " (make room there or choose another folder)" if error.errno in FULL_DISK else ""
            message = f"{where}: {error.strerror}{advice}"
        print(f"napari-mlbseg: {' '.join(message.split())}", file=sys.stderr)
        return ExitCode.BAD_INPUT
    except ImportError as error:
        print(f"napari-mlbseg: {error}: 'napari-mlbseg doctor' says what is installed.", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:  # before the job began, or while its results were written
        return ExitCode.INTERRUPTED


def _demo(options: argparse.Namespace, start: float) -> int:
    """Open napari with the phantom in a process of its own, so that this module needs no window."""
    has_display = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    headless = [] if has_display and not options.headless else ["--headless"]
    told = {LOG_VARIABLE: "info", **os.environ} if options.verbose else None
    return subprocess.run([sys.executable, "-m", "napari_mlbseg.viewer.demo", *headless], env=told).returncode


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.")


def _parser(*, with_others: bool = True) -> argparse.ArgumentParser:
    """The command line of all commands, or of the doctor alone."""
    parser = _Parser(prog="napari-mlbseg", description="Segment volumes from a few painted slices (MLB-Seg).")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    if with_others:
        _add_others(commands)
    add_doctor_parser(commands)
    demo = commands.add_parser("demo", help="train on a generated phantom in napari")
    demo.set_defaults(run=_demo)
    demo.add_argument("--headless", action="store_true", help="show no window, leave screenshots in demo-output")
    for command in commands.choices.values():
        command.add_argument("--verbose", action="store_true", help="log to stderr what is done")
    return parser


def _add_others(commands: argparse._SubParsersAction[Any]) -> None:
    try:
        from napari_mlbseg.cli.evaluate import add_evaluate_parser
        from napari_mlbseg.cli.predict import add_predict_parser
        from napari_mlbseg.cli.session import add_session_parser
        from napari_mlbseg.cli.train import add_train_parser
    except Exception as error:  # a package of another build raises anything
        raise ImportError(f"A package that is needed cannot be loaded ({error})") from error

    for add in (add_train_parser, add_predict_parser, add_evaluate_parser, add_session_parser):
        add(commands)


if __name__ == "__main__":
    raise SystemExit(main())
