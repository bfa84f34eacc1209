"""Milliseconds that a layer takes on this machine: measured once per shape, then looked up.

The protocol: two models, one with a single copy of the layer and one with three side by side on
the same input; (t3 - t1) / 2 is the layer. So what a model costs apart from its layers cancels:
the call, copying arrays in and out, bringing the input into the runtime's own order of memory.
A network pays for those once, not for each layer. Runs of both models take turns and the shortest
of each counts: at least 5 runs, and 15 ms in all.

With one thread, the clock is the processor time of this process, which stands still while other
programs have the core; a clock on the wall beside busy programs may show several times too much.
Other threads of this process are counted, though: nothing else should run in it meanwhile.

Every channel count is measured, none is interpolated: the runtimes work in blocks of channels, and
one channel less than a full block may take longer than the block.
`benchmarks/measure/latency_table.py` shows that, and compares sums of layers with whole networks.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ConfigError, ExportError
from core.runtimes.environment import environment
from core.runtimes.formats import format_of
from core.runtimes.layer_model import LayerShape, write_layer_model
from core.runtimes.predictor import load_predictor
from core.settings.config import read, suggest
from core.settings.files import scratch, write_text
from core.settings.progress import progress
from core.targets.names import BACKENDS, Backend

MeasureLayer = Callable[[LayerShape, Backend, int], float]
Clock = Callable[[], float]

FORMAT_VERSION = 1  # to be raised as well when the protocol changes
_COPIES = 3
_MANY = 10  # measurements that take long enough to show progress
_log = logging.getLogger(__name__)


def measure_layer(shape: LayerShape, backend: Backend, threads: int) -> float:
    """Measure one layer, in milliseconds; 0 if it is lost in the noise.

    Raises:
        ExportError: The runtime cannot run it.
    """
    one, several = shortest_ms(layer_runs(shape, backend, threads), clock_for(threads))
    return max(several - one, 0.0) / (_COPIES - 1)


def layer_runs(shape: LayerShape, backend: Backend, threads: int) -> list[Callable[[], object]]:
    """Load a model with one copy of the layer and one with several, ready to run.

    Raises:
        ExportError: The runtime cannot run it.
    """
    array = np.random.default_rng(0).normal(size=shape.input_shape).astype("float32")
    runs: list[Callable[[], object]] = []
    for copies in (1, _COPIES):
        with scratch() as name:
            folder = Path(name)
            write_layer_model(shape, copies, folder, format_of(backend))
            try:
                predictor = load_predictor(folder, backend, threads, own=True)
            except ExportError as error:
                raise ExportError(f"{shape}: cannot be measured: {error}") from error
        runs.append(partial(predictor.run, array))
    return runs


def model_run(
    model_dir: str | Path, inputs: Sequence[np.ndarray], backend: Backend, threads: int
) -> Callable[[], object]:
    """Load a model whose files this process has just written; return a function that runs it.

    Args:
        model_dir: Its folder, which may go afterwards.
        inputs: An array [N, ...] for each input.
        backend: Runtime.
        threads: CPU threads.

    Raises:
        ExportError: It cannot be loaded.
    """
    return partial(load_predictor(model_dir, backend, threads, own=True).run, *inputs)


def model_ms(runs: Sequence[Callable[[], object]], threads: int = 1) -> list[float]:
    """Measure whole models in turns, in milliseconds, with the clock used for layers.

    For the latency to publish there is `core.runtimes.benchmark`, which tells what was lost to
    other programs too.

    Args:
        runs: Functions that `model_run` returned.
        threads: CPU threads that they were loaded for.

    Raises:
        ExportError: A model does not take its inputs.
    """
    return shortest_ms(runs, clock_for(threads), least_runs=10, least_seconds=0.2 * len(runs))


def shortest_ms(
    runs: Sequence[Callable[[], object]],
    clock: Clock,
    least_runs: int = 5,
    least_seconds: float = 0.015,
) -> list[float]:
    """Return the shortest time of each, in milliseconds; they take turns, after one turn unseen.

    Args:
        runs: Functions to measure.
        clock: Clock in seconds.
        least_runs: Least number of runs of each.
        least_seconds: Least time of all runs together.
    """
    for run in runs:
        run()
    shortest = [math.inf for _ in runs]
    spent, turns = 0.0, 0
    while turns < least_runs or spent < least_seconds:
        for index, run in enumerate(runs):
            begin = clock()
            run()
            taken = clock() - begin
            if taken > 0:  # now and then the clock of a virtual machine misses a few microseconds
                shortest[index] = min(shortest[index], taken)
            # a clock that stands still must not keep us here for ever
            spent += max(taken, 1e-6)
        turns += 1
    return [each * 1e3 if math.isfinite(each) else 0.0 for each in shortest]


def clock_for(threads: int) -> Clock:
    """Choose the clock: processor time for one thread, where the system counts it finely."""
    # Windows counts it in steps of 16 ms
    fine = "clock_gettime" in time.get_clock_info("process_time").implementation
    return time.process_time if threads == 1 and fine else time.perf_counter


class LatencyTable:
    """Milliseconds per layer on this machine."""

    def __init__(
        self,
        backend: Backend,
        threads: int = 1,
        cache: Path | None = None,
        measure: MeasureLayer = measure_layer,
    ) -> None:
        """Read what was measured before.

        Args:
            backend: Runtime.
            threads: CPU threads.
            cache: JSON file to keep measurements in, also those of other backends, numbers of
                threads, machines and versions of the runtimes, which are not used here.
            measure: Measures a layer.

        Raises:
            ExportError: An unknown backend, no thread, or a broken cache.
        """
        if backend not in BACKENDS:
            raise ExportError(f"backend: no backend {backend!r}{suggest(backend, BACKENDS)}")
        if threads < 1:
            raise ExportError(f"threads: expected 1 or more, got {threads}")
        self._backend, self._threads = backend, threads
        self._cache, self._measure = cache, measure
        self._machine = _machine(backend)
        self._known: dict[str, float] = {}
        if cache is not None:
            self._known = self._read_own(cache)

    def predict(self, shapes: Iterable[LayerShape]) -> float:
        """Return the time of layers that run one after the other.

        Layers are all that is counted: activations, additions, resizing and so on are not.

        Raises:
            ExportError: The runtime cannot run one.
            FileError: The cache cannot be written.
        """
        wanted = list(shapes)
        self._measure_missing({str(shape): shape for shape in wanted})
        return math.fsum(self._known[str(shape)] for shape in wanted)

    def _measure_missing(self, shapes: dict[str, LayerShape]) -> None:
        missing = {name: shape for name, shape in shapes.items() if name not in self._known}
        if not missing:
            return
        hidden = len(missing) < _MANY
        try:
            for name in progress(missing, "measure layers", unit="layer", hidden=hidden):
                self._known[name] = self._measure(missing[name], self._backend, self._threads)
        finally:
            if self._cache is not None:
                self._write(self._cache)

    def _read_own(self, cache: Path) -> dict[str, float]:
        tables = [t for t in _read_tables(cache) if self._is_like_ours(t)]
        for table in tables:
            if table.machine == self._machine:
                return dict(table.milliseconds)
        if tables:
            _log.info("%s: measured on another machine or with other versions, not used", cache)
        return {}

    def _write(self, cache: Path) -> None:
        # read again: another process may have added to it meanwhile
        others, known = [], dict(self._known)
        for table in _read_tables(cache):
            if self._is_like_ours(table) and table.machine == self._machine:
                known = {**table.milliseconds, **known}
            else:
                others.append(table)
        own = _Table(self._backend, self._threads, self._machine, dict(sorted(known.items())))
        content = _LatencyFile(FORMAT_VERSION, (*others, own))
        write_text(cache, json.dumps(asdict(content), indent=1) + "\n")

    def _is_like_ours(self, table: _Table) -> bool:
        return (table.backend, table.threads) == (self._backend, self._threads)


@dataclass(frozen=True)
class _Table:
    backend: str
    threads: int
    machine: dict[str, Any]
    milliseconds: dict[str, float]

    def __post_init__(self) -> None:
        for name, value in self.milliseconds.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"milliseconds.{name}: expected 0 or more, got {value}")


@dataclass(frozen=True)
class _LatencyFile:
    format_version: int
    tables: tuple[_Table, ...]


def _machine(backend: Backend) -> dict[str, Any]:
    """Return the facts on this machine that must agree for measurements to be comparable."""
    known = environment()
    package = "paddlepaddle" if backend == "paddle" else backend
    versions = {name: text for name, text in known["packages"].items() if name.startswith(package)}
    steered = ("DNNL_", "ONEDNN_", "MKL_", "KMP_")
    return {
        **{key: known[key] for key in ("cpu", "cpu_instructions", "logical_cores")},
        "packages": versions,
        "variables": {k: v for k, v in known["variables"].items() if k.startswith(steered)},
    }


def _read_tables(cache: Path) -> tuple[_Table, ...]:
    if not cache.exists():
        return ()
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ValueError(f"format_version: {version}, of a newer TriSlim")
        if isinstance(version, int) and version < FORMAT_VERSION:
            _log.info(
                "%s: format_version %d, expected %d; not used", cache, version, FORMAT_VERSION
            )
            return ()
        return read(_LatencyFile, content, measured=True).tables
    except OSError as error:
        raise ExportError(f"{cache}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, ConfigError) as error:
        raise ExportError(
            f"{cache}: not a table of measured layers ({error}); remove it to measure again"
        ) from error
