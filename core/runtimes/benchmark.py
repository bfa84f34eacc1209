"""Measure exported models side by side: latency, size, cost, memory.

The protocol: the model alone (no reading or preparing of images), the same random input for all,
10 runs to warm up and 50 that count. The runs are interleaved, one of each model and runtime in
turn, so that a machine that becomes slower or faster does so for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import ExportError
from core.graph import cost
from core.graph.program import Graph
from core.runtimes.description import DeployDescription, Port
from core.runtimes.environment import environment
from core.runtimes.formats import find_files, readable_backends
from core.runtimes.memory import peak_memory_mb
from core.runtimes.operator_times import OperatorTime, measure_operators
from core.runtimes.ports import as_fed
from core.runtimes.predictor import Predictor, load_predictor
from core.runtimes.survived import try_out_once
from core.settings.files import present
from core.settings.written import replace_json
from core.targets.names import Backend

RoundSteps = Callable[[Iterable[int]], Iterable[int]]  # wraps the rounds, to show progress


@dataclass(frozen=True)
class Protocol:
    """Protocol of a measurement.

    Attributes:
        backends: Runtimes; none means each that can read the model.
        threads: CPU threads of one run.
        batch_size: Images of one run.
        input_shape: [C, H, W] of the image.
        free_shape: [C, H, W] where the model and its description leave a size free.
        output: The only one that is asked for; None: all.
        warmup: Runs before it counts.
        runs: Runs that count.
        memory: Whether to measure peak memory, which starts a process for each.
        operators: Whether to measure classes of operators, in a session for each.
    """

    backends: tuple[Backend, ...] = ()
    threads: int = 1
    batch_size: int = 1
    input_shape: tuple[int, ...] | None = None
    free_shape: tuple[int, ...] | None = None
    output: str | None = None
    warmup: int = 10
    runs: int = 50
    memory: bool = True
    operators: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "batch_size", "runs"):
            if getattr(self, name) < 1:
                raise ExportError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.warmup < 0:
            raise ExportError(f"warmup: expected 0 or more, got {self.warmup}")


@dataclass(frozen=True)
class BenchmarkRow:
    """One model in one runtime.

    Attributes:
        speedup: (a - b) / a, with a the mean time of the first model in the same runtime and b
            this one's; 0.25 is a quarter less time.
        ratio: a / b of the same times; 1.33 is a quarter less time.
        size_mb: Size of the files that the runtime reads; 1 MB is 10**6 bytes.
        parameters: As the export counted them; of a model from elsewhere, all numbers in its file.
        macs: Multiply-accumulates of one run; None where only an ONNX file is there.
        times_ms: Times of all runs that count.
        threads: CPU threads of one run.
        operators: Times of classes of operators; None if they were not asked for, or the runtime
            does not tell.
    """

    model: str
    backend: Backend
    mean_ms: float
    median_ms: float
    p95_ms: float
    speedup: float | None
    ratio: float | None
    size_mb: float
    parameters: int | None
    macs: int | None
    peak_memory_mb: float | None
    times_ms: tuple[float, ...]
    threads: int = 1
    operators: tuple[OperatorTime, ...] | None = None


@dataclass(frozen=True)
class _Entry:
    folder: Path
    predictor: Predictor
    inputs: tuple[np.ndarray, ...]


def benchmark(
    model_dirs: Sequence[str | Path], protocol: Protocol, steps: RoundSteps = iter
) -> list[BenchmarkRow]:
    """Measure each model in each runtime.

    Args:
        model_dirs: Folders of exported models.
        protocol: Protocol of the measurement.
        steps: Wraps the rounds, for instance in a progress bar.

    Raises:
        ExportError: A model that a named runtime cannot read, or an input shape that is not known.
    """
    folders = [present(Path(each)) for each in model_dirs]
    entries = [entry for folder in folders for entry in _load(folder, protocol)]
    times: list[list[float]] = [[] for _ in entries]
    for step in steps(range(protocol.warmup + protocol.runs)):
        for entry, taken in zip(entries, times):
            begin = time.perf_counter()
            entry.predictor.run(*entry.inputs)
            if step >= protocol.warmup:
                taken.append((time.perf_counter() - begin) * 1e3)
    means: dict[Backend, float] = {}
    rows = []
    for entry, taken in zip(entries, times):
        mean = float(np.mean(taken))
        if entry.folder == folders[0]:
            means.setdefault(entry.predictor.backend, mean)
        rows.append(_row(entry, taken, means.get(entry.predictor.backend), protocol))
    return rows


def write_json(rows: Sequence[BenchmarkRow], protocol: Protocol, file: Path) -> None:
    """Write rows, protocol and environment.

    Raises:
        FileError: The file cannot be written.
    """
    content = {
        "protocol": asdict(protocol),
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }
    replace_json(file, content)


def _load(folder: Path, protocol: Protocol) -> list[_Entry]:
    # None: where nothing reads the folder, loading says why
    backends = protocol.backends or readable_backends(folder) or (None,)
    entries = []
    for backend in backends:
        predictor = load_predictor(folder, backend, protocol.threads)
        if protocol.output is not None:
            predictor.answer_with(protocol.output, protocol.output)
        rng = np.random.default_rng(0)
        inputs = tuple(
            rng.normal(size=_shape(folder, predictor.description, index, protocol)).astype(
                port.dtype or "float32"
            )
            for index, port in enumerate(predictor.description.inputs)
        )
        entries.append(_Entry(folder, predictor, inputs))
    return entries


def _shape(
    folder: Path, description: DeployDescription, index: int, protocol: Protocol
) -> tuple[int, ...]:
    """Return the shape to feed: the one asked for, else the exported one."""
    port: Port = description.inputs[index]
    if index == 0 and protocol.input_shape is not None:
        return (protocol.batch_size, *protocol.input_shape)
    known = description.report.input_shapes[index] if description.report else port.shape
    free = protocol.free_shape
    if index == 0 and free is not None and (not known or -1 in known[1:]):
        known = (-1, *free)
        port = port if port.shape else replace(port, shape=known)
    shape = [k if size == -1 else size for size, k in zip(port.shape, known)]
    if not shape or -1 in shape[1:]:
        raise ExportError(
            f"{folder}: the size of input {port.name!r} is not known; give --input_shape C,H,W"
        )
    if port.shape[0] not in (-1, protocol.batch_size):
        raise ExportError(
            f"batch_size: {folder} was exported for batches of {port.shape[0]}, "
            f"got {protocol.batch_size}"
        )
    return (protocol.batch_size, *shape[1:])


def _row(
    entry: _Entry, taken: Sequence[float], first: float | None, protocol: Protocol
) -> BenchmarkRow:
    predictor, mean = entry.predictor, float(np.mean(taken))
    backend = predictor.backend
    peak = None
    if protocol.memory:
        peak = peak_memory_mb(entry.folder, backend, protocol.threads, entry.inputs)
    return BenchmarkRow(
        model=str(entry.folder),
        backend=backend,
        mean_ms=mean,
        median_ms=float(np.median(taken)),
        p95_ms=float(np.percentile(taken, 95)),
        speedup=None if first is None else (first - mean) / first,
        ratio=None if first is None else first / mean,
        size_mb=cost.size_mb(find_files(entry.folder, backend)),
        parameters=_parameters(entry),
        macs=_macs(entry),
        peak_memory_mb=peak,
        times_ms=tuple(round(each, 4) for each in taken),
        threads=protocol.threads,
        operators=_operators(entry, protocol) if protocol.operators else None,
    )


def _operators(entry: _Entry, protocol: Protocol) -> tuple[OperatorTime, ...] | None:
    ports, backend = entry.predictor.description.inputs, entry.predictor.backend
    feeds = {port.name: as_fed(port, array) for port, array in zip(ports, entry.inputs)}
    file = find_files(entry.folder, backend)[0]
    threads, warmup, runs = protocol.threads, protocol.warmup, protocol.runs
    return measure_operators(file, backend, threads, feeds, warmup, runs)


def _parameters(entry: _Entry) -> int | None:
    described = entry.predictor.description.report
    if described is not None:
        return described.parameters
    graph = _program(entry)
    return cost.count_stored(graph) if graph else None


def _macs(entry: _Entry) -> int | None:
    described = entry.predictor.description.report
    shapes = tuple(array.shape for array in entry.inputs)
    if described is not None and shapes == described.input_shapes:
        return described.macs
    graph = _program(entry)
    return cost.count_macs_of_graph(graph, entry.inputs) if graph else None


def _program(entry: _Entry) -> Graph | None:
    """Read a program in Paddle's old IR, the only kind that can be counted."""
    try:
        files = find_files(entry.folder, "paddle")
    except ExportError:
        return None
    if files[0].suffix == ".json":
        return None
    if entry.predictor.backend != "paddle":
        try_out_once(entry.folder, "paddle", files)  # it is run to be counted
    return Graph.from_files(files[0], files[1])
