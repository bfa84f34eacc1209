"""Networks of every kind of layer that is quantized, and their int8 answers by hand."""

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
from paddle import nn
from paddle.static import InputSpec

from core.export.onnx.convert import convert_to_onnx
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.scales import Grid, LayerScales
from core.runtimes.predictor import load_predictor
from core.targets.instructions import multiplies_int8_exactly
from core.targets.processors import MIDDLE, weight_limits, with_signed_bytes

SHAPE = (2, 8, 12, 10)


ABSMAX = 2.5


NO_LIMITS = MappingProxyType({})


def randomize(model, biases=1.0):
    """Draw weights of about 1 / fan-in, and biases and means of such a size."""
    rng = np.random.default_rng(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        values = rng.normal(size=tensor.shape)
        if tensor.ndim > 1:
            values /= np.prod(tensor.shape[1:]) ** 0.5
        elif tensor.min() >= 0 and tensor.max() > 0:  # scales and variances
            values = 0.5 + np.abs(values)
        else:
            values *= biases
        tensor.set_value(values.astype("float32"))
    model.eval()
    return model


def build(model, shape=SHAPE):
    graph = Graph.from_trace(trace(model, [InputSpec([None, *shape[1:]], "float32", "image")]))
    fold_batch_norms(graph)
    return graph


def to_onnx(graph):
    return onnx.load_model_from_string(convert_to_onnx(graph))


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
    """Round to even steps per channel; the largest as this machine has it."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    step = np.abs(weight.astype("float64")).max(axis=others, keepdims=True) / (MIDDLE / 2)
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


def table_of(model, grid, per_channel, limits=NO_LIMITS):
    names = [f"{name}.weight" for name, _ in model.named_sublayers()]
    return [
        LayerScales(name, grid, per_channel=per_channel, limit=limits.get(name, "none"))
        for name in names
    ]


def close(got, wanted):
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5 * np.abs(value).max(), err_msg=name)


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
