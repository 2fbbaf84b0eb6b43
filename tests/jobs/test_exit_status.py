"""What a dead worker died of, in words that say what to do."""

from __future__ import annotations

import sys

import pytest

from napari_mlbseg.jobs.exit_status import describe_exit

LOG = "line one\nRuntimeError: something broke\n"


@pytest.mark.parametrize("returncode", [-9, 137])
def test_a_killed_worker_probably_lacked_memory(returncode):
    death = describe_exit(returncode, LOG)
    assert "killed" in death.message
    assert "out of memory" in death.message
    assert "smaller batch_size" in death.advice


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize(("returncode", "name"), [(-15, "SIGTERM"), (-11, "SIGSEGV"), (-6, "SIGABRT")])
def test_a_signal_has_a_name(returncode, name):
    death = describe_exit(returncode, LOG)
    assert f"signal {-returncode} ({name})" in death.message
    assert "memory" not in death.message


def test_a_signal_without_a_name_is_no_mistake():
    assert "signal 250 (unknown)" in describe_exit(-250, "").message


def test_an_exit_code_comes_with_the_end_of_the_log():
    message = describe_exit(1, LOG).message
    assert "exit code 1" in message
    assert message.endswith("Its log ends with: RuntimeError: something broke")
    assert "log ends with" not in describe_exit(1, " \n").message


def test_what_was_logged_is_not_taken_for_what_it_said():
    logged = "2026-11-27 20:15:01,123 INFO napari_mlbseg.jobs.worker: stage train: begins"
    assert describe_exit(1, f"{LOG}\n{logged}").message.endswith("Its log ends with: RuntimeError: something broke")
    assert "log ends with" not in describe_exit(3, logged).message


def test_of_a_process_that_is_not_ours_little_is_known():
    assert "did not say why" in describe_exit(None, "").message


@pytest.mark.parametrize("returncode", [-9, -15, 137, 1, 0, None])
def test_every_death_has_advice_and_keeps_its_log(returncode):
    death = describe_exit(returncode, LOG)
    assert "Train to try again" in death.advice
    assert death.returncode == returncode
    assert death.log_tail == LOG
