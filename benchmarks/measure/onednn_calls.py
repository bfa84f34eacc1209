"""Say where the time of float files in Paddle Inference goes: in oneDNN, or around it.

    python -m benchmarks.measure.onednn_calls
    python -m benchmarks.measure.onednn_calls --networks tinypose_128x96 --rounds 60

Paddle Inference and OpenVINO take turns with one export, one image, one thread, by the processor's
clock. Both compute with oneDNN, which tells how long each of its calls takes (ONEDNN_VERBOSE); of
Paddle Inference these are read from a process of its own, the shortest of all rounds for each call.
What is left of its time is spent per operator: shapes, layouts, the making of the call.
Writes docs/benchmarks/onednn_calls.json and docs/benchmarks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import inference

from benchmarks.comparison import DOCS, THREADS, record
from benchmarks.measure.command import revision
from benchmarks.measure.int8 import take_turns
from benchmarks.pages.benchmarks import page
from benchmarks.peers.int8 import prepare
from core.export.package import export
from core.runtimes.environment import environment
from core.runtimes.predictor import load_predictor

Entry = dict[str, Any]
NETWORKS = (
    *("tinypose_128x96", "tinypose_256x192"),
    *("lite_hrnet_18_256x192_coco", "lite_hrnet_30_256x192_coco"),
    *("hrnet_w32_256x192", "MobileNetV3_large_x1_0"),
)
WARMUP = 3
CALL = re.compile(r"^((?:onednn|dnnl)_verbose,.*\bexec,cpu,(\w+),.*),([\d.e-]+)$")
COUNTED = re.compile(r"^thread0::(\w+)\s+(\d+)\s", re.MULTILINE)


def measure(network: str, rounds: int) -> Entry:
    """Export a network in float and measure it."""
    task, model, images = prepare(network)
    with tempfile.TemporaryDirectory() as place:
        made = export(task, model, Path(place, "float"), ("paddle", "onnx")).folder
        image = Path(place, "image.npy")
        np.save(image, images[0])
        paddle_run, openvino_run = (
            load_predictor(made, backend, own=True).run for backend in ("paddle", "openvino")
        )
        runs: dict[str, Callable[[], object]] = {
            "paddle": lambda: paddle_run(images[0]),
            "openvino": lambda: openvino_run(images[0]),
        }
        return {
            "input": list(images[0].shape),
            "milliseconds": take_turns(runs, rounds),
            "calls": calls(_child(made, image, rounds, {"ONEDNN_VERBOSE": "1"}), rounds),
            "operators": operators(_child(made, image, rounds, {}, "--profile"), rounds),
        }


def calls(said: str, rounds: int) -> dict[str, list[float]]:
    """Return how many calls of each kind a round has, and their milliseconds.

    Raises:
        ValueError: The rounds are not alike.
    """
    found = [match.groups() for match in map(CALL.match, said.splitlines()) if match]
    what = [call for call, _, _ in found]
    each = next(
        (
            size
            for size in range(1, len(what) // rounds + 1)
            if all(a == b for a, b in zip(what[-size * rounds :], what[-size * (rounds - 1) :]))
        ),
        None,
    )
    if each is None:
        raise ValueError("the rounds have other calls than each other")
    kinds = [kind for _, kind, _ in found[-each:]]
    times = [float(value) for _, _, value in found[-each * rounds :]]
    shortest = np.array(times).reshape(-1, each).min(axis=0)
    return {
        kind: [
            kinds.count(kind),
            float(sum(time for other, time in zip(kinds, shortest) if other == kind)),
        ]
        for kind in sorted(set(kinds))
    }


def operators(said: str, rounds: int) -> dict[str, int]:
    """Return how many operators of each kind a round runs, after all fusions."""
    counted: Counter[str] = Counter()
    for kind, count in COUNTED.findall(said):
        counted[kind] += int(count) // (WARMUP + rounds)
    return {kind: count for kind, count in counted.items() if count}


def _child(folder: Path, image: Path, rounds: int, variables: dict[str, str], *more: str) -> str:
    words = [sys.executable, "-m", "benchmarks.measure.onednn_calls", "--rounds", str(rounds)]
    words += ["--run", str(folder), str(image), *more]
    own = {**THREADS, "PYTHONPATH": str(DOCS.parent), **variables}
    done = subprocess.run(
        words,
        cwd=folder,  # where Paddle's profiler leaves a file
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def run(folder: Path, image: np.ndarray, rounds: int, profile: bool) -> None:
    """Run a file in Paddle Inference as `tools/benchmark.py` does, or with Paddle's profiler."""
    if not profile:
        predictor = load_predictor(folder, "paddle", own=True)
        for _ in range(WARMUP + rounds):
            predictor.run(image)
        return
    config = inference.Config(*(str(folder / f"model.{end}") for end in ("pdmodel", "pdiparams")))
    config.disable_gpu()
    config.enable_profile()
    raw = inference.create_predictor(config)
    raw.get_input_handle(raw.get_input_names()[0]).copy_from_cpu(image)
    for _ in range(WARMUP + rounds):
        raw.run()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--run", nargs=2, type=Path, metavar=("FOLDER", "IMAGE"), help="a child's")
    parser.add_argument("--profile", action="store_true", help="a child's")
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    if arguments.run:
        folder, image = arguments.run
        run(folder, np.load(image), arguments.rounds, arguments.profile)
        return
    for network in arguments.networks:
        entry = measure(network, arguments.rounds) | {
            "revision": revision(),
            "environment": environment(),
            "date": datetime.date.today().isoformat(),
        }
        record("onednn_calls", {network: entry}, page)


if __name__ == "__main__":
    main()
