"""What every tool shares: overrides on the command line, logging, errors as one line.

Paddle, and what needs it, is loaded once the command line has been read: a tool calls `parse` first
and imports what it works with then. So `--help`, and a typing error, are answered at once.
"""

from __future__ import annotations

from core.settings.startup import load_paddle

import argparse
import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, UserError
from core.settings.config import load_yaml, merge, parse_overrides
from core.settings.signals import WORDS, number_of, raising
from core.targets.names import BACKENDS, DEFAULT_TARGET, FORMATS, ONNX_TARGETS, Format

if TYPE_CHECKING:
    from paddle.nn import Layer
    from rich.console import Console

    from core.dialects.foreign import Translation
    from core.runtimes.description import DeployDescription
    from core.task import Task
    from core.workflows.training import PreparedRun

TABLE_WIDTH = 130
MOST_CHARACTERS = 4000  # of a message
PEER_SECONDS = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no defect of ours, wherever it is met
Described = tuple[str, dict[str, Any], str]  # name of a task, its settings, the file that says so


def run(main: Callable[[], int | None]) -> None:
    """Call a tool's main and leave the process with its status.

    A `UserError` is printed as one line on standard error (status 2), so is a disk that is full.
    Ctrl-C is a short word (status 130), so are SIGTERM (143) and SIGHUP (129), even while libraries
    are loaded. Anything else is a defect of ours and keeps its traceback.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for chatty in ("faiss", "ppcls"):  # loaded with PaddleClas, of no use to our users
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with raising():
        sys.exit(_status_of(main))


def _status_of(main: Callable[[], int | None]) -> int:
    """Call a tool's main; print what the user has to know of how it ended."""
    try:
        return main() or 0
    except (KeyboardInterrupt, Exception) as error:
        number = number_of(error)
        if number is not None:
            print(WORDS[number], file=sys.stderr)
            return 128 + number
        said = _told(error)
        if said:
            print(f"error: {_rank()}{printable(said)}", file=sys.stderr)
            return 2
        if _rank():
            time.sleep(PEER_SECONDS)  # an exchange fails if another process died, which is said
        raise


def _told(error: BaseException) -> str:
    """Return the line of an error that is the user's to mend; empty if it is none."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or 'a file'}: cannot be written: {error.strerror}"
    return str(error) if isinstance(error, UserError) else ""


def _rank() -> str:
    """Name this process, if it is one of several: the launcher shows what each of them says."""
    several = int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1
    return f"rank {os.environ.get('PADDLE_TRAINER_ID', '?')}: " if several else ""


def printable(text: str) -> str:
    """Return a message in one line: names in it may come from files, with anything in them."""
    line = "".join(each if each.isprintable() else " " for each in text)
    rest = len(line) - MOST_CHARACTERS
    return line if rest <= 0 else f"{line[:MOST_CHARACTERS]} ... ({rest} characters more)"


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, then load Paddle and plugins; what needs Paddle is imported later.

    Raises:
        ConfigError: There is no such plugin.
    """
    arguments = parser.parse_args()
    load_paddle()
    from core.settings.plugins import load_plugin

    for plugin in getattr(arguments, "plugin", ()):
        load_plugin(plugin)
    return arguments


def add_config_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add `-c CONFIG` and the repeatable `-o key.sub=value`."""
    parser.add_argument(
        "-c", "--config", required=required, metavar="YML", help="config of the task and training"
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="key.sub=value",
        help="change one setting of the config; may be repeated",
    )
    add_plugin_argument(parser)


def add_plugin_argument(parser: argparse.ArgumentParser) -> None:
    """Add the repeatable `--plugin MODULE[:NAME]`, which is loaded as soon as Paddle is."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="code from outside that a checkpoint or an export was made with; a file loads none",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where a training goes, how it is told, and the flags of PaddleSeg's tools."""
    add = parser.add_argument
    add("--save_dir", type=Path, help="default: output/<task>/<name of the config>")
    add("--resume", action="store_true", help="go on from SAVE_DIR/latest")
    add("--use_vdl", action="store_true", help="write VisualDL scalars")
    text = "print what would happen epoch by epoch, train nothing; status 2 if the run would fail"
    add("--dry_run", action="store_true", help=text)
    text = "write the whole run (config, recipe, teachers) as one file for -c, and train nothing"
    add("--save_config", type=Path, metavar="YML", help=text)
    flags = parser.add_argument_group("of PaddleSeg's tools").add_argument
    flags("--model_path", help="weights to start from (model.pretrained)")
    flags("--learning_rate", type=float, help="in the place of the file's")
    flags("--iters", type=positive, help="in the place of the file's")
    flags("--batch_size", type=positive, help="in the place of the file's")
    flags("--num_workers", type=int, help="processes that read ahead")
    flags("--save_interval", type=positive, help="iterations between evaluations (1000)")
    flags("--do_eval", action="store_true", help="evaluate at each save_interval")
    flags("--device", choices=("cpu", "gpu"), help="default: a GPU if Paddle has one")


def training_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides of `-o`, and what the flags of PaddleSeg's tools say."""
    names = ("model_path", "learning_rate", "iters", "batch_size", "num_workers", "save_interval")
    given = {name: getattr(arguments, name) for name in (*names, "device")}
    found = [f"flags.{name}={value}" for name, value in given.items() if value is not None]
    return [*arguments.override, *found, *(["flags.do_eval=true"] if arguments.do_eval else [])]


def add_weights_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the checkpoint, `--weights`, which PaddleSeg calls `--model_path`."""
    parser.add_argument("--weights", "--model_path", type=Path, help=text)


def add_export_arguments(parser: argparse.ArgumentParser, *default: Format) -> None:
    """Add where an export goes and which files it has: `--save_dir`, `--format`."""
    parser.add_argument("--save_dir", type=Path, help="folder to make")
    known = f"which files, of {', '.join(FORMATS)} (default: {','.join(default)})"
    parser.add_argument(
        "--format",
        type=lambda text: text.split(","),
        default=list(default),
        metavar="A,B",
        help=known,
    )


def add_backend_argument(parser: argparse.ArgumentParser) -> None:
    """Add the runtime of an exported model, `--backend`."""
    known = f"runtime: {', '.join(BACKENDS)} (default: the first that can read the model)"
    parser.add_argument("--backend", metavar="NAME", help=known)


def add_target_argument(parser: argparse.ArgumentParser) -> None:
    """Add the runtime that an ONNX file in int8 is laid out for, `--target`."""
    known = f"{', '.join(ONNX_TARGETS)} (default: {DEFAULT_TARGET})"
    text = f"runtime the ONNX file is laid out for: {known}"
    parser.add_argument("--target", default=DEFAULT_TARGET, help=text)


def add_control_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what sends quantized layers back to float: `--max_drop POINTS`, `--speed_control`."""
    parser.add_argument(
        "--max_drop",
        type=points,
        metavar="POINTS",
        help="leave the worst layers in float until the metric loses at most so many hundredths",
    )
    parser.add_argument(
        "--speed_control",
        action="store_true",
        help="leave layers in float that int8 makes no faster in the target, measured here",
    )


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


def share(text: str) -> float:
    """Read a number above 0, up to 1, as the type of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, up to 1, got {text!r}")
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


def chosen_task(arguments: argparse.Namespace, described: Described | None = None) -> Task | None:
    """Build the task of `-c`, else the one that the model describes, with `-o` on top.

    Args:
        arguments: Of `add_config_arguments`.
        described: What the model brings; None if it brings nothing.

    Returns:
        None if neither says what task it is.
    """
    from core.task import build_recorded_task
    from core.training.run import read_run

    if arguments.config:
        settings, translation, rest = _read_config(arguments)
        if translation is not None:
            settings.pop("device", None)  # that a training is meant for
        return read_run(merge(settings, parse_overrides(rest))).task
    if described is None:
        return None
    return build_recorded_task(*described, parse_overrides(arguments.override))


def complete(arguments: argparse.Namespace, *wanted: str) -> None:
    """Take what the command line leaves out from the file of `-c`, if that is of PaddleClas.

    Args:
        arguments: With `-c`; changed.
        wanted: Of `weights`, `model_dir`, `save_dir`.

    Raises:
        ConfigError: Neither says it.
    """
    found: dict[str, Any] = {}
    if arguments.config:
        settings, translation, _ = _read_config(arguments)
        weights = settings.get("model", {}).get("pretrained")
        if translation is not None and isinstance(weights, str):
            found["weights"] = weights
        if translation is not None and translation.export_dir:
            found |= dict.fromkeys(("model_dir", "save_dir"), translation.export_dir)
    for name in wanted:
        if getattr(arguments, name) is None:
            if name not in found:
                raise ConfigError(f"--{name}: required, but not given")
            setattr(arguments, name, Path(found[name]))


def _read_config(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], Translation | None, list[str]]:
    """Return the config of `-c` in our own words, whose it was, and the overrides left for it."""
    from core.dialects.files import translated

    content = load_yaml(arguments.config)
    translation, rest = translated(content, arguments.override)
    return (content if translation is None else translation.settings), translation, rest


def restored(arguments: argparse.Namespace) -> tuple[Task, Layer]:
    """Return the model of `--weights`, with the task of `-c` or of the checkpoint."""
    from core.training.checkpoint import restore

    chosen = chosen_task(arguments, described_by(arguments.weights))
    return restore(arguments.weights, chosen)


def exported_task(
    arguments: argparse.Namespace, model_dir: str | Path, description: DeployDescription | None
) -> Task:
    """Build the task of `-c`, else the one that an exported model's `deploy.yml` names.

    Args:
        arguments: Of `add_config_arguments`.
        model_dir: Named in the message.
        description: What `deploy.yml` says; None if there is none.

    Raises:
        ConfigError: Neither says what task it is, or the model ends in layers.
    """
    from core.runtimes.description import DESCRIPTION

    if description is not None:
        description.check_whole(model_dir)
    said = description.task if description else None
    where = str(Path(model_dir, DESCRIPTION))
    task = chosen_task(arguments, (said.name, said.settings, where) if said else None)
    if task is None:
        raise ConfigError(f"{model_dir}: has no deploy.yml; name a config with -c")
    return task


def described_by(weights: str | Path) -> Described | None:
    """Return what lies beside a weights file."""
    from core.training.checkpoint import description_path, load_description

    description = load_description(weights)
    if description is None:
        return None
    return description.task, description.settings, str(description_path(weights))


def train(training: PreparedRun, arguments: argparse.Namespace) -> None:
    """Train, or tell what would happen, or write the run as one file.

    Args:
        training: A run with where it goes.
        arguments: Of `add_training_arguments`.
    """
    from core.training.distributed import initialize
    from core.workflows.rehearsal import timeline_table
    from core.workflows.training import save_plan

    if arguments.dry_run:
        told = training.rehearse()
        wide_console().print(timeline_table(told))
        print(f"{told[-1].end} epochs, {sum(each.steps for each in told)} steps")
    if arguments.save_config:
        save_plan(training.plan, arguments.save_config)
        print(f"the run in our own words: {arguments.save_config}")
    if arguments.dry_run or arguments.save_config:
        return
    engine = training.train(arguments.resume)
    if initialize()[0] == 0 and engine.best is not None:
        print(engine.best_report)
        where = f"{training.save_dir}/best_model"
        print(f"best {engine.best:.4f} in epoch {engine.best_epoch}: {where}")


def print_left_out(messages: Iterable[str]) -> None:
    """Print a line for each sample that was skipped."""
    for message in messages:
        print(f"left out: {printable(message)}")


def wide_console() -> Console:
    """Return where to print tables: a pipe has 80 characters by default, too few for them."""
    from rich.console import Console

    return Console(highlight=False, width=max(Console().width, TABLE_WIDTH))
