"""The page docs/benchmarks.md, from the figures in docs/benchmarks/."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.comparison import load, median, ratio
from benchmarks.pages import cells
from benchmarks.pages.int8 import INT8, WITHOUT_VNNI, int8
from benchmarks.pages.math_kernels import math_kernels
from benchmarks.pages.onednn import onednn
from benchmarks.pages.processors import processors
from benchmarks.pages.prune import pruning, untrained
from benchmarks.pages.qat import qat_networks, qat_steps
from benchmarks.pages.rewrites import rewrites

Entry = dict[str, Any]


INTRODUCTION = """\
# Benchmarks

Written by scripts, not by hand: `python -m benchmarks.pages` makes the page of the figures in
`docs/benchmarks`, and each section names the script that measures them.

Training and loader, by `python -m benchmarks.measure.training` and `python -m
benchmarks.measure.loader`: both sides have the same network, batch, pictures, input size,
augmentation, optimizer and number of loader processes, one thread each, and take turns in processes
of their own. The machine may be running other things: the figures to trust are processor
milliseconds per image (main process and workers) and their ratio, as median (smallest-largest) over
the repeats; above 1 means that ours needs less. Images per second are wall time at that moment."""

TRAINING = """
## Training

Ours is `core.training.engine.Engine` with all hooks of `tools/train.py`. The peers:
`paddle.Model.fit` on `paddle.vision` data for classification (the PaddleClas wheel has networks
only), `paddleseg.core.train` of PaddleSeg 2.7, and `ppdet.engine.Trainer` of PaddleDetection 2.6.
The steps lie within one epoch: no start of workers, no evaluation, no checkpoint. Peak memory is of
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

Written by `python -m benchmarks.measure.distill`: a distilled step beside the student's own step
and the teacher's answer, in turns on the same batches of one process, with the loss that the task's
hints choose. Processor milliseconds per step, as median over the repeats; the ratio is distilled /
(student + teacher), with the smallest and the largest. The teacher's loss on the truth is logged.

| task | student | teacher | student ms | teacher ms | distilled ms | ratio |
| --- | --- | --- | ---: | ---: | ---: | ---: |"""


def page() -> Iterator[str]:
    """Yield the lines of docs/benchmarks.md."""
    yield INTRODUCTION
    for title, introduction, name, row in TABLES:
        entries = load(name)
        if entries:
            yield introduction
            yield from map(row, entries, entries.values())
            yield ""
            yield from (_circumstances(title, task, entry) for task, entry in entries.items())
    yield from pruning(load("prune"))
    yield from untrained(load("pruned_untrained"))
    yield from qat_steps(load("qat_step"))
    yield from qat_networks(load("qat_networks"))
    yield from int8(load("int8"), INT8)
    yield from int8(load("int8_without_vnni"), WITHOUT_VNNI)
    yield from processors(load("processors"))
    yield from rewrites(load("rewrites"))
    yield from onednn(load("onednn_calls"))
    yield from math_kernels(load("math_kernels"))


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


def _circumstances(title: str, task: str, entry: Entry) -> str:
    steps = f"{entry['steps']} steps, " if "steps" in entry and title != "Loader" else ""
    repeats = len(next(iter(entry["measured"].values())))
    low, high = sorted(entry["load_average"])
    return (
        f"- {title}, {task}: {steps}{entry['data']} pictures, loader processes: "
        f"{entry['workers']}, repeats: {repeats}, {cells.machine(entry['environment'])}, at a load "
        f"of {low}-{high}, revision {entry['revision']}, {entry['date']}."
    )


TABLES = (
    ("Training", TRAINING, "training_throughput", _training_row),
    ("Loader", LOADER, "loader", _loader_row),
    ("Distillation", DISTILLATION, "distillation", _distillation_row),
)
