"""What a Dask cluster on loopback costs and gives: the overhead of a job there, and a study on one worker and on two.

    python -m benchmarks.cluster --out DIR

A scheduler and workers of one thread each are started as processes of their own. The overhead is that of a training of
so many steps, one thread, on this machine and on the cluster in turn: seconds from its start to its last word, and
seconds of processor time of all processes together, which other programs on the machine disturb less. The study is
``napari-mlbseg predict`` of phantoms on one worker and on two: seconds of the whole command. Two workers on two cores
need a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import tifffile

from benchmarks.runs import limits
from benchmarks.tables import markdown
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Failed
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task

__all__ = ["main"]

_SHAPE = (88, 144, 192)
_N_CLEAN = 5


def main(arguments: list[str] | None = None) -> None:
    """Measure both, and print them as a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="150+30", help="bootstrap and weighted steps of the training")
    parser.add_argument("--repeats", type=int, default=3, help="trainings here and there; 1 at least")
    parser.add_argument("--volumes", type=int, default=8, help="phantoms to predict; none without")
    parser.add_argument("--sizes", default="144x192,576x576", help="rows and columns of the phantoms to predict")
    parser.add_argument("--out", type=Path, default=Path("bench-output/cluster"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        figures = _overhead(Path(scratch), options.steps, options.repeats)
        if options.volumes:
            for size in options.sizes.split(","):
                rows, columns = map(int, size.split("x"))
                figures |= _study(Path(scratch), options.volumes, (_SHAPE[0], rows, columns))
    (options.out / "cluster.json").write_text(json.dumps(figures, indent=1))
    table = markdown(["", "figure"], [[name, f"{value:.3g}"] for name, value in figures.items()])
    (options.out / "table.md").write_text(table)
    print(table)


def _overhead(path: Path, steps: str, repeats: int) -> dict[str, float]:
    """Median seconds of a training here and on a cluster of one worker, the first there left out: it warms it up."""
    here, there = list[tuple[float, float]](), list[tuple[float, float]]()
    with _cluster(path, 1) as address:
        _cost(path / "first", _task("1+1", address))
        for repeat in range(repeats):
            here.append(_cost(path / f"here{repeat}", _task(steps, "")))
            there.append(_cost(path / f"there{repeat}", _task(steps, address)))
            print("here {:.1f} s, {:.1f} s of processor time;".format(*here[-1]), end=" ")
            print("on the cluster {:.1f} s, {:.1f} s".format(*there[-1]), flush=True)
    figures = {}
    for number, what in enumerate(("", ", processor time")):
        near, far = (statistics.median(costs[number] for costs in place) for place in (here, there))
        figures |= {
            f"training here (s{what})": near,
            f"training on the cluster (s{what})": far,
            f"overhead of the cluster (s{what})": far - near,
            f"overhead of the cluster (%{what})": 100 * (far / near - 1),
        }
    return figures


def _study(path: Path, n_volumes: int, shape: tuple[int, int, int]) -> dict[str, float]:
    """Seconds to predict a study on one worker and on two."""
    trained = path / "here0"
    images = path / f"images{shape[-1]}"
    images.mkdir()
    for number in range(n_volumes):
        image = make_phantom(shape, seed=number).image
        tifffile.imwrite(images / f"{number}.tif", image, metadata={"axes": "ZYX"})
    seconds = {}
    for n_workers in (1, 2):
        with _cluster(path, n_workers) as address:
            out = path / f"out{shape[-1]}-{n_workers}"
            command = [
                "predict",
                str(trained),
                str(images),
                "--out",
                str(out),
                "--cluster",
                address,
                "--slice-axis",
                "0",
            ]
            began = time.monotonic()
            subprocess.run([sys.executable, "-m", "napari_mlbseg", *command], check=True, stdout=subprocess.DEVNULL)
            seconds[n_workers] = time.monotonic() - began
        print(f"{n_volumes} volumes on {n_workers} worker(s): {seconds[n_workers]:.1f} s", flush=True)
    what = f"{n_volumes} volumes of " + " x ".join(map(str, shape))
    return {
        f"{what} on 1 worker (s)": seconds[1],
        f"{what} on 2 workers (s)": seconds[2],
        f"{what}: times faster on 2 workers": seconds[1] / seconds[2],
    }


def _task(steps: str, address: str) -> SegmentationTask:
    phantom = make_phantom(_SHAPE)
    shown = np.flatnonzero(phantom.labels.any((1, 2)))
    clean = np.isin(np.arange(len(phantom.labels)), np.linspace(shown[0], shown[-1], _N_CLEAN).round().astype(int))
    volume = Volume(name="phantom", image=phantom.image, labels=phantom.labels, clean=clean, spacing=phantom.spacing)
    config = TrainingConfig.from_preset("quick", **limits(steps), device="cpu", cluster=address)
    return resolve_task([volume], config)


def _cost(path: Path, task: SegmentationTask) -> tuple[float, float]:
    """Seconds of a job on one thread, and processor time of all processes in seconds."""
    job = LocalJob.create(path, task, threads=1)
    is_far = bool(task.config.cluster)
    began, used, others = time.monotonic(), _processor_seconds(is_far), _n_processes()
    job.start()
    last = list(job.events(0.02))[-1]
    if isinstance(last, Failed):
        raise SystemExit(f"{last.message} {last.advice}")
    seconds = time.monotonic() - began
    while _n_processes() > others:  # once its own have ended, here and there, they can be counted
        time.sleep(0.1)
    return seconds, _processor_seconds(is_far) - used


def _n_processes() -> int:
    return len(psutil.Process().children(recursive=True))


def _processor_seconds(with_cluster: bool) -> float:
    """Of the processes that this one started and that have ended; with those of the cluster, and of what these started.

    The scheduler and the worker need some even while they have nothing to do: that belongs to a job there, not here.
    """
    times = [child.cpu_times() for child in psutil.Process().children()] if with_cluster else []
    ended = os.times()
    running = sum(each.user + each.system + each.children_user + each.children_system for each in times)
    return ended.children_user + ended.children_system + running


@contextmanager
def _cluster(path: Path, n_workers: int) -> Iterator[str]:
    """A scheduler and workers of one thread each; the address of the scheduler."""
    import distributed

    place = path / "cluster"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    file = place / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(what: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(file), "--no-dashboard", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    try:
        for number in range(n_workers):
            options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(place / f"worker{number}"))
            processes.append(start("worker", *options))
        while not file.exists():
            time.sleep(0.1)
        with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(n_workers)
            address = str(client.scheduler.address)
        yield address
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
