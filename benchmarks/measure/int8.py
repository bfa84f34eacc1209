"""Time int8 files beside float ones, NNCF's and PaddleSlim's: one thread, one image.

    python -m benchmarks.measure.int8                              # all networks
    python -m benchmarks.measure.int8 --networks MobileNetV1 ResNet50_vd --rounds 30

All files of a network take turns in one process, by the processor's clock. NNCF is installed into a
virtual environment below --work_dir. Writes docs/benchmarks/int8.json and docs/benchmarks.md; on a
processor without VNNI, or under `benchmarks.processor.without_vnni`,
docs/benchmarks/int8_without_vnni.json.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from benchmarks.comparison import cpu_seconds, record
from benchmarks.measure.command import revision
from benchmarks.measure.qat_step import NETWORKS
from benchmarks.pages.benchmarks import page
from benchmarks.peers.int8 import (
    PRESETS,
    SETTINGS,
    Run,
    drift,
    formats_here,
    install_nncf,
    paddleslim_run,
    prepare,
    quantize_with_nncf,
    quantize_with_paddleslim,
    try_paddleslim,
)
from benchmarks.peers.processes import LIMIT_SECONDS, PeerError
from core.errors import ConfigError
from core.export.package import Exported, export
from core.quant.layers import quantized_layers
from core.quant.post_training import PtqConfig, quantize_after_training
from core.quant.selection import LayerSelection
from core.runtimes.environment import environment
from core.runtimes.formats import format_of
from core.runtimes.latency_table import clock_for
from core.runtimes.predictor import load_predictor
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import BACKENDS, Backend, Format, Target
from core.task import Task
from core.workflows.float_fallback import keep_speed

Entry = dict[str, Any]
WARMUP = 3
# runtimes, and the target whose files they run here
OURS: tuple[tuple[Backend, Target], ...] = (
    ("paddle", "openvino"),
    ("onnxruntime", "onnxruntime"),
    ("openvino", "openvino"),
)


def measure(network: str, rounds: int, python: Path, limit: float) -> Entry:
    """Export a network in all ways, and let the files take turns."""
    task, model, images = prepare(network)
    entry: Entry = {"input": list(images[0].shape), "failures": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _export_all(network, task, model, images, folder, entry)
        peers = {"NNCF": lambda: _nncf(python, images, folder, entry)}
        peers["PaddleSlim"] = lambda: _paddleslim(network, folder, limit, entry)
        for name, make in peers.items():
            try:
                make()
            except PeerError as error:
                entry["failures"][name] = str(error)
        runs = _runs(folder, images[0], entry)
        entry["milliseconds"] = take_turns(runs, rounds)
        entry["controlled"] = {}
        for backend, target in OURS:
            before, after = (
                statistics.median(entry["milliseconds"][f"{backend}: {name}"])
                for name in ("float", "ours")
            )
            if after >= before:
                controlled = _control(network, backend, target, folder, rounds)
                entry["controlled"][backend] = controlled
    return entry


def _control(network: str, backend: Backend, target: Target, folder: Path, rounds: int) -> Entry:
    """Leave in float what int8 makes no faster, and time that beside the other two."""
    task, model, images = prepare(network)
    _quantize(task, model, images, target)
    try:
        keep_speed(task, model, backend)
    except ConfigError as error:
        return {"refused": str(error)}
    kind, place = format_of(backend), folder / f"controlled_{backend}"
    export(task, model, place, (kind,), input_shape=images[0].shape[1:], target=target)
    places = {"float": folder / "float", "all": folder / target, "chosen": place}
    runs = {name: _predicting(each, backend, images[0]) for name, each in places.items()}
    return {
        "layers": len(quantized_layers(model)),
        "milliseconds": take_turns(runs, rounds),
    }


def _quantize(
    task: Task, model: Layer, images: Sequence[np.ndarray], target: Target
) -> LayerSelection:
    batches = [[paddle.to_tensor(image)] for image in images]
    config = PtqConfig(observer="abs_max", target=target)
    return quantize_after_training(task, model, lambda: batches, config)


def _export_all(
    network: str,
    task: Task,
    model: Layer,
    images: Sequence[np.ndarray],
    folder: Path,
    entry: Entry,
) -> None:
    """Write our files, float and int8 for each target; note seconds, bytes and differences."""
    size = images[0].shape[1:]
    formats = formats_here()
    export(task, model, folder / "float", ("paddle", "onnx"), input_shape=size)
    entry["seconds"], entry["outputs"] = {}, {}

    def quantize(model: Layer, target: Target) -> None:
        choice = _quantize(task, model, images, target)
        entry["layers"], entry["outputs"][target] = len(choice.layers), len(choice.outputs)

    def timed(name: str, model: Layer, formats: Sequence[Format], target: str) -> Exported:
        begin = cpu_seconds()
        made = export(task, model, folder / name, formats, input_shape=size, target=target)
        entry["seconds"][name] = cpu_seconds() - begin
        return made

    quantize(model, "openvino")
    timed("paddle", model, ("paddle",), "openvino")
    made = timed("openvino", model, formats, "openvino")
    _, fresh, _ = prepare(network)
    quantize(fresh, "onnxruntime")
    other = timed("onnxruntime", fresh, ("onnx",), "onnxruntime")
    entry["bytes"] = {
        name: [made.file_bytes[name], count] for name, count in made.float_bytes.items()
    }
    entry["differences"] = {
        each.runtime: [each.relative, each.effect]
        for source, kinds in ((made, ("paddle", "openvino")), (other, ("onnxruntime",)))
        for each in source.differences
        if each.runtime in kinds
    }


def _nncf(python: Path, images: Sequence[np.ndarray], folder: Path, entry: Entry) -> None:
    (folder / "nncf").mkdir()
    float_file = folder / "float" / "model.onnx"
    entry["nncf"] = quantize_with_nncf(python, float_file, images, folder / "nncf")


def _paddleslim(network: str, folder: Path, limit: float, entry: Entry) -> None:
    place = folder / "paddleslim"
    place.mkdir()
    entry["seconds"]["PaddleSlim"] = quantize_with_paddleslim(network, place, limit)
    files = ("model.pdmodel", "model.pdiparams")
    entry["paddleslim_bytes"] = {name: (place / name).stat().st_size for name in files}


def _runs(folder: Path, image: np.ndarray, entry: Entry) -> dict[str, Run]:
    """Load every file in every runtime it is for; the name begins with the runtime's."""
    runs: dict[str, Run] = {}
    for backend, target in OURS:
        for name, place in (("float", "float"), ("ours", target)):
            runs[f"{backend}: {name}"] = _predicting(folder / place, backend, image)
    for preset in PRESETS if "nncf" in entry else ():
        runs[f"openvino: NNCF {preset}"] = _predicting(
            folder / "nncf" / f"{preset}.xml", "openvino", image
        )
    for settings in SETTINGS if "paddleslim_bytes" in entry else ():
        name = f"PaddleSlim, settings {settings}"
        try:
            try_paddleslim(folder / "paddleslim", settings, image.shape)
        except PeerError as error:
            entry["failures"][name] = str(error)
            continue
        run = partial(paddleslim_run(folder / "paddleslim", settings), image)
        entry.setdefault("drift", {})[name] = drift(folder / "paddleslim", run())
        runs[f"paddle: {name}"] = run
    return runs


def _predicting(model: Path, backend: Backend, image: np.ndarray) -> Run:
    predictor = load_predictor(model, backend)
    return lambda: predictor.run(image)


def take_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each round, of processor time.

    Every round has another order: what ran before leaves its data in the caches.
    """
    clock, rng = clock_for(1), np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARMUP + rounds):
        for name in rng.permutation(list(runs)):
            begin = clock()
            runs[name]()
            if number >= WARMUP:
                taken[name].append(round(1000 * (clock() - begin), 4))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=25)
    default = Path(tempfile.gettempdir(), "trislim_benchmarks")
    parser.add_argument("--work_dir", type=Path, default=default, help="for NNCF's environment")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="of PaddleSlim, s")
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    python = install_nncf(arguments.work_dir, importlib.metadata.version("openvino"))
    exact = {multiplies_int8_exactly(backend) for backend in BACKENDS}
    if len(exact) > 1:
        parser.error("a variable caps some runtimes only: use benchmarks.processor.without_vnni")
    loaded = revision()  # not that of the end: files may have changed in between
    for network in arguments.networks:
        entry = measure(network, arguments.rounds, python, arguments.limit) | {
            "revision": loaded,
            "load_average": round(os.getloadavg()[0], 1),
            "environment": environment(),
            "date": datetime.date.today().isoformat(),
        }
        record("int8" if exact == {True} else "int8_without_vnni", {network: entry}, page)
        medians = {name: float(np.median(all_)) for name, all_ in entry["milliseconds"].items()}
        told = {**{k: round(v, 2) for k, v in medians.items()}, "failures": entry["failures"]}
        print(network, json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
