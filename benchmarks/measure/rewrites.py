"""Time rewritten files beside plain ones, in float and in int8: one thread, one image.

    python -m benchmarks.measure.rewrites
    python -m benchmarks.measure.rewrites --networks tinypose_128x96 --rounds 60

All files of a network take turns in one process, by the processor's clock. Both sides are our own
exports, with folded batch norms, and what the runtimes optimize themselves when they load them. A
third float file, from which all shuffles are taken out before it is rewritten, gives other answers:
it shows how fast a file could be at most whose shuffles cost nothing. A fourth is what paddle2onnx
makes of the network that `paddle.jit.save` wrote, for one image. OpenVINO also runs the plain file
as it compiles it by itself, for any batch; our predictor has it compile the others for one image.
NNCF and PaddleSlim quantize the plain network on the images that ours is quantized on. Writes
docs/benchmarks/rewrites.json and docs/benchmarks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer
from paddle.static import InputSpec

from benchmarks.comparison import record
from benchmarks.measure.command import revision
from benchmarks.measure.int8 import take_turns
from benchmarks.pages.benchmarks import page
from benchmarks.peers.after_training import PeerFiles, quantize_with_peers
from benchmarks.peers.int8 import SETTINGS, Run, install_nncf, paddleslim_run, prepare
from benchmarks.processor import without_vnni
from core.export.files import write_files
from core.export.package import export
from core.export.traced_model import ExportSettings, TracedModel, trace_for_export
from core.graph.channel_moves import find_moves
from core.graph.operators import only
from core.graph.program import Graph
from core.graph.rewrites import rewrite
from core.network.modes import evaluation_mode
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.environment import environment
from core.runtimes.openvino_models import openvino_core
from core.runtimes.predictor import load_predictor, openvino_settings
from core.targets.names import BACKENDS, Backend, Format, Target
from core.task import Task
from core.training import checkpoint

Entry = dict[str, Any]
NETWORKS = (
    *("ShuffleNetV2_x1_0", "tinypose_128x96", "tinypose_256x192"),
    *("lite_hrnet_18_256x192_coco", "lite_hrnet_30_256x192_coco"),
    *("bisenetv2_cityscapes_1024x2048", "pp_liteseg_stdc1_cityscapes_1024x512"),
)
MOVING = ("transpose2", "index_select", "split", "concat", "nearest_interp_v2")
SIDES = {"plain": False, "rewritten": True}
BOUND = "float without shuffles"
PEER = "float by paddle2onnx"
ANY_BATCH = "float plain for any batch"
INT8_PEERS = ("NNCF", "PaddleSlim, abs_max")  # both end ranges at the largest magnitudes, as ours
# the grids for OpenVINO serve Paddle Inference as well
FILES: dict[Target, tuple[Format, ...]] = {
    "openvino": ("paddle", "onnx"),
    "onnxruntime": ("onnx",),
}


def measure(network: str, rounds: int, nncf: Path) -> Entry:
    """Write the files of a network, and let them take turns in each runtime."""
    entry: Entry = {"operators": {}, "milliseconds": {}, "apart": {}, "failed": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task, model, images = prepare(network)
        entry["input"] = list(images[0].shape)
        for side, rewritten in SIDES.items():
            traced = _traced(task, model, images[0], rewritten)
            kinds = Counter(op.type for op in traced.graph.operators)
            entry["operators"][side] = {kind: kinds[kind] for kind in MOVING}
            _write(traced, folder / side / "float", ("paddle", "onnx"))
            if side == "plain":
                (folder / BOUND).mkdir()
                write_files(_without_shuffles(traced.graph), folder / BOUND, ("paddle", "onnx"), 13)
        convert_with_paddle2onnx(task, model, list(images[0].shape), folder / PEER)
        peers = _peers(task, model, images, folder, nncf, entry["failed"])
        for target in FILES:
            task, model, _ = prepare(network)
            _quantize(task, model, images, target)
            for side, rewritten in SIDES.items():
                traced = _traced(task, model, images[0], rewritten, target)
                _write(traced, folder / side / target, FILES[target])
        for backend in BACKENDS:
            runs = _runs(folder, backend, images[0])
            runs |= _runs_of(peers, backend, images[0])
            entry["milliseconds"][backend] = take_turns(runs, rounds)
            entry["apart"][backend] = _apart(runs)
    return entry


def _peers(
    task: Task,
    model: Layer,
    images: list[np.ndarray],
    folder: Path,
    nncf: Path,
    failed: dict[str, str],
) -> dict[str, PeerFiles]:
    """Let others quantize the plain network."""
    checkpoint.save(folder / "saved", checkpoint.describe(task), model.state_dict())
    size = images[0].shape[1:]
    export(task, model, folder / "exported", ("onnx",), input_shape=size, rewritten=False)
    batches = [[paddle.to_tensor(image)] for image in images]
    source = folder / "saved", folder / "exported", lambda: batches, folder / "peers"
    made = dict(quantize_with_peers(*source, nncf, INT8_PEERS))
    failed |= {name: files.fails for name, files in made.items() if files.fails}
    return made


def _traced(
    task: Task, model: Layer, image: np.ndarray, rewritten: bool, target: str = "openvino"
) -> TracedModel:
    layer = task.deploy_model(model, "raw")
    with evaluation_mode(model), evaluation_mode(layer):
        settings = ExportSettings(target=target, opset=13, rewritten=rewritten)
        specs = [InputSpec([-1, *image.shape[1:]], "float32", task.input_spec()[0].name)]
        return trace_for_export(task, model, layer, specs, False, settings)


def _without_shuffles(graph: Graph) -> Graph:
    """Take the shuffles out of a graph, and return it rewritten; it gives other answers."""
    moves = {only(move.operators[-1].outputs, "Out"): move for move in find_moves(graph)}
    passed = {name: move.sources[0] for name, move in moves.items()}
    for name, source in passed.items():
        passed[name] = passed.get(source, source)
    for op in graph.operators:
        for slot in op.inputs:
            slot.arguments[:] = [passed.get(name, name) for name in slot.arguments]
    graph.drop_unused()
    return rewrite(graph)


def convert_with_paddle2onnx(task: Task, model: Layer, shape: list[int], folder: Path) -> None:
    """Write what paddle2onnx makes of a model to `model.onnx`.

    Args:
        task: Names the input.
        model: In float.
        shape: Of the input, [N, C, H, W]; -1 is free.
        folder: New folder, or one that is there; also gets what `paddle.jit.save` writes.
    """
    layer = task.deploy_model(model, "raw")
    spec = InputSpec(shape, "float32", task.input_spec()[0].name)
    with evaluation_mode(model), evaluation_mode(layer), paddle.pir_utils.OldIrGuard():
        paddle.jit.save(layer, str(folder / "saved"), [spec])
    files = [str(folder / f"saved.{ending}") for ending in ("pdmodel", "pdiparams")]
    words = [sys.executable, "-m", "benchmarks.peers.paddle2onnx_process", *files, "13"]
    subprocess.run([*words, str(folder / "model.onnx")], check=True, capture_output=True)


def _write(traced: TracedModel, folder: Path, formats: tuple[Format, ...]) -> None:
    folder.mkdir(parents=True)
    with evaluation_mode(traced.model), evaluation_mode(traced.layer):
        traced.write(folder, formats)


def _quantize(task: Task, model: Layer, images: list[np.ndarray], target: Target) -> None:
    batches = [[paddle.to_tensor(image)] for image in images]
    config = PtqConfig(observer="abs_max", target=target)
    quantize_after_training(task, model, lambda: batches, config)


def _runs(folder: Path, backend: Backend, image: np.ndarray) -> dict[str, Run]:
    target = "onnxruntime" if backend == "onnxruntime" else "openvino"
    runs = {
        f"{name} {side}": _predicting(folder / side / place, backend, image)
        for side in SIDES
        for name, place in (("float", "float"), ("int8", target))
    }
    others = (BOUND,) if backend == "paddle" else (BOUND, PEER)
    runs |= {name: _predicting(folder / name, backend, image) for name in others}
    if backend == "openvino":
        file = folder / "plain" / "float" / "model.onnx"
        compiled = openvino_core().compile_model(str(file), "CPU", openvino_settings(1))
        runs[ANY_BATCH] = lambda: {"": np.array(compiled([image])[0])}
    return runs


def _runs_of(peers: dict[str, PeerFiles], backend: Backend, image: np.ndarray) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for name, files in peers.items():
        if files.folder is None or files.backend != backend:
            continue
        runs[f"int8 by {name}"] = _predicting(files.folder, backend, image)
        if backend == "paddle" and not files.fails:
            own = partial(paddleslim_run(files.folder, SETTINGS[0]), image)
            runs[f"int8 by {name}, settings of its own"] = own
    return runs


def _predicting(folder: Path, backend: Backend, image: np.ndarray) -> Run:
    predictor = load_predictor(folder, backend, own=True)
    return lambda: predictor.run(image)


def _apart(runs: dict[str, Run]) -> dict[str, float]:
    """Return how far rewritten files are from plain ones, relative to the largest answer."""
    found = {}
    for name in ("float", "int8"):
        answers: list[Any] = [runs[f"{name} {side}"]() for side in SIDES]
        (plain, made) = (next(iter(each.values())) for each in answers)
        found[name] = float(np.abs(plain - made).max() / np.abs(plain).max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=60)
    help_ = "for NNCF's environment"
    parser.add_argument("--work_dir", type=Path, default=without_vnni.WORK_DIR, help=help_)
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    nncf = install_nncf(arguments.work_dir, importlib.metadata.version("openvino"))
    loaded = revision()  # not that of the end: files may have changed in between
    for network in arguments.networks:
        entry = measure(network, arguments.rounds, nncf) | {
            "revision": loaded,
            "load_average": round(os.getloadavg()[0], 1),
            "environment": environment(),
            "date": datetime.date.today().isoformat(),
        }
        record("rewrites", {network: entry}, page)
        told = {
            backend: {name: round(float(np.median(each)), 2) for name, each in taken.items()}
            for backend, taken in entry["milliseconds"].items()
        }
        print(network, json.dumps(told | {"apart": entry["apart"]}), flush=True)


if __name__ == "__main__":
    main()
