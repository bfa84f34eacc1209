"""Int8 files against fake quantization written from the formula, in each runtime.

Layers that read the image are compared to 1e-5. Deeper, a difference in the last place may move a
value to the next step, and that grows with depth: of nets, only the noise is compared. A runtime
may differ from the reference by no more than two independent roundings would: 3 dB below the signal
to noise ratio of the reference to the float net. What is computed wrongly is at 15 dB.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
import openvino
import paddle
import paddle.nn.functional as F
import pytest
from onnx import helper, numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.deploy.environment import multiplies_int8_exactly
from core.deploy.predictor import load_predictor
from core.errors import ExportError
from core.export.fold import fold_batch_norms
from core.export.graph import Graph, attribute, only
from core.export.int8_program import quantize_program, unsigned_inputs
from core.export.onnx import convert
from core.export.qdq import PRESETS, quantize_onnx
from core.quant.table import Grid, LayerScales
from core.quant.weight_grid import quantize_weight
from core.targets.processors import (
    slow_without_dot_products,
    weight_limits,
    with_signed_bytes,
)
from core.trace import trace

pytestmark = pytest.mark.int8

SHAPE = (2, 8, 12, 10)
ABSMAX = 2.5
NO_LIMITS = MappingProxyType({})


def randomize(model):
    rng = np.random.default_rng(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        values = rng.normal(size=tensor.shape)
        if tensor.ndim > 1:
            values /= np.prod(tensor.shape[1:]) ** 0.5
        elif tensor.min() >= 0 and tensor.max() > 0:  # scales and variances
            values = 0.5 + np.abs(values)
        tensor.set_value(values.astype("float32"))
    model.eval()
    return model


def build(model, shape=SHAPE):
    graph = Graph.from_trace(trace(model, [InputSpec([None, *shape[1:]], "float32", "image")]))
    fold_batch_norms(graph)
    return graph


def to_onnx(graph, folder):
    files = folder / "float.pdmodel", folder / "float.pdiparams"
    graph.write(*files)
    return onnx.load_model_from_string(convert(*files))


def image(positive=False, shape=SHAPE):
    values = np.random.default_rng(1).normal(size=shape).astype("float32")
    return np.abs(values) if positive else values


def run_paddle(graph, x, folder):
    graph.write(folder / "model.pdmodel", folder / "model.pdiparams")
    return load_predictor(folder, own=True).run(x)


def run_onnxruntime(proto, x, plain=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": x})))


def run_openvino(proto, x):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = openvino.Core()
    model = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", settings)
    found = model({"image": x})
    return {port.name: found[port.name] for port in proto.graph.output}


def rounded(x, grid, signed=None):
    signed = grid.signed if signed is None else signed
    highest, lowest = (127, -128) if signed else (255, 0)
    step = np.float64(grid.absmax) / highest
    return (np.clip(np.rint(x / step), lowest, highest) * step).astype("float32")


def weight_step(weight, axis, limit="none", channels=None):
    """Return the step of a grid for each index along an axis, or of one; see `weight_grid`.

    Pairs are of one output channel, whose axis is given where it has no grid of its own.
    """
    weight = weight.astype("float64")
    others = tuple(i for i in range(weight.ndim) if i != axis)
    step = np.abs(weight).max(axis=others, keepdims=True) / 127
    if limit == "pair_sum":
        channels = axis if channels is None else channels
        rows = weight.reshape(1, -1)
        if channels is not None:
            rows = np.moveaxis(weight, channels, 0).reshape(weight.shape[channels], -1)
        ordered = np.sort(rows)
        sums = np.maximum(ordered[:, -2:].clip(min=0).sum(1), -ordered[:, :2].clip(max=0).sum(1))
        pairs = sums.max() if axis is None else sums.reshape(step.shape)
        step = np.maximum(step, pairs / 128 * (1 + 1e-6))
    step[step == 0] = 1
    return step


def rounded_weight(weight, axis, limit="none", channels=None):
    step = weight_step(weight, axis, limit, channels)
    return (np.rint(weight.astype("float64") / step) * step).astype("float32")


def evened(weight, axis):
    """Round to 64 steps per channel, as oneDNN holds them; the largest as this machine has it."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    step = np.abs(weight.astype("float64")).max(axis=others, keepdims=True) / 64
    step[step == 0] = 1
    end = 63.5 if multiplies_int8_exactly("paddle") else 64
    return (np.clip(np.rint(weight / step), -end, end) * step).astype("float32")


def rounded_again(weight, axis):
    """Round per channel as oneDNN does, in float32: the values may lie between two steps."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    absmax = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.float32(127) * (np.float32(1) / np.where(absmax > 0, absmax, np.float32(1)))
    return np.rint(weight * scale) / scale


def axis_of(layer):
    if isinstance(layer, nn.Linear):
        return 1
    return 1 if isinstance(layer, nn.Conv2DTranspose) and layer._groups == 1 else 0


def decibels(got, wanted):
    got, wanted = got.astype("float64"), wanted.astype("float64")
    return 10 * np.log10((wanted**2).sum() / max(((got - wanted) ** 2).sum(), 1e-30))


VECTORS = ("linear", "square")  # the layers of `Layers` that read one


class Layers(nn.Layer):
    """One layer of each kind, all of which read the image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(8, 16, 3, padding=1)
        self.depthwise = nn.Conv2D(8, 8, 3, stride=2, groups=8)
        self.grouped = nn.Conv2D(8, 12, 3, padding=1, groups=2)
        self.transposed = nn.Conv2DTranspose(8, 6, 3, stride=2)
        self.transposed_depthwise = nn.Conv2DTranspose(8, 8, 2, stride=2, groups=8)
        self.linear = nn.Linear(8, 5)
        self.square = nn.Linear(8, 8)
        self.sequence = nn.Linear(10, 6)

    def forward(self, image):
        vector = image[:, :, 0, 0]
        return {
            name: layer(vector if name in VECTORS else image)
            for name, layer in self.named_sublayers()
        }


def rounded_bias(layer, step, grid, signed):
    """Round to the steps of the products that are added up."""
    step = np.where(step < 1, step, 1 / 127) * grid.absmax / (127 if signed else 255)
    return (np.rint(layer.bias.numpy() / step) * step).astype("float32")


def reference(
    model,
    x,
    grid,
    per_channel,
    *,
    weight_twice=False,
    linear_bias=False,
    limits=MappingProxyType({}),
):
    """Return what the layers make of rounded inputs and rounded weights."""
    made = copy.deepcopy(model)
    values = {}
    for name, layer in made.named_sublayers():
        limit, axis = limits.get(f"{name}.weight", "none"), axis_of(layer)
        first = "pair_sum" if limit == "pair_sum" else "none"
        weight = layer.weight.numpy()
        how = axis if per_channel else None, first, None if "transposed_" in name else axis
        step = weight_step(weight, *how)
        if limit != "even" or not per_channel:
            weight = rounded_weight(weight, *how)
        if limit == "even":
            weight = evened(weight, axis)
        elif weight_twice and (isinstance(layer, nn.Conv2D) or name in VECTORS):
            weight = rounded_again(weight, axis)
        if linear_bias and isinstance(layer, nn.Linear):
            layer.bias.set_value(rounded_bias(layer, step.reshape(-1), *grid))
        layer.weight.set_value(weight)
        fed = rounded(x, *grid)
        fed = fed[:, :, 0, 0] if name in VECTORS else fed
        values[name] = layer(paddle.to_tensor(fed)).numpy()
    return values


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    model = randomize(Layers())
    for layer in (model.conv, model.depthwise, model.linear):
        weight = layer.weight.numpy()
        weight[(slice(None),) * axis_of(layer) + (2,)] = 0  # a channel of zeros
        layer.weight.set_value(weight)
    graph = build(model)
    return model, graph, to_onnx(graph, tmp_path_factory.mktemp("layers"))


def table_of(model, grid, per_channel, limits=NO_LIMITS):
    names = [f"{name}.weight" for name, _ in model.named_sublayers()]
    return [
        LayerScales(name, grid, per_channel=per_channel, limit=limits.get(name, "none"))
        for name in names
    ]


def close(got, wanted):
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5 * np.abs(value).max(), err_msg=name)


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


@pytest.mark.parametrize("processors", ["any", "vnni"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_layers_in_paddle(layers, signed, per_channel, processors, tmp_path):
    """Convolutions have a scale per channel in any case: there, all weights are rounded again.

    So have linear layers of vectors, which are written as convolutions.
    """
    model, graph, _ = layers
    grid, x = Grid(ABSMAX, signed=signed), image(positive=not signed)
    limits = weight_limits(graph, "paddle", processors)
    table = table_of(model, grid, per_channel, limits)
    wanted = reference(
        model, x, (grid, True), per_channel, weight_twice=not per_channel, limits=limits
    )
    if processors == "any":  # files leave these in float
        slow = slow_without_dot_products(graph)
        assert set(slow) == {"grouped.weight"}
        table = [entry for entry in table if entry.weight not in slow]
        wanted["grouped"] = model.grouped(paddle.to_tensor(x)).numpy()
    made = quantize_program(graph, table)
    if processors == "any" or multiplies_int8_exactly("paddle"):
        close(run_paddle(made, x, tmp_path), wanted)
    else:
        close(run_plainly(made, x), reference(model, x, (grid, True), per_channel))


def run_plainly(graph, x):
    """Run each operator by itself, which computes what the file says on any processor."""
    executor = paddle.static.Executor(paddle.CPUPlace())
    scope = paddle.static.Scope()
    with paddle.pir_utils.OldIrGuard(), paddle.static.scope_guard(scope):
        program = paddle.static.Program.parse_from_string(graph.to_program())
        for name, value in graph.weights.items():
            scope.var(name).get_tensor().set(value, paddle.CPUPlace())
        values = executor.run(program, {"image": x}, list(graph.outputs))
    return dict(zip(graph.outputs, values))


def test_operators_of_paddle_one_by_one(layers):
    """Runtimes that know nothing of int8 compute what the operators say."""
    model, graph, _ = layers
    grid = Grid(ABSMAX)
    made = quantize_program(graph, table_of(model, grid, True))
    close(run_plainly(made, image()), reference(model, image(), (grid, True), True))


class Shared(nn.Layer):
    """One convolution with two norms behind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(8, 6, 3)
        self.norms = nn.LayerList([nn.BatchNorm2D(6), nn.BatchNorm2D(6)])

    def forward(self, image):
        return {f"norm_{i}": norm(self.conv(image)) for i, norm in enumerate(self.norms)}


def test_weights_are_rounded_after_folding_and_copies_with_them(tmp_path):
    model, grid, x = randomize(Shared()), Grid(ABSMAX), image()
    table = [LayerScales("conv.weight", grid)]
    weight, wanted = model.conv.weight.numpy(), {"even": {}, "pair_sum": {}}
    for index, norm in enumerate(model.norms):
        deviation = np.sqrt(norm._variance.numpy().astype("float64") + norm._epsilon)
        factor = (norm.weight.numpy() / deviation).reshape(-1, 1, 1, 1)
        on_grid = evened(weight * factor, 0), rounded_weight(weight * factor, 0, "pair_sum")
        for found, value in zip(wanted.values(), on_grid):
            model.conv.weight.set_value((value / factor).astype("float32"))
            found[f"norm_{index}"] = norm(model.conv(paddle.to_tensor(rounded(x, grid)))).numpy()
    model.conv.weight.set_value(weight)
    graph = build(model)
    copies = [name for name in graph.weights if name.startswith("conv.weight@")]
    assert len(copies) == 2
    made = quantize_program(*on_any_processor(graph, table, "paddle"))
    assert {made.weights[name].dtype.name for name in copies} == {"int8"}
    close(run_paddle(made, x, tmp_path), wanted["even"])
    _, limited = on_any_processor(graph, table, "onnx")
    made = quantize_onnx(to_onnx(graph, tmp_path), limited, PRESETS["openvino"])
    close(run_openvino(made, x), wanted["pair_sum"])
    assert [node.op_type for node in made.graph.node].count("QuantizeLinear") == 1


class Net(nn.Layer):
    """What networks are made of."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2D(8, 16, 3, padding=1, bias_attr=False), nn.BatchNorm2D(16)
        self.depthwise = nn.Conv2D(16, 16, 3, padding=1, groups=16)
        self.shared = nn.Conv2D(16, 16, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2D(16, 4, 1), nn.Conv2D(4, 16, 1)
        self.grouped = nn.Conv2D(16, 16, 3, padding=1, groups=4)
        self.joined = nn.Conv2D(32, 12, 3, padding=1)
        self.up = nn.Conv2DTranspose(12, 8, 2, stride=2)
        self.head = nn.Linear(8, 8)

    def forward(self, image):
        x = F.relu(self.norm(self.stem(image)))
        x = x + F.relu(self.shared(F.hardswish(self.depthwise(x))))
        weight = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = x * weight
        x = self.joined(paddle.concat([self.grouped(x), self.shared(x)], 1))
        x = F.relu(self.up(F.interpolate(x, scale_factor=2)) * 0.5)
        return {"map": x, "vector": self.head(F.max_pool2d(x, 3, 2).mean([2, 3]))}


class Concats(nn.Layer):
    """Convolutions that read what was joined or pooled; OpenVINO is wrong at some in int8."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2D(8, 16, 3, padding=1) for _ in range(2))
        self.signed, self.mixed = (nn.Conv2D(32, 8, size) for size in (1, 3))
        self.positive, self.both = (nn.Conv2D(32, 8, 3, padding=1) for _ in range(2))
        self.alone, self.pooled = (nn.Conv2D(16, 8, 3) for _ in range(2))
        self.nested = nn.Conv2D(40, 8, 1)

    def forward(self, image):
        one, other = self.first(image), self.second(image)
        both = paddle.concat([F.relu(one), F.relu(other) * 3], 1)
        return {
            "signed": self.signed(paddle.concat([one, other], 1)),
            "mixed": self.mixed(paddle.concat([F.relu(one), F.tanh(other)], 1)),
            "positive": self.positive(F.relu(paddle.concat([one, other * 2], 1))),
            "both": self.both(both) + both[:, 3:11],
            "alone": self.alone(F.relu(one)),
            "nested": self.nested(paddle.concat([image, paddle.concat([other, one], 1)], 1)),
            "largest": self.pooled(F.max_pool2d(F.relu(self.first(image)), 3, 2, 1)),
        }


class Moves(nn.Layer):
    """Grids that Paddle Inference would mix up."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2D(8, 8, 3, padding=1) for _ in range(4))
        self.e, self.f = nn.Conv2D(16, 8, 1), nn.Conv2D(8, 8, 1)

    def forward(self, image):
        x = self.a(image)
        pooled = F.avg_pool2d(x, 2)
        outputs = {"plain": self.b(x), "pooled": self.c(pooled)}
        outputs["scaled"] = self.d(self.a(x) * 0.125 + 0.25)
        outputs["joined"] = self.e(paddle.concat([x, image * 30], 1))
        outputs["again"] = self.f(x)
        return outputs


def layers_of(model):
    kinds = nn.Conv2D, nn.Conv2DTranspose, nn.Linear
    return [(name, each) for name, each in model.named_sublayers() if isinstance(each, kinds)]


def calibrate(model, x):
    seen = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].numpy())
        )
        for name, layer in layers_of(model)
    ]
    model(paddle.to_tensor(x))
    for hook in hooks:
        hook.remove()
    table = []
    for name, arrays in seen.items():
        absmax = max(float(np.abs(each).max()) for each in arrays)
        signed = any(each.min() < 0 for each in arrays)
        table.append(LayerScales(f"{name}.weight", Grid(absmax, signed=signed)))
    return table


def on_any_processor(graph, table, kind):
    """Return graph and table of the files of a format that are right on any processor."""
    limits, signed = weight_limits(graph, kind, "any"), kind == "paddle"
    table = [
        replace(
            entry,
            limit=limits.get(entry.weight, "none"),
            input=replace(entry.input, signed=entry.input.signed or signed),
        )
        for entry in table
    ]
    return with_signed_bytes(graph) if signed else graph, table


def fake_quantized(model, table, x):
    """Run a net of which only `stem` has a norm with every layer rounded."""
    made, by_weight = copy.deepcopy(model), {entry.weight: entry for entry in table}
    for name, layer in layers_of(made):
        factor = 1.0
        if name == "stem":
            deviation = np.sqrt(made.norm._variance.numpy() + made.norm._epsilon)
            factor = (made.norm.weight.numpy() / deviation).reshape(-1, 1, 1, 1)
        entry, axis = by_weight[f"{name}.weight"], axis_of(layer)
        weight = layer.weight.numpy() * factor
        if entry.limit == "even":
            weight = evened(weight, axis) / factor
        else:
            weight = rounded_weight(weight, axis, entry.limit) / factor
        layer.weight.set_value(weight.astype("float32"))
        grid = entry.input
        layer.register_forward_pre_hook(
            lambda _, inputs, grid=grid: paddle.to_tensor(rounded(inputs[0].numpy(), grid))
        )
    return {name: value.numpy() for name, value in made(paddle.to_tensor(x)).items()}


@pytest.mark.parametrize("kind", [Net, Concats, Moves])
def test_nets_in_all_runtimes(kind, tmp_path):
    model, x = randomize(kind()), image()
    table = calibrate(model, x)
    if kind is Moves:  # a second grid on one tensor
        table = [replace(e, input=Grid(1.0)) if e.weight == "f.weight" else e for e in table]
    graph = build(model)
    proto = to_onnx(graph, tmp_path)
    signed_graph, even = on_any_processor(graph, table, "paddle")
    got = {"paddle": run_paddle(quantize_program(signed_graph, even), x, tmp_path)}
    wanted = {"paddle": fake_quantized(model, even, x)}
    _, table = on_any_processor(graph, table, "onnx")
    for target in ("openvino", "onnxruntime"):
        made = quantize_onnx(proto, table, PRESETS[target])
        got[f"onnxruntime, {target}"] = run_onnxruntime(made, x)
        got[f"openvino, {target}"] = run_openvino(made, x)
        got[f"plain, {target}"] = run_onnxruntime(made, x, plain=True)
    wanted |= dict.fromkeys(set(got) - {"paddle"}, fake_quantized(model, table, x))
    for name, value in model(paddle.to_tensor(x)).items():
        for runtime, outputs in got.items():
            noise = decibels(value.numpy(), wanted[runtime][name])
            distance = decibels(outputs[name], wanted[runtime][name])
            assert distance > noise - 3, (
                f"{name} in {runtime}: {distance:.1f} dB, noise {noise:.1f}"
            )


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    model = randomize(Net())
    graph = build(model)
    return calibrate(model, image()), graph, to_onnx(graph, tmp_path_factory.mktemp("net"))


def test_paddle_computes_in_int8(tmp_path):
    """Behind a ReLU, the int8 kernels take 256 steps; the operators of the file have 128.

    So do the kernels where the ReLU is written as a clip. The 256 overflow without VNNI.
    """
    model = randomize(nn.Sequential(nn.Conv2D(8, 16, 3), nn.ReLU(), nn.Conv2D(16, 8, 3)))
    table, x = calibrate(model, image()), image()
    assert not table[1].input.signed
    coarse = [table[0], replace(table[1], input=replace(table[1].input, signed=True))]
    got = run_paddle(quantize_program(build(model), table), x, tmp_path)["output"]
    close_to_fine = decibels(got, fake_quantized(Named(model), table, x)["output"]) > 60
    assert close_to_fine == multiplies_int8_exactly("paddle")
    assert decibels(got, fake_quantized(Named(model), coarse, x)["output"]) < 50
    graph, even = on_any_processor(build(model), table, "paddle")
    got = run_paddle(quantize_program(graph, even), x, tmp_path)["output"]
    assert decibels(got, fake_quantized(Named(model), even, x)["output"]) > 60


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
def test_sums_of_convolutions_without_a_bias(target, tmp_path):
    """OpenVINO 2026.4 adds them up wrongly."""
    model, x = randomize(Pyramid()), image()
    model.parts[-1].bias.set_value(paddle.zeros([8]))
    graph, table = on_any_processor(build(model), calibrate(model, x), "onnx")
    made = quantize_onnx(to_onnx(graph, tmp_path), table, PRESETS[target])
    read = {name for node in made.graph.node for name in node.input}
    assert {tensor.name for tensor in made.graph.initializer} <= read  # no bias is left over
    wanted = run_onnxruntime(made, x, plain=True)["output"]
    assert decibels(run_openvino(made, x)["output"], wanted) > 40


class Named(nn.Layer):
    """A sequence whose layers keep their paths, with a named output."""

    def __init__(self, model):
        super().__init__()
        for name, layer in model.named_children():
            self.add_sublayer(name, layer)

    def forward(self, image):
        for layer in self.children():
            image = layer(image)
        return {"output": image}


def test_one_pair_for_each_tensor_and_grid(net):
    table, graph, proto = net
    made = quantize_program(graph, table)
    kinds = [op.type for op in made.operators]
    # image, stem, hardswish, pooled, squeezed, twice what is excited, joined, the vector at the end
    read = {only(op.inputs, "X") for op in made.operators if op.type == "quantize_linear"}
    assert len(read) == kinds.count("quantize_linear") == 9
    assert kinds.count("clip") == 1  # in front of the transposed convolution
    assert sum(name.endswith("@one") for name in made.weights) == 1  # what is excited is copied
    for op in made.operators:
        if op.type == "quantize_linear":
            assert attribute(op, "quant_axis") == -1
            assert attribute(op, "round_type") == 0
    for target, count in (("tensorrt", 10), ("onnxruntime", 10), ("openvino", 11)):
        nodes = quantize_onnx(proto, table, PRESETS[target]).graph.node
        pairs = [tuple(n.input) for n in nodes if n.op_type == "QuantizeLinear"]
        assert len(set(pairs)) == len(pairs) == count, target


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


def test_no_output_of_a_scale_operator_is_quantized():
    """Paddle Inference would read a grid that is not there; how that ends differs by run."""
    model = randomize(Moves())
    made = quantize_program(build(model), calibrate(model, image()))
    makers = {only(op.outputs, "Out"): op.type for op in made.operators}
    read = [only(op.inputs, "X") for op in made.operators if op.type == "quantize_linear"]
    assert "scale" in makers.values()
    assert not [name for name in read if makers.get(name) in ("scale", "concat", "pool2d")]


def test_weights_keep_their_names_and_floats_are_gone(net):
    table, graph, proto = net
    names = {entry.weight for entry in table}
    made = quantize_program(graph, table)
    of_int8 = {name for name, value in made.weights.items() if value.dtype == np.int8}
    assert of_int8 == names | {"shared.weight@use2"}
    assert made.inputs == graph.inputs
    assert made.outputs == graph.outputs
    made = quantize_onnx(proto, table, PRESETS["openvino"])
    arrays = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    assert names == {
        name for name, value in arrays.items() if value.dtype == np.int8 and value.ndim > 1
    }
    floats = [
        name for name, value in arrays.items() if value.dtype == np.float32 and value.ndim > 1
    ]
    assert not floats
    assert all(arrays[name].min() >= -127 for name in names)


def test_what_is_given_stays_and_equal_tables_make_equal_bytes(net):
    table, graph, proto = net
    before = graph.to_program(), proto.SerializeToString(deterministic=True)
    first, second = (quantize_program(graph, table) for _ in range(2))
    assert first.to_program() == second.to_program()
    assert list(first.weights) == list(second.weights)
    for target in PRESETS:
        files = [
            quantize_onnx(proto, table, PRESETS[target]).SerializeToString(deterministic=True)
            for _ in range(2)
        ]
        assert files[0] == files[1]
    assert before == (graph.to_program(), proto.SerializeToString(deterministic=True))
    assert graph.weights["stem.weight"].dtype == np.float32


def test_tensorrt_has_no_uint8_and_no_zero_points(net):
    table, _, proto = net
    made = quantize_onnx(proto, table, PRESETS["tensorrt"])
    arrays = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert arrays[node.input[2]].dtype == np.int8
            assert not arrays[node.input[2]].any()
    assert not any(value.dtype == np.uint8 for value in arrays.values())


def test_files_are_small(tmp_path):
    model = randomize(nn.Sequential(nn.Conv2D(8, 64, 3), nn.Conv2D(64, 256, 3)))
    graph = build(model)
    proto, table = to_onnx(graph, tmp_path), calibrate(model, image())
    quantize_program(graph, table).write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    params = (tmp_path / "model.pdiparams").stat().st_size
    assert params < 0.3 * (tmp_path / "float.pdiparams").stat().st_size
    for preset in PRESETS.values():
        assert quantize_onnx(proto, table, preset).ByteSize() < 0.3 * proto.ByteSize()


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


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"weight": "grouped.wait"}, r"^grouped.wait: no convolution or linear layer"),
        ({"weight": "stem.bias"}, r"^stem.bias: no convolution or linear layer"),
        ({"weight_bits": 4}, r"^stem.weight: int8 files hold weights of 8 bits, not of 4"),
        ({"input": Grid(1.0, bits=6)}, r"^stem.weight: int8 files hold inputs of 8 bits, not of 6"),
    ],
)
def test_entries_that_cannot_be_stored_are_named(net, entry, message):
    _, graph, proto = net
    table = [replace(LayerScales("stem.weight", Grid(1.0)), **entry)]
    with pytest.raises(ExportError, match=message):
        quantize_program(graph, table)
    with pytest.raises(ExportError, match=message):
        quantize_onnx(proto, table, PRESETS["tensorrt"])


def test_a_second_entry_is_refused(net):
    _, graph, _ = net
    table = [LayerScales("stem.weight", Grid(absmax)) for absmax in (1.0, 2.0)]
    with pytest.raises(ExportError, match=r"^stem.weight: the table of scales has two entries"):
        quantize_program(graph, table)


def test_groups_of_transposed_convolutions(tmp_path):
    """No axis of [in, out / groups, h, w] counts the output channels."""
    model = randomize(nn.Sequential(nn.Conv2DTranspose(8, 6, 2, groups=2)))
    graph, table = build(model), [LayerScales("0.weight", Grid(ABSMAX))]
    message = r"^0.weight: a transposed convolution of 2 groups cannot have a scale for each output"
    with pytest.raises(ExportError, match=message):
        quantize_program(graph, table)
    weight = rounded_weight(model[0].weight.numpy(), None)
    model[0].weight.set_value(weight)
    fed = paddle.to_tensor(rounded(image(), Grid(ABSMAX)))
    wanted = {"output": model(fed).numpy()}
    made = quantize_program(graph, [replace(table[0], per_channel=False)])
    close(run_paddle(made, image(), tmp_path), wanted)


def test_rounding_of_weights():
    weight = np.float32([[0.5, -1.5, 127.0], [0.0, 0.0, 0.0], [2.54, -2.54, 0.01]])
    steps, absmax = quantize_weight(weight, 0)
    assert steps.tolist() == [[0, -2, 127], [0, 0, 0], [127, -127, 0]]
    np.testing.assert_array_equal(absmax, np.float32([127, 1, 2.54]))
    steps, absmax = quantize_weight(weight, None)
    assert steps.tolist() == [[0, -2, 127], [0, 0, 0], [3, -3, 0]]
    np.testing.assert_array_equal(absmax, np.float32([127]))


def test_linear_layers_of_vectors_are_convolutions_for_paddle(tmp_path):
    """Weights stay int8 in memory, and pooled maps need not be flattened first."""
    vectors = nn.Sequential(
        nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)
    )
    model, x = randomize(Named(vectors)), image()
    graph, table = build(model), calibrate(model, x)
    made = quantize_program(graph, table)
    kinds = [op.type for op in made.operators]
    assert "matmul_v2" not in kinds
    assert kinds.count("conv2d") == 2
    assert kinds.count("unsqueeze2") == 1  # the first reads what the pooling makes
    assert "flatten_contiguous_range" not in kinds
    for name, shape in (("2.weight", (16, 8, 1, 1)), ("4.weight", (5, 16, 1, 1))):
        assert made.weights[name].shape == shape
        assert made.weights[name].dtype == np.int8
    assert "matmul_v2" in [op.type for op in quantize_program(graph, table, "lite").operators]
    assert unsigned_inputs(graph) == set()
    graph, even = on_any_processor(graph, table, "paddle")
    made = quantize_program(graph, even)
    close(run_paddle(made, x, tmp_path), fake_quantized(model, even, x))


@pytest.mark.parametrize("layer", [nn.Conv2D(16, 5, 1), nn.Linear(16, 5)])
def test_behind_a_dropout_that_scales(tmp_path, layer):
    """Paddle Inference makes a `scale` of it, of whose input it would want a grid."""
    drop = nn.Dropout(0.2, mode="downscale_in_infer")
    ending = [nn.Flatten(), layer] if isinstance(layer, nn.Linear) else [layer]
    pooled = [nn.AdaptiveAvgPool2D(1), nn.Conv2D(8, 16, 1), nn.Hardswish(), drop, *ending]
    model, x = randomize(Named(nn.Sequential(*pooled))), image()
    model.eval()
    graph, table = build(model), calibrate(model, x)
    assert "dropout" in [op.type for op in graph.operators]
    graph, table = on_any_processor(graph, table, "paddle")
    close(run_paddle(quantize_program(graph, table), x, tmp_path), fake_quantized(model, table, x))


class Branch(nn.Layer):
    """What is read by a layer and by others: made by an addition, made by a convolution."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2D(8, 8, 1)
        self.first = nn.Conv2D(8, 8, 1)
        self.second = nn.Conv2D(8, 8, 1)

    def forward(self, image):
        x = nn.functional.relu(self.entry(image))
        y = nn.functional.relu(self.first(x) + x)
        return {"output": self.second(y) + y}


def test_only_what_convolutions_make_is_copied(tmp_path):
    model, x = randomize(Branch()), image()
    graph, table = build(model), calibrate(model, x)
    made = quantize_program(graph, table)
    kinds = [op.type for op in made.operators]
    assert kinds.count("relu") == 3  # two of the network, and the copy of the first
    assert "elementwise_mul" not in kinds
    if multiplies_int8_exactly("paddle"):
        unsigned = {"first.weight", "second.weight"}
        fine = [replace(e, input=replace(e.input, signed=e.weight not in unsigned)) for e in table]
        close(run_paddle(made, x, tmp_path), fake_quantized(model, fine, x))
    graph, even = on_any_processor(graph, table, "paddle")
    made = quantize_program(graph, even)
    kinds = [op.type for op in made.operators]
    assert (kinds.count("clip"), kinds.count("elementwise_mul")) == (2, 1)
    close(run_paddle(made, x, tmp_path), fake_quantized(model, even, x))
