"""Run the steps of a row that are not done yet, and collect its figures."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.errors import FileError, UserError
from core.settings.acceptance import FileFigures
from core.settings.files import write_text
from core.settings.processes import run_beside
from core.targets.names import BACKENDS
from core.zoo.changes import Changes, read_changes
from core.zoo.rows import ScaleName, ZooRow
from core.zoo.step_cache import StepCache
from core.zoo.steps import (
    BENCHMARK,
    COMPRESSED,
    FLOAT,
    ZooPlaces,
    ZooStep,
    exported,
    float_home,
    metrics_file,
    pictures_file,
)

RESULT = "result.json"
LAST_LINES = 3  # lines of a log in the message of a step that failed
TellLine = Callable[[str], None]
RunTool = Callable[[Sequence[str], Path], int]  # path of a tool and arguments; log; to a status
Locks = Mapping[Path, AbstractContextManager[Any]]  # by the homes of steps


@dataclass(frozen=True)
class ZooResult:
    """Figures of a row at one scale, as in its `result.json`.

    Attributes:
        name: Name of the row's file.
        scale: Scale that was run.
        row: Title, source, metric and published figures, as the row's file gives them.
        metrics: Metrics of the files by model (`float`, `compressed`) and runtime.
        benchmark: Rows of `tools/benchmark.py`; the model is `float` or `compressed`.
        commands: Command of each step.
        seconds: Seconds of each step.
        trainings: Folder of each model's training.
        pictures: Picture of predictions of each model's exported files.
        changes: Changes that the compression made; None for a float model.
        environment: Machine, of the benchmark.
        date: Day of the run.
    """

    name: str
    scale: str
    row: dict[str, Any]
    metrics: dict[str, dict[str, dict[str, float]]]
    benchmark: tuple[dict[str, Any], ...]
    commands: dict[str, str]
    seconds: dict[str, float]
    trainings: dict[str, str]
    pictures: dict[str, str] = field(default_factory=dict)
    changes: Changes | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    date: str = ""

    def metric(self, model: str, backend: str) -> float | None:
        """Return the row's own metric of a file in a runtime."""
        value = self.metrics.get(model, {}).get(backend, {}).get(self.row["metric"])
        return None if value is None else float(value)

    def files(self) -> list[FileFigures]:
        """Return the figures of the row's own files, compressed if it is about those."""
        model = COMPRESSED if COMPRESSED in self.metrics else FLOAT
        found = []
        for backend in self.metrics[model]:
            known = self.measured(model, backend) or {"size_mb": None, "mean_ms": None}
            metrics = self.metric(model, backend), self.metric(FLOAT, backend)
            name = f"{self.name}, {model} in {backend}"
            found.append(FileFigures(name, known["size_mb"], known["mean_ms"], *metrics))
        return found

    def measured(self, model: str, backend: str, threads: int = 1) -> dict[str, Any] | None:
        """Return the row of the benchmark for a file in a runtime with so many threads."""
        wanted = model, backend, threads
        found = (r for r in self.benchmark if (r["model"], r["backend"], r["threads"]) == wanted)
        return next(found, None)

    def threads(self) -> list[int]:
        """Return the numbers of threads that were measured."""
        return list(dict.fromkeys(row["threads"] for row in self.benchmark))


def run_tool(command: Sequence[str], log: Path) -> int:
    """Run a tool in a new process; return its status.

    Args:
        command: Path of the tool, and its arguments; or arguments of Python.
        log: File for all that it says.
    """
    with open(log, "wb") as said:
        return run_beside([sys.executable, *command], said)


def run_steps(
    steps: Sequence[ZooStep],
    cache: StepCache,
    locks: Locks,
    tools: Path,
    tell: TellLine,
    launch: Sequence[str] = (),
    run: RunTool = run_tool,
    overwrite: bool = False,
) -> None:
    """Run the steps that are not done; print what each does and how long it took.

    An interrupted training is resumed. What another key has made is removed first, trainings only
    if that is asked for. What a step says goes to `logs/` beside its output.

    Args:
        steps: Steps in their order.
        cache: Cache of the steps that are done.
        locks: One for each home of steps: rows that run at the same time may share some.
        tools: Folder of the tools.
        tell: Receives lines for people.
        launch: Arguments of `paddle.distributed.launch`, which starts the trainings then.
        run: Runs a tool.
        overwrite: Whether trainings of another key are removed.

    Raises:
        UserError: A step failed, or its output is not its own or a training of another key.
    """
    for step in steps:
        with locks[step.home]:
            if cache.is_done(step):
                tell(f"{step.name}: done before")
                continue
            words = list(step.words)
            if step.training and cache.was_begun(step) and (step.output / "latest").is_dir():
                words.append("--resume")
            else:
                _remove_own(step, cache, overwrite)
            cache.note(step, None)
            tell(f"{step.name}: python tools/{shlex.join(words)}")
            begin = time.monotonic()
            command = [str(tools / words[0]), *words[1:]]
            if launch and step.training:
                command = ["-m", "paddle.distributed.launch", *launch, *command]
                _run(step, command, run_tool)
            else:
                _run(step, command, run)
            seconds = time.monotonic() - begin
            cache.note(step, round(seconds, 1))
            tell(f"{step.name}: {seconds:.0f} s")


def collect(
    name: str,
    row: ZooRow,
    scale: ScaleName,
    steps: Sequence[ZooStep],
    cache: StepCache,
    places: ZooPlaces,
) -> ZooResult:
    """Collect the results of the steps, and write them as `result.json`."""
    homes = {FLOAT: float_home(row, row.scales[scale], places)}
    changes = None
    if row.slim:
        homes[COMPRESSED] = places.row
        folders = [exported(home, model) for model, home in homes.items()]
        changes = read_changes(places.row / COMPRESSED, *folders)
    benchmark = _json(places.row / BENCHMARK)
    # by the last part of their paths: all may have been moved since
    names = {exported(home, model).name: model for model, home in homes.items()}
    try:
        rows = [
            {**each, "model": names[Path(each["model"]).name], "times_ms": None}
            for each in benchmark["rows"]
        ]
        measured_on = benchmark["environment"]
    except (KeyError, TypeError) as error:
        file = places.row / BENCHMARK
        raise FileError(f"{file}: is not what benchmark writes; remove it") from error
    result = ZooResult(
        name=name,
        scale=scale,
        row={
            **{key: getattr(row, key) for key in ("title", "source", "metric")},
            "slim": list(row.slim),
            "published": asdict(row.published),
        },
        metrics={
            model: {each: _json(metrics_file(home, model, each)) for each in BACKENDS}
            for model, home in homes.items()
        },
        benchmark=tuple(rows),
        commands={step.name: f"python tools/{shlex.join(step.words)}" for step in steps},
        seconds={step.name: cache.seconds(step) or 0.0 for step in steps},
        trainings={model: str(home / model) for model, home in homes.items()},
        pictures={model: str(pictures_file(home, model)) for model, home in homes.items()},
        changes=changes,
        environment=measured_on,
        date=datetime.date.today().isoformat(),
    )
    write_text(places.row / RESULT, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _run(step: ZooStep, command: Sequence[str], run: RunTool) -> None:
    log = step.home / "logs" / f"{step.name.replace(' ', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    status = run(command, log)
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        told = " | ".join(lines[-LAST_LINES:])
        raise UserError(f"{step.name}: ended with status {status}: {told} (log: {log})")


def _remove_own(step: ZooStep, cache: StepCache, overwrite: bool) -> None:
    """Remove what a step has made before."""
    path = step.output
    if os.path.lexists(path) and not cache.is_noted(step):
        raise FileError(f"{path}: was not written by this step; move it, or name another folder")
    if step.training and not (overwrite or cache.was_begun(step)) and os.path.lexists(path):
        raise FileError(
            f"{path}: holds a training from before code, settings or data changed; give "
            "--overwrite to train anew, or another --save_dir to keep it"
        )
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: cannot be read: {error}") from error
