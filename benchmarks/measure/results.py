"""Turn finished training runs into docs/results.md: every figure measured here, none typed.

    python -m benchmarks.measure.results RUN_DIR [RUN_DIR ...]  # measure runs, write the page again
    python -m benchmarks.measure.results --published CONFIG WEIGHTS ROOT  # weights trained \\
        elsewhere
    python -m benchmarks.measure.results --compare NAME RUN_DIR RUN_DIR ... # one table of \\
        several runs

For each run the best checkpoint is evaluated again, exported, evaluated as exported model in each
runtime, and timed. The measurements lie in docs/results/<name>.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from paddle.nn import Layer

from benchmarks.comparison import DOCS, command, shortened, training_seconds, write_page
from benchmarks.measure import compare_runs, int8_results, ptq, whole_chain
from benchmarks.pages.cells import measured_on
from core import cli
from core.export.package import export
from core.export.parity import summary
from core.runtimes.benchmark import Protocol, benchmark
from core.runtimes.environment import environment
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge
from core.targets.names import BACKENDS
from core.task import Forward, Task
from core.training import checkpoint
from core.training.evaluation import eager_forward, evaluate
from core.training.loader import Loader
from core.training.run import read_run

INTRODUCTION = """\
# Results on real data

Written by scripts, not by hand: `python -m benchmarks.measure.results RUN_DIR ...` measures runs,
and `python -m benchmarks.pages` makes the page of the figures in `docs/results`. Metrics are of the
best checkpoint on the validation split, measured again after training: as eager model and as
exported file in each runtime. Latency: one thread, batch 1, 10 warm-up and 50 timed runs. Training
times are wall times on two cores that were also running tests, so they are upper bounds."""


def measure(task: Task, run: Forward) -> dict[str, float]:
    """Evaluate on the validation split, one item at a time."""
    loader = Loader(task.build_dataset("val"), batch_size=1, train=False, num_workers=1)
    return evaluate(task, run, loader, progress=True).compute()


def measure_model(name: str, task: Task, model: Layer) -> dict[str, Any]:
    """Evaluate a model, export it, evaluate and time the exported files."""
    with tempfile.TemporaryDirectory() as folder:
        made = export(task, model, Path(folder, name), formats=("paddle", "onnx"))
        metrics = {"eager": measure(task, eager_forward(task, model))}
        for backend in BACKENDS:
            metrics[backend] = measure(task, load_predictor(made.folder, backend).run)
        rows = benchmark([made.folder], Protocol(backends=BACKENDS))
    report = made.description.report
    assert report is not None
    return {
        "task": task.name,
        "network": task.config.model.name,
        "metrics": metrics,
        "largest_difference": dict(summary(made.differences)),
        "size_mb": report.size_mb,
        "parameters": report.parameters,
        "macs": report.macs,
        "input_shapes": [list(shape) for shape in report.input_shapes],
        "latency_ms": {row.backend: {"mean": row.mean_ms, "p95": row.p95_ms} for row in rows},
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def measure_run(run: Path) -> dict[str, Any]:
    """Measure the best checkpoint of a training run."""
    best = run / "best_model"
    description = checkpoint.load_description(best)
    assert description is not None
    task, model = checkpoint.restore(best)
    settings = yaml.safe_load((run / "config.yml").read_text())
    log = run / "train.log"
    minutes = training_seconds(log) / 60
    told = (
        f"Seed {settings.get('seed', 0)}, {settings['train']['epochs']} epochs in {minutes:.0f} "
        f"minutes, best after epoch {description.epoch}."
    )
    return {"command": command(log), "told": told, **measure_model(run.name, task, model)}


def measure_published(config: str, weights: str, root: str) -> dict[str, Any]:
    """Measure weights that were trained elsewhere."""
    settings = merge(load_yaml(config), {"data": {"root": root}})
    task, model = checkpoint.restore(weights, read_run(settings).task)
    words = ["tools/eval.py", "-c", config, "--weights", shortened(weights)]
    words += ["-o", shortened(f"data.root={root}")]
    told = "Published weights, not trained here."
    called = f"python {shlex.join(words)}"
    return {"command": called, "told": told, **measure_model(Path(config).stem, task, model)}


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    files = sorted((DOCS / "results").glob("*.json"))
    entries = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    yield INTRODUCTION
    sections = {  # by the key that tells what was measured, in the order of the page
        "rows": compare_runs.section,
        "int8": int8_results.section,
        "ways": ptq.section,
        "chain": whole_chain.section,
    }
    for key, write in sections.items():
        for name, entry in sorted(entries.items()):
            if key in entry:
                yield from write(name, entry)
    for name, entry in sorted(entries.items()):
        if not entry.keys() & sections.keys():
            yield from section(name, entry)


def section(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one run."""
    shapes = " ".join("x".join(map(str, shape)) for shape in entry["input_shapes"])
    yield f"\n## {name}\n\n```\n{entry['command']}\n```\n"
    yield f"{entry['network']} at {shapes}. {entry['told']}"
    yield (
        f"{entry['size_mb']:.2f} MB (.pdmodel + .pdiparams), "
        f"{entry['parameters'] / 1e6:.3f} M parameters, {entry['macs'] / 1e6:.1f} M MACs.\n"
    )
    names = list(entry["metrics"]["eager"])
    yield "| | " + " | ".join(names) + " | ms mean | ms p95 | outputs differ by |"
    yield "| --- |" + " ---: |" * (len(names) + 3)
    for where, values in entry["metrics"].items():
        time = entry["latency_ms"].get(where)
        figures = [f"{values[key]:.4f}" for key in names]
        figures += [f"{time['mean']:.2f}", f"{time['p95']:.2f}"] if time else ["", ""]
        yield f"| {where} | {' | '.join(figures)} | {entry['largest_difference'].get(where, '')} |"
    yield f"\n{measured_on(entry)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="save_dir of a finished training")
    parser.add_argument(
        "--published",
        nargs=3,
        metavar=("CONFIG", "WEIGHTS", "ROOT"),
        help="weights trained elsewhere, with the config and the data to measure them on",
    )
    parser.add_argument("--compare", metavar="NAME", help="put the runs side by side instead")
    arguments = parser.parse_args()
    folder = DOCS / "results"
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.compare:
        content = json.dumps(compare_runs.compare(arguments.runs, command), indent=1)
        (folder / f"{arguments.compare}.json").write_text(content + "\n", encoding="utf-8")
    for run in arguments.runs if not arguments.compare else ():
        logging.info("measuring %s", run.name)
        content = json.dumps(measure_run(run), indent=1)
        (folder / f"{run.name}.json").write_text(content + "\n", encoding="utf-8")
    if arguments.published:
        content = json.dumps(measure_published(*arguments.published), indent=1)
        name = Path(arguments.published[0]).stem
        (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    write_page("results.md", page)


if __name__ == "__main__":
    cli.run(main)
