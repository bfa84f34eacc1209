"""What int8 files keep of a metric on processors with VNNI and without, beside NNCF's.

    python -m benchmarks.measure.processors CONFIG WEIGHTS ROOT [--calibration FOLDER]

A trained network is quantized after training for each runtime, as its task hints, with `processors:
any` and `vnni`, and by NNCF with its presets, as they are and with `overflow_fix` for all layers.
Every file answers the whole validation split in its runtime on this processor, and as on one
without VNNI (`benchmarks.processor.without_vnni`). Writes docs/benchmarks/processors.json and
docs/benchmarks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import record
from benchmarks.measure.command import revision
from benchmarks.pages.benchmarks import page
from benchmarks.peers.after_training import quantize_with_peers
from benchmarks.peers.int8 import SETTINGS, install_nncf, paddleslim_run
from benchmarks.peers.processes import last_line
from benchmarks.processor import without_vnni
from core import cli, options
from core.export.package import export
from core.quant.calibration import Calibration, folder_images, training_images
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.environment import environment
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import BACKENDS, PROCESSORS, Backend, Processors
from core.task import Arrays, Task
from core.training import checkpoint
from core.training.evaluation import evaluate
from core.training.loader import Loader
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[2]
RUNNER = str(ROOT / "benchmarks" / "measure" / "processors_run.py")
ITS_OWN, OURS = SETTINGS
Entry = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Validation data, and what it feeds to a model, stored for other processes."""

    loader: Loader
    inputs: Path


@dataclass(frozen=True)
class Files:
    """An exported model, the runtime that it is for, and how Paddle Inference is set (SETTINGS)."""

    folder: Path
    backend: Backend
    settings: str = OURS


def measure(
    config: str,
    weights: str,
    root: str,
    images: Calibration,
    python: Path,
    capped: dict[str, str],
    kinds: Sequence[Processors],
) -> Entry:
    """Make all files of a network and measure each on both kinds of processor.

    Args:
        config: Config of the network.
        weights: Its trained weights.
        root: Folder of its data.
        images: What ranges are estimated on.
        python: Interpreter that has NNCF.
        capped: Environment variables under which a process sees no VNNI.
        kinds: Kinds of files to make.
    """
    task = read_run(merge(load_yaml(config), {"data": {"root": root}})).task
    loader = Loader(task.build_dataset("val"), batch_size=1, train=False, num_workers=1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _, model = checkpoint.restore(weights, task)
        export(task, model, folder / "float", ("paddle", "onnx"))
        fed = store_inputs(task, loader, folder)
        metrics: Entry = {}
        seconds: dict[str, float] = {}
        for backend in BACKENDS:
            exact = Files(folder / "float", backend)
            metrics[backend] = {"float": on_both(task, fed, exact, capped)}
            for processors in kinds:
                made = Files(folder / f"{backend}_{processors}", backend)
                taken = quantize(task, weights, images, processors, made)
                seconds[f"{backend}, {processors}"] = taken
                metrics[backend][processors] = on_both(task, fed, made, capped)
            logging.info("%s: %s", backend, metrics[backend])
        checkpoint.save(folder / "saved", checkpoint.describe(task), model.state_dict())
        source = folder / "saved", folder / "float"
        failed = {}
        for name, files in quantize_with_peers(*source, images, folder / "peers", python):
            if files.fails:
                failed[name] = files.fails
            if files.folder is None:
                continue
            seconds[name] = files.seconds
            found = metrics[files.backend]
            found[name] = on_both(task, fed, Files(files.folder, files.backend), capped)
            if files.backend == "paddle" and not files.fails:
                own = Files(files.folder, files.backend, ITS_OWN)
                found[f"{name}, settings of its own"] = on_both(task, fed, own, capped)
    return {
        "network": task.config.model.name,
        "metric": task.build_metric().primary,
        "images": len(loader.dataset),
        "metrics": metrics,
        "failed": failed,
        "seconds": seconds,
    }


def quantize(
    task: Task, weights: str, images: Calibration, processors: Processors, made: Files
) -> float:
    """Quantize trained weights without training, export them for a runtime; return the seconds."""
    _, model = checkpoint.restore(weights, task)
    begin = time.process_time()
    quantize_after_training(
        task, model, images, PtqConfig(target=made.backend, processors=processors)
    )
    seconds = time.process_time() - begin
    target = "onnxruntime" if made.backend == "onnxruntime" else "openvino"
    export(task, model, made.folder, (format_of(made.backend),), target=target)
    return seconds


def store_inputs(task: Task, loader: Loader, folder: Path) -> Split:
    """Store what the network is fed in an evaluation."""
    fed: dict[str, Any] = {}
    run = load_predictor(folder / "float", "onnxruntime").run

    def keep(x: np.ndarray) -> Arrays:
        fed[str(len(fed))] = x
        return run(x)

    evaluate(task, keep, loader)
    np.savez(folder / "inputs.npz", **fed)
    return Split(loader, folder / "inputs.npz")


def on_both(task: Task, split: Split, made: Files, capped: dict[str, str]) -> dict[str, float]:
    """Return the metric here, if this processor has VNNI, and without VNNI."""
    found = {"avx2": metric_of(task, split, made, capped)}
    if multiplies_int8_exactly(made.backend):
        found["vnni"] = metric_of(task, split, made, {})
    return found


def metric_of(task: Task, split: Split, made: Files, variables: dict[str, str]) -> float:
    """Let a process with such variables answer, and return the metric of its answers."""
    answers = made.folder.parent / "answers.npz"
    run_elsewhere(made, split.inputs, answers, variables)
    try:
        return replay(task, split.loader, answers)
    finally:
        answers.unlink()


def run_elsewhere(made: Files, inputs: Path, answers: Path, variables: dict[str, str]) -> None:
    """Let a process with such variables answer the stored inputs."""
    if made.backend == "paddle":
        module = ["-m", "benchmarks.measure.processors", "--answer", made.settings]
        command = [sys.executable, *module, str(made.folder), str(inputs), str(answers)]
    else:
        (file,) = [*made.folder.glob("model.onnx"), *made.folder.glob("model.xml")]
        command = [sys.executable, RUNNER, made.backend, str(file), str(inputs), str(answers)]
    whole = os.environ | variables | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=whole, cwd=ROOT, capture_output=True, text=True)
    if not answers.is_file():
        raise SystemExit(f"{' '.join(command)}: {last_line(done.stderr)}")


def answer(settings: str, model: Path, inputs: Path, answers: Path) -> None:
    """Answer the stored inputs with Paddle Inference."""
    predictor = load_predictor(model, "paddle")
    own = None if settings == OURS else paddleslim_run(model, settings)
    (name, *_) = (port.name for port in predictor.description.outputs)
    found: dict[str, Any] = {}
    with np.load(inputs) as stored:
        for index in range(len(stored.files)):
            x = stored[f"{index}"]
            answered = predictor.run(x) if own is None else {name: own(x)}
            found |= {f"{index}/{name}": array for name, array in answered.items()}
    np.savez(answers, **found)


def replay(task: Task, loader: Loader, answers: Path) -> float:
    """Return the metric of stored answers."""
    with np.load(answers) as stored:
        names = sorted({key.partition("/")[2] for key in stored.files})
        rows = iter(range(len(stored.files)))

        def run(*_: np.ndarray) -> Arrays:
            index = next(rows)
            return {name: stored[f"{index}/{name}"] for name in names}

        metric = evaluate(task, run, loader)
        return float(metric.compute()[metric.primary])


def main() -> None:
    if sys.argv[1:2] == ["--answer"]:
        answer(sys.argv[2], *map(Path, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "weights", "root"):
        parser.add_argument(name)
    parser.add_argument("--calibration", type=Path, help="folder of images; default: training's")
    help_ = "kinds of files to make (default: both)"
    parser.add_argument(
        "--processors", nargs="+", choices=PROCESSORS, default=PROCESSORS, help=help_
    )
    parser.add_argument("--images", type=options.positive, default=128)
    help_ = "for NNCF's environment and copies of libraries"
    parser.add_argument("--work_dir", type=Path, default=without_vnni.WORK_DIR, help=help_)
    given = parser.parse_args()
    here = all(map(multiplies_int8_exactly, BACKENDS))
    capped = without_vnni.variables(given.work_dir) if here else {}
    loaded = revision()
    task = read_run(merge(load_yaml(given.config), {"data": {"root": given.root}})).task
    if given.calibration:
        images = folder_images(task, given.calibration, given.images)
    else:
        images = training_images(task, given.images)
    python = install_nncf(given.work_dir, importlib.metadata.version("openvino"))
    source = given.config, given.weights, given.root
    entry = measure(*source, images, python, capped, given.processors) | {
        "command": f"python -m benchmarks.measure.processors {given.config} "
        f"{Path(given.weights).name} {Path(given.root).name} --images {given.images} "
        f"--processors {' '.join(given.processors)}",
        "revision": loaded,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }
    record("processors", {Path(given.config).stem: entry}, page)
    print(json.dumps(entry["metrics"], indent=1))


if __name__ == "__main__":
    cli.run(main)
