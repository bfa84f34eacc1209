"""Tracing: what the graph says, and that nothing of it stays behind in the process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export.onnx.convert import convert_to_onnx
from core.graph.program import Graph
from core.graph.trace import name_outputs, trace

IMAGE = [InputSpec([None, 3, None, None], "float32", "image")]
FLAGS = ["FLAGS_enable_pir_api", "FLAGS_enable_pir_in_executor"]


class Returning(nn.Layer):
    """Calls a convolution and returns what `how` makes of it."""

    def __init__(self, how):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3)
        self.how = how

    def forward(self, image):
        return self.how(self.conv(image))


class Fails(nn.Layer):
    def forward(self, x):
        raise ValueError("a long story\nthe reason")


def net():
    return nn.Sequential(
        nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Dropout(0.5), nn.Sequential(nn.ReLU())
    )


def test_weights_are_the_live_tensors_by_path():
    model = net()
    traced = trace(model, IMAGE)
    assert list(traced.weights) == [
        *("0.weight", "0.bias", "1.weight", "1.bias"),
        *("1._mean", "1._variance"),
    ]
    assert traced.weights["0.weight"] is model[0].weight
    block = traced.program.global_block()
    assert block.ops[0].input("Filter") == ["0.weight"]
    assert block.var("1._mean").persistable


def test_free_dimensions_stay_free_and_inputs_keep_their_names():
    traced = trace(net(), IMAGE)
    assert traced.inputs == ("image",)
    assert traced.program.global_block().var("image").shape == (-1, 3, -1, -1)
    assert traced.program.global_block().var(traced.outputs["output"]).shape == (-1, 4, -1, -1)


def test_graph_does_not_depend_on_layers_built_before():
    def names():
        ops = trace(net(), IMAGE).program.global_block().ops
        return [(op.type, op.input_arg_names, op.output_arg_names) for op in ops]

    first = names()
    net()
    assert names() == first


def test_two_weights_with_one_name_are_told_apart():
    with paddle.utils.unique_name.guard():
        first = nn.Conv2D(3, 4, 1)
    with paddle.utils.unique_name.guard():
        second = nn.Conv2D(4, 5, 1)
    assert first.weight.name == second.weight.name
    traced = trace(nn.Sequential(first, second), IMAGE)
    assert traced.weights["0.weight"] is first.weight
    assert traced.weights["1.weight"] is second.weight
    assert first.weight.name == second.weight.name == "conv2d_0.w_0"


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(fails):
    model = net()
    model[1].eval()
    names = [parameter.name for parameter in model.parameters()]
    flags = paddle.get_flags(FLAGS)
    before = nn.Linear(2, 2).weight.name
    if fails:
        model[3].add_sublayer("1", Fails())
        with pytest.raises(ExportError):
            trace(model, [InputSpec([None, 3, 8, 8], "float32", "image")])
    else:
        trace(model, IMAGE)
    assert paddle.in_dynamic_mode()
    assert paddle.get_flags(FLAGS) == flags
    assert [p.name for p in model.parameters()][: len(names)] == names
    number = int(before.split("_")[1].split(".")[0])
    assert nn.Linear(2, 2).weight.name == f"linear_{number + 1}.w_0"
    modes = [layer.training for layer in model.sublayers(include_self=True)]
    assert modes == [True, True, False, *[True] * (len(modes) - 3)]


def test_no_grad_around_a_trace_stays_in_force():
    model = net()
    with paddle.no_grad():
        trace(model, IMAGE)
        assert model(paddle.ones([1, 3, 8, 8])).stop_gradient
    assert not model(paddle.ones([1, 3, 8, 8])).stop_gradient


@pytest.mark.parametrize(
    ("how", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: [x], ["output"]),
        (lambda x: (x, x + 1), ["output_0", "output_1"]),
        (lambda x: {"heat": x, "size": x.mean()}, ["heat", "size"]),
    ],
)
def test_outputs_are_named_alike_eager_and_traced(how, names):
    layer = Returning(how)
    assert list(trace(layer, IMAGE).outputs) == names
    assert list(name_outputs(layer(paddle.ones([1, 3, 8, 8])))) == names


def test_outputs_that_are_no_tensors_are_refused():
    with pytest.raises(ExportError, match=r"^size: expected a tensor, got int"):
        trace(Returning(lambda x: {"heat": x, "size": 3}), IMAGE)


def test_an_error_names_the_innermost_layer():
    model = nn.Sequential(nn.Conv2D(3, 3, 3), nn.Sequential(nn.ReLU(), Fails()))
    with pytest.raises(ExportError, match=r"^1\.1: cannot be traced: ValueError: the reason$"):
        trace(model, [InputSpec([None, 3, 8, 8], "float32", "image")])


def test_control_flow_on_values_is_refused():
    with pytest.raises(ExportError, match=r"^Returning: cannot be traced"):
        trace(Returning(lambda x: x if float(x.mean()) > 0 else -x), IMAGE)


def test_paths_are_counted_from_the_wrapped_model():
    model = net()
    head = nn.Conv2D(4, 2, 1)
    wrapper = nn.Sequential(("network", model), ("head", head))
    weights = trace(wrapper, IMAGE, model).weights
    assert weights["0.weight"] is model[0].weight
    assert weights["head.weight"] is head.weight


def test_tensor_attributes_are_weights_too():
    layer = Returning(lambda x: x)
    layer.grid = paddle.ones([4, 1, 1])
    layer.how = lambda x: x * layer.grid
    traced = trace(layer, IMAGE)
    assert traced.weights["grid"] is layer._buffers["grid"]
    assert traced.program.global_block().var("grid").persistable


def test_old_batch_norm_is_in_evaluation_mode():
    ops = trace(nn.Sequential(nn.BatchNorm(3)), IMAGE).program.global_block().ops
    assert [op.attr("is_test") for op in ops] == [True]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([InputSpec([None, 3, 8, 8], "float32")], "input 0: .* has no name"),
        (IMAGE * 2, "image: two inputs have this name"),
        ([InputSpec([None, 3, 8, 8], "float32", "0.weight")], "0.weight: an input and a weight"),
    ],
)
def test_bad_specifications(specs, message):
    with pytest.raises(ExportError, match=message):
        trace(net(), specs)


@pytest.mark.parametrize("before", [None, 7])
def test_the_length_of_stacks_is_put_back(before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            raise ValueError("broken")

    monkeypatch.delattr(sys, "tracebacklimit", raising=False)
    if before is not None:
        monkeypatch.setattr(sys, "tracebacklimit", before, raising=False)
    spec = [InputSpec([1, 3], "float32", "x")]
    trace(nn.Linear(3, 2), spec)
    with pytest.raises(ExportError, match="Broken: cannot be traced: ValueError: broken"):
        trace(Broken(), spec)
    assert getattr(sys, "tracebacklimit", None) == before


class ReplacesParts(nn.Layer):
    """Adds to a part of a map, and to a part of the result (as ReXNet and TNT do)."""

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        y = x * 2
        before = y + 1
        y[:, :1] += x[:, 1:2]
        between = y + 1
        y[:, :, 1:] = between[:, :, 1:] * 3
        return {"before": before, "between": between, "y": y}


def test_parts_that_are_replaced_are_read_afterwards(tmp_path: Path) -> None:
    layer, spec = ReplacesParts(), InputSpec([2, 3, 4, 4], "float32", "image")
    graph = Graph.from_trace(trace(layer, [spec]))
    files = tmp_path / "model.pdmodel", tmp_path / "model.pdiparams"
    graph.write(*files)
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype("float32")
    session = onnxruntime.InferenceSession(convert_to_onnx(graph))
    found = dict(zip(graph.outputs, session.run(None, {"image": image})))
    for name, wanted in layer(paddle.to_tensor(image)).items():
        np.testing.assert_allclose(found[name], wanted.numpy(), rtol=1e-6)
