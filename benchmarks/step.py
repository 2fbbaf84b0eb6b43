"""One training iteration, and its weight step alone, as the reference's algorithm computes them and as we do.

    python -m benchmarks.step --features 16,32,64 --size 144 --batch 1 --out DIR

All share a UNet++, a batch of slices in five views and a batch of clean slices. ``reference`` is the algorithm of the
published code (see `benchmarks.reference`); ``paper`` and ``standard`` are this package's own training step with the
settings of these presets. The reference shows the clean slices in five views as well; here they are the same pictures,
so that all compute on the same data. ``paper-plain`` and ``standard-plain`` are what the presets really do: as many
clean slices, each once.

What is measured, ``--parts``:

- ``iteration``: all of it.
- ``weights``: what the weights of the batch cost, from its views and labels to both maps. In ours the student's pass is
  included, as the reference makes one for this purpose, and so is the gradient on the clean slices, though ``standard``
  shares it with the supervised step.
- ``tangent``: that gradient given, the derivative of the logits and the weights from it. The reference has none.

Every measurement is a process of its own, the methods in turn, so that a busy machine slows all alike; ``--repeats``
turns of ``--iterations`` each after one that does not count. Seconds of the CPU are noted beside those of the clock:
with ``--threads 1`` they hardly change on a busy machine. Memory is what a process takes beyond what it had before the
first iteration (on CUDA, what torch allocates). A measurement is a line of ``runs.jsonl``; one that stands there
already is not repeated. On CUDA ours computes in mixed precision where its preset does; on a CPU it keeps the channels
of a pixel side by side, the reference keeps torch's usual order, as its code does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.reference import Reference, opencv, warp_by_opencv
from benchmarks.runs import append_run, read_runs
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.views import View, inside, sample_views
from napari_mlbseg.training.augmentation import Batch
from napari_mlbseg.training.devices import describe_device, find_device
from napari_mlbseg.training.networks import build_network
from napari_mlbseg.training.step import Learner

__all__ = ["METHODS", "PARTS", "Case", "main", "measure"]

METHODS = ("reference", "paper", "standard", "paper-plain", "standard-plain")
PARTS = ("iteration", "weights", "tangent")


@dataclass(frozen=True)
class Case:
    """What is measured."""

    method: str
    part: str
    features: int  # of the first level; every further one has twice as many
    size: int  # rows and columns
    batch: int
    clean: int
    views: int
    architecture: str
    device: str
    threads: int  # 0: as torch likes
    iterations: int

    def config(self) -> TrainingConfig:
        """The preset on the network that all share, which takes no shape prior and has the reference's norm."""
        preset = "standard" if self.method.startswith("standard") else "paper"
        features = tuple(self.features * 2**level for level in range(5))
        return TrainingConfig.from_preset(
            preset, architecture=self.architecture, features=features, norm="batch", shape_prior=False
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="16,32", help="channels of the network's first level, such as 16,32,64")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--size", type=int, default=144, help="rows and columns of a slice")
    parser.add_argument("--batch", type=int, default=1, help="unlabelled slices")
    parser.add_argument("--clean", type=int, default=2, help="clean slices")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--architecture", default="unet++")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each figure")
    parser.add_argument("--iterations", type=int, default=1, help="timed in each process, after one that is not")
    parser.add_argument("--out", type=Path, default=Path("bench-output/step"))
    options = parser.parse_args(arguments)
    methods, parts = _names(options.methods, METHODS), _names(options.parts, PARTS)
    if "reference" in methods:
        opencv()  # says at once what is missing
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "runs.jsonl"
    device = find_device(options.device).type
    done = {run["key"] for run in read_runs(lines)}
    widths = map(int, options.features.split(","))
    for features, part, repeat, method in itertools.product(widths, parts, range(options.repeats), methods):
        if method == "reference" and part == "tangent":
            continue
        case = Case(
            method,
            part,
            features,
            options.size,
            options.batch,
            options.clean,
            options.views,
            options.architecture,
            device,
            options.threads,
            options.iterations,
        )
        key = "|".join(map(str, (*asdict(case).values(), repeat)))
        if key in done:
            continue
        run = _in_own_process(case)
        append_run(lines, {"key": key, "repeat": repeat, **asdict(case), **run})
        seconds, gigabytes = statistics.median(run["seconds"]), run["peak_bytes"] / 1e9
        print(method, part, features, f"{seconds:.2f} s, {gigabytes:.2f} GB", flush=True)
    summarise(options.out, read_runs(lines))


def measure(case: Case) -> dict[str, Any]:
    """Seconds of each iteration by the clock and of the CPU, and the largest memory beyond that at the start."""
    if case.threads:
        torch.set_num_threads(case.threads)
    device = find_device(case.device)
    work = prepare(case, device)
    seconds, cpu_seconds = [], []
    with _peak(device) as peak:
        for _ in range(1 + case.iterations):
            _wait_for(device)
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            _wait_for(device)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": seconds[1:],
        "cpu_seconds": cpu_seconds[1:],
        "peak_bytes": peak(),
        "computes_on": describe_device(device),
        "torch": torch.__version__,
    }


def prepare(case: Case, device: torch.device) -> Callable[[], object]:
    """What is to be measured, on made-up slices: a function that does it once."""
    config = case.config()
    network = build_network(config, 1, 2, channels_last=case.method != "reference")
    rng = torch.Generator().manual_seed(0)
    views = sample_views(case.views, config.zoom_in, config.zoom_out, rng)
    unlabelled, clean = (_discs(n, case.size, device, rng) for n in (case.batch, case.clean))
    if case.method == "reference":
        reference = Reference(network, config, device)
        if case.part == "iteration":
            return lambda: reference.iteration(unlabelled, clean, views)
        batch, meta = reference.in_views(unlabelled, views), reference.in_views(clean, views)
        return lambda: reference.weights(batch, meta, views)
    learner = Learner(network, config, device, lambda batch: batch.image)
    if not case.method.endswith("-plain"):
        clean = _as_slices(clean, views)
    if case.part == "iteration":
        return lambda: learner.meta_step(unlabelled, clean, views)
    return _weights_alone(learner, unlabelled, clean, views, case.part)


def _weights_alone(
    learner: Learner, unlabelled: Batch, clean: Batch, views: tuple[View, ...], part: str
) -> Callable[[], object]:
    """The parts of `Learner.meta_step` that lead to the weights: it has no name for them together."""
    batch = learner._in_views(unlabelled, views)
    given = learner.clean_gradient(clean)

    def tangent() -> object:
        return learner._weights(learner._tangent(batch, given), batch, batch.initial)

    def shared() -> object:
        teacher_probability = learner._teacher_probability(batch.teacher)
        found = learner._tangent(batch, learner.clean_gradient(clean))
        return learner._weights(found, batch, learner._pseudo_labels(teacher_probability, teacher_probability, views))

    def virtual() -> object:
        teacher_probability = learner._teacher_probability(batch.teacher)
        _, probability = learner._student_probability(batch.student)
        y_p = learner._pseudo_labels(probability.detach(), teacher_probability, views)
        consistency = learner._view_consistency(probability, teacher_probability, batch, views)
        _, direction = learner._gradient_at_virtual(learner._gradients(consistency), clean)
        return learner._weights(learner._tangent(batch, direction), batch, y_p)

    if part == "tangent":
        return tangent
    return virtual if learner.config.meta_gradient == "virtual" else shared


def _discs(n: int, size: int, device: torch.device, rng: torch.Generator) -> Batch:
    """Slices that show a bright disc in noise, and its labels."""
    side = torch.linspace(-1, 1, size)
    disc = ((side[:, None] ** 2 + side**2) < 0.3).long().expand(n, size, size)
    image = (disc[:, None] + torch.randn(n, 1, size, size, generator=rng)).to(device)
    labels = torch.nn.functional.one_hot(disc, 2).movedim(-1, 1).float().to(device)
    return Batch(image, image[:, :0], labels, torch.ones_like(image), [(0, 0)] * n)


def _as_slices(batch: Batch, views: tuple[View, ...]) -> Batch:
    """The batch's views as slices of their own: what the reference shows its models of it."""
    mask = torch.cat([warp_by_opencv(batch.mask, view, nearest=True) * inside(view, batch.mask) for view in views])
    image, prior, labels = (
        torch.cat([warp_by_opencv(x, view) for view in views]) for x in (batch.image, batch.prior, batch.labels)
    )
    return Batch(image, prior, labels, mask, batch.corners * len(views))


def _in_own_process(case: Case) -> dict[str, Any]:
    """`measure`, in a fresh process that has computed nothing before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(measure, case).result()
        except BrokenProcessPool:
            raise SystemExit(
                f"The process of {case.method}, {case.features} channels, was ended, probably for want of memory: "
                "take fewer --features or a smaller --size."
            ) from None


@contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Watch this process's memory; the value says, afterwards too, how much more it was at most than at the start."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    # sampled: the high-water mark that the system keeps may stand higher already, from the imports
    process, ended = psutil.Process(), threading.Event()
    before = largest = process.memory_info().rss

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.005):
            largest = max(largest, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: largest - before
    finally:
        ended.set()
        watcher.join()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _names(text: str, known: tuple[str, ...]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise SystemExit(f"There is no '{name}': choose of {', '.join(known)}.")
    return names


_SETTING = ("computes_on", "architecture", "features", "size", "batch", "clean", "views", "part")


def summarise(out: Path, runs: list[dict[str, Any]]) -> None:
    """Medians and the reference's multiples of them, as a Markdown table and as JSON."""
    groups: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        setting = tuple(run[name] for name in _SETTING)
        groups.setdefault(setting, {}).setdefault(run["method"], []).append(run)
    rows = []
    for setting, methods in sorted(groups.items()):
        figures = {name: _figures(methods[name]) for name in METHODS if name in methods}
        for method, figure in figures.items():
            row = {**dict(zip(_SETTING, setting, strict=True)), "method": method, **figure}
            for name in ("seconds", "cpu_seconds", "peak_bytes") if "reference" in figures else ():
                row[f"reference_by_{name}"] = figures["reference"][name] / max(figure[name], 1e-9)
            rows.append(row)
    (out / "summary.json").write_text(json.dumps(rows, indent=1))
    table = [
        "| network | batch | part | method | seconds | faster | CPU seconds | fewer | peak GB | less | iterations |"
    ]
    table.append("|---" * 11 + "|")
    for row in rows:
        batch = f"{row['batch']} + {row['clean']} slices of {row['size']}², {row['views']} views"
        cells = [f"{row['architecture']} {row['features']}", batch, row["part"], row["method"]]
        for name, scale in (("seconds", 1), ("cpu_seconds", 1), ("peak_bytes", 1e-9)):
            ratio = row.get(f"reference_by_{name}")
            cells += [f"{row[name] * scale:.2f}", "" if ratio is None else f"{ratio:.2f} x"]
        table.append("| " + " | ".join([*cells, str(row["iterations"])]) + " |")
    devices = "; ".join(sorted({row["computes_on"] for row in rows}))
    table += ["", f"Medians, on {devices}."]
    (out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all iterations of all processes."""
    seconds, cpu_seconds = ([s for run in runs for s in run[name]] for name in ("seconds", "cpu_seconds"))
    return {
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),
        "peak_bytes": statistics.median(run["peak_bytes"] for run in runs),
        "iterations": len(seconds),
    }


if __name__ == "__main__":
    main()
