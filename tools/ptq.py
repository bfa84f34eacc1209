"""Quantize a trained model without training, on images without labels, and write int8 files."""

from __future__ import annotations

import core.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from pathlib import Path
from typing import get_args

import paddle

from core import checkpoint, cli
from core.export.int8 import TARGET
from core.export.package import FORMATS, check_formats
from core.export.side_by_side import Row, meter, open_validation, runtime_rows, to_table
from core.files import replacing
from core.quant import ptq
from core.quant.calibration import calibration_images
from core.quant.config import ObserverKind
from core.quant.control import Control, hold
from core.quant.layout import Target
from core.quant.quantizers import WeightType
from core.run import pick_device

EPILOG = """\
SAVE_DIR then holds model, a checkpoint (for eval.py, export_model.py), and int8, files to deploy
(for predict.py, benchmark.py). Without --images the images of the training split are read, prepared
as for validation.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser, required=False)
    add, default = parser.add_argument, ptq.PtqConfig()
    add("--weights", required=True, help="checkpoint (folder or .pdparams)")
    add("--save_dir", required=True, type=Path, help="folder to make")
    add("--images", type=Path, metavar="FOLDER", help="calibrate on these; needs no labels")
    add("--num_calib", type=cli.positive, default=256, help="images to calibrate on (256)")
    known = f"{', '.join(get_args(ObserverKind))}; all: compare them, keep the best"
    add("--observer", default=default.observer, help=f"{known} (default: {default.observer})")
    add("--equalize", action="store_true", help="even out channels first")
    add("--reestimate_bn", action="store_true", help="estimate batch norms anew first")
    add("--bias_correction", action="store_true", help="mend the means of layers at the end")
    known = ", ".join(get_args(WeightType))
    add("--weight_quantize_type", default=default.weight_quantize_type, help=known)
    add("--never_quantize", nargs="+", default=[], metavar="GLOB", help="layers to leave in float")
    known = f"of {', '.join(FORMATS)}; paddle is always written (default: paddle)"
    add("--format", type=lambda text: text.split(","), default=["paddle"], help=known)
    known = ", ".join(get_args(Target))
    add("--target", help=f"{known} (default: {TARGET} for onnx, else paddle)")
    cli.add_control_arguments(parser)
    add("--eval_rate", type=cli.share, default=1.0, help="share of the validation data (1.0)")
    add("--batch_size", type=cli.positive, default=1, help="of validation (1)")
    add("--no_metric", action="store_true", help="measure nothing")
    return parser.parse_args()


def read_configs(arguments: argparse.Namespace) -> list[ptq.PtqConfig]:
    """Return the settings, one for each observer to try; refuse what would fail at the end."""
    check_formats(arguments.format)
    ptq.check_folder(arguments.save_dir, checkpoint.weights_path(arguments.weights))
    names = ("weight_quantize_type", "never_quantize", "equalize", "bias_correction")
    given = {name: getattr(arguments, name) for name in (*names, "reestimate_bn")}
    given["target"] = arguments.target or (TARGET if "onnx" in arguments.format else "paddle")
    return ptq.read_configs(arguments.observer, given)


def main() -> None:
    arguments = parse_arguments()
    paddle.set_device(pick_device("auto"))
    configs, weights, folder = read_configs(arguments), arguments.weights, arguments.save_dir
    source, described = checkpoint.load_description(weights), cli.described_by(weights)
    task, model = checkpoint.restore(weights, cli.chosen_task(arguments, described))
    images = calibration_images(task, arguments.images, arguments.num_calib, progress=True)
    share = arguments.eval_rate
    val = None if arguments.no_metric else open_validation(task, arguments.batch_size, share)
    ptq.check_comparison(configs, val)
    control = Control(arguments.max_drop, arguments.speed_control).check(configs[0].target, val)
    measure, key = meter(task, val), task.build_metric().primary
    with replacing(folder) as draft:  # made now, so that what cannot be written is told now
        rows = [Row("float", measure(model))]
        tried, metric, config, model = ptq.quantize_best(task, weights, images, configs, measure)
        rest = val, measure, rows[0].metric, metric
        metric, changed, tables = hold(task, model, control, config.target, *rest)
        known = {} if metric is None or share < 1 else {key: metric}
        made, seconds = ptq.write(draft, task, model, source, known, arguments.format, config)
    rows += [*tried, *changed, *runtime_rows(folder / ptq.INT8, made, seconds, measure)]
    for message in images.skipped:
        print(f"left out: {message}")
    cli.wide_console().print(*tables, to_table(rows, key))
    print(f"{config.observer}: {folder / ptq.MODEL}, {folder / ptq.INT8}")


if __name__ == "__main__":
    cli.run(main)
