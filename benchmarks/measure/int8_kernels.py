"""Look for int8 convolutions that OpenVINO computes wrongly on this processor.

    python -m benchmarks.measure.int8_kernels --seconds 300
    ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.measure.int8_kernels

Single layers of many shapes, drawn at random, as QuantizeLinear, DequantizeLinear and Conv or
ConvTranspose; what they answer is compared with ONNX Runtime, operator by operator, where no kernel
is fused. Prints channels and kernels with wrong answers, how many of the tried maps, strides and
paddings are wrong, and which are not within `core.targets.processors.may_be_wrong_with_amx`, the
rule that follows.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

from core.runtimes.predictor import openvino_settings
from core.targets.instructions import processor
from core.targets.processors import may_be_wrong_with_amx

CHANNELS = (
    *(1, 2, 3, 4, 6, 8, 9, 10, 12, 13, 15, 16, 18, 20, 22, 24, 27, 28, 30, 32, 34, 36, 40, 45),
    *(48, 56, 60, 64, 66, 72, 80, 96, 112, 128, 160, 192),
)
GROUPS, OUTPUTS = (1, 2, 4, 8), (16, 24, 40, 64)
MAPS, STRIDES = (8, 14, 24, 28, 56), (1, 2, 4, 8)
KERNELS = (
    *((n, n) for n in range(1, 9)),
    *((10, 10), (1, 4), (4, 1), (1, 8), (8, 1), (2, 4), (4, 3), (4, 8), (6, 5)),
)
ZERO_POINTS = (0, 126)
STEP, WEIGHT_STEP = 0.02, 0.01
WRONG = 0.01  # of the largest answer; what is rounded otherwise is a tenth of that at most

Key = tuple[str, int, int, tuple[int, int]]  # kind, groups, channels of a group, kernel


@dataclass(frozen=True)
class Shape:
    """A layer, its map and its grid."""

    kind: str
    groups: int
    channels: int  # of a group
    outputs: int  # of a group
    side: int
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    zero_point: int


def draw(rng: np.random.Generator) -> Shape:
    """Draw a shape whose kernel fits into its map."""
    while True:
        kernel = KERNELS[rng.integers(len(KERNELS))]
        padding = [(0, 0), (kernel[0] // 2, kernel[1] // 2)][rng.integers(2)]
        side = int(rng.choice(MAPS))
        if all(side + 2 * pad >= size for pad, size in zip(padding, kernel)):
            kind = ("Conv", "ConvTranspose")[rng.integers(2)]
            return Shape(
                kind,
                int(rng.choice(GROUPS)) if kind == "Conv" else 1,
                int(rng.choice(CHANNELS)),
                int(rng.choice(OUTPUTS)),
                side,
                kernel,
                int(rng.choice(STRIDES)),
                padding,
                int(rng.choice(ZERO_POINTS)),
            )


def network(shape: Shape, rng: np.random.Generator) -> bytes:
    """Return the ONNX model of a layer."""
    outputs = shape.outputs * shape.groups
    sizes = outputs, shape.channels
    axis = 0 if shape.kind == "Conv" else 1
    weight = rng.integers(-60, 60, (*(sizes if axis == 0 else sizes[::-1]), *shape.kernel))
    constants = {
        "step": np.float32(STEP),
        "zero": np.uint8(shape.zero_point),
        "weight": weight.astype(np.int8),
        "weight_step": np.full(outputs, WEIGHT_STEP, np.float32),
        "weight_zero": np.zeros(outputs, np.int8),
        "bias": rng.random(outputs, np.float32),
    }
    how = {
        "strides": [shape.stride] * 2,
        "pads": [*shape.padding, *shape.padding],
        "group": shape.groups,
    }
    weights = ["weight", "weight_step", "weight_zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "step", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", weights, ["filter"], axis=axis),
        helper.make_node(shape.kind, ["rounded", "filter", "bias"], ["y"], **how),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (
            ("x", ["n", shape.groups * shape.channels, shape.side, shape.side]),
            ("y", None),
        )
    ]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "layer", ports[:1], ports[1:], stored)
    opset = [helper.make_opsetid("", 13)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return content


def difference(shape: Shape, rng: np.random.Generator) -> float:
    """Return the largest difference, relative to the largest answer."""
    content = network(shape, rng)
    x = rng.standard_normal((2, shape.groups * shape.channels, shape.side, shape.side)).astype(
        np.float32
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    (wanted,) = onnxruntime.InferenceSession(content, options).run(None, {"x": x})
    core = openvino.Core()
    model = core.read_model(content, b"")
    found = core.compile_model(model, "CPU", openvino_settings(1))({"x": x})[0]
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _expected(shape: Shape) -> bool:
    signed = shape.zero_point > 0
    return shape.kind == "Conv" and may_be_wrong_with_amx(
        shape.groups, shape.channels, shape.kernel, signed
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120, help="how long to look")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, end = np.random.default_rng(arguments.seed), time.monotonic() + arguments.seconds
    tried: Counter[Key] = Counter()
    wrong: Counter[Key] = Counter()
    outside = []
    while time.monotonic() < end:
        shape = draw(rng)
        key = shape.kind, shape.groups, shape.channels, shape.kernel
        tried[key] += 1
        if difference(shape, rng) > WRONG:
            wrong[key] += 1
            if not _expected(shape):
                outside.append(shape)
    for key in sorted(wrong):
        kind, groups, channels, kernel = key
        size = "x".join(map(str, kernel))
        found = f"{wrong[key]} of {tried[key]} wrong"
        print(f"{kind} of {groups} x {channels} channels, {size}: {found}")
    name, instructions = processor()
    print(f"{sum(wrong.values())} of {sum(tried.values())} wrong; {name}, {instructions}")
    print(f"outside of the rule: {len(outside)}", *outside, sep="\n")


if __name__ == "__main__":
    main()
