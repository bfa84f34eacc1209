"""Measure what a step of quantization-aware training costs beside a step in float.

    python -m benchmarks.measure.qat_step                               # all networks and ways
    python -m benchmarks.measure.qat_step --networks PPLCNet_x1_0 ResNet50_vd

Ways and float take turns, step by step, on the same images in one process; PaddleSlim and float do
so in another. Writes docs/benchmarks/qat_step.json and docs/benchmarks.md.
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
import time
from collections.abc import Callable
from typing import Any

import paddle
from paddle.nn import Layer

from benchmarks.comparison import DOCS, record
from benchmarks.measure.command import revision
from benchmarks.networks import build, images, labels
from benchmarks.pages.benchmarks import page
from benchmarks.peers.processes import PeerError, last_line
from core.quant.apply import apply_quantization
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.layers import KINDS
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from core.runtimes.environment import environment
from core.task import Task

NETWORKS = (
    *("MobileNetV1", "MobileNetV3_small_x1_0", "MobileNetV3_large_x1_0", "PPLCNet_x1_0"),
    *("ResNet50_vd", "bisenetv2_cityscapes_1024x2048", "hrnet_w32_256x192"),
    *("lite_hrnet_18_256x192_coco", "lite_hrnet_30_256x192_coco"),
)
WAYS = {
    "moving average": Rounding(),
    "PACT": Rounding(pact=True),
    "LSQ": Rounding(activation_type="lsq"),
}
PEER = "PaddleSlim, PACT"
BATCH = 4


def measure(network: str, steps: int) -> dict[str, Any]:
    """Return processor milliseconds of each way and of float, one number for each step."""
    task, model = build(network)
    image = paddle.concat([images(task)[0]] * (BATCH // 2))
    runs = {"float": _step(task, model, image)}
    for name, rounding in WAYS.items():
        _, other = build(network)
        _quantize(task, other, rounding, image)
        runs[name] = _step(task, other, image)
    return {"input": list(image.shape), "milliseconds": _in_turns(runs, steps)}


def measure_peer(network: str, steps: int) -> dict[str, list[float]]:
    """Return the same of PaddleSlim's wrappers with PACT, and of float beside them."""
    from paddleslim.dygraph.quant import QAT

    from benchmarks.peers.paddleslim_qat import CONFIG

    task, model = build(network)
    image = paddle.concat([images(task)[0]] * (BATCH // 2))
    runs = {"float": _step(task, model, image)}
    _, other = build(network)
    QAT(config=dict(CONFIG)).quantize(other)
    runs[PEER] = _step(task, other, image)
    return _in_turns(runs, steps)


def _in_turns(runs: dict[str, Callable[[], None]], steps: int) -> dict[str, list[float]]:
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(steps + 1):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            if number:  # the first warms up
                milliseconds[name].append(1000 * (time.process_time() - begin))
    return milliseconds


def ask_peer(network: str, steps: int) -> dict[str, list[float]]:
    """Measure PaddleSlim in a process of its own, which it leaves other than it was.

    Raises:
        PeerError: It fails; says how.
    """
    call = [sys.executable, os.path.abspath(__file__), "--peer", network, "--steps", str(steps)]
    done = subprocess.run(
        call,
        env={**os.environ, "FLAGS_enable_pir_api": "0", "PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not told:
        raise PeerError(last_line(done.stderr))
    found: dict[str, list[float]] = json.loads(told[-1])
    return found


def _quantize(task: Task, model: Layer, rounding: Rounding, image: paddle.Tensor) -> None:
    kinds = [kind.__name__ for kind in KINDS]
    choice = select_layers(model, rounding, kinds, task.slim_hints(model).never_quantize)
    layout = plan_grids(trace_float(task, model), model, "paddle", choice.layers, None)
    apply_quantization(model, choice, rounding, [[image]], "avg", layout)


def _step(task: Task, model: Layer, image: paddle.Tensor) -> Callable[[], None]:
    """Return a step of training with the task's loss."""
    optimizer = paddle.optimizer.Momentum(1e-5, parameters=model.parameters())
    model.train()
    batch = labels(task, task.name_outputs(model(image)), image.shape)

    def run() -> None:
        losses = task.losses(task.name_outputs(model(image)), batch)
        paddle.add_n(list(losses.values())).backward()
        optimizer.step()
        optimizer.clear_grad()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--peer", help=argparse.SUPPRESS)  # of the process of ask_peer
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    if arguments.peer:
        print(json.dumps(measure_peer(arguments.peer, arguments.steps)))
        return
    for network in arguments.networks:
        entry = measure(network, arguments.steps) | {
            "revision": revision(),
            "load_average": round(os.getloadavg()[0], 1),
            "environment": environment(),
            "date": datetime.date.today().isoformat(),
        }
        try:
            entry["peer"] = ask_peer(network, arguments.steps)
        except PeerError as error:
            entry["peer_failed"] = str(error)
        record("qat_step", {network: entry}, page)
        medians = {k: statistics.median(v) for k, v in entry["milliseconds"].items()}
        print(network, {k: round(v / medians["float"], 3) for k, v in medians.items()}, flush=True)


if __name__ == "__main__":
    main()
