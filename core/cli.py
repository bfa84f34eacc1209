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

    from core.runtimes.description import DeployDescription
    from core.task import Task

TABLE_WIDTH = 130
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
            # names in it may come from files, with anything in them
            text = "".join(each if each.isprintable() else " " for each in said)
            print(f"error: {_rank()}{text}", file=sys.stderr)
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


def add_export_arguments(parser: argparse.ArgumentParser, *default: Format) -> None:
    """Add where an export goes and which files it has: `--save_dir`, `--format`."""
    parser.add_argument("--save_dir", required=True, type=Path, help="folder to make")
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

    overrides = parse_overrides(arguments.override)
    if arguments.config:
        return read_run(merge(load_yaml(arguments.config), overrides)).task
    if described is None:
        return None
    return build_recorded_task(*described, overrides)


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


def print_left_out(messages: Iterable[str]) -> None:
    """Print a line for each sample that was skipped."""
    for message in messages:
        print(f"left out: {message}")


def wide_console() -> Console:
    """Return where to print tables: a pipe has 80 characters by default, too few for them."""
    from rich.console import Console

    return Console(highlight=False, width=max(Console().width, TABLE_WIDTH))
