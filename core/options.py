"""Options of the command line that tools share, and the types of their values.

Nothing here needs Paddle, so that `--help` and a typing error are answered at once.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.quant import choices
from core.settings.acceptance import ACCEPTANCE_NAMES, Acceptance, read_acceptance
from core.settings.config import assignment
from core.targets.names import (
    BACKENDS,
    DEFAULT_TARGET,
    EXPORT_DESCRIPTION,
    FORMATS,
    ONNX_TARGETS,
    PROCESSORS,
    TARGETS,
    Format,
)

# why an option is refused beside --weights
OF_EXPORTED = "is for exported models (--model_dir); a checkpoint is run by Paddle as it is"
DESCRIPTIONS = (EXPORT_DESCRIPTION, "model.json")  # of exported models and of checkpoints


class Once(argparse.Action):
    """Store a value, and refuse a second one, which would take the place of the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        if before is not None:
            raise argparse.ArgumentError(self, f"given twice, as {before!r} and as {values!r}")
        setattr(namespace, self.dest, values)


def add_config_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add `-c CONFIG` and the repeatable `-o key.sub=value`."""
    parser.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="YML",
        help="config: a file, or the name of one that comes with it (cls/demo.yml)",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="key.sub=value",
        help="change one setting of the config: -o train.epochs=3; may be repeated",
    )
    add_plugin_argument(parser)


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """Add the repeatable `--plugin MODULE[:NAME]`, which is loaded as soon as Paddle is."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="your own code that a checkpoint or an export needs; files alone never load code",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where a training goes, how it is told, and the flags of PaddleSeg's tools."""
    add = parser.add_argument
    text = "default: output/<task>/<config>_<recipe>; one that holds a run is refused"
    add("--save_dir", type=path, help=text)
    earlier = parser.add_mutually_exclusive_group().add_argument
    earlier("--resume", action="store_true", help="go on from SAVE_DIR/latest")
    earlier("--overwrite", action="store_true", help="replace the run that SAVE_DIR holds")
    add("--use_vdl", action="store_true", help="write VisualDL scalars")
    add("--use_tensorboard", action="store_true", help="write scalars for TensorBoard")
    text = "write SAVE_DIR/report.html and .json: metrics, curves, what changed in each layer"
    add("--report", action="store_true", help=text)
    text = "print what would happen epoch by epoch, train nothing; status 2 if the run would fail"
    add("--dry_run", action="store_true", help=text)
    text = "write the whole run (config, recipe, teachers) as one file for -c, and train nothing"
    add("--save_config", type=file_ending(".yml", ".yaml"), metavar="YML", help=text)
    add_acceptance_argument(parser, "max_latency_ms")
    flags = parser.add_argument_group("of PaddleSeg's tools").add_argument
    flags("--model_path", help="weights to start from (model.pretrained)")
    flags("--learning_rate", type=float, help="instead of the one in the config")
    flags("--iters", type=positive, help="training steps, instead of those of the config")
    flags("--batch_size", type=positive, help="instead of the one in the config")
    flags("--num_workers", type=int, help="processes that read and prepare images")
    flags("--save_interval", type=positive, help="iterations between evaluations (1000)")
    flags("--do_eval", action="store_true", help="evaluate at each save_interval")
    flags("--device", choices=("cpu", "gpu"), help="default: a GPU if Paddle has one")


def training_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides of `-o`, and those of the flags of PaddleSeg's tools."""
    names = ("model_path", "learning_rate", "iters", "batch_size", "num_workers", "save_interval")
    given = {name: getattr(arguments, name) for name in (*names, "device")}
    found = [assignment(f"flags.{name}", v) for name, v in given.items() if v is not None]
    return [*arguments.override, *found, *(["flags.do_eval=true"] if arguments.do_eval else [])]


def add_weights_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the checkpoint, `--weights`, which PaddleSeg calls `--model_path`."""
    parser.add_argument("--weights", "--model_path", type=path, help=text)


def add_export_arguments(parser: argparse.ArgumentParser, *default: Format) -> None:
    """Add where an export goes and which files it has: `--save_dir`, `--format`."""
    parser.add_argument("--save_dir", type=path, help="folder to write")
    text = "replace the export that SAVE_DIR holds, when the new one is right"
    parser.add_argument("--overwrite", action="store_true", help=text)
    known = f"formats to write: {', '.join(FORMATS)} (default: {','.join(default)})"
    parser.add_argument(
        "--format",
        type=lambda text: text.split(","),
        default=list(default),
        metavar="A,B",
        help=known,
    )


def add_card_argument(parser: argparse.ArgumentParser) -> None:
    """Add whether an export gets a model card, with the licence of the weights: `--card`."""
    text = "also write a model card (README.md) with what was measured; licence of the weights"
    known = "as Hugging Face names it: apache-2.0, cc-by-4.0, other"
    parser.add_argument("--card", metavar="LICENCE", help=f"{text} ({known})")


def add_rewrite_argument(parser: argparse.ArgumentParser) -> None:
    """Add whether an export rewrites the graph, `--rewrite on|off`."""
    text = "remove operators such as channel shuffles where the results stay the same (default: on)"
    parser.add_argument("--rewrite", choices=("on", "off"), default="on", help=text)


def add_backend_argument(parser: argparse.ArgumentParser) -> None:
    """Add the runtime of an exported model, `--backend`."""
    known = f"runtime: {', '.join(BACKENDS)} (default: the first that can read the model)"
    parser.add_argument("--backend", metavar="NAME", help=known)


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """Add which output of an exported model answers, `--output`."""
    text = "which output to use, for models of other projects that have several"
    parser.add_argument("--output", metavar="NAME", help=text)


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to calibrate on: `--images`, `--num_calib`."""
    text = "images without labels to calibrate on (default: those for training)"
    parser.add_argument("--images", type=path, metavar="FOLDER", help=text)
    text = "number of images to calibrate on (256)"
    parser.add_argument("--num_calib", type=positive, help=text)


def add_quantization_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a float model is quantized: ranges, scales, steps, layers, and what it is for."""
    add = parser.add_argument
    known = f"how ranges are chosen: {', '.join(choices.OBSERVERS)}; all: try each, keep the best"
    add("--observer", help=f"{known} (default: the task's, or {choices.OBSERVER})")
    for name, text in choices.STEPS.items():
        add(f"--{name}", action="store_true", default=None, help=text)
        if name in choices.HINTED:
            text = f"without --{name}, which is the default of some tasks"
            add(f"--no_{name}", dest=name, action="store_false", help=text)
    text = "scales of weights: one for each output channel (default); abs_max: one for each layer"
    add("--weight_quantize_type", default=choices.WEIGHT_TYPES[0], help=text)
    text = "layers to leave in float: 'head.*'"
    add("--never_quantize", nargs="+", default=[], metavar="GLOB", help=text)
    known = f"{', '.join(TARGETS)} (default: that of the files; for onnx {DEFAULT_TARGET})"
    add("--target", help=f"runtime to quantize for: {known}")
    known = f"{', '.join(PROCESSORS)}; vnni: only those with int8 dot products (default: any)"
    add("--processors", default="any", help=known)
    text = "which outputs of layers are int8 too: none, residual (those that are added), all"
    add("--quantize_outputs", help=f"{text} (default: what is fastest in the target)")


def add_target_argument(parser: argparse.ArgumentParser) -> None:
    """Add the runtime that an ONNX file in int8 is laid out for, `--target`."""
    known = f"{', '.join(ONNX_TARGETS)} (default: {DEFAULT_TARGET})"
    text = f"runtime that the ONNX file is written for: {known}"
    parser.add_argument("--target", default=DEFAULT_TARGET, help=text)


def add_control_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that return layers to float: `--max_drop POINTS`, `--speed_control`."""
    parser.add_argument(
        "--max_drop",
        type=points,
        metavar="POINTS",
        help="leave the worst layers in float until the metric drops by POINTS (0.01) at most",
    )
    parser.add_argument(
        "--speed_control",
        action="store_true",
        help="leave layers in float that are no faster in int8, as measured on this machine",
    )


def add_acceptance_argument(parser: argparse.ArgumentParser, *left_out: str) -> None:
    """Add what the result must meet: `--targets max_size_mb=20,max_drop=5%,max_latency_ms=100`.

    Args:
        parser: Parser of the tool.
        left_out: Targets that this tool measures nothing for.
    """

    def read(text: str) -> Acceptance:
        try:
            found = read_acceptance(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        for name in left_out:
            if getattr(found, name) is not None:
                raise argparse.ArgumentTypeError(f"{name}: is not measured by this tool")
        return found

    names = [name for name in ACCEPTANCE_NAMES if name not in left_out]
    text = f"{', '.join(names)}: print which files meet them; status 1 if none does"
    text += "; max_drop is in points, or with %% of the float metric" * ("max_drop" in names)
    parser.add_argument("--targets", type=read, metavar="A=X,B=Y", help=text)


def path(text: str) -> Path:
    """Read a path, as the type of an argument; an empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got '', as of a variable that is unset")
    return Path(text)


def file_ending(*endings: str) -> Callable[[str], Path]:
    """Return the type of an argument that names a file to write, which has one of these endings."""

    def read(text: str) -> Path:
        file = path(text)
        if file.suffix.lower() not in endings:
            wanted = f"the name of a file that ends in {' or '.join(endings)}"
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        if file.name in DESCRIPTIONS and file.exists():
            raise argparse.ArgumentTypeError(f"{text} is part of a model; name another file")
        if file.is_dir() or not _may_be_written(file):
            why = "is a folder" if file.is_dir() else "cannot be written there"
            raise argparse.ArgumentTypeError(f"{text} {why}; name another file")
        return file

    return read


def _may_be_written(file: Path) -> bool:
    """Tell whether the folder of a file, or the one that it would be made in, is writable."""
    place = next(each for each in file.absolute().parents if os.path.lexists(each))
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def integers(text: str) -> tuple[int, ...]:
    """Read `1,3,224,224`, as the type of an argument."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        wanted = "whole numbers with commas between"
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}") from error


def positive(text: str) -> int:
    """Read a whole number from 1 on, as the type of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, got {text!r}")
    return int(text)


def threads(text: str) -> tuple[int, ...]:
    """Read numbers of threads such as `1,all`, each once; all are those that this machine runs.

    Raises:
        argparse.ArgumentTypeError: They are none.
    """
    known = hasattr(os, "sched_getaffinity")  # some may be kept from this process
    every = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    words = [each.strip() for each in text.split(",")]
    if not all(each == "all" or (each.isdecimal() and int(each) > 0) for each in words):
        wanted = "numbers of threads such as 1,all"
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return tuple(dict.fromkeys(every if each == "all" else int(each) for each in words))


def natural(text: str) -> int:
    """Read a whole number from 0 on, as the type of an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """Read a number above 0, up to 1, as the type of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, up to 1, got {text!r}")
    return value


def score(text: str) -> float:
    """Read a score, any number, as the type of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def points(text: str) -> float:
    """Read a number from 0 on, as the type of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"expected points from 0 to 100, got {text!r}")
    return value


def part(text: str) -> float:
    """Read a number between 0 and 1, as the type of an argument."""
    value = share(text)
    if value == 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text!r}")
    return value
