"""Hooks around training: progress, log, checkpoints, VisualDL, TensorBoard, early stop."""

from __future__ import annotations

import contextlib
import datetime
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.errors import ConfigError, FileError, UserError
from core.settings.config import load_one_yaml
from core.settings.files import check_replaceable, remove_folder, tidy, write_text
from core.settings.locks import Lock
from core.settings.processes import own_command
from core.settings.signals import asking, interruption
from core.training import checkpoint, distributed
from core.training.training_state import tell_of_changes

if TYPE_CHECKING:
    from core.task import Arrays
    from core.training.engine import Engine

log = logging.getLogger(__name__)

LOCK = ".trislim-lock"  # in the save folder, while a run writes there
LOG_SECONDS = 30.0  # without a terminal, a long epoch still shows a sign of life this often


class Hook:
    """The points at which training can be watched; the base does nothing."""

    def before_training(self, engine: Engine) -> None: ...

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None: ...

    def after_batch(self, outputs: Arrays, batch: Arrays) -> None: ...  # [N, ...]

    def after_epoch(self, engine: Engine) -> None: ...

    def interrupted(self, engine: Engine) -> None: ...  # behind a step, or while it is evaluated

    def after_training(self, engine: Engine) -> None: ...


class Progress(Hook):
    """A bar with images per second and time left, and a line per epoch in the log."""

    _start: float
    _last_line: float

    def before_training(self, engine: Engine) -> None:
        config = engine.config
        self._images = config.batch_size * config.accumulate * engine.world
        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()
        self._bar = tqdm(
            total=engine.total_steps * self._images,
            initial=engine.step * self._images,
            unit="img",
            dynamic_ncols=True,
            disable=None,
        )
        self._first_step, self._begin = engine.step, time.monotonic()
        self._reset()

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        self._steps += 1
        self._bar.update(self._images)
        self._bar.set_description(f"epoch {engine.epoch + 1}/{engine.epochs}", refresh=False)
        best = "" if engine.best is None else f" best {engine.best:.4f}@{engine.best_epoch}"
        loss = sum(value for name, value in terms.items() if name not in engine.watched)
        self._bar.set_postfix_str(f"loss {loss:#.4g} lr {rate:.2e}{best}", refresh=False)
        if self._bar.disable and time.monotonic() - self._last_line > LOG_SECONDS:
            self._last_line = time.monotonic()
            log.info("step %d/%d %s", engine.step, engine.total_steps, self._summary(engine))

    def after_epoch(self, engine: Engine) -> None:
        metrics = " ".join(f"{name} {value:.4f}" for name, value in engine.metrics.items())
        best = "" if engine.best is None else f" best {engine.best:.4f}@{engine.best_epoch}"
        log.info(
            "epoch %d/%d %s | %s%s",
            engine.epoch,
            engine.epochs,
            self._summary(engine),
            metrics or "not evaluated",
            best,
        )
        if engine.train_loader.skipped:
            log.warning("%d broken items were left out", len(engine.train_loader.skipped))
        self._reset()

    def after_training(self, engine: Engine) -> None:
        self._bar.close()
        self._redirect.__exit__(None, None, None)
        for message in engine.train_loader.skipped + engine.val_loader.skipped:
            log.warning("left out: %s", message)

    def _reset(self) -> None:
        self._steps = 0
        self._start = self._last_line = time.monotonic()

    def _summary(self, engine: Engine) -> str:
        parts = " ".join(f"{name} {value:#.4g}" for name, value in engine.losses.means().items())
        speed = self._steps * self._images / max(time.monotonic() - self._start, 1e-9)
        done = max(engine.step - self._first_step, 1)
        seconds = (time.monotonic() - self._begin) / done * (engine.total_steps - engine.step)
        left = datetime.timedelta(seconds=round(seconds))
        return f"{parts} lr {engine.rate:.2e} {speed:.1f} images/s left {left}"


class SaveFolder(Hook):
    """Keeps other runs out of the save folder, and writes `config.yml`.

    A new run goes on from nothing that is there: `latest` of a run that it replaces is removed.

    Args:
        settings: Settings of the run, for `config.yml`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def before_training(self, engine: Engine) -> None:
        folder = engine.save_dir
        self._lock = Lock(folder / LOCK, folder)
        tidy(folder)
        try:
            for name in ("latest", "best_model"):
                checkpoint.check_folder(folder / name)
            if engine.step == 0:
                remove_folder(folder / "latest")
            else:
                self._tell_of_changes(folder / "config.yml")
            text = yaml.safe_dump(dict(self._settings), sort_keys=False)
            write_text(folder / "config.yml", text)
        except BaseException:
            self._lock.release()
            raise

    def after_training(self, engine: Engine) -> None:
        self._lock.release()

    def _tell_of_changes(self, file: Path) -> None:
        try:
            before = load_one_yaml(file).get("train")
        except UserError as error:
            log.warning("%s; what has changed since is not told", error)
            return
        if isinstance(before, Mapping):
            tell_of_changes(before, self._settings.get("train", {}))


class LogFile(Hook):
    """Copies the log into `train.log` of the save folder."""

    def before_training(self, engine: Engine) -> None:
        path = engine.save_dir / "train.log"
        try:
            self._handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger().addHandler(self._handler)
        log.info("command: %s", own_command())

    def after_training(self, engine: Engine) -> None:
        logging.getLogger().removeHandler(self._handler)
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._handler.close()


class _FileHandler(logging.FileHandler):
    """Says once that it cannot write, and goes on: a training is worth more than its log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)
        reason = error.strerror or error
        log.warning("%s: cannot be written any more: %s", self.baseFilename, reason)


class Interruptible(Hook):
    """Lets Ctrl-C, and what else asks to end, wait for the end of the step.

    Or of the batch that is evaluated. An exception inside Paddle's kernels aborts. A second Ctrl-C
    acts at once. The handlers from before come back when training ends.
    """

    def before_training(self, engine: Engine) -> None:
        self._asked: int | None = None
        self._before = {number: signal.signal(number, self._ask) for number in asking()}

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        self._stop_if_asked()

    def after_batch(self, outputs: Arrays, batch: Arrays) -> None:
        self._stop_if_asked()

    def after_epoch(self, engine: Engine) -> None:
        self._stop_if_asked()

    def after_training(self, engine: Engine) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop_if_asked(self) -> None:
        if self._asked is not None:
            raise interruption(self._asked)

    def _ask(self, number: int, _frame: object) -> None:
        if self._asked is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # a launcher repeats itself
        self._asked = number
        log.warning("stopping after this step; --resume goes on from there")


class Checkpoints(Hook):
    """Writes `latest` after each epoch and `best_model` when the metric got better.

    `latest` is also written where training is interrupted. The `best_model` of a run that is
    replaced stays until the first epoch is finished.
    """

    def after_epoch(self, engine: Engine) -> None:
        if engine.rank == 0:
            description, weights = _describe(engine), engine.model.state_dict
            if engine.best is not None and engine.best_epoch == engine.epoch:
                with engine.best_weights():
                    checkpoint.save(engine.save_dir / "best_model", description, weights())
            elif engine.epoch == 1:
                remove_folder(engine.save_dir / "best_model")
            _save_latest(engine)
        distributed.barrier()

    def interrupted(self, engine: Engine) -> None:
        if engine.rank == 0:  # with several processes, each is where it is
            engine.check_weights()
            _save_latest(engine)


def _describe(engine: Engine) -> checkpoint.CheckpointDescription:
    edits = engine.windows.edits()
    return checkpoint.describe(engine.task, edits, engine.epoch, engine.metrics)


def _save_latest(engine: Engine) -> None:
    weights, state = engine.model.state_dict(), engine.training_state()
    checkpoint.save(engine.save_dir / "latest", _describe(engine), weights, state)


class EarlyStop(Hook):
    """Ends training when the metric has not got better for so many epochs."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def before_training(self, engine: Engine) -> None:
        self.after_epoch(engine)  # a resumed run may have ended already

    def after_epoch(self, engine: Engine) -> None:
        if engine.evaluated and engine.epoch - engine.best_epoch >= self.patience:
            log.info("no better metric for %d epochs: stop", self.patience)
            engine.stop = True


class VisualDL(Hook):
    """Writes losses, learning rate and metrics as VisualDL scalars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_training(self, engine: Engine) -> None:
        check_replaceable(self.folder)
        with self._writing():
            self._writer = self._open(engine)

    def _open(self, engine: Engine) -> Any:
        from visualdl import LogWriter

        return LogWriter(logdir=str(self.folder))

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        with self._writing():
            for name, value in {**terms, "learning_rate": rate}.items():
                self._writer.add_scalar(f"train/{name}", value, engine.step)

    def after_epoch(self, engine: Engine) -> None:
        with self._writing():
            for name, value in engine.metrics.items():
                self._writer.add_scalar(f"val/{name}", value, engine.epoch)

    def after_training(self, engine: Engine) -> None:
        with self._writing():
            self._writer.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise FileError(f"{self.folder}: cannot be written: {reason}") from error


class TensorBoard(VisualDL):
    """Writes the same scalars for TensorBoard; a resumed run replaces later ones."""

    def _open(self, engine: Engine) -> Any:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "--use_tensorboard: tensorboardX is not installed; run: pip install tensorboardX"
            ) from error
        return SummaryWriter(str(self.folder), purge_step=engine.step + 1 if engine.step else None)
