"""Int8 files in ONNX: what each preset writes, and what runtimes answer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from onnx import helper, numpy_helper
from paddle import nn

from core.export.int8.onnx_writer import quantize_onnx
from core.quant.scales import Grid, LayerScales
from core.targets.instructions import multiplies_int8_exactly
from core.targets.presets import PRESETS
from core.targets.processors import weight_limits
from tests.networks.int8_layers import (
    ABSMAX,
    build,
    calibrate,
    close,
    decibels,
    image,
    on_any_processor,
    randomize,
    reference,
    rounded,
    rounded_weight,
    run_onnxruntime,
    run_openvino,
    table_of,
    to_onnx,
)

pytestmark = pytest.mark.int8


@pytest.mark.parametrize("processors", ["any", "vnni"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("target", PRESETS)
def test_layers_in_onnx(layers, target, signed, per_channel, processors):
    """Files for processors with VNNI say everywhere what is right, which others may not compute."""
    model, graph, proto = layers
    grid, x = Grid(ABSMAX, signed=signed), image(positive=not signed)
    limits = weight_limits(graph, "onnx", processors)
    made = quantize_onnx(proto, table_of(model, grid, per_channel, limits), PRESETS[target])
    seen, bias = (grid, signed or target == "tensorrt"), target == "onnxruntime"
    wanted = reference(model, x, seen, per_channel, linear_bias=bias, limits=limits)
    close(run_onnxruntime(made, x, plain=True), wanted)
    if processors == "any" or multiplies_int8_exactly("onnxruntime"):
        close(run_onnxruntime(made, x), wanted)
    if processors == "any" or multiplies_int8_exactly("paddle"):
        close(run_openvino(made, x), wanted)


class Pyramid(nn.Layer):
    """Sums of sums of convolutions that have no bias, or one of zeros, all of which are read."""

    def __init__(self):
        super().__init__()
        sizes = {"padding": 1, "bias_attr": False}
        self.stem = nn.Conv2D(8, 8, 3, **sizes)
        self.parts = nn.LayerList([nn.Conv2D(8, 8, 3, **sizes) for _ in range(4)])
        self.parts.append(nn.Conv2D(8, 8, 3, padding=1))

    def forward(self, image):
        x = self.stem(image)
        first, *others = (part(x) for part in self.parts)
        sums = [first, others[0]]
        for each in others[1:]:
            sums.append(sums[-1] + each)
        return {"output": paddle.concat(sums, axis=1)}


@pytest.mark.parametrize("target", PRESETS)
def test_sums_of_convolutions_without_a_bias(target):
    """OpenVINO 2026.4 adds them up wrongly."""
    model, x = randomize(Pyramid()), image()
    model.parts[-1].bias.set_value(paddle.zeros([8]))
    graph, table = on_any_processor(build(model), calibrate(model, x), "onnx")
    made = quantize_onnx(to_onnx(graph), table, PRESETS[target])
    read = {name for node in made.graph.node for name in node.input}
    assert {tensor.name for tensor in made.graph.initializer} <= read  # no bias is left over
    wanted = run_onnxruntime(made, x, plain=True)["output"]
    assert decibels(run_openvino(made, x)["output"], wanted) > 40


@pytest.mark.parametrize(("target", "count"), [("onnxruntime", 3), ("openvino", 1)])
def test_linear_layers_run_in_int8_in_onnxruntime(layers, tmp_path, target, count):
    model, _, proto = layers
    made = quantize_onnx(proto, table_of(model, Grid(ABSMAX), True), PRESETS[target])
    names = {tensor.name for tensor in made.graph.initializer}
    assert ("linear.bias" in names) == (
        target == "openvino"
    )  # no float bias is left beside the int32
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(made.SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QGemm") + kinds.count("MatMulIntegerToFloat") == count, kinds


def test_tensorrt_has_no_uint8_and_no_zero_points(net):
    table, _, proto = net
    made = quantize_onnx(proto, table, PRESETS["tensorrt"])
    arrays = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert arrays[node.input[2]].dtype == np.int8
            assert not arrays[node.input[2]].any()
    assert not any(value.dtype == np.uint8 for value in arrays.values())


def onnx_model(nodes, arrays, outputs):
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", floats, [None, 4])],
        [helper.make_tensor_value_info(name, floats, [None, None]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 4)).astype("float32"), rng.normal(size=4).astype("float32")
    weight *= np.float32([1, 10, 100, 1000])  # columns far apart: their scales must not be mixed up
    stored = weight.T.copy() if transposed else weight
    node = helper.make_node("Gemm", ["image", "w", "b"], ["y"], transB=transposed)
    proto = onnx_model([node], {"w": stored, "b": bias}, ["y"])
    x = rng.normal(size=(3, 4)).astype("float32")
    grid = Grid(1.5)
    table = [LayerScales("w", grid, limit="pair_sum")]
    made = quantize_onnx(proto, table, PRESETS["openvino"])
    wanted = {"y": rounded(x, grid) @ rounded_weight(weight, 1, "pair_sum") + bias}
    close(run_onnxruntime(made, x), wanted)
    close(run_openvino(made, x), wanted)


def test_concatenations_are_opened_only_where_all_is_quantized():
    weights = {name: np.eye(8, dtype="float32") for name in ("u", "v")}

    def quantized(second, grids, outputs):
        nodes = [
            helper.make_node("Relu", ["image"], ["r"]),
            helper.make_node("Concat", ["image", "r"], ["c"], axis=1),
            helper.make_node("MatMul", ["c", "u"], ["y"]),
            helper.make_node(*second, ["z"]),
        ]
        table = [LayerScales(name, Grid(absmax)) for name, absmax in zip("uv", grids)]
        proto = onnx_model(nodes, weights, outputs)
        made = quantize_onnx(proto, table, PRESETS["openvino"])
        return sorted(n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear")

    layer, other = ("MatMul", ["c", "v"]), ("Sigmoid", ["c"])
    assert quantized(layer, (1.0, 1.0), ["y", "z"]) == ["image", "r"]
    assert quantized(layer, (1.0, 2.0), ["y", "z"]) == ["c", "c"]
    assert quantized(other, (1.0,), ["y", "z"]) == ["c"]
    assert quantized(layer, (1.0, 1.0), ["y", "z", "c"]) == ["c"]


def test_max_pooling_reads_what_is_rounded_where_nobody_else_does():
    weights = {name: np.eye(8, dtype="float32")[..., None, None] for name in ("u", "v")}

    def quantized(second, grids=(1.0,), outputs=("y", "z"), rounded=(), target="openvino"):
        nodes = [
            helper.make_node("Relu", ["image"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
            helper.make_node("Conv", ["p", "u"], ["y"]),
            helper.make_node(*second, ["z"]),
        ]
        table = [LayerScales(name, Grid(absmax)) for name, absmax in zip("uv", grids)]
        grids_of_outputs = {name: Grid(2.0) for name in rounded}
        proto = onnx_model(nodes, weights, list(outputs))
        made = quantize_onnx(proto, table, PRESETS[target], grids_of_outputs)
        return sorted(n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear")

    layer, other = ("Conv", ["p", "v"]), ("Sigmoid", ["p"])
    assert quantized(layer, (1.0, 1.0)) == ["r"]
    assert quantized(layer, (1.0, 1.0), target="tensorrt") == ["p"]
    assert quantized(layer, (1.0, 2.0)) == ["p", "p"]
    assert quantized(other) == ["p"]
    assert quantized(("Sigmoid", ["r"])) == ["p"]
    assert quantized(layer, (1.0, 1.0), ("y", "z", "r")) == ["p"]
    assert quantized(layer, (1.0, 1.0), rounded=["r"]) == ["p", "r"]


FLOAT_LAYERS = {  # kind, shape of the weight, attributes
    "convolution": ("Conv", (8, 4, 3, 3), {"pads": [1] * 4}),
    "groups": ("Conv", (8, 2, 3, 3), {"pads": [1] * 4, "group": 2}),
    "depthwise": ("Conv", (4, 1, 3, 3), {"pads": [1] * 4, "group": 4}),
    "transposed": ("ConvTranspose", (4, 8, 2, 2), {"strides": [2, 2]}),
    "linear": ("Gemm", (4, 8), {}),
    "linear, transposed": ("Gemm", (8, 4), {"transB": 1}),
}


@pytest.mark.parametrize("kind", FLOAT_LAYERS)
def test_a_layer_between_rounded_values_keeps_its_float_weight(kind):
    """ONNX Runtime would round it with one scale, by which one large value silences the others."""
    operator, shape, attributes = FLOAT_LAYERS[kind]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape).astype("float32")
    weight.flat[0] = 500
    count = shape[0] if operator == "Conv" or attributes.get("transB") else shape[1]
    nodes = [
        helper.make_node("Relu", ["image"], ["a"]),
        helper.make_node(operator, ["a", "w", "b"], ["c"], **attributes),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["y"]),
    ]
    floats, sides = onnx.TensorProto.FLOAT, [] if operator == "Gemm" else [5, 5]
    free = [None] * (2 + len(sides))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", floats, [None, 4, *sides])],
        [helper.make_tensor_value_info("y", floats, free)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(rng.normal(size=count).astype("float32"), "b"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    grid = Grid(2.0, signed=False)
    made = quantize_onnx(proto, [], PRESETS["onnxruntime"], {"a": grid, "d": grid})
    x = rng.normal(size=(3, 4, *sides)).astype("float32")
    wanted = run_onnxruntime(made, x, plain=True)
    assert np.ptp(wanted["y"]) > 0.3
    for found in (run_onnxruntime(made, x), run_openvino(made, x)):
        # a value in a hundred may be rounded to the other side, by a step
        assert np.mean(np.abs(found["y"] - wanted["y"]) > 1e-5) < 0.01
        assert np.abs(found["y"] - wanted["y"]).max() < grid.step
