"""Quantize a trained model without training, on images without labels, and write int8 files."""

from __future__ import annotations

import core.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import logging
import time
from pathlib import Path
from typing import get_args

import paddle
from paddle.nn import Layer
from rich.console import Console

from core import checkpoint, cli
from core.config import read, suggest
from core.data import Loader
from core.errors import ConfigError, UserError
from core.export.int8 import TARGET
from core.export.package import FORMATS, export
from core.export.qdq import PRESETS
from core.files import replacing
from core.quant import insert, ptq
from core.quant.calibration import Calibration, folder_images, training_images
from core.quant.config import ObserverKind
from core.quant.layout import Target
from core.quant.quantizers import WeightType
from core.run import pick_device
from core.task import Task

MODEL, INT8 = "model", "int8"
OBSERVERS = get_args(ObserverKind)
WIDTH = 110
EPILOG = """\
SAVE_DIR then holds model, a checkpoint (for eval.py, export_model.py), and int8, files to deploy
(for predict.py, benchmark.py). Without --images the training split is read as training reads it,
augmentation included.
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
    known = f"{', '.join(OBSERVERS)}; all: compare them, keep the best"
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
    add("--eval_rate", type=cli.share, default=1.0, help="share of the validation data (1.0)")
    add("--batch_size", type=cli.positive, default=1, help="of validation (1)")
    add("--no_metric", action="store_true", help="measure nothing")
    return parser.parse_args()


def read_configs(arguments: argparse.Namespace) -> list[ptq.PtqConfig]:
    """Return the settings, one for each observer to try; refuse what would fail at the end."""
    folder, weights = arguments.save_dir, checkpoint.weights_path(arguments.weights)
    for name in arguments.format:
        if name not in FORMATS:
            raise ConfigError(f"format: no format {name!r}{suggest(name, FORMATS)}")
    foreign = sorted(path.name for path in folder.glob("*") if path.name not in (MODEL, INT8))
    if foreign or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"save_dir: {folder} is no folder of this tool: {foreign or 'a file'}")
    if folder.resolve() in weights.resolve().parents:
        raise ConfigError(f"save_dir: {folder} holds the weights themselves; name another folder")
    if arguments.observer == "all" and arguments.no_metric:
        raise ConfigError("observer: all compares by the metric, which --no_metric leaves out")
    names = ("weight_quantize_type", "never_quantize", "equalize", "bias_correction")
    given = {name: getattr(arguments, name) for name in (*names, "reestimate_bn")}
    given["target"] = arguments.target or (TARGET if "onnx" in arguments.format else "paddle")
    wanted = OBSERVERS if arguments.observer == "all" else [arguments.observer]
    return [read(ptq.PtqConfig, {**given, "observer": observer}) for observer in wanted]


def validation(task: Task, arguments: argparse.Namespace) -> Loader | None:
    """Open the validation data if it can be read and is to be."""
    data, root = task.config.data, Path(getattr(task.config.data, "root", "."))
    if arguments.no_metric:
        return None
    try:
        if not root.exists():  # nothing is drawn or downloaded only to be measured on
            raise ConfigError(f"data.root: {root} does not exist")
        common = {"num_workers": data.num_workers, "on_error": data.on_error}
        val = task.build_dataset("val")
        whole = Loader(val, batch_size=arguments.batch_size, train=False, **common)
        return whole.share(arguments.eval_rate)
    except UserError as error:
        if arguments.observer == "all":
            raise
        logging.warning("nothing is measured: %s", error)
        return None


def quantize_all(
    task: Task,
    weights: str,
    images: Calibration,
    configs: list[ptq.PtqConfig],
    measure: ptq.Measure,
) -> tuple[list[ptq.Row], float | None, ptq.PtqConfig, Layer]:
    """Quantize with each setting; return a row for each; metric, setting and model of the best."""
    sign = 1.0 if task.build_metric().higher_is_better else -1.0
    rows: list[ptq.Row] = []
    best: tuple[float | None, ptq.PtqConfig, Layer] | None = None
    for config in configs:
        _, model = checkpoint.restore(weights, task)
        begin = time.monotonic()
        ptq.quantize_after_training(task, model, images, config, progress=True)
        seconds = time.monotonic() - begin
        metric = measure(model)
        rows.append(ptq.Row(f"quantized, {config.observer}", metric, seconds))
        if best is None or sign * (metric or 0.0) > sign * (best[0] or 0.0):
            best = metric, config, model
    assert best is not None
    return rows, *best


def main() -> None:
    arguments = parse_arguments()
    paddle.set_device(pick_device("auto"))
    configs, weights, folder = read_configs(arguments), arguments.weights, arguments.save_dir
    source = checkpoint.load_description(weights)
    described = (source.task, source.settings) if source else None
    task, model = checkpoint.restore(weights, cli.chosen_task(arguments, described))
    count, pictures = arguments.num_calib, arguments.images
    images = (
        folder_images(task, pictures, count, progress=True)
        if pictures
        else training_images(task, count, progress=True)
    )
    measure, key = ptq.meter(task, validation(task, arguments)), task.build_metric().primary
    with replacing(folder) as draft:  # made now, so that what cannot be written is told now
        rows = [ptq.Row("float", measure(model))]
        tried, metric, config, model = quantize_all(task, weights, images, configs, measure)
        edits = [("qat", insert.record_of(model))]
        if source:
            edits = [*source.edits, *edits]
        metrics = {} if metric is None or arguments.eval_rate < 1 else {key: metric}
        about = checkpoint.describe(task, edits, source.epoch if source else 0, metrics)
        checkpoint.save(draft / MODEL, about, model.state_dict())
        begin = time.monotonic()
        target = config.target if config.target in PRESETS else TARGET
        made = export(task, model, draft / INT8, arguments.format, target=target)
        seconds = time.monotonic() - begin
    rows += tried + ptq.runtime_rows(folder / INT8, made, seconds, measure)
    for message in images.skipped:
        print(f"left out: {message}")
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)  # a pipe has 80 characters by default
    console.print(ptq.to_table(rows, key))
    print(f"{config.observer}: {folder / MODEL}, {folder / INT8}")


if __name__ == "__main__":
    cli.run(main)
