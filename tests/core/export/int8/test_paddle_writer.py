"""Int8 files against fake quantization written from the formula, in each runtime.

Layers that read the image are compared to 1e-5. Deeper, a difference in the last place may move a
value to the next step, and that grows with depth: of nets, only the noise is compared. A runtime
may differ from the reference by no more than two independent roundings would: 3 dB below the signal
to noise ratio of the reference to the float net. What is computed wrongly is at 15 dB.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from onnx import numpy_helper
from paddle import nn

from core.export.int8.onnx_writer import quantize_onnx
from core.export.int8.paddle_writer import quantize_program
from core.graph.operators import attribute, only
from core.quant.scales import Grid, LayerScales
from core.targets.instructions import multiplies_int8_exactly
from core.targets.presets import PRESETS
from core.targets.processors import slow_without_dot_products, weight_limits
from tests.networks.int8_layers import (
    ABSMAX,
    Moves,
    Named,
    Net,
    build,
    calibrate,
    close,
    decibels,
    evened,
    fake_quantized,
    image,
    on_any_processor,
    randomize,
    reference,
    rounded,
    rounded_weight,
    run_onnxruntime,
    run_openvino,
    run_paddle,
    table_of,
    to_onnx,
)

pytestmark = pytest.mark.int8


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
    made = quantize_onnx(to_onnx(graph), limited, PRESETS["openvino"])
    close(run_openvino(made, x), wanted["pair_sum"])
    assert [node.op_type for node in made.graph.node].count("QuantizeLinear") == 1


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


@pytest.mark.parametrize("kind", [Net, Concats, Moves])
def test_nets_in_all_runtimes(kind, tmp_path):
    model, x = randomize(kind()), image()
    table = calibrate(model, x)
    if kind is Moves:  # a second grid on one tensor
        table = [replace(e, input=Grid(1.0)) if e.weight == "f.weight" else e for e in table]
    graph = build(model)
    proto = to_onnx(graph)
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


def test_files_are_small(tmp_path):
    model = randomize(nn.Sequential(nn.Conv2D(8, 64, 3), nn.Conv2D(64, 256, 3)))
    graph = build(model)
    proto, table = to_onnx(graph), calibrate(model, image())
    graph.write(tmp_path / "float.pdmodel", tmp_path / "float.pdiparams")
    quantize_program(graph, table).write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    params = (tmp_path / "model.pdiparams").stat().st_size
    assert params < 0.3 * (tmp_path / "float.pdiparams").stat().st_size
    for preset in PRESETS.values():
        assert quantize_onnx(proto, table, preset).ByteSize() < 0.3 * proto.ByteSize()
