"""Prune, distil and quantize a trained network, and set the int8 files beside its float file.

    python -m benchmarks.measure.whole_chain NAME CONFIG FLOAT_RUN --work_dir DIR \\
        --ratios 0.3 0.7 -o data.root=ROOT -o train.epochs=10

FLOAT_RUN is the folder of a finished training, or a file of published weights. For each ratio
`tools/train.py --slim distill_prune_qat` removes that share of the float network's MACs and trains
under the float network. Called again, it goes on with a training that was interrupted, and takes
one that is finished. All files take turns in OpenVINO. Figures go to
docs/results/chain_<name>.json; `benchmarks/measure/results.py` puts them on the page.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from paddle.nn import Layer

from benchmarks.comparison import command, training_seconds
from benchmarks.measure.command import revision
from benchmarks.measure.compare_runs import shortest_of_each
from benchmarks.pages.cells import measured_on
from core import cli, options
from core.export.package import Exported, export
from core.quant.calibration import training_images
from core.quant.layers import quantized_layers
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.environment import environment
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge, parse_overrides, read
from core.targets.names import Backend
from core.task import Task
from core.training import checkpoint
from core.training.evaluation import evaluate, validation_loader
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
RECIPE = "distill_prune_qat"
AFTER = "int8, not pruned (after training)"
RUNTIME: Backend = "openvino"
Row = dict[str, Any]


def train(config: Path, start: Path, folder: Path, ratio: float, overrides: Sequence[str]) -> None:
    """Train by the recipe, or go on with it.

    Args:
        config: Config of the float network.
        start: Folder whose `best_model` it is.
        folder: Folder of this one.
        ratio: Share of the MACs to remove.
        overrides: `key=value` for this training.
    """
    best = str(start / "best_model")
    given = [f"model.pretrained={best}", "model.reinit=[]", f"strategies.0.target_ratio={ratio}"]
    given += [f"strategies.2.target={RUNTIME}"]  # whose grids training rounds to
    words = [sys.executable, os.path.relpath(ROOT / "tools" / "train.py"), "-c", str(config)]
    words += [word for each in (*overrides, *given) for word in ("-o", each)]
    words += ["--slim", RECIPE, "--distill_config", best, "--save_dir", str(folder)]
    words += ["--resume"] if (folder / "latest").is_dir() else []
    subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def measure(runs: Mapping[str, Path], count: int) -> dict[str, Any]:
    """Export the runs, measure what OpenVINO answers, and time all files in turns.

    Args:
        runs: Folders with a `best_model` by name; the first is the float network, from which one
            more file is made by quantization after training.
        count: Images that this is calibrated on.
    """
    rows: dict[str, Row] = {}
    folders: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (name, run) in enumerate(runs.items()):
            logging.info("measuring %s", name)
            task, model = checkpoint.restore(run / "best_model")
            made, row = _measure(task, model, Path(place, str(number)))
            folders[name], rows[name] = made.folder, row | _told(run)
            if number == 0:
                images = training_images(task, count)
                settings = read(PtqConfig, {"target": RUNTIME})
                quantize_after_training(task, model, images, settings)
                made, row = _measure(task, model, Path(place, "after"))
                folders[AFTER], rows[AFTER] = made.folder, row
        for name, shortest in zip(folders, shortest_of_each(list(folders.values()), RUNTIME)):
            rows[name]["milliseconds"] = shortest
    return {
        "chain": rows,
        "network": task.config.model.name,
        "metric": task.build_metric().primary,
        "calibration_images": count,
        "revision": revision(),
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def _measure(task: Task, model: Layer, folder: Path) -> tuple[Exported, Row]:
    made = export(task, model, folder, ("onnx",), target=RUNTIME)
    metric = evaluate(task, load_predictor(folder, RUNTIME).run, validation_loader(task))
    report = made.description.report
    assert report is not None
    return made, {
        "value": metric.compute()[metric.primary],
        "bytes": made.file_bytes["model.onnx"],
        "macs": report.macs,
        "parameters": report.parameters,
        "input": list(report.input_shapes[0]),
        "quantized": len(quantized_layers(model)),
    }


def adopt(config: Path, weights: Path, folder: Path, overrides: Sequence[str]) -> None:
    """Make `best_model` of published weights and their config, as a training leaves it.

    Raises:
        CheckpointError: The weights do not fit.
    """
    own = [each for each in overrides if not each.startswith("strategies.")]  # of the recipe
    settings = merge(load_yaml(config), parse_overrides(own))
    task, model = checkpoint.restore(weights, read_run(settings).task)
    checkpoint.save(folder / "best_model", checkpoint.describe(task), model.state_dict())


def _told(run: Path) -> Row:
    if not (run / "train.log").is_file():
        return {}
    settings = yaml.safe_load((run / "config.yml").read_text())
    return {
        "epochs": settings["train"]["epochs"],
        "seed": settings.get("seed", 0),
        "minutes": training_seconds(run / "train.log") / 60,
        "command": command(run / "train.log"),
    }


def section(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one network."""
    rows: dict[str, Row] = entry["chain"]
    first, metric = next(iter(rows.values())), entry["metric"]
    shape = "x".join(map(str, first["input"]))
    yield f"\n## Pruned, distilled, quantized: {name.removeprefix('chain_')}\n"
    yield (
        f"{entry['network']} at {shape}, {metric}. The first row is the float network, from which "
        "the others start and under which they are trained. Figures are of the ONNX files in "
        "OpenVINO; in brackets: points (hundredths) against the float file, and how many times "
        "smaller and faster a file is. ms are the shortest of 50 runs that take turns, one thread, "
        "by the processor's clock; minutes are wall time of training on a busy machine. "
        f"{entry['calibration_images']} images for calibration after training.\n"
    )
    yield f"| | epochs | minutes | {metric} | M MACs | M parameters | KB | ms |"
    yield "| --- |" + " ---: |" * 7
    for label, row in rows.items():
        trained = "minutes" in row
        cells = [str(row["epochs"]), f"{row['minutes']:.0f}"] if trained else ["", ""]
        cells.append(f"{row['value']:.4f}")
        cells += [f"{row['macs'] / 1e6:.1f}", f"{row['parameters'] / 1e6:.3f}"]
        cells += [f"{row['bytes'] / 1000:,.0f}", f"{row['milliseconds']:.2f}"]
        if row is not first:
            cells[2] += f" ({100 * (row['value'] - first['value']):+.2f})"
            for place, key in ((-2, "bytes"), (-1, "milliseconds")):
                cells[place] += f" ({first[key] / row[key]:.1f}x)"
        yield f"| {label} | {' | '.join(cells)} |"
    yield f"\n{measured_on(entry)}\n\n```"
    yield from (row["command"] for row in rows.values() if "command" in row)
    yield "```"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("config", type=Path, help="of the float network")
    parser.add_argument(
        "float_run", type=Path, help="save_dir of its finished training, or weights"
    )
    parser.add_argument("--work_dir", type=Path, required=True, help="for the trainings")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3], metavar="SHARE")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--num_calib", type=options.positive, default=256)
    arguments = parser.parse_args()
    work, start = arguments.work_dir.resolve(), arguments.float_run.resolve()
    if start.is_file():
        weights, start = start, work / f"{arguments.name}_float"
        adopt(arguments.config, weights, start, arguments.override)
    runs = {"float": start}
    for ratio in arguments.ratios:
        folder = work / f"{arguments.name}_{100 * ratio:.0f}"
        train(arguments.config, start, folder, ratio, arguments.override)
        runs[f"int8, {ratio:.0%} of the MACs pruned"] = folder
    entry = measure(runs, arguments.num_calib)
    content = json.dumps(entry, indent=1) + "\n"
    (RESULTS / f"chain_{arguments.name}.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
