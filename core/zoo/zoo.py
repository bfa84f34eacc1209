"""The model zoo at one scale: plan its rows, show which steps are done, run the others."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import paddle
import psutil
from rich.table import Table

from core.errors import FileError, UserError
from core.settings.config import load_yaml
from core.settings.files import sibling
from core.settings.home import CONFIGS
from core.settings.locks import Lock
from core.training.checkpoint import locate
from core.training.run import read_run
from core.zoo.cards import write_cards
from core.zoo.forks import fork_server
from core.zoo.reproduction import RunTool, ZooResult, collect, run_steps, run_tool
from core.zoo.rows import PUBLISHED, ScaleName, ZooRow
from core.zoo.step_cache import StepCache, code_digest
from core.zoo.steps import ZooPlaces, ZooStep, exported_folders, missing_data, plan_steps

TOP = CONFIGS.parent
CODE = ("core", "tasks", "tools")
TellRow = Callable[[str, str], None]  # receives a row's name and a line about it


@dataclass(frozen=True)
class PlannedRow:
    """A row with its steps, done and to do."""

    steps: list[ZooStep]
    cache: StepCache
    places: ZooPlaces


class Zoo:
    """Rows that are reproduced at one scale.

    Args:
        rows: Rows by name.
        scale: Scale of all of them.
        data: Folder of all data sets.
        save_dir: Folder for all output, with a folder for each scale.
    """

    def __init__(
        self, rows: Mapping[str, ZooRow], scale: ScaleName, data: Path, save_dir: Path
    ) -> None:
        self.rows, self.scale, self.data = rows, scale, data
        self.folder = save_dir / scale
        self._code = code_digest([TOP / name for name in CODE])

    def plan(self, name: str, fetch: bool = True) -> PlannedRow:
        """Plan a row.

        Args:
            name: Name of the row.
            fetch: Whether to fetch weights that are published; otherwise the row is refused.

        Raises:
            UserError: The row has no such scale, data are missing, or weights cannot be fetched.
        """
        row = self.rows[name]
        if self.scale not in row.scales:
            raise UserError(f"has no scale {self.scale}; it has {', '.join(row.scales)}")
        how = row.scales[self.scale]
        shared = self.folder / "floats", self.data, self.folder / "drawn"
        places = ZooPlaces(self.folder / name, *shared, CONFIGS / "slim")
        missing = missing_data(how, places)
        if missing:
            raise UserError(missing)
        weights = None
        if how.weights == PUBLISHED:
            if not fetch:
                raise UserError("can run; its published weights are fetched then")
            weights = locate(read_run(load_yaml(how.config or row.config)).task, True)
        elif how.weights:
            weights = Path(how.weights.replace("{data}", str(self.data)))
        data = [Path(path.replace("{data}", str(self.data))) for path in how.data]
        cache = StepCache(places, self._code, data)
        return PlannedRow(plan_steps(row, how, places, weights), cache, places)

    def table(self) -> Table:
        """Return the rows with their done steps and their cost; nothing is downloaded."""
        table = Table(title=f"model zoo, scale {self.scale}")
        table.add_column("row", no_wrap=True)  # a name that is typed
        for column in ("about", "done", "cost"):
            table.add_column(column, overflow="fold")
        for name, row in self.rows.items():
            cost = row.scales[self.scale].cost if self.scale in row.scales else ""
            try:
                planned = self.plan(name, fetch=False)
            except UserError as error:
                table.add_row(name, row.title, str(error), cost)
                continue
            done = [planned.cache.is_done(step) for step in planned.steps]
            seconds = [planned.cache.seconds(step) for step in planned.steps]
            known = [each for each in seconds if each is not None]
            if len(known) == len(done):
                cost = f"{sum(known):.0f} s the last time"
            table.add_row(name, row.title, f"{sum(done)} of {len(done)} steps", cost)
        return table

    @contextlib.contextmanager
    def _starting(self) -> Iterator[RunTool]:
        """Yield the function that runs tools: forks at scale smoke, where imports take longest."""
        # a fork cannot use a GPU that its parent knows
        if self.scale == "smoke" and hasattr(os, "fork") and not paddle.is_compiled_with_cuda():
            with fork_server() as server:
                yield server.run
        else:
            yield run_tool

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from reproducing into the same folder meanwhile.

        Raises:
            FileError: One does already, or the folder cannot be made.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.folder}: cannot be made: {error.strerror}") from error
        with Lock(sibling(self.folder, "lock"), self.folder):
            yield

    def reproduce(
        self, jobs: int, launch: Sequence[str], tell: TellRow, overwrite: bool = False
    ) -> tuple[list[ZooResult], dict[str, str]]:
        """Run the steps that are not done; return the figures of the rows, and why others failed.

        Args:
            jobs: Rows that run at the same time.
            launch: Arguments of `paddle.distributed.launch` for trainings; none: one process.
            tell: Receives lines for people.
            overwrite: Whether trainings that code, settings or data have outdated are removed.
        """
        plans: dict[str, PlannedRow] = {}
        results: dict[str, ZooResult] = {}
        failures: dict[str, str] = {}
        asked_to_end = threading.Event()

        def attempt(name: str, do: Callable[[], None]) -> None:
            try:
                do()
            except UserError as error:
                failures[name] = str(error)
                if not asked_to_end.is_set():  # its tools end then, which is no failure
                    tell(name, str(error))

        def plan(name: str) -> None:
            plans[name] = self.plan(name)

        def run(name: str) -> None:
            steps, cache, places = plans[name].steps, plans[name].cache, plans[name].places
            with self._starting() as start:
                told = partial(tell, name)
                run_steps(steps, cache, locks, TOP / "tools", told, launch, start, overwrite)
            row = self.rows[name]
            result = collect(name, row, self.scale, steps, cache, places)
            write_cards(result, exported_folders(row, row.scales[self.scale], places))
            results[name] = result

        for name in self.rows:
            attempt(name, partial(plan, name))
        locks = {step.home: threading.Lock() for each in plans.values() for step in each.steps}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for future in [pool.submit(attempt, name, partial(run, name)) for name in plans]:
                    future.result()
            except BaseException as error:
                asked_to_end.set()
                pool.shutdown(wait=False, cancel_futures=True)
                _end_children(error)
                raise
        return [results[name] for name in self.rows if name in results], failures


def _end_children(error: BaseException) -> None:
    """End the tools that run, unless what ended this process was sent to them, too: Ctrl-C."""
    if type(error) is not KeyboardInterrupt:
        for child in psutil.Process().children():
            child.terminate()
