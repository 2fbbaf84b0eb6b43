"""A process that works for a job: it loads less, and ends as it should."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from napari_mlbseg.jobs.startup import _UNUSED
from napari_mlbseg.training.imports import gc_disabled

#: Everything that a job's process may be asked for: all kinds of jobs, and files of all kinds.
EVERYTHING = """
import sys
from napari_mlbseg.jobs.startup import run
def main():
    import nibabel, numpy as np, tifffile, zarr
    from napari_mlbseg.config import TrainingConfig
    from napari_mlbseg.training import cross_validation, inference, networks, stages, trainer
    from napari_mlbseg.io import volumes
    from napari_mlbseg.jobs import failures, worker
    for architecture in ("light", "unet", "unet++"):
        networks.build_network(TrainingConfig.from_preset("quick", architecture=architecture), 1, 2)
    print("torch" in sys.modules, "monai" in sys.modules, *(name for name in NAMES if sys.modules[name] is not None))
    return 3
run(main)
"""


def run_python(code: str) -> tuple[int, str]:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert not answer.stderr, answer.stderr
    return answer.returncode, answer.stdout.strip()


@pytest.mark.slow
def test_a_process_for_jobs_needs_nothing_of_what_it_leaves_out_and_says_how_it_ended():
    assert run_python(EVERYTHING.replace("NAMES", repr(_UNUSED))) == (3, "True True")


def test_what_is_left_out_counts_as_not_installed():
    code = (
        "from napari_mlbseg.jobs.startup import run\n"
        "from importlib.util import find_spec\n"
        "def main():\n"
        "    print(find_spec('pandas'))\n"
        "    try:\n"
        "        import pandas\n"
        "    except ModuleNotFoundError:\n"
        "        return 0\n"
        "run(main)"
    )
    assert run_python(code) == (0, "None")


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_is_collected_after_imports_as_before_also_after_one_that_fails(was_enabled):
    def load_what_is_not_there() -> None:
        with gc_disabled():
            assert not gc.isenabled()
            import not_there  # noqa: F401

    (gc.enable if was_enabled else gc.disable)()
    try:
        with pytest.raises(ImportError):
            load_what_is_not_there()
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
