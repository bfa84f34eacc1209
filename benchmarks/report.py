"""The command line of training.py and loader.py, and the page that all benchmarks write."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comparison import DOCS, TASKS, Job, draw_pictures, load, median, ratio, record, take_turns
from int8_page import int8
from processors_page import processors
from prune_page import pruning
from qat_page import qat_networks, qat_steps

Entry = dict[str, Any]
PICTURES = 320
INTRODUCTION = """\
# Benchmarks

Written by `python benchmarks/training.py` and `python benchmarks/loader.py`, not by hand.

Both sides have the same network, batch, pictures, input size, augmentation, optimizer and number of
loader processes, one thread each, and take turns in processes of their own. The machine may be
running other things: the figures to trust are processor milliseconds per image (main process and
workers) and their ratio, as median (smallest-largest) over the repeats; above 1 means that ours
needs less. Images per second are wall time at that moment."""
TRAINING = """
## Training

Ours is `core.engine.Engine` with all hooks of `tools/train.py`. The peers: `paddle.Model.fit` on
`paddle.vision` data for classification (the PaddleClas wheel has networks only),
`paddleseg.core.train` of PaddleSeg 2.7, and `ppdet.engine.Trainer` of PaddleDetection 2.6. The
steps lie within one epoch: no start of workers, no evaluation, no checkpoint. Peak memory is of
the main process, imports included. For classification and segmentation both sides run one and the
same network, so nearly all of a step is the same kernels; the keypoint network is our own, with
the parameter names and shapes of PaddleDetection's.

Changed in the peers: PaddleSeg's loss casts its labels, which Paddle 3 wants, and its log line,
which fails there, is off; PaddleDetection hands batches over in shared memory, which is not its
default, and has Adam where ours has AdamW without decay, the same update.

| task | network | ours ms | peer ms | peer / ours | ours img/s | peer img/s | ours MB | peer MB |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
LOADER = """
## Loader

Whole passes over the data, starts of the workers included. "Decoding" is `cv2.imdecode` of the
same files in one process and nothing else: what no loader can go below.

| task | decoding ms | ours ms | peer ms | peer / ours | ours / decoding | decoding img/s | ours \
img/s | peer img/s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""

DISTILLATION = """
## Distillation

Written by `python benchmarks/distill.py`: a distilled step beside the student's own step and the
teacher's answer, in turns on the same batches of one process, with the loss that the task's hints
choose. Processor milliseconds per step, as median over the repeats; the ratio is distilled /
(student + teacher), with the smallest and the largest. The teacher's loss on the truth is logged.

| task | student | teacher | student ms | teacher ms | distilled ms | ratio |
| --- | --- | --- | ---: | ---: | ---: | ---: |"""


def main(
    script: str,
    description: str | None,
    name: str,
    sides: tuple[str, ...],
    measure: Callable[[Job], dict[str, float]],
    networks: dict[str, dict[str, str]] | None = None,
) -> None:
    """Compare the sides on every task, or measure the one job that a parent asks for.

    `networks` names those of each task where they are not the job's own.
    """
    arguments = _parse(description)
    if arguments.job:
        logging.basicConfig(level=logging.INFO)  # as the tools do
        result = json.dumps(measure(Job(**json.loads(arguments.job))))
        Path(arguments.result).write_text(result, encoding="utf-8")
        return
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    root = arguments.data or arguments.work_dir / "pictures"
    if arguments.data is None:
        draw_pictures(root, PICTURES)
    for task in [arguments.task] if arguments.task else TASKS:
        if task == "keypoint" and "peer" in sides:
            from peers import install_paddledet

            install_paddledet(arguments.work_dir)
        entry = _compare(script, task, sides, root.resolve(), arguments)
        entry |= {"networks": networks[task]} if networks else {}
        row = f"{task}, {entry['data']}" if arguments.data else task
        record(name, {row: entry}, page)


def _parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work_dir = Path(tempfile.gettempdir(), "trislim_benchmarks")
    parser.add_argument("--task", choices=TASKS, help="default: all")
    parser.add_argument("--data", type=Path, help="data.root of --task; default: drawn pictures")
    parser.add_argument("--work_dir", type=Path, default=work_dir, help="for pictures and peers")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=15, help="measured steps of training")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data and not arguments.task:
        parser.error("--data: say with --task whose data this is")
    return arguments


def _compare(
    script: str, task: str, sides: tuple[str, ...], root: Path, arguments: argparse.Namespace
) -> Entry:
    from core.deploy.environment import environment

    work_dir, workers = str(arguments.work_dir.resolve()), arguments.workers
    jobs = [Job(task, side, str(root), work_dir, workers, steps=arguments.steps) for side in sides]
    load_before = os.getloadavg()[0]
    measured = take_turns(os.path.abspath(script), jobs, arguments.repeats)
    settings = jobs[0].settings()
    return {
        "network": settings["model"]["name"],
        "batch_size": settings["train"]["batch_size"],
        "input": _input_size(settings),
        "data": arguments.data.resolve().name if arguments.data else "drawn",
        "workers": workers,
        "steps": arguments.steps,
        "measured": measured,
        "revision": revision(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def revision() -> str:
    """Return the commit that was measured; `-dirty` if files differed, but for these documents."""
    git = ["git", "-C", str(DOCS.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changes = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!docs"]
    dirty = "-dirty" if subprocess.run(changes, capture_output=True).returncode else ""
    return f"{head.stdout.strip()}{dirty}" if head.stdout else "unknown"


def _input_size(settings: Entry) -> list[int]:
    data = settings["data"]
    if "image_size" in data:
        return [data["image_size"]] * 2
    size: list[int] = data.get("input_size") or settings["augment"]["crop"]
    return size


def page() -> Iterator[str]:
    """Yield the lines of docs/benchmarks.md."""
    yield INTRODUCTION
    training, loader = load("training_throughput"), load("loader")
    if training:
        yield TRAINING
        yield from map(_training_row, training, training.values())
    if loader:
        yield LOADER
        yield from map(_loader_row, loader, loader.values())
    distillation = load("distillation")
    if distillation:
        yield DISTILLATION
        yield from map(_distillation_row, distillation, distillation.values())
    yield ""
    titled = (("Training", training), ("Loader", loader), ("Distillation", distillation))
    for title, entries in titled:
        for task, entry in entries.items():
            steps = "" if title == "Loader" else f"{entry['steps']} steps, "
            yield f"- {title}, {task}: {steps}{_circumstances(entry)}"
    yield from pruning(load("prune"))
    yield from qat_steps(load("qat_step"))
    yield from qat_networks(load("qat_networks"))
    yield from int8(load("int8"))
    yield from processors(load("processors"))


def _training_row(task: str, entry: Entry) -> str:
    ours, peer = entry["measured"]["ours"], entry["measured"]["peer"]
    size = "x".join(map(str, entry["input"]))
    columns = [
        task,
        f"{entry['network']} {size}, batch {entry['batch_size']}",
        *(f"{median(side, 'cpu_ms'):.1f}" for side in (ours, peer)),
        f"**{ratio(peer, ours)}**",
        *(f"{median(side, 'images_per_second'):.1f}" for side in (ours, peer)),
        *(f"{median(side, 'peak_mb'):.0f}" for side in (ours, peer)),
    ]
    return f"| {' | '.join(columns)} |"


def _loader_row(task: str, entry: Entry) -> str:
    ours, peer, decode = (entry["measured"][side] for side in ("ours", "peer", "decode"))
    columns = [
        task,
        *(f"{median(side, 'cpu_ms'):.2f}" for side in (decode, ours, peer)),
        f"**{ratio(peer, ours)}**",
        ratio(ours, decode),
        *(f"{median(side, 'images_per_second'):.0f}" for side in (decode, ours, peer)),
    ]
    return f"| {' | '.join(columns)} |"


def _distillation_row(task: str, entry: Entry) -> str:
    turns = entry["measured"]["distilled"]
    ratios = [t["distilled"] / (t["student"] + t["teacher"]) for t in turns]
    size = "x".join(map(str, entry["input"]))
    columns = [
        task,
        f"{entry['networks']['student']} {size}, batch {entry['batch_size']}",
        entry["networks"]["teacher"],
        *(f"{median(turns, name):.0f}" for name in ("student", "teacher", "distilled")),
        f"**{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})**",
    ]
    return f"| {' | '.join(columns)} |"


def _circumstances(entry: Entry) -> str:
    machine = entry["environment"]
    repeats = len(next(iter(entry["measured"].values())))
    low, high = sorted(entry["load_average"])
    return (
        f"{entry['data']} pictures, loader processes: {entry['workers']}, repeats: {repeats}, "
        f"{machine['logical_cores']} cores ({machine['cpu']}) at a load of {low}-{high}, "
        f"Paddle {machine['packages'].get('paddlepaddle', '?')}, revision {entry['revision']}, "
        f"{entry['date']}."
    )
