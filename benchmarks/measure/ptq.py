"""Quantize published or trained weights after training, in every way, and measure each.

    python -m benchmarks.measure.ptq CONFIG WEIGHTS ROOT [--num_calib 128]
    python -m benchmarks.measure.ptq configs/cls/squeezenet1_1_imagenet_sample.yml \\
        squeezenet1_1.pdparams \\
        imagenet_sample

The eager model on the grids of OpenVINO is measured for each observer, and for the default one with
one grid per weight, as it is and evened out; the files of the default in every runtime. Figures go
to docs/results/ptq_<config>.json; `benchmarks/measure/results.py` puts them on the page.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pages.cells import measured_on
from core import cli, options
from core.export.package import Exported, export
from core.quant.calibration import folder_images
from core.quant.observers import OBSERVERS
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.environment import environment
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge
from core.targets.names import BACKENDS, Target
from core.task import Task
from core.training import checkpoint
from core.training.evaluation import evaluate, evaluate_model
from core.training.loader import Loader
from core.training.run import read_run

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
TARGET: Target = "openvino"
DEFAULT = "mse"
ONE_GRID: dict[str, Any] = {"observer": DEFAULT, "weight_quantize_type": "abs_max"}
SETTINGS: dict[str, dict[str, Any]] = {
    **{observer: {"observer": observer} for observer in OBSERVERS},
    f"{DEFAULT}, one grid per weight": ONE_GRID,
    f"{DEFAULT}, one grid per weight, equalized": {**ONE_GRID, "equalize": True},
    f"{DEFAULT}, outputs too": {"observer": DEFAULT, "quantize_outputs": "all"},
}


def measure(config: str, weights: str, root: str, count: int) -> dict[str, Any]:
    """Quantize in all ways; return metrics, seconds and what the files of the default weigh."""
    settings = merge(load_yaml(config), {"data": {"root": root}})
    task = read_run(settings).task
    images = folder_images(task, Path(root), count)
    loader = Loader(task.build_dataset("val"), batch_size=10, train=False, num_workers=1)
    _, model = checkpoint.restore(weights, task)
    ways: dict[str, dict[str, Any]] = {
        "float": {"metrics": evaluate_model(task, model, loader, True).compute()}
    }
    files: dict[str, Any] = {}
    for name, choices in SETTINGS.items():
        logging.info("quantizing: %s", name)
        _, model = checkpoint.restore(weights, task)
        begin = time.process_time()
        quantize_after_training(task, model, images, PtqConfig(target=TARGET, **choices))
        seconds = time.process_time() - begin
        metrics = evaluate_model(task, model, loader, progress=True).compute()
        ways[name] = {"metrics": metrics, "seconds": seconds}
        if name == DEFAULT:
            with tempfile.TemporaryDirectory() as place:
                made = export(task, model, Path(place, "int8"), ("paddle", "onnx"), target=TARGET)
                files = measure_files(task, made, loader)
    return {
        "ways": ways,
        "files": files,
        "calibration_images": count,
        "images": len(loader.dataset),
        "network": task.config.model.name,
        "metric": task.build_metric().primary,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def measure_files(task: Task, made: Exported, loader: Loader) -> dict[str, Any]:
    """Measure int8 files in every runtime."""
    single = Loader(loader.dataset, batch_size=1, train=False, num_workers=1)
    metrics = {
        backend: evaluate(task, load_predictor(made.folder, backend).run, single, True).compute()
        for backend in BACKENDS
    }
    shares = {name: made.file_bytes[name] / count for name, count in made.float_bytes.items()}
    return {"metrics": metrics, "share_of_float_bytes": shares}


def section(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one network."""
    yield f"\n## Quantized after training: {name.removeprefix('ptq_')}\n"
    yield (
        f"{entry['network']}, {entry['calibration_images']} images for calibration, measured on "
        f"{entry['images']}; seconds of one core. The eager model is on the grids of {TARGET}.\n"
    )
    names = list(entry["ways"]["float"]["metrics"])
    yield "| | " + " | ".join(names) + " | s |"
    yield "| --- |" + " ---: |" * (len(names) + 1)
    rows = [*entry["ways"].items(), *entry["files"]["metrics"].items()]
    for way, row in rows:
        metrics, seconds = row.get("metrics", row), row.get("seconds")
        label = f"{way} file of {DEFAULT}" if way in BACKENDS else way
        figures = [f"{metrics[key]:.4f}" for key in names]
        yield f"| {label} | {' | '.join(figures)} | {'' if seconds is None else f'{seconds:.0f}'} |"
    shares = entry["files"]["share_of_float_bytes"].items()
    yield "\nBytes of the files beside float: " + ", ".join(f"{f} {s:.0%}" for f, s in shares) + "."
    yield f"\n{measured_on(entry)}"
    yield f"\n```\n{entry['command']}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("weights")
    parser.add_argument("root")
    parser.add_argument("--num_calib", type=options.positive, default=128)
    arguments = parser.parse_args()
    called = arguments.config, arguments.weights, arguments.root
    entry = measure(*called, arguments.num_calib)
    short = [Path(word).name if word.startswith("/") else word for word in called]
    entry["command"] = f"python -m benchmarks.measure.ptq {' '.join(short)} --num_calib "
    entry["command"] += str(arguments.num_calib)
    file = RESULTS / f"ptq_{Path(arguments.config).stem}.json"
    file.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
