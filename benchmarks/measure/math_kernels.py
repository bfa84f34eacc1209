"""Compare the kernels that Paddle's MKL takes by itself with those for AVX2.

    python -m benchmarks.measure.math_kernels                 # all networks
    python -m benchmarks.measure.math_kernels --networks ResNet18_vd

On processors that are not of Intel's make, see `core.settings.math_kernels`. Each measurement runs
in a process of its own, with one thread; both sides take turns. Processor time of

- step: forward, loss, backward and update of a batch of images;
- answer: forward of the same images;
- paddle: an image through the float file in Paddle Inference, which has kernels of oneDNN for most.

Writes docs/benchmarks/math_kernels.json and docs/benchmarks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from benchmarks.comparison import THREADS, record
from benchmarks.measure.command import revision
from benchmarks.measure.prune import train_step
from benchmarks.networks import NETWORKS, build, images
from benchmarks.pages.benchmarks import page
from core.export.package import export
from core.export.parity import run_eager
from core.runtimes.environment import environment
from core.runtimes.predictor import load_predictor
from core.settings.math_kernels import AVX2, VARIABLE

Entry = dict[str, Any]
SIDES = {"by itself": "0", "avx2": AVX2}  # 0 is none of MKL's numbers
SOME = (
    *("ResNet18_vd", "MobileNetV3_small_x1_0", "bisenetv2_cityscapes_1024x2048"),
    *("hrnet_w32_256x192", "lite_hrnet_18_256x192_coco", "tinypose_256x192"),
)
REPEATS, RUNS = 3, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=SOME, metavar="NAME")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "FILES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], Path(arguments.one[1]))))
        return
    loaded = {"revision": revision(), "environment": environment()}
    for network in arguments.networks:
        turns = compare(network)
        entry = {"turns": turns, **loaded, "date": datetime.date.today().isoformat()}
        record("math_kernels", {network: entry}, page)
        print(network, json.dumps(turns), flush=True)


def compare(network: str) -> dict[str, list[Entry]]:
    """Measure both sides in turns; return the turns of each."""
    turns: dict[str, list[Entry]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as place:
        files = Path(place, "float")
        export(*build(network), files, ("paddle",))
        for _ in range(REPEATS):
            for side, value in SIDES.items():
                done = subprocess.run(
                    [sys.executable, "-m", __spec__.name, "--one", network, str(files)],
                    env={**os.environ, **THREADS, VARIABLE: value},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                turns[side].append(json.loads(done.stdout.splitlines()[-1]))
    return turns


def measure(network: str, files: Path) -> Entry:
    """Return milliseconds of a training step, an eager answer and one of the file."""
    task, model = build(network)
    batch = [each.numpy() for each in images(task)]
    model.eval()
    answer = _milliseconds(lambda: run_eager(model, batch))
    predictor = load_predictor(files, "paddle")
    one = [np.ascontiguousarray(each[:1]) for each in batch]
    paddle.set_device("cpu")
    return {
        "answer": answer,
        "paddle": _milliseconds(lambda: predictor.run(*one)),
        "step": _milliseconds(lambda: train_step(task, model)),
    }


def _milliseconds(do: Callable[[], object]) -> float:
    do()
    found = []
    for _ in range(RUNS):
        begin = time.process_time()
        do()
        found.append((time.process_time() - begin) * 1000)
    return round(statistics.median(found), 2)


if __name__ == "__main__":
    main()
