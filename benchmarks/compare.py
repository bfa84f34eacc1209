"""Several runs side by side: metric, cost, size, and latency taken in one interleaved run.

Runs whose names differ in a last `_seed<N>` only are one row, with mean and range of the metric.
"""

from __future__ import annotations

import datetime
import logging
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from core import checkpoint
from core.data import Loader
from core.deploy.benchmark import Protocol, benchmark
from core.deploy.environment import environment
from core.deploy.predictor import BACKENDS, load_predictor
from core.evaluation import evaluate
from core.export.package import export

SEED = re.compile(r"_seed\d+$")


def compare(runs: Sequence[Path], command_of: Any) -> dict[str, Any]:
    """Export the best checkpoint of each run, measure its ONNX file, and time all together.

    Args:
        runs: Folders of finished trainings.
        command_of: Returns how a run was started, from its log.
    """
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for run in runs:
            logging.info("measuring %s", run.name)
            made, rows[run.name] = _measure(run, Path(place, run.name))
            rows[run.name]["command"] = command_of(run / "train.log")
            folders.setdefault(SEED.sub("", run.name), made)
        timed = benchmark(list(folders.values()), Protocol(backends=BACKENDS))
    latency: dict[str, dict[str, float]] = {}
    for row in timed:
        latency.setdefault(Path(row.model).name, {})[row.backend] = row.mean_ms
    for name, row in rows.items():
        row["latency_ms"] = latency.get(name) or next(
            times for other, times in latency.items() if SEED.sub("", other) == SEED.sub("", name)
        )
    return {
        "rows": rows,
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


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
    yield f"{metric} is that of the exported ONNX file in ONNX Runtime; ms are means, one thread.\n"
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
    yield "\n```"
    for row in rows.values():
        yield row["command"]
    yield "```"


def _value(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    each = ", ".join(f"{value:.4f}" for value in values)
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} ({each})"
