"""Export a quantized checkpoint as int8, compare answers and metric, and show what it saves."""

from __future__ import annotations

import core.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core import cli
from core.checkpoint import restore
from core.data import Loader
from core.deploy.predictor import BACKENDS, format_of, is_installed, load_predictor
from core.errors import ExportError, UserError
from core.evaluation import evaluate, evaluate_model
from core.export.int8 import TARGET
from core.export.package import FORMATS, Exported, export
from core.export.parity import summary
from core.export.qdq import PRESETS
from core.quant.layers import float_layers, quantized_layers
from core.task import Task

POINTS = 0.01  # by which the metric of a file may differ from that of the eager model
IMAGES = 2  # or by what so many images are worth, if that is more


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, required=False)
    parser.add_argument(
        "--weights", required=True, type=Path, metavar="PDPARAMS", help="checkpoint of a QAT run"
    )
    parser.add_argument("--save_dir", required=True, type=Path, help="folder to make")
    parser.add_argument(
        "--format",
        type=lambda text: text.split(","),
        default=["paddle", "onnx"],
        metavar="A,B",
        help=f"of {', '.join(FORMATS)}; paddle is always written (default: both)",
    )
    parser.add_argument(
        "--target",
        default=TARGET,
        help=f"runtime the ONNX file is laid out for: {', '.join(PRESETS)} (default: {TARGET})",
    )
    parser.add_argument("--ending", default="raw", help="what the graph ends in (default: raw)")
    parser.add_argument(
        "--eval_rate", type=cli.share, default=1.0, help="share of the validation data (1.0)"
    )
    parser.add_argument("--no_metric", action="store_true", help="compare answers only")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    described = cli.described_by(arguments.weights)
    task, model = restore(arguments.weights, cli.chosen_task(arguments, described))
    if not quantized_layers(model):
        raise ExportError(
            f"{arguments.weights}: nothing in it is quantized; train with --slim qat, or export "
            "it in float with tools/export_model.py"
        )
    made = export(
        task,
        model,
        arguments.save_dir,
        formats=arguments.format,
        ending=arguments.ending,
        target=arguments.target,
    )
    console = Console(highlight=False)
    for runtime, line in summary(made.differences).items():
        console.print(f"as the quantized model in {runtime}: {line}")
    console.print(sizes(made))
    if arguments.no_metric or arguments.ending != "raw":
        return
    try:
        dataset = task.build_dataset("val")
    except UserError as error:
        console.print(f"the metric is not measured: {error}")
        return
    loader = Loader(dataset, batch_size=1, train=False).share(arguments.eval_rate)
    measured = metrics(task, model, made, arguments.format, loader)
    console.print(table_of(measured))
    try:
        check(task, measured, len(loader.dataset))
    except ExportError:
        shutil.rmtree(made.folder)
        raise
    console.print(f"exported to {made.folder}")


def sizes(made: Exported) -> Table:
    """Set the bytes of each file beside what it would have in float."""
    table = Table("file", "int8, bytes", "float, bytes", "share")
    for name, count in made.file_bytes.items():
        before = made.float_bytes.get(name)
        share = f"{count / before:.0%}" if before else ""
        table.add_row(name, f"{count:,}", f"{before:,}" if before else "", share)
    return table


def metrics(
    task: Task, model: Any, made: Exported, formats: list[str], loader: Loader
) -> dict[str, dict[str, float]]:
    """Measure the model in float and rounded, and its files in every runtime."""
    with float_layers(model):
        found = {"float": evaluate_model(task, model, loader, progress=True).compute()}
    found["quantized"] = evaluate_model(task, model, loader, progress=True).compute()
    for backend in BACKENDS:
        if is_installed(backend) and format_of(backend) in ("paddle", *formats):
            run = load_predictor(made.folder, backend).run
            found[backend] = evaluate(task, run, loader, progress=True).compute()
    return found


def table_of(measured: dict[str, dict[str, float]]) -> Table:
    """Show one row for each way to run the model."""
    table = Table("", *next(iter(measured.values())))
    for name, values in measured.items():
        table.add_row(name, *(f"{value:.4f}" for value in values.values()))
    return table


def check(task: Task, measured: dict[str, dict[str, float]], images: int) -> None:
    """Refuse files whose metric is not that of the eager model."""
    primary = task.build_metric().primary
    limit = max(POINTS, IMAGES / images)
    for name in measured.keys() - {"float", "quantized"}:
        apart = measured[name][primary] - measured["quantized"][primary]
        if abs(apart) > limit:
            raise ExportError(
                f"{name}: {primary} of the file is {measured[name][primary]:.4f}, of the quantized "
                f"model {measured['quantized'][primary]:.4f}; at most {limit:.4f} apart wanted"
            )


if __name__ == "__main__":
    cli.run(main)
