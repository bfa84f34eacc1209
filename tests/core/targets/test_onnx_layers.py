"""Layers of ONNX files, with the range of the data that they multiply."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from core.targets.overflow import check_onnx, summary
from core.targets.pair_sums import LayerCheck, Verdict
from tests.networks.one_layer import GRIDS, Builder, integers, only


def convolution(shape: tuple[int, ...], **more: object) -> LayerCheck:
    """Check a convolution all of whose weights are 127, with uint8 data."""
    make = Builder()
    data = make.rounded("x")
    weight = make.weight(np.full(shape, 127, np.int8))
    inputs = shape[1] * int(str(more.get("group", 1)))
    out = make.node("Conv", data, weight, **more)
    return only(make.model((1, inputs, *[5] * (len(shape) - 2)), out))


@pytest.mark.parametrize(("dtype", "zero"), GRIDS)
def test_data_is_counted_as_the_unsigned_operand_holds_it(dtype: str, zero: int) -> None:
    make = Builder()
    data = make.rounded("x", zero=np.dtype(dtype).type(zero))
    out = make.node("MatMul", data, make.weight(np.full((4, 2), 65, np.int8), 1, name="fc.w"))
    check = only(make.model((3, 4), out))
    assert (check.layer, check.kind) == ("fc.w", "MatMul")
    assert (check.lowest, check.highest, check.pair.total) == (0, 255, 33150)
    assert check.verdict is Verdict.OVERFLOW
    assert check.patch == (4,)


@pytest.mark.parametrize(
    ("shape", "group", "verdict"),
    [
        ((8, 1, 3, 3), 8, Verdict.EXACT),
        ((8, 1, 3), 8, Verdict.EXACT),
        ((16, 1, 3, 3), 8, Verdict.OVERFLOW),  # two outputs of each input: not depthwise
        ((8, 4, 3, 3), 2, Verdict.OVERFLOW),
        ((8, 1, 3, 3), 1, Verdict.OVERFLOW),  # of one channel
        ((8, 1, 1, 1), 1, Verdict.EXACT),  # one product alone
    ],
)
def test_depthwise_convolutions_alone_are_exempt(
    shape: tuple[int, ...], group: int, verdict: Verdict
) -> None:
    check = convolution(shape, group=group)
    assert check.verdict is verdict
    assert (check.reason == "depthwise") == (group == 8 and shape[0] == 8)
    assert check.patch == shape[1:]


def test_weights_of_one_output_channel_are_found_in_every_layout() -> None:
    """Of each layer, 65 and 64 meet in one output channel alone, and are found there."""
    steps = np.zeros((3, 4, 2, 2), np.int8)
    steps[1, 2, 0, 1], steps[1, 3, 1, 1], steps[0, 0, 0, 0], steps[2, 0, 0, 0] = 65, 64, 100, 100
    matrix = steps[:, :, 0, 1].copy()
    matrix[1, 3] = 64
    layers = [
        ("Conv", steps, {}, (1, 4, 5, 5), 1, (9, 15)),
        ("ConvTranspose", steps.swapaxes(0, 1), {}, (1, 4, 5, 5), 1, (9, 15)),
        ("Gemm", matrix, {"transB": 1}, (2, 4), 1, (2, 3)),
        ("Gemm", matrix.T, {}, (2, 4), 1, (2, 3)),
        ("MatMul", matrix.T, {}, (2, 5, 4), 1, (2, 3)),
        ("MatMul", np.stack([matrix.T * 0, matrix.T]), {}, (2, 5, 4), 4, (2, 3)),
    ]
    for kind, weight, more, shape, channel, places in layers:
        make = Builder()
        data = make.rounded("x")
        out = make.node(kind, data, make.weight(np.ascontiguousarray(weight), None), **more)
        check = only(make.model(shape, out))
        assert (check.pair.channel, check.pair.places) == (channel, places), kind
        assert (check.pair.total, check.verdict) == (255 * 129, Verdict.OVERFLOW), kind
        witness = check.witness()
        assert witness.ravel()[list(places)].tolist() == [255, 255]
        assert witness.sum() == 510


def test_groups_of_a_transposed_convolution_share_no_output() -> None:
    """[in, out of a group]: inputs 0 and 1 make outputs 0 and 1, inputs 2 and 3 the others."""
    steps = np.zeros((4, 2, 1, 1), np.int8)
    steps[1, 1], steps[2, 1] = 127, 127  # outputs 1 and 3
    for weight, verdict, channel in (
        (steps, Verdict.EXACT, 1),
        (steps.copy(), Verdict.OVERFLOW, 3),
    ):
        if verdict is Verdict.OVERFLOW:
            weight[3, 1] = 2
        make = Builder()
        data = make.rounded("x")
        out = make.node("ConvTranspose", data, make.weight(weight, None), group=2)
        check = only(make.model((1, 4, 3, 3), out))
        assert (check.verdict, check.pair.channel) == (verdict, channel)
        assert check.patch == (2, 1, 1)


@pytest.mark.parametrize(
    ("kind", "more", "scale", "zero", "steps"),
    [
        ("Relu", {}, 0.1, np.uint8(128), (128, 255)),
        ("Relu", {}, 0.1, np.int8(0), (128, 255)),
        ("Relu", {}, 0.1, np.uint8(0), (0, 255)),
        ("Sigmoid", {}, 0.01, np.uint8(0), (0, 100)),
        ("HardSigmoid", {}, 0.01, np.uint8(20), (20, 120)),
        ("Tanh", {}, 0.01, np.int8(0), (28, 228)),
        ("Softmax", {}, 0.02, np.int8(-128), (0, 50)),
        ("Sigmoid", {}, 1 / 300, np.uint8(0), (0, 255)),
        ("Neg", {}, 0.01, np.uint8(0), (0, 255)),
    ],
)
def test_activations_bound_the_data(
    kind: str, more: dict[str, float], scale: float, zero: np.generic, steps: tuple[int, int]
) -> None:
    make = Builder()
    data = make.rounded(make.node(kind, "x", **more), scale, zero)
    out = make.node("MatMul", data, make.weight(np.full((4, 2), 100, np.int8), 1))
    check = only(make.model((3, 4), out))
    assert (check.lowest, check.highest) == steps
    assert (check.verdict is Verdict.EXACT) == (steps[1] * 200 <= 32767)
    witness = check.witness()
    assert witness.max() == steps[1]
    assert witness.min() == steps[0]


def test_a_clip_bounds_the_data_with_its_constants() -> None:
    for low, high, steps in ((0.0, 6.0, (0, 60)), (-2.0, 6.0, (0, 60)), (1.0, 3.0, (0, 30))):
        make = Builder()
        ends = make.constant(np.float32(low)), make.constant(np.float32(high))
        data = make.rounded(make.node("Clip", "x", *ends), 0.1)
        out = make.node("MatMul", data, make.weight(np.full((4, 2), 100, np.int8), 1))
        check = only(make.model((3, 4), out))
        # 0 is among them whatever the clip: the border of a convolution is
        assert (check.lowest, check.highest) == steps
    make = Builder()  # a Clip with ends that are computed
    data = make.rounded(make.node("Clip", "x", "", make.node("ReduceMax", "x", keepdims=0)), 0.1)
    out = make.node("MatMul", data, make.weight(np.full((4, 2), 100, np.int8), 1))
    assert only(make.model((3, 4), out)).highest == 255


def test_a_clip_of_old_models_has_its_ends_as_attributes() -> None:
    make = Builder()
    data = make.rounded(make.node("Clip", "x", min=0.0, max=5.0), 0.1)
    out = make.node("MatMul", data, make.weight(np.full((4, 2), 100, np.int8), None))
    assert only(make.model((3, 4), out, version=10)).highest == 50


@pytest.mark.parametrize(
    ("kind", "arguments", "highest"),
    [
        ("MaxPool", {"kernel_shape": [2, 2]}, 100),
        ("Transpose", {"perm": [0, 1, 3, 2]}, 100),
        ("Identity", {}, 100),
        ("AveragePool", {"kernel_shape": [2, 2]}, 255),
        ("Relu", {}, 255),  # a runtime may move the grid behind it, and choose another
        ("Neg", {}, 255),
    ],
)
def test_grids_reach_layers_through_what_is_in_between(
    kind: str, arguments: dict[str, object], highest: int
) -> None:
    make = Builder()
    data = make.node(kind, make.rounded(make.node("Sigmoid", "x"), 0.01), **arguments)
    out = make.node("Conv", data, make.weight(np.full((2, 4, 1, 1), 127, np.int8)))
    check = only(make.model((1, 4, 6, 6), out))
    assert check.highest == highest
    assert (check.verdict is Verdict.OVERFLOW) == (highest == 255)


def test_a_concatenation_has_the_steps_of_all_its_inputs() -> None:
    def highest(scales: tuple[float, float], other: str) -> int | str:
        make = Builder()
        parts = [make.rounded(make.node("Sigmoid", "x"), scales[0])]
        parts.append(make.rounded(make.node(other, "x"), scales[1]) if scales[1] else "x")
        joined = make.node("Concat", *parts, axis=1)
        out = make.node("Conv", joined, make.weight(np.full((2, 8, 1, 1), 127, np.int8)))
        check = only(make.model((1, 4, 6, 6), out))
        return check.reason or check.highest

    assert highest((0.01, 0.01), "Sigmoid") == 100
    assert highest((0.01, 0.01), "Relu") == 255
    assert highest((0.01, 0.02), "Sigmoid") == 255  # two grids: the runtime makes one of them
    assert highest((0.01, 0.0), "") == "data in float"


def test_sums_of_rounded_and_of_float_data_are_float() -> None:
    for other, reason in (("x", "data in float"), ("", "")):
        make = Builder()
        data = make.rounded("x")
        total = make.node("Add", data, other or make.rounded("x", 2.0))
        out = make.node("MatMul", total, make.weight(np.full((4, 2), 127, np.int8), 1))
        assert only(make.model((3, 4), out)).reason == reason


def test_stored_weights_are_found_behind_what_moves_them() -> None:
    steps = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
    steps[1, 1], steps[2, 1] = 70, 70
    wanted = (1, 2)

    def check(change: str) -> LayerCheck:
        make = Builder()
        data = make.rounded("x")
        if change == "transposed":
            weight = make.node("Transpose", make.weight(steps.T.copy(), None), perm=[1, 0])
        elif change == "reshaped":
            shape = make.constant(np.array([4, 6]))
            weight = make.node("Reshape", make.weight(steps.reshape(2, 2, 6), None), shape)
        elif change == "scaled":
            weight = make.node("Mul", make.constant(np.float32(2)), make.weight(steps, None))
        elif change == "cast":
            floats = make.node("Cast", make.constant(steps, "w"), to=TensorProto.FLOAT)
            weight = make.node("Mul", floats, make.constant(np.float32(0.1)))
        else:  # in float in the file, rounded when it is loaded
            grid = make.constant(np.full(6, 0.5, np.float32)), make.constant(np.zeros(6, np.int8))
            stored = make.constant(steps * np.float32(0.5), "w")
            rounded = make.node("QuantizeLinear", stored, *grid, axis=1)
            weight = make.node("DequantizeLinear", rounded, *grid, axis=1)
        return only(make.model((3, 4), make.node("MatMul", data, weight)))

    for change in ("transposed", "reshaped", "scaled", "cast", "rounded"):
        found = check(change)
        assert (found.layer, found.pair.channel, found.pair.places) == ("w", 1, wanted), change
        assert found.pair.total == 255 * 140, change


def test_weights_in_uint8_are_exempt_and_zero_points_of_int8_change_nothing() -> None:
    for dtype, zero, top, verdict in (
        (np.uint8, 128, 255, Verdict.EXACT),
        (np.int8, 10, 65, Verdict.OVERFLOW),
        (np.int8, -60, 64, Verdict.EXACT),
    ):
        make = Builder()
        data = make.rounded("x")
        out = make.node("MatMul", data, make.weight(np.full((4, 2), top, dtype), 1, zero))
        check = only(make.model((3, 4), out))
        assert check.verdict is verdict
        assert (check.reason == "weights in uint8") == (dtype is np.uint8)


def test_data_in_float_and_constants_as_nodes() -> None:
    make = Builder()
    steps = helper.make_tensor("stored", TensorProto.INT8, (4, 2), [127] * 8)
    one = helper.make_tensor("one", TensorProto.FLOAT, (), [1.0])
    weight = make.node(
        "DequantizeLinear", make.node("Constant", value=steps), make.node("Constant", value=one)
    )
    hidden = make.node("MatMul", "x", weight)
    out = make.node("MatMul", make.rounded(hidden), make.weight(np.full((2, 2), 64, np.int8), 1))
    first, second = check_onnx(make.model((3, 4), out))
    assert (first.verdict, first.reason) == (Verdict.EXACT, "data in float")
    assert (second.layer, second.verdict, second.pair.total) == ("w", Verdict.EXACT, 32640)


def test_products_of_two_computed_tensors() -> None:
    for scale, verdict in ((0.01, Verdict.EXACT), (1 / 255, Verdict.OVERFLOW)):
        make = Builder()
        left = make.rounded(make.node("Softmax", "x"), scale)
        right = make.rounded("x", zero=np.int8(0))
        check = only(make.model((4, 4), make.node("MatMul", left, right)))
        assert check.layer == "n5"
        assert check.verdict is verdict
        assert check.pair.total == -(100 if scale == 0.01 else 255) * 256
    make = Builder()  # a constant on the left is the unsigned operand, shifted to 0..255
    left = make.weight(np.array([[0, 10, -128, 3]], np.int8), None)
    check = only(make.model((4, 4), make.node("MatMul", left, make.rounded("x", zero=np.int8(0)))))
    assert (check.layer, check.lowest, check.highest) == ("w", 0, 138)


def test_int8_that_openvino_halves_is_rounded_again() -> None:
    """Odd steps of a transposed convolution, where the data is int8 with zero point 0."""
    cases = [
        (np.int8(0), 63, Verdict.ROUNDED),
        (np.int8(0), 62, Verdict.EXACT),
        (np.int8(3), 63, Verdict.EXACT),
        (np.uint8(0), 63, Verdict.EXACT),
        (np.int8(0), 65, Verdict.OVERFLOW),
    ]
    for zero, top, verdict in cases:
        make = Builder()
        data = make.rounded("x", zero=zero)
        out = make.node("ConvTranspose", data, make.weight(np.full((4, 2, 2, 2), top, np.int8), 1))
        assert only(make.model((1, 4, 3, 3), out)).verdict is verdict
        make = Builder()
        steps = np.full((4, 1, 2, 2, 2), top, np.int8)
        out = make.node("Conv", make.rounded("x", zero=zero), make.weight(steps), group=4)
        found = only(make.model((1, 4, 3, 3, 3), out)).verdict
        assert (found is Verdict.ROUNDED) == (zero == 0 and zero.dtype == np.int8 and top % 2 == 1)


@pytest.mark.parametrize(
    "kind", ["QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"]
)
def test_models_of_integers(kind: str) -> None:
    for top, verdict in ((64, Verdict.EXACT), (65, Verdict.OVERFLOW)):
        check = only(integers(kind, top))
        assert (check.layer, check.kind, check.verdict) == ("w", kind, verdict)
        assert (check.lowest, check.highest, check.pair.total) == (0, 255, 2 * top * 255)


def test_data_is_bounded_by_the_grid_that_it_is_dequantized_on() -> None:
    """Integers of any source: 5 x 0.1 is the largest, whatever their grid was before."""
    for source in ("QuantizeLinear", "QLinearSigmoid", "MaxPool of integers"):
        make = Builder()
        first = make.constant(np.float32(0.2)), make.constant(np.int8(-128))
        second = make.constant(np.float32(0.1)), make.constant(np.int8(122))
        steps = make.node("QuantizeLinear", "x", *first)
        if source == "QLinearSigmoid":
            steps = make.node(source, steps, *first, *first, domain="com.microsoft")
        elif source == "MaxPool of integers":
            steps = make.node("MaxPool", steps, kernel_shape=[1, 1])
        data = make.rounded(make.node("DequantizeLinear", steps, *second), 0.01)
        out = make.node("Conv", data, make.weight(np.full((2, 4, 1, 1), 127, np.int8)))
        check = only(make.model((1, 4, 3, 3), out))
        assert (check.highest, check.verdict) == (50, Verdict.EXACT), source


def test_borders_have_the_zero_point_of_the_grid_that_is_read() -> None:
    make = Builder()
    first = make.constant(np.float32(0.01)), make.constant(np.uint8(0))
    second = make.constant(np.float32(0.01)), make.constant(np.uint8(200))
    steps = make.node("QuantizeLinear", make.node("Sigmoid", "x"), *first)
    data = make.node("DequantizeLinear", steps, *second)
    weight = make.weight(np.full((2, 4, 3, 3), 127, np.int8))
    out = make.node("Conv", data, weight, pads=[1, 1, 1, 1])
    assert only(make.model((1, 4, 6, 6), out)).highest == 200


def test_layers_of_graphs_inside_and_of_functions() -> None:
    make = Builder()
    data = make.rounded("x")
    out = make.node("MatMul", data, make.weight(np.full((4, 2), 127, np.int8), 1))
    inner = helper.make_graph(
        make.nodes[2:], "then", [], [helper.make_tensor_value_info(out, 1, None)]
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    flag = helper.make_tensor_value_info("c", TensorProto.BOOL, ())
    whole = make.model((3, 4), out)
    whole.graph.ClearField("node")
    whole.graph.node.extend([*make.nodes[:2], choice])
    whole.graph.input.append(flag)
    assert [check.verdict for check in check_onnx(whole)] == [Verdict.OVERFLOW] * 2

    model = make.model((3, 4), "y")
    function = helper.make_function(
        "own",
        "Product",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 13)],
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[-1].CopyFrom(
        helper.make_node("Product", make.nodes[-1].input, ["y"], domain="own")
    )
    assert only(model).verdict is Verdict.OVERFLOW


def test_other_operators_that_multiply_are_taken_as_one_channel() -> None:
    make = Builder()
    weight = make.weight(np.full((1, 8, 4), 100, np.int8), None, name="lstm.w")
    state = make.weight(np.full((1, 8, 2), 1, np.int8), None, name="lstm.r")
    out = make.node("LSTM", make.rounded("x"), weight, state, hidden_size=2)
    first, second = check_onnx(make.model((5, 1, 4), out))
    assert (first.layer, first.kind, first.verdict) == ("lstm.w", "LSTM", Verdict.OVERFLOW)
    assert (second.layer, second.verdict) == ("lstm.r", Verdict.EXACT)


def test_float_models_have_nothing_to_check() -> None:
    make = Builder()
    out = make.node("MatMul", "x", make.constant(np.ones((4, 2), np.float32)))
    assert check_onnx(make.model((3, 4), out)) == ()
    assert summary(()) == "nothing is quantized"
