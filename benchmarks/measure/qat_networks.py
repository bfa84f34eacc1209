"""Train nine networks with rounding, interrupt and resume them, and export them in all formats.

    python -m benchmarks.measure.qat_networks                            # all networks
    python -m benchmarks.measure.qat_networks --networks MobileNetV1 lite_hrnet_30

Each network begins with random weights in which every layer has a say, and norms that know the
drawn pictures. It is trained in float for an epoch of a few steps, then with rounding for two; once
more with an interruption in between, and the two checkpoints are compared byte by
byte. Its int8 files are compared with the eager model by the export itself. Writes
docs/benchmarks/qat_networks.json and docs/benchmarks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from benchmarks.comparison import Job, cpu_seconds, draw_pictures, record
from benchmarks.measure.command import revision
from benchmarks.networks import enliven
from benchmarks.pages.benchmarks import page
from benchmarks.peers.int8 import formats_here
from core.errors import ExportError
from core.export.package import Exported, export
from core.network.batch_norms import reestimate
from core.network.weights import load_arrays
from core.quant.layers import quantized_layers
from core.runtimes.environment import environment
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Checkpoints, Hook
from core.training.loader import Loader
from core.training.recipe import read_recipe
from core.training.run import read_run

NETWORKS = {
    "MobileNetV1": "cls",
    "MobileNetV3_small_x1_0": "cls",
    "MobileNetV3_large_x1_0": "cls",
    "PPLCNet_x1_0": "cls",
    "ResNet50_vd": "cls",
    "BiSeNetV2": "seg",
    "hrnet_w32": "keypoint",
    "lite_hrnet_18": "keypoint",
    "lite_hrnet_30": "keypoint",
}
STEPS, BATCH, PICTURES = 3, 4, 16


def measure(network: str, root: Path) -> dict[str, Any]:
    """Train, resume and export a network; say what came of it."""
    job = Job(NETWORKS[network], "ours", str(root), "", workers=0)
    settings = job.settings()
    settings["model"]["name"] = network
    settings["train"] |= {
        **{"epochs": 3, "steps_per_epoch": STEPS, "batch_size": BATCH, "eval_batch_size": BATCH},
        "learning_rate": settings["train"]["learning_rate"] / 100,
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings["model"]["pretrained"] = _begin(settings, folder)
        begin = cpu_seconds()
        _engine(settings, folder / "straight").train()
        seconds = cpu_seconds() - begin
        _engine(settings, folder / "halves", [_StopAfterTwo()]).train()
        _engine(settings, folder / "halves").train(resume=True)
        equal = all(
            _same(*(load_arrays(folder / run / "latest" / name) for run in ("straight", "halves")))
            for name in (checkpoint.WEIGHTS, checkpoint.TRAINING)
        )
        task, model = checkpoint.restore(folder / "halves" / "latest")
        begin, wall = cpu_seconds(), time.monotonic()
        made = export(task, model, folder / "int8", formats_here())
        spent = {"cpu": cpu_seconds() - begin, "wall": time.monotonic() - wall}
        report = made.description.report
        assert report is not None
        return {
            "input": list(report.input_shapes[0]),
            "layers": len(quantized_layers(model)),
            "train_seconds": seconds,
            "resumed_equal": equal,
            "export_seconds": spent,
            **_files(made),
        }


def _begin(settings: dict[str, Any], folder: Path) -> str:
    """Write a network as a checkpoint from which training begins."""
    task = read_run(settings).task
    paddle.seed(0)
    model = task.build_model()
    enliven(model)
    loader = Loader(task.build_dataset("calibration"), batch_size=BATCH, train=False)
    names = [spec.name for spec in task.input_spec()]
    reestimate(model, [[batch[name] for name in names] for batch in loader.epoch()])
    checkpoint.save(folder / "begin", checkpoint.describe(task), model.state_dict())
    return str(folder / "begin")


def _files(made: Exported) -> dict[str, Any]:
    return {
        "bytes": {name: [made.file_bytes[name], count] for name, count in made.float_bytes.items()},
        "differences": {each.runtime: [each.relative, each.effect] for each in made.differences},
    }


class _StopAfterTwo(Hook):
    def after_epoch(self, engine: Engine) -> None:
        engine.stop = engine.epoch == 2


def _engine(settings: dict[str, Any], folder: Path, hooks: Any = ()) -> Engine:
    run = read_run(settings)
    step = {"kind": "qat", "start_epoch": 1, "calibration_samples": PICTURES}
    recipe = read_recipe({"strategies": [step]}, run.train.epochs, False)
    return Engine(run, recipe, folder, [Checkpoints(), *hooks])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return bool(one == other)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    loaded = revision()
    with tempfile.TemporaryDirectory() as place:
        draw_pictures(Path(place), PICTURES)
        for network in arguments.networks:
            before = os.getloadavg()[0]
            try:
                entry = measure(network, Path(place))
            except ExportError as error:
                entry = {"refused": str(error)}
            entry |= {
                "revision": loaded,
                "load_average": [round(before, 1), round(os.getloadavg()[0], 1)],
                "environment": environment(),
                "date": datetime.date.today().isoformat(),
            }
            record("qat_networks", {network: entry}, page)
            told = ("refused", "resumed_equal", "export_seconds", "differences")
            print(network, {name: entry[name] for name in told if name in entry}, flush=True)


if __name__ == "__main__":
    main()
