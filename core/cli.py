"""Frame of every tool: logging, errors as one line, the task and the model that are named.

Paddle, and what needs it, is loaded once the command line has been read: a tool calls `parse` first
and imports what it works with then. So `--help`, and a typing error, are answered at once.
"""

from __future__ import annotations

from core.settings.startup import load_paddle

import argparse
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, FileError, UserError, denied
from core.settings.acceptance import Acceptance, FileFigures, judge
from core.settings.processes import own_command
from core.settings.signals import WORDS, number_of, raising
from core.settings.streams import discard_output, flush_output, is_unread, one_line, open_streams
from core.settings.told_once import ToldOnce

if TYPE_CHECKING:
    from paddle.nn import Layer
    from rich.console import Console

    from core.act.source import Source
    from core.runtimes.predictor import Predictor
    from core.task import Task
    from core.workflows.comparison_table import Validation
    from core.workflows.training import PreparedRun

TABLE_WIDTH = 130
MOST_CHARACTERS = 4000  # longest message
PEER_SECONDS = 5.0
_LONG_WORD = re.compile(r"(\S{200})\S{800,}(\S{40})")  # longer than paths are, in fact
UNREAD = 141  # status of a process that SIGPIPE ends
# what libraries say where a limit of memory or of threads is reached, as `ulimit -v` sets one
_NO_ROOM = ("failed to map segment", "cannot allocate memory", "can't start new thread")


def run(main: Callable[[], int | None]) -> None:
    """Call a tool's main and leave the process with its status.

    A `UserError` is printed as one line on standard error (status 2), so is a disk that is full and
    a path that the system does not let us use. Ctrl-C is a short word (status 130), so are SIGTERM
    (143) and SIGHUP (129), even while libraries are loaded. Nothing is said where nobody reads it
    (status 141), as behind `| head`. Anything else is a defect of ours and keeps its traceback.
    """
    open_streams()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(ToldOnce())
    for chatty in ("faiss", "ppcls"):  # loaded with PaddleClas, of no use to our users
        logging.getLogger(chatty).setLevel(logging.ERROR)
        logging.getLogger(chatty).addFilter(_is_error)  # PaddleClas chooses its level itself
    with raising():
        sys.exit(_status_of(main))


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise FileError("the current folder is not there any more; change to another") from error


def _status_of(main: Callable[[], int | None]) -> int:
    """Call a tool's main; print what the user has to know of how it ended."""
    try:
        _check_current_folder()
        status = main() or 0
        sys.stdout.flush()
        return status
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            discard_output()
            return UNREAD
        number = number_of(error)
        if number is not None:
            print(WORDS[number], file=sys.stderr)
            return 128 + number
        said = _told(error)
        if said:
            flush_output()
            print(f"error: {_rank()}{printable(said)}", file=sys.stderr)
            return 2
        if _rank():
            time.sleep(PEER_SECONDS)  # an exchange fails if another process died, which is said
        raise


def _told(error: BaseException) -> str:
    """Return the line of an error that is the user's to mend; empty if it is none."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return str(error)
    line = next((x for x in str(error).splitlines() if any(y in x.lower() for y in _NO_ROOM)), "")
    if line:
        return f"the system gives this process no more memory or threads: {line}"
    return denied(error) if isinstance(error, OSError) else ""


def _rank() -> str:
    """Name this process, if it is one of several: the launcher shows what each of them says."""
    several = int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1
    return f"rank {os.environ.get('PADDLE_TRAINER_ID', '?')}: " if several else ""


def printable(text: str) -> str:
    """Return a message in one line: names in it may come from files, with anything in them."""
    line = _LONG_WORD.sub(lambda word: f"{word[1]}...{word[2]}", one_line(text))
    rest = len(line) - MOST_CHARACTERS
    return line if rest <= 0 else f"{line[:MOST_CHARACTERS]} ... ({rest} characters more)"


def tell(text: str) -> None:
    """Print lines on standard output, above a progress bar.

    Raises:
        FileError: They cannot be written.
    """
    from tqdm import tqdm

    try:
        tqdm.write("\n".join(map(printable, text.splitlines())))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"standard output: cannot be written: {error.strerror}") from error


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, then load Paddle and plugins; what needs Paddle is imported later.

    Raises:
        ConfigError: There is no such plugin.
    """
    arguments, rest = parser.parse_known_args()
    if rest:
        parser.error(_unknown(getattr(arguments, "override", []), rest))
    load_paddle()
    from core.settings.plugins import load_plugin

    for plugin in getattr(arguments, "plugin", ()):
        load_plugin(plugin)
    return arguments


def _unknown(overrides: Sequence[str], rest: Sequence[str]) -> str:
    """Explain the error of arguments that belong to no option, as in `-o train.epochs 3`."""
    for each, value in itertools.pairwise(sys.argv[1:]):
        if each in overrides and "=" not in each and value in rest:
            return f"-o {each} {value}: the = is missing; write -o {each}={value}"
    return f"unrecognized arguments: {' '.join(rest)}"


def complete(arguments: argparse.Namespace, *wanted: str) -> None:
    """Take what the command line leaves out from the file of `-c`, if that is of PaddleClas.

    Args:
        arguments: Parsed arguments, with `-c`; changed.
        wanted: Options that must be known: `weights`, `model_dir`, `save_dir`.

    Raises:
        ConfigError: Neither says it.
    """
    from core.workflows.opening import read_config

    found: dict[str, Any] = {}
    if arguments.config:
        settings, translation, _ = read_config(arguments.config, arguments.override)
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


def chosen_task(arguments: argparse.Namespace) -> Task | None:
    """Build the task of `-c`, with `-o` on top; None without `-c`."""
    from core.workflows import opening

    return opening.chosen_task(arguments.config, arguments.override)


def refuse(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Refuse options that have no effect beside the others that are given.

    Raises:
        ConfigError: One of them is given.
    """
    for name in names:
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name}: {reason}")


def restored(arguments: argparse.Namespace) -> tuple[Task, Layer]:
    """Return the model of `--weights`, with the task of `-c` or of the checkpoint."""
    from core.workflows import opening

    return opening.restored(arguments.weights, arguments.config, arguments.override)


def opened(arguments: argparse.Namespace) -> tuple[Task, Predictor]:
    """Open the files of `--model_dir` in a runtime, with the task of `-c` or of `deploy.yml`."""
    from core.runtimes.foreign import fit_output
    from core.runtimes.predictor import load_predictor
    from core.workflows import opening

    folder = arguments.model_dir
    predictor = load_predictor(folder, arguments.backend, arguments.threads or 1)
    about, named = predictor.description, (arguments.config, arguments.override)
    task = opening.exported_task(folder, about, about.inputs, *named)
    fit_output(predictor, task, arguments.output)
    return task, predictor


def task_of(source: Source, arguments: argparse.Namespace) -> Task:
    """Return the task of an exported model, of `-c` or of `deploy.yml`, and name its output so."""
    from core.workflows import opening

    named = arguments.config, arguments.override
    task = opening.exported_task(source.folder, source.description, source.inputs, *named)
    source.name_outputs(task, arguments.output)
    return task


def validation_of(task: Task, arguments: argparse.Namespace, batch_size: int = 1) -> Validation:
    """Open the validation data, `--eval_rate` of it; nothing is measured with `--no_metric`."""
    from core.workflows.comparison_table import Validation, open_validation

    if arguments.no_metric:
        return Validation(task)
    return open_validation(task, batch_size, arguments.eval_rate)


def train(training: PreparedRun, arguments: argparse.Namespace) -> int:
    """Train, or tell what would happen, or write the run as one file; return the tool's status.

    Args:
        training: A run with where it goes.
        arguments: Parsed arguments, see `add_training_arguments`.
    """
    from core.training.distributed import initialize
    from core.workflows.rehearsal import timeline_table
    from core.workflows.training import figures_of_best, save_plan

    if arguments.dry_run:
        told = training.rehearse(arguments.resume, arguments.overwrite)
        wide_console().print(timeline_table(told))
        print(f"{told[-1].end} epochs, {sum(each.steps for each in told)} steps")
    if arguments.save_config:
        save_plan(training.plan, arguments.save_config)
        print(f"the run in our own words: {arguments.save_config}")
    if arguments.dry_run or arguments.save_config:
        return 0
    engine = training.train(arguments.resume, arguments.overwrite)
    if initialize()[0] == 0 and engine.best is not None:
        print(engine.best_report)
        where = training.save_dir / "best_model"
        gone = "" if where.is_dir() else " is no longer there"
        print(f"best {engine.best:.4f} in epoch {engine.best_epoch}: {where}{gone}")
        if arguments.report:
            from core.reports.training import write_training_report

            print(f"report: {write_training_report(training.save_dir, own_command())}")
        if arguments.targets is not None:
            return judged(arguments.targets, [figures_of_best(engine)])
    return 0


def judged(wanted: Acceptance | None, files: Sequence[FileFigures]) -> int:
    """Print which files meet their targets, and which is best; return the status of the tool."""
    if wanted is None:
        return 0
    found = judge(wanted, files)
    for line in found.lines:
        print(line)
    print("no file meets all targets" if found.best is None else f"best: {found.best.name}")
    return 1 if found.best is None else 0


def print_left_out(messages: Iterable[str]) -> None:
    """Print a line for each sample that was skipped."""
    for message in messages:
        print(f"left out: {printable(message)}")


def wide_console(least: int = TABLE_WIDTH) -> Console:
    """Return where to print tables: a pipe has 80 characters by default, too few for them."""
    from core.settings.console import PlainConsole

    return PlainConsole(least)
