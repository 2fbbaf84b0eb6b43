"""Print constraints for pip: the lowest version of every package that setup.cfg says is enough.

``python scripts/lowest_versions.py testing cluster > lowest.txt`` takes what is required and these extras. A bound that
cannot be installed together with the others makes pip fail, rather than quietly take a higher version.
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

_SETUP = Path(__file__).parent.parent / "setup.cfg"
#: Pinned in constraints.txt: old builds bring gigabytes of CUDA from PyPI, and only the pinned one is tried everywhere.
_ELSEWHERE = {"torch"}
_LOWEST = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\w.]+)")


def lowest(extras: list[str], setup: Path = _SETUP) -> list[str]:
    """Lines such as ``numpy==1.26``; what names no bound gets none."""
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    required = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    found = [_LOWEST.match(line) for line in "\n".join(required).splitlines()]
    return [f"{match[1]}=={match[2]}" for match in found if match is not None and match[1] not in _ELSEWHERE]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
