"""Draw pictures of a validation: some samples, the worst ones, the confusion matrix."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import ConfigError, DataError, FileError
from core.settings.files import write_bytes
from core.task import Arrays, ConfusionMetric, Metric, ReviewedTask, Task
from core.training.charts import draw_confusion
from core.training.contact_sheet import page, tile
from core.training.hooks import Hook
from core.training.loader import Loader
from core.training.results import DRAW_SECONDS, refuse_folders

if TYPE_CHECKING:
    from core.training.engine import Engine

SAMPLES, WORST, CONFUSION = "validation.png", "worst.png", "confusion_matrix.png"
TILES = 8  # pictures in each of the first two
_log = logging.getLogger(__name__)

Page = tuple[Path, Callable[[], bytes]]  # a file, and what draws it


@dataclass(frozen=True)
class Tile:
    """A sample with its prediction, small enough to keep."""

    error: float
    picture: np.ndarray  # RGB [H, W, 3]


@dataclass
class _Seen:
    """Samples of the validation of an epoch so far."""

    count: int = 0
    samples: list[np.ndarray] = field(default_factory=list)
    worst: list[Tile] = field(default_factory=list)


class Review(Hook):
    """Writes pictures of the best epoch's validation; of several processes, of the first's share.

    They are written once a minute at most, and when training ends. A disk that is full meanwhile is
    a line of the log.
    """

    def before_training(self, engine: Engine) -> None:
        self._files = [engine.save_dir / name for name in (SAMPLES, WORST, CONFUSION)]
        refuse_folders(*self._files)
        if not engine.epoch:
            for file in self._files:
                file.unlink(missing_ok=True)
        task, loader = engine.task, engine.val_loader
        self._task = task if isinstance(task, ReviewedTask) else None
        self._loader = loader
        self._root = f"{engine.task.config.data.root}/"
        self._chosen = _spread(loader)
        self._pending: list[Page] = []
        self._drawn = time.monotonic()
        self._stopped = False
        self._seen = _Seen()

    def after_batch(self, outputs: Arrays, batch: Arrays) -> None:
        if self._task is None:
            return
        seen = self._seen
        errors = np.nan_to_num(self._task.sample_errors(outputs, batch), nan=np.inf)
        for number, error in enumerate(errors.tolist()):
            place, seen.count = seen.count, seen.count + 1
            shown = place in self._chosen
            worse = len(seen.worst) < TILES or error > seen.worst[-1].error
            if not shown and not worse:
                continue
            view = self._task.view_sample(outputs, batch, number)
            picture = tile(view.image, view.text, self._name(place))
            if shown:
                seen.samples.append(picture)
            if worse:  # the first ones are kept among equally bad ones
                ranked = [*seen.worst, Tile(error, picture)]
                seen.worst = sorted(ranked, key=lambda each: -each.error)[:TILES]

    def after_epoch(self, engine: Engine) -> None:
        if engine.evaluated and engine.best_epoch == engine.epoch:
            self._pending = self._contents(engine.metric)
        self._seen = _Seen()
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self._write()

    def after_training(self, engine: Engine) -> None:
        self._write()

    def _contents(self, metric: Metric | None) -> list[Page]:
        """Return the pages to write for this epoch; they are drawn when they are written."""
        samples, worst, confusion = self._files
        pages: list[Page] = []
        if self._seen.samples:
            pages.append((samples, partial(page, self._seen.samples)))
            pages.append((worst, partial(page, [each.picture for each in self._seen.worst])))
        if isinstance(metric, ConfusionMetric):
            pages.append((confusion, partial(draw_confusion, metric.confusion, metric.names)))
        return pages

    def _write(self) -> None:
        pending, self._pending = self._pending, []
        if self._stopped or not pending:
            return
        try:
            for file, draw in pending:
                write_bytes(file, draw())
        except FileError as error:
            self._stopped = True
            _log.warning("%s; no more pictures are written", error)
        self._drawn = time.monotonic()

    def _name(self, place: int) -> str:
        return "" if self._task is None else _name(self._task, self._loader, self._root, place)


class SamplePictures:
    """Draws some samples of an evaluation with truth and prediction.

    Args:
        task: Draws a sample.
        loader: Loader of the evaluation.

    Raises:
        ConfigError: The task draws no samples.
    """

    def __init__(self, task: Task, loader: Loader) -> None:
        if not isinstance(task, ReviewedTask):
            raise ConfigError(f"pictures: the task {task.name} cannot draw its samples")
        self._task, self._loader, self._root = task, loader, f"{task.config.data.root}/"
        self._chosen, self._count = _spread(loader), 0
        self._tiles: list[np.ndarray] = []

    def after_batch(self, outputs: Arrays, batch: Arrays) -> None:
        """Draw the chosen ones of a batch [N, ...]."""
        for number in range(len(next(iter(batch.values())))):
            place, self._count = self._count, self._count + 1
            if place in self._chosen:
                name = _name(self._task, self._loader, self._root, place)
                view = self._task.view_sample(outputs, batch, number)
                self._tiles.append(tile(view.image, view.text, name))

    def write(self, file: Path) -> None:
        """Write the drawn samples as a PNG.

        Raises:
            DataError: Nothing was.
            FileError: It cannot be written.
        """
        if not self._tiles:
            raise DataError(f"{file}: no sample was evaluated that could be drawn")
        write_bytes(file, page(self._tiles))


def _spread(loader: Loader) -> set[int]:
    """Return the places of some samples, evenly spread over those of this process."""
    mine = len(range(loader.rank, len(loader.dataset), loader.world))
    return set(np.linspace(0, mine - 1, min(TILES, mine)).round().astype(int).tolist())


def _name(task: ReviewedTask, loader: Loader, root: str, place: int) -> str:
    """Return the file of a sample; where some were left out, nobody knows which it is."""
    if loader.skipped:
        return ""
    return task.name_sample(loader.dataset, loader.rank + place * loader.world).removeprefix(root)
