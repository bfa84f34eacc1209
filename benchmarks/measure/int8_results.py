"""Set a float run beside its int8 selves: metric, bytes and latency of the files that are deployed.

    python -m benchmarks.measure.int8_results NAME FLOAT_RUN [QUANTIZED_RUN ...] [--num_calib 256]

Quantization after training is done here, with the defaults of tools/ptq.py; the other runs are
those of `tools/train.py --slim qat` and the like, or of `paddleslim_qat.py`, whose files PaddleSlim
itself wrote. Metrics are of the files, on all of the validation data. Figures go to
docs/results/int8_<name>.json; `benchmarks/measure/results.py` puts them on the page.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from paddle.nn import Layer

from benchmarks.measure.compare_runs import shortest_of_each
from benchmarks.pages.cells import measured_on
from benchmarks.peers.paddleslim_qat import FILES as PEER_FILES
from core import cli, options
from core.export.files import MODEL, PARAMS
from core.export.package import export
from core.quant.calibration import training_images
from core.quant.layers import quantized_layers
from core.quant.outputs import rounded_outputs
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.description import read_description, write_description
from core.runtimes.environment import environment
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.config import read
from core.targets.names import BACKENDS, Backend
from core.task import Arrays, Task
from core.training import checkpoint
from core.training.evaluation import evaluate, evaluate_model, validation_loader

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
AFTER = MappingProxyType(
    {
        "quantized after training": "openvino",
        "quantized after training, for ONNX Runtime": "onnxruntime",
    }
)


def measure(runs: Sequence[Path], count: int, command_of: Any) -> dict[str, Any]:
    """Export each, measure every file in every runtime, and time all in turns.

    Args:
        runs: Folders of trainings; the first is the one in float, or holds published weights as
            `best_model`.
        count: Images for calibration.
        command_of: Returns how a run was started, from its log.
    """
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folders: dict[str, Path] = {}
        task, model = checkpoint.restore(runs[0] / "best_model")
        folders[runs[0].name], rows[runs[0].name] = _export(task, model, Path(place, "float"))
        described = read_description(folders[runs[0].name])
        assert described is not None
        names = [port.name for port in described.outputs]
        for label, target in AFTER.items():
            task, model = checkpoint.restore(runs[0] / "best_model")
            images = training_images(task, count)
            quantize_after_training(task, model, images, read(PtqConfig, {"target": target}))
            folders[label], rows[label] = _export(task, model, Path(place, target))
        for run in runs[1:]:
            logging.info("measuring %s", run.name)
            if (run / PEER_FILES).is_dir():
                where = _take_over(run / PEER_FILES, folders[runs[0].name], Path(place, run.name))
                folders[run.name] = where
                metrics = _of_files(task, where, ["paddle"], names)
                rows[run.name] = {"metrics": metrics, "bytes": _bytes(run / PEER_FILES)}
            else:
                own, quantized = checkpoint.restore(run / "best_model")
                where = Path(place, run.name)
                folders[run.name], rows[run.name] = _export(own, quantized, where)
        for run in runs:
            if (run / "train.log").is_file():  # not where weights are published
                rows[run.name]["command"] = command_of(run / "train.log")
        for backend in BACKENDS:
            readable = {name: f for name, f in folders.items() if backend in rows[name]["metrics"]}
            times = shortest_of_each(list(readable.values()), backend)
            for name, milliseconds in zip(readable, times):
                rows[name].setdefault("milliseconds", {})[backend] = milliseconds
    return {
        "int8": rows,
        "calibration_images": count,
        "network": task.config.model.name,
        "metric": task.build_metric().primary,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def _export(task: Task, model: Layer, folder: Path) -> tuple[Path, dict[str, Any]]:
    # a model whose outputs have grids was quantized for ONNX Runtime
    target = "onnxruntime" if rounded_outputs(model) else "openvino"
    made = export(task, model, folder, ("paddle", "onnx"), target=target)
    names = [port.name for port in made.description.outputs]
    eager = evaluate_model(task, model, validation_loader(task), progress=True)
    metrics = {"eager": eager.compute()[eager.primary], **_of_files(task, folder, BACKENDS, names)}
    quantized = len(quantized_layers(model))
    return made.folder, {"metrics": metrics, "bytes": _bytes(folder), "quantized": quantized}


def _take_over(files: Path, exported: Path, folder: Path) -> Path:
    """Copy PaddleSlim's files, described as our float export is but for the names of outputs."""
    description, own = read_description(exported), load_predictor(files).description
    assert description is not None
    folder.mkdir()
    for name in (MODEL, PARAMS):
        shutil.copy(files / name, folder)
    ports = zip(description.outputs, own.outputs, strict=True)
    outputs = tuple(replace(ours, name=theirs.name) for ours, theirs in ports)
    write_description(replace(description, outputs=outputs), folder)
    return folder


def _of_files(
    task: Task, folder: Path, backends: Sequence[Backend], names: Sequence[str]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for backend in backends:
        run = partial(_run_named, load_predictor(folder, backend), names)
        metric = evaluate(task, run, validation_loader(task), progress=True)
        metrics[backend] = metric.compute()[metric.primary]
    return metrics


def _run_named(predictor: Predictor, names: Sequence[str], *arrays: np.ndarray) -> Arrays:
    """Return outputs under the task's names, as PaddleSlim's files have others."""
    return dict(zip(names, predictor.run(*arrays).values(), strict=True))


def _bytes(folder: Path) -> dict[str, int]:
    names = (".pdmodel", ".pdiparams", ".onnx")
    return {path.suffix: path.stat().st_size for path in folder.iterdir() if path.suffix in names}


def section(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one network."""
    rows = entry["int8"]
    first = next(iter(rows.values()))
    yield f"\n## Quantized: {name.removeprefix('int8_')}\n"
    yield (
        f"{entry['network']}, {entry['metric']}. After training: {entry['calibration_images']} "
        "images for calibration. `.onnx` is laid out for OpenVINO, or, where the outputs of layers "
        "have grids, for ONNX Runtime. In brackets: points (hundredths) against the same runtime "
        "in float; bytes against float; ms are the shortest of 50 runs that take turns, one "
        "thread, by the processor's clock.\n"
    )
    columns = ["eager", *BACKENDS]
    titles = [*columns, ".pdiparams", ".onnx", *(f"ms {backend}" for backend in BACKENDS)]
    yield f"| | {' | '.join(titles)} |"
    yield "| --- |" + " ---: |" * len(titles)
    for label, row in rows.items():
        cells = []
        for column in columns:
            value, before = row["metrics"].get(column), first["metrics"][column]
            change = "" if row is first or value is None else f" ({100 * (value - before):+.2f})"
            cells.append("" if value is None else f"{value:.4f}{change}")
        for suffix in (".pdiparams", ".onnx"):
            size, before = row["bytes"].get(suffix), first["bytes"][suffix]
            cells.append("" if size is None else f"{size / 1000:,.0f} KB ({size / before:.0%})")
        times = row["milliseconds"]
        cells += [f"{times[backend]:.2f}" if backend in times else "" for backend in BACKENDS]
        yield f"| {label} | {' | '.join(cells)} |"
    yield f"\n{measured_on(entry)}"
    yield "\n```"
    yield from (row["command"] for row in rows.values() if "command" in row)
    yield "```"


def main() -> None:
    from benchmarks.comparison import command

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--num_calib", type=options.positive, default=256)
    arguments = parser.parse_args()
    entry = measure(arguments.runs, arguments.num_calib, command)
    file = RESULTS / f"int8_{arguments.name}.json"
    file.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
