"""Export a quantized checkpoint as int8, compare answers and metric, and show what it saves."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import shutil
import time

from core import cli
from core.errors import ExportError
from core.runtimes.formats import leading_format


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, required=False)
    cli.add_weights_argument(parser, "checkpoint of a QAT run")
    cli.add_export_arguments(parser, "paddle", "onnx")
    cli.add_target_argument(parser)
    cli.add_control_arguments(parser)
    parser.add_argument("--ending", default="raw", help="what the graph ends in (default: raw)")
    parser.add_argument(
        "--eval_rate", type=cli.share, default=1.0, help="share of the validation data (1.0)"
    )
    parser.add_argument("--no_metric", action="store_true", help="compare answers only")
    return cli.parse(parser)


def main() -> None:
    arguments = parse_arguments()
    cli.complete(arguments, "weights", "save_dir")
    from core.export.files import check_formats
    from core.export.package import export
    from core.export.parity import summary
    from core.quant.layers import quantized_layers
    from core.quant.sites import float_sites
    from core.workflows.comparison_table import (
        ComparisonRow,
        check_metrics,
        meter,
        open_validation,
        runtime_rows,
        to_table,
    )
    from core.workflows.float_fallback import QualityLimits, apply_float_fallback

    check_formats(arguments.format)
    task, model = cli.restored(arguments)
    if not quantized_layers(model):
        raise ExportError(
            f"{arguments.weights}: nothing in it is quantized; train with --slim qat, or export "
            "it in float with tools/export_model.py"
        )
    formats, target = arguments.format, arguments.target
    val = None
    if not arguments.no_metric and arguments.ending == "raw":
        val = open_validation(task, share=arguments.eval_rate)
    control = QualityLimits(arguments.max_drop, arguments.speed_control)
    kind = leading_format(formats)
    runtime = target if kind == "onnx" else kind  # whose speed counts
    control.check(runtime, val)
    measure, key = meter(task, val), task.build_metric().primary
    with float_sites(model):
        rows = [ComparisonRow("float", measure(model))]
    rows.append(ComparisonRow("quantized", measure(model)))
    rest = val, measure, rows[0].metric, rows[1].metric
    metric, changed = apply_float_fallback(task, model, control, runtime, *rest)
    begin = time.monotonic()
    made = export(task, model, arguments.save_dir, formats, arguments.ending, target=target)
    seconds = time.monotonic() - begin
    console = cli.wide_console()
    for runtime, line in summary(made.differences).items():
        console.print(f"as the quantized model in {runtime}: {line}")
    files = runtime_rows(made.folder, made, seconds, measure)
    console.print(to_table([*rows, *changed, *files], key))
    try:
        count, about = len(val.dataset) if val else 1, made.description.quantization
        assert about is not None  # the model is quantized
        check_metrics(metric, files, key, count, target, about.processors)
    except ExportError:
        shutil.rmtree(made.folder)
        raise
    console.print(f"exported to {made.folder}")


if __name__ == "__main__":
    cli.run(main)
