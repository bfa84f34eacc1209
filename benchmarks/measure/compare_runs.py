"""Several runs side by side: metric, cost, size, and latency, all in one run.

Runs whose names differ in a last `_seed<N>` only are one row, with mean and range of the metric.
"""

from __future__ import annotations

import datetime
import logging
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.pages.cells import measured_on
from core.export.package import export
from core.runtimes.environment import environment
from core.runtimes.latency_table import clock_for, shortest_ms
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS, Backend
from core.training import checkpoint
from core.training.evaluation import evaluate
from core.training.loader import Loader

SEED = re.compile(r"_seed\d+$")


def compare(runs: Sequence[Path], command_of: Any) -> dict[str, Any]:
    """Export the best checkpoint of each run, measure its ONNX file, and time all together.

    Args:
        runs: Folders of finished trainings.
        command_of: Returns how a run was started, from its log.
    """
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folders: dict[str, Path] = {}
        for run in runs:
            logging.info("measuring %s", run.name)
            made, rows[run.name] = _measure(run, Path(place, run.name))
            rows[run.name]["command"] = command_of(run / "train.log")
            folders.setdefault(SEED.sub("", run.name), made)
        latency: dict[str, dict[str, float]] = {name: {} for name in folders}
        for backend in BACKENDS:
            times = shortest_of_each(list(folders.values()), backend)
            for name, milliseconds in zip(folders, times):
                latency[name][backend] = milliseconds
    for name, row in rows.items():
        row["latency_ms"] = latency[SEED.sub("", name)]
    return {
        "rows": rows,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def shortest_of_each(folders: Sequence[Path], backend: Backend) -> list[float]:
    """Time all models in turns, by the processor's clock, which other programs hardly disturb."""
    runs = []
    for folder in folders:
        predictor = load_predictor(folder, backend, threads=1)
        report = predictor.description.report
        assert report is not None
        generator = np.random.default_rng(0)
        inputs = [generator.normal(size=s).astype(np.float32) for s in report.input_shapes]
        runs.append(partial(predictor.run, *inputs))
    return shortest_ms(runs, clock_for(1), least_runs=50, least_seconds=2.0)


def _measure(run: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    task, model = checkpoint.restore(run / "best_model")
    made = export(task, model, folder, formats=("paddle", "onnx"))
    loader = Loader(task.build_dataset("val"), batch_size=1, train=False, num_workers=1)
    metric = evaluate(task, load_predictor(folder, "onnxruntime").run, loader, progress=True)
    report = made.description.report
    assert report is not None
    settings = yaml.safe_load((run / "config.yml").read_text())
    return folder, {
        "network": task.config.model.name,
        "metric": metric.primary,
        "value": metric.compute()[metric.primary],
        "epochs": settings["train"]["epochs"],
        "macs": report.macs,
        "parameters": report.parameters,
        "size_mb": report.size_mb,
        "checkpoint_mb": (run / "best_model" / "model.pdparams").stat().st_size / 1e6,
    }


def section(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one comparison."""
    rows = entry["rows"]
    metric = next(iter(rows.values()))["metric"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for run, row in rows.items():
        groups.setdefault(SEED.sub("", run), []).append(row)
    yield f"\n## Compared: {name}\n"
    yield f"{metric} is that of the exported ONNX file in ONNX Runtime; ms are the shortest of 50"
    yield "runs that take turns, one thread, by the processor's clock.\n"
    columns = [
        "M MACs",
        "M parameters",
        "files MB",
        "checkpoint MB",
        *(f"ms {b}" for b in BACKENDS),
    ]
    yield f"| run | epochs | {metric} | " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * (len(columns) + 2)
    for run, members in groups.items():
        first = members[0]
        figures = [
            f"{first['macs'] / 1e6:.1f}",
            f"{first['parameters'] / 1e6:.3f}",
            f"{first['size_mb']:.2f}",
            f"{first['checkpoint_mb']:.2f}",
            *(f"{first['latency_ms'][backend]:.2f}" for backend in BACKENDS),
        ]
        value = _value([member["value"] for member in members])
        yield f"| {run} | {first['epochs']} | {value} | {' | '.join(figures)} |"
    yield f"\n{measured_on(entry)}"
    yield "\n```"
    for row in rows.values():
        yield row["command"]
    yield "```"


def _value(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    each = ", ".join(f"{value:.4f}" for value in values)
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} ({each})"
