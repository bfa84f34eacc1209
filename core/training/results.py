"""Write the measurements of each epoch to `results.csv` and `curves.png` of the save folder."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import FileError
from core.settings.files import write_bytes, write_text
from core.settings.reading import read_text
from core.training.charts import Row, draw_curves
from core.training.hooks import Hook

if TYPE_CHECKING:
    from core.training.engine import Engine

RESULTS, CURVES = "results.csv", "curves.png"
DRAW_SECONDS = 60.0  # between two drawings, which take half a second
FIRST = ("epoch", "step", "seconds", "learning_rate")  # columns
_log = logging.getLogger(__name__)


class Results(Hook):
    """Writes a row for each epoch, and draws curves of them.

    A resumed run goes on in the same file, behind the epochs that its checkpoint has seen. A disk
    that is full while training is a line of the log, as for the log itself.
    """

    def before_training(self, engine: Engine) -> None:
        self._file, self._picture = engine.save_dir / RESULTS, engine.save_dir / CURVES
        self._rows: list[Row] = []
        refuse_folders(self._file, self._picture)
        if engine.epoch and self._file.exists():
            self._rows = [r for r in read_results(self._file) if r["epoch"] <= engine.epoch]
        elif engine.epoch:
            _log.warning("%s: is gone; it begins anew behind epoch %d", self._file, engine.epoch)
        else:
            self._picture.unlink(missing_ok=True)
        write_text(self._file, to_csv(self._rows))
        self._before = self._rows[-1]["seconds"] if self._rows else 0.0
        self._begin = self._drawn = time.monotonic()
        self._stopped = False
        self._best_epoch: int | None = None

    def after_epoch(self, engine: Engine) -> None:
        row = {
            "epoch": engine.epoch,
            "step": engine.step,
            "seconds": round(self._before + time.monotonic() - self._begin, 1),
            "learning_rate": engine.rate,
        }
        row |= {f"train/{name}": value for name, value in engine.losses.means().items()}
        row |= {f"val/{name}": value for name, value in engine.metrics.items()}
        self._rows.append(row)
        self._best_epoch = None if engine.best is None else engine.best_epoch
        self._write(time.monotonic() - self._drawn >= DRAW_SECONDS)

    def after_training(self, engine: Engine) -> None:
        self._write(drawn=True)

    def _write(self, drawn: bool) -> None:
        if self._stopped:
            return
        try:
            write_text(self._file, to_csv(self._rows))
            if drawn and self._rows:
                write_bytes(self._picture, draw_curves(self._rows, self._best_epoch))
                self._drawn = time.monotonic()
        except FileError as error:
            self._stopped = True
            _log.warning("%s; no more results are written", error)


def to_csv(rows: Sequence[Row]) -> str:
    """Return a table with a column for all that was measured in some epoch."""
    columns = list(dict.fromkeys((*FIRST, *(key for row in rows for key in row))))
    columns.sort(key=lambda name: (name not in FIRST, not name.startswith("train/")))  # stable
    content = io.StringIO()
    table = csv.DictWriter(content, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return content.getvalue()


def read_results(file: Path) -> list[Row]:
    """Read what `to_csv` wrote; a cell that is empty was not measured.

    Raises:
        FileError: It is something else.
    """
    table = csv.DictReader(io.StringIO(read_text(file, FileError)))
    rows: list[Row] = []
    try:
        for raw in table:
            row = {key: float(cell) for key, cell in raw.items() if cell}
            whole = {name: int(row[name]) for name in ("epoch", "step")}
            row |= whole | {name: row[name] for name in FIRST if name not in whole}
            rows.append(row)
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise FileError(
            f"{file}: line {table.line_num} is not as a training wrote it; move the file away, and "
            "the run goes on without what was before"
        ) from error
    return rows


def refuse_folders(*files: Path) -> None:
    """Refuse, before an epoch is lost, what cannot be replaced by a file.

    Raises:
        FileError: It is a folder.
    """
    for file in files:
        if file.is_dir():
            raise FileError(f"{file}: expected a file, it is a folder; move it away")
