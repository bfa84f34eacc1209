"""Quantize a trained model without training, on images without labels, and write int8 files."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from core import cli, options
from core.quant import choices
from core.runtimes.formats import leading_format
from core.targets.names import DEFAULT_TARGET

if TYPE_CHECKING:
    from paddle.nn import Layer

    from core.act.source import Source
    from core.task import Task

EPILOG = """SAVE_DIR then holds int8, files to deploy, and of --weights also model, a checkpoint.
What a comparison or its metric refuses goes to SAVE_DIR.rejected."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    options.add_config_arguments(parser, required=False)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group().add_argument
    what("--weights", help="checkpoint of a float model (folder or weights file)")
    text = "exported float model, for one whose code you do not have (.pdmodel)"
    what("--model_dir", type=options.path, help=text)
    options.add_export_arguments(parser, "paddle")
    options.add_card_argument(parser)
    options.add_rewrite_argument(parser)
    options.add_calibration_arguments(parser)
    options.add_quantization_arguments(parser)
    options.add_control_arguments(parser)
    options.add_output_argument(parser)
    add("--eval_rate", type=options.share, default=1.0, help="share of the validation data (1.0)")
    add("--batch_size", type=options.positive, default=1, help="images of a validation batch (1)")
    add("--no_metric", action="store_true", help="do not measure the metric")
    options.add_acceptance_argument(parser)
    return cli.parse(parser)


def read_configs(arguments: argparse.Namespace) -> list[Any]:
    """Return the settings, one for each observer to try; refuse what would fail at the end."""
    from core.act import static_ptq
    from core.act.config import STATIC_OBSERVERS, StaticPtqConfig
    from core.export.files import check_formats
    from core.export.rejected import check_rejected_folder
    from core.quant.post_training import PtqConfig
    from core.workflows import ptq
    from core.workflows.licences import check_licence

    if arguments.card is not None:
        check_licence(arguments.card)
    check_formats(arguments.format)
    kind: type[Any] = PtqConfig
    known: Sequence[str] = choices.OBSERVERS
    names, observer = ["weight_quantize_type", "never_quantize", "processors"], arguments.observer
    files = leading_format(arguments.format)
    given = {"target": arguments.target or (DEFAULT_TARGET if files == "onnx" else files)}
    if arguments.model_dir:
        static_ptq.refuse_options(vars(arguments))
        kind, given, known = StaticPtqConfig, {}, STATIC_OBSERVERS
        observer = observer or choices.OBSERVER
    else:
        names += ["quantize_outputs", *choices.STEPS]
    ptq.check_folder(arguments.save_dir, source_of(arguments), arguments.overwrite)
    check_rejected_folder(arguments.save_dir)
    asked = {name: getattr(arguments, name) for name in names}
    given |= {name: value for name, value in asked.items() if value is not None}
    return ptq.read_each(kind, given, observer, known)


def source_of(arguments: argparse.Namespace) -> Any:
    """Return the checkpoint or the exported model that is quantized."""
    return arguments.weights or arguments.model_dir


def open_model(arguments: argparse.Namespace) -> tuple[Task, Layer | Source]:
    """Return the float model of `--weights` or `--model_dir`, with its task."""
    from core.act.source import open_source

    if arguments.weights:
        return cli.restored(arguments)
    source = open_source(arguments.model_dir)
    return cli.task_of(source, arguments), source


def main() -> int:
    arguments = parse_arguments()
    if not arguments.weights and not arguments.model_dir:
        cli.complete(arguments, "model_dir")
        arguments.save_dir = arguments.save_dir or arguments.model_dir / "quant_post_static_model"
    cli.complete(arguments, "save_dir")
    import paddle

    from core.act import static_ptq
    from core.act.files import FileLayout
    from core.act.source import Source
    from core.export.rejected import replacing_unless_rejected
    from core.export.traced_model import ExportSettings
    from core.quant.calibration import calibration_images
    from core.training.run import pick_device
    from core.workflows import ptq
    from core.workflows.comparison_table import figures_of, to_table
    from core.workflows.float_fallback import QualityLimits
    from core.workflows.model_card import write_measured_card

    paddle.set_device(pick_device("auto"))
    configs, folder = read_configs(arguments), arguments.save_dir
    task, model = open_model(arguments)
    images = calibration_images(task, arguments.images, arguments.num_calib, progress=True)
    validation = cli.validation_of(task, arguments, arguments.batch_size)
    ptq.check_comparison(configs, validation)
    best: Any  # the setting that was kept
    # made before the work, so that a folder that cannot be written is reported before it
    check = partial(ptq.check_folder, folder, source_of(arguments), arguments.overwrite)
    with replacing_unless_rejected(folder, check) as draft:
        if isinstance(model, Source):
            files = FileLayout(arguments.format, arguments.target or DEFAULT_TARGET)
            rows, best = static_ptq.compress(draft, model, images, configs, files, validation)
        else:
            made = ExportSettings(arguments.format, rewritten=arguments.rewrite == "on")
            limits = QualityLimits(arguments.max_drop, arguments.speed_control)
            rows, best = ptq.compress(
                draft, arguments.weights, model, images, configs, made, validation, limits
            )
    cli.print_left_out(images.skipped)
    cli.wide_console().print(to_table(rows, validation.metric))
    if arguments.card is not None:
        where = folder / ptq.INT8
        print(f"model card: {write_measured_card(where, validation, rows, arguments.card)}")
    found = ", ".join(str(path) for path in sorted(folder.iterdir()))
    print(f"written, calibrated with {best.observer}: {found}")
    return cli.judged(arguments.targets, figures_of(rows, validation.higher_is_better))


if __name__ == "__main__":
    cli.run(main)
