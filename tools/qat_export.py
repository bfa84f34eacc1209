"""Export a quantized checkpoint as int8, compare answers and metric, and show the savings."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, options
from core.errors import ExportError
from core.runtimes.formats import leading_format

if TYPE_CHECKING:
    from paddle.nn import Layer
    from rich.console import RenderableType

    from core.workflows.comparison_table import ComparisonRow, Validation
    from core.workflows.float_fallback import QualityLimits


def parse_arguments() -> argparse.Namespace:
    epilog = "Files that a comparison or their metric refuses go to SAVE_DIR.rejected."
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog)
    options.add_config_arguments(parser, required=False)
    options.add_weights_argument(parser, "checkpoint of a QAT run")
    options.add_export_arguments(parser, "paddle", "onnx")
    options.add_card_argument(parser)
    options.add_rewrite_argument(parser)
    options.add_target_argument(parser)
    options.add_control_arguments(parser)
    text = "what the file puts out: raw (default: the network's output), softmax, argmax, points"
    parser.add_argument("--ending", default="raw", help=text)
    parser.add_argument(
        "--eval_rate", type=options.share, default=1.0, help="share of the validation data (1.0)"
    )
    parser.add_argument(
        "--no_metric", action="store_true", help="compare outputs only, do not measure the metric"
    )
    text = "do not time the files beside float ones, as tools/benchmark.py does better"
    parser.add_argument("--no_latency", action="store_true", help=text)
    options.add_acceptance_argument(parser)
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    cli.complete(arguments, "weights", "save_dir")
    from core.export.files import check_folder, check_formats
    from core.export.rejected import check_rejected_folder, replacing_unless_rejected
    from core.quant.sites import float_sites
    from core.workflows.comparison_table import ComparisonRow, Validation, figures_of
    from core.workflows.float_fallback import QualityLimits, apply_float_fallback
    from core.workflows.licences import check_licence
    from core.workflows.model_card import write_measured_card

    if arguments.card is not None:
        check_licence(arguments.card)
    formats, target, folder = arguments.format, arguments.target, arguments.save_dir
    check_formats(formats)
    check = partial(check_folder, folder, arguments.overwrite)
    check()
    check_rejected_folder(folder)
    task, model = cli.restored(arguments)
    check_quantized(model, arguments.weights)
    is_raw = arguments.ending == "raw"  # others have no metric
    validation = cli.validation_of(task, arguments) if is_raw else Validation(task)
    limits = QualityLimits(arguments.max_drop, arguments.speed_control)
    kind = leading_format(formats)
    runtime = target if kind == "onnx" else kind  # the runtime whose speed counts
    limits.check(runtime, validation)
    with float_sites(model):
        rows = [ComparisonRow("float", validation.measure(model))]
    rows.append(ComparisonRow("quantized", validation.measure(model)))
    metric, changed = apply_float_fallback(
        model, limits, runtime, validation, rows[0].metric, rows[1].metric
    )
    said: list[RenderableType] = []
    try:
        with replacing_unless_rejected(folder, check) as draft:
            rows += changed
            rows += export_and_check(
                draft, model, arguments, validation, limits, rows, metric, said
            )
    finally:  # the files are in place, or in the folder of rejected ones, whoever reads it
        for each in said:
            cli.wide_console().print(each)
    if arguments.card is not None:
        print(f"model card: {write_measured_card(folder, validation, rows, arguments.card)}")
    print(f"exported to {folder}")
    return cli.judged(arguments.targets, figures_of(rows, validation.higher_is_better))


def check_quantized(model: Layer, weights: str) -> None:
    from core.quant.layers import quantized_layers

    if not quantized_layers(model):
        raise ExportError(
            f"{weights}: nothing in it is quantized; train with --slim qat, or export it in float "
            "with tools/export_model.py"
        )


def export_and_check(
    folder: Path,
    model: Layer,
    arguments: argparse.Namespace,
    validation: Validation,
    limits: QualityLimits,
    rows: list[ComparisonRow],
    metric: float | None,
    said: list[RenderableType],
) -> list[ComparisonRow]:
    """Export, say how the files compare with the models in `rows`, and check their metric.

    Returns a row for each runtime.
    """
    from core.export.package import write_export
    from core.export.parity import summary
    from core.export.traced_model import ExportSettings
    from core.workflows.comparison_table import check_metrics, runtime_rows, to_table
    from core.workflows.int8_speed import latency_beside_float

    begin, task, target = time.monotonic(), validation.task, arguments.target
    settings = ExportSettings(
        arguments.format, arguments.ending, target=target, rewritten=arguments.rewrite == "on"
    )
    made = write_export(task, model, folder, settings)
    seconds = time.monotonic() - begin
    for runtime, line in summary(made.differences).items():
        said.append(f"as the quantized model in {runtime}: {line}")
    latencies = {}
    if not arguments.no_latency:
        remedy = limits.remedy_for_speed
        latencies = latency_beside_float(task, model, folder, made, settings, remedy)
    files = runtime_rows(folder, made, seconds, validation.measures, latencies)
    said.append(to_table([*rows, *files], validation.metric))
    about = made.description.quantization
    assert about is not None  # the model is quantized
    check_metrics(metric, files, validation.measured, target, about.processors)
    return files


if __name__ == "__main__":
    cli.run(main)
