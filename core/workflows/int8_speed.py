"""Measure whether int8 pays: time the files of an export in turns with their float files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from paddle.nn import Layer

from core.export.endings import ending_in
from core.export.files import format_of_file, write_files
from core.export.package import Exported
from core.export.parity import real_batches
from core.export.traced_model import ExportSettings
from core.graph.batch_norm_folding import trace_folded
from core.graph.program import Graph
from core.graph.rewrites import rewrite
from core.network.modes import evaluation_mode
from core.runtimes.formats import is_installed, read_format
from core.runtimes.latency_table import clock_for, shortest_ms
from core.runtimes.predictor import load_predictor
from core.settings.files import scratch
from core.targets.names import BACKENDS, Backend
from core.task import Task

RUNS, SECONDS = 10, 0.2  # least number of runs of both files, and least time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Latency:
    """Shortest time for one image on one thread, in milliseconds, measured in turns."""

    float_ms: float
    int8_ms: float


def float_graph(task: Task, model: Layer, ending: str = "raw", *, rewritten: bool = True) -> Graph:
    """Return the float graph that the files of a quantized model are made of.

    Args:
        task: Task of the model.
        model: Quantized model; not changed.
        ending: See `core.export.package.export`.
        rewritten: So is this.
    """
    layer, _ = ending_in(task, model, ending)
    with evaluation_mode(model), evaluation_mode(layer):
        graph = trace_folded(layer, task.input_spec(), model)
    return rewrite(graph) if rewritten else graph


def one_image(task: Task) -> list[np.ndarray]:
    """Return one image [1, C, H, W] for each input of a task's model, of its data if it has any."""
    return [array[:1] for array in real_batches(task, task.input_spec())[0]]


def latency_beside_float(
    task: Task, model: Layer, folder: Path, made: Exported, files: ExportSettings, remedy: str
) -> dict[Backend, Int8Latency]:
    """Time the int8 files of a model beside float files of the same kind; warn where they lose.

    Args:
        task: Task of the model.
        model: Quantized model; not changed.
        folder: Folder with the int8 files.
        made: Their export.
        files: Settings of their export.
        remedy: Advice where int8 is slower.
    """
    graph = float_graph(task, model, files.ending, rewritten=files.rewritten)
    found = measure_latency(graph, folder, made, one_image(task))
    warn_where_slower(found, files.target, remedy)
    return found


def measure_latency(
    graph: Graph, folder: Path, made: Exported, inputs: Sequence[np.ndarray]
) -> dict[Backend, Int8Latency]:
    """Time int8 files beside float ones, in each installed runtime that reads them.

    Args:
        graph: Float graph with folded batch norms that the files were made of.
        folder: Folder with the int8 files.
        made: Their export.
        inputs: One array [1, ...] for each input.
    """
    formats = sorted({format_of_file(name) for name in made.float_bytes} - {"lite"})
    found = {}
    with scratch() as place:
        write_files(graph, place, formats)
        for backend in BACKENDS:
            if read_format(backend, formats) is None or not is_installed(backend):
                continue
            _log.info("timing int8 beside float in %s", backend)
            predictors = [load_predictor(each, backend, own=True) for each in (place, folder)]
            runs = [partial(each.run, *inputs) for each in predictors]
            found[backend] = Int8Latency(*shortest_ms(runs, clock_for(1), RUNS, SECONDS))
    return found


def warn_where_slower(found: Mapping[Backend, Int8Latency], target: str, remedy: str) -> None:
    """Say in one line each where int8 is slower than float, in the runtimes that files are for.

    Args:
        found: Result of `measure_latency`.
        target: Runtime that the ONNX file is laid out for; Paddle's files are for Paddle Inference.
        remedy: Advice for the end of the message.
    """
    for backend, each in found.items():
        if backend in (target, "paddle") and each.int8_ms >= each.float_ms:
            _log.warning(
                "%s: int8 is no faster than float here: %.2f ms, float %.2f; %s",
                *(backend, each.int8_ms, each.float_ms, remedy),
            )
