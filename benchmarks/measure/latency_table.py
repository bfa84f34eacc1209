"""How well milliseconds per layer, looked up, foretell those of whole networks on this machine.

Three questions, each answered for the runtimes that are named:

- networks: the sum over the convolutions and matrix products of a network, over its measured time,
  full and with half the channels; `half/full` is what pruning to a latency rests on. Beside it the
  plain protocol, one model with one layer, array to array.
- channels: the time of a layer with n channels in and out over that with 64, n from 49 to 65.
- load: how much a result grows while other programs, two for each core, keep it busy, by the
  processor's clock and by the clock on the wall.

    python -m benchmarks.measure.latency_table --backends paddle onnxruntime openvino --json \\
        lookup.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle.static import InputSpec
from paddle.vision.models import MobileNetV1, MobileNetV2
from paddle.vision.models.resnet import BottleneckBlock, ResNet

from core.export.onnx.convert import convert_to_onnx
from core.graph.batch_norm_folding import trace_folded
from core.graph.operators import attribute, only
from core.graph.program import Graph
from core.runtimes.environment import environment
from core.runtimes.formats import format_of
from core.runtimes.latency_table import (
    Clock,
    LatencyTable,
    clock_for,
    layer_runs,
    model_ms,
    model_run,
    shortest_ms,
)
from core.runtimes.layer_model import LayerShape, write_layer_model
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS, Backend

IMAGE = (1, 3, 224, 224)
BUSY = "import numpy as np\na = np.ones(8 << 20, 'float32')\nwhile True: a *= 1.0"
LAYERS = (
    LayerShape("conv2d", 3, 32, (224, 224), (3, 3), (2, 2), (1, 1)),
    LayerShape("conv2d", 64, 64, (56, 56), (3, 3), (1, 1), (1, 1)),
    LayerShape("conv2d", 512, 512, (7, 7), (3, 3), (1, 1), (1, 1)),
    LayerShape("conv2d", 128, 128, (56, 56), (3, 3), (1, 1), (1, 1), groups=128),
    LayerShape("conv2d", 576, 96, (7, 7)),
    LayerShape("matmul", 576, 1280, (1, 1)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        networks = write_networks(Path(name))
        for backend in arguments.backends:
            results[backend] = {
                "networks": compare_networks(networks, backend),
                "channels": compare_channels(backend),
                "load": compare_load(backend),
            }
            print(backend, json.dumps(results[backend], indent=1), flush=True)
    if arguments.json:
        content = {"environment": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_networks(root: Path) -> dict[str, tuple[Path, list[LayerShape]]]:
    built = {
        "MobileNetV1": (MobileNetV1(1.0), MobileNetV1(0.5)),
        "MobileNetV2": (MobileNetV2(1.0), MobileNetV2(0.5)),
        "ResNet50": (ResNet(BottleneckBlock, 50), ResNet(BottleneckBlock, 50, width=32)),
    }
    written = {}
    for name, pair in built.items():
        for width, network in zip(("full", "half"), pair):
            folder = root / f"{name} {width}"
            folder.mkdir()
            files = folder / "model.pdmodel", folder / "model.pdiparams"
            graph = trace_folded(network, [InputSpec(IMAGE, "float32", "image")])
            graph.write(*files)
            (folder / "model.onnx").write_bytes(convert_to_onnx(graph))
            written[folder.name] = (folder, list(shapes_of(graph)))
    return written


def shapes_of(graph: Graph) -> Iterator[LayerShape]:
    for op in graph.operators:
        if op.type in ("conv2d", "depthwise_conv2d"):
            _, channels, *size = graph.shape(only(op.inputs, "Input"))
            filters, _, *kernel = graph.weights[only(op.inputs, "Filter")].shape
            sizes = (attribute(op, key) for key in ("strides", "paddings", "dilations"))
            stride, padding, dilation = (tuple(size) for size in sizes)
            yield LayerShape(
                "conv2d",
                channels,
                filters,
                (size[0], size[1]),
                (kernel[0], kernel[1]),
                stride,
                padding,
                dilation,
                attribute(op, "groups"),
            )
        elif op.type == "matmul_v2":
            rows, columns = graph.weights[only(op.inputs, "Y")].shape
            yield LayerShape("matmul", rows, columns, (1, 1))


def compare_networks(
    networks: dict[str, tuple[Path, list[LayerShape]]], backend: Backend
) -> dict[str, dict[str, float]]:
    image = np.random.default_rng(0).normal(size=IMAGE).astype("float32")
    lookup = LatencyTable(backend)
    plain = LatencyTable(backend, measure=measure_plain)
    begin, new = time.perf_counter(), {shape for _, shapes in networks.values() for shape in shapes}
    lookup.predict(new)
    each = (time.perf_counter() - begin) / len(new)
    times = {
        name: (
            *model_ms([model_run(folder, [image], backend, 1)]),
            lookup.predict(s),
            plain.predict(s),
        )
        for name, (folder, s) in networks.items()
    }
    rows = {"all": {"shapes": float(len(new)), "seconds per shape": round(each, 3)}}
    for name in dict.fromkeys(name.rpartition(" ")[0] for name in networks):
        full, half = times[f"{name} full"], times[f"{name} half"]
        kinds = ("measured", "looked up", "plain")
        rows[name] = {
            **{f"full {kind} ms": round(value, 2) for kind, value in zip(kinds, full)},
            **{f"half {kind} ms": round(value, 2) for kind, value in zip(kinds, half)},
            **{f"half/full {k}": round(h / f, 3) for k, f, h in zip(kinds, full, half)},
        }
    return rows


def measure_plain(shape: LayerShape, backend: Backend, threads: int) -> float:
    array = np.random.default_rng(0).normal(size=shape.input_shape).astype("float32")
    with tempfile.TemporaryDirectory() as name:
        write_layer_model(shape, 1, Path(name), format_of(backend))
        predictor = load_predictor(name, backend, threads)
    return shortest_ms([lambda: predictor.run(array)], clock_for(threads))[0]


def compare_channels(backend: Backend) -> dict[str, dict[int, float]]:
    rows = {}
    for kernel in (1, 3):
        lookup = LatencyTable(backend)
        times = {}
        for count in range(49, 66):
            ends = (count, count, (28, 28), (kernel, kernel))
            shape = LayerShape("conv2d", *ends, padding=(kernel // 2, kernel // 2))
            times[count] = lookup.predict([shape])
        rows[f"kernel {kernel}"] = {n: round(ms / times[64], 2) for n, ms in times.items()}
    return rows


def compare_load(backend: Backend) -> dict[str, list[float]]:
    """Return, for each layer, its time beside busy programs over that without them."""
    pairs = [layer_runs(shape, backend, 1) for shape in LAYERS]
    clocks: dict[str, Clock] = {"processor": clock_for(1), "wall": time.perf_counter}
    calm = {name: measure_all(pairs, clock) for name, clock in clocks.items()}
    with busy(2 * (os.cpu_count() or 1)):
        loaded = {name: measure_all(pairs, clock) for name, clock in clocks.items()}
    return {
        name: [round(float(ratio), 2) for ratio in loaded[name] / calm[name]] for name in clocks
    }


def measure_all(pairs: Sequence[Sequence[Callable[[], object]]], clock: Clock) -> np.ndarray:
    """Return the median of five results for each."""
    results = [[np.diff(shortest_ms(runs, clock))[0] for _ in range(5)] for runs in pairs]
    return np.median(results, axis=1)


@contextlib.contextmanager
def busy(programs: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(programs)]
    try:
        time.sleep(1)  # numpy takes a moment to import
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


if __name__ == "__main__":
    paddle.seed(0)
    main()
