"""The graph as protobuf: folding, naming, writing; each against the eager layer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from onnx import helper, numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export.files import write_files
from core.export.onnx.cleanup import clean_up
from core.export.onnx.convert import convert_to_onnx
from core.graph.adaptive_pooling import averaging_matrix
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.runtimes.predictor import load_predictor


def randomize(model):
    rng = np.random.default_rng(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        low = 0.5 if tensor.min() >= 0 and tensor.max() > 0 else -0.5  # variances stay positive
        tensor.set_value(rng.uniform(low, 1.0, tensor.shape).astype("float32"))
    model.eval()
    return model


def build(model, shape):
    free = [None, *shape[1:]]
    return Graph.from_trace(trace(model, [InputSpec(free, "float32", "image")]))


def write(graph, folder):
    files = folder / "model.pdmodel", folder / "model.pdiparams"
    graph.write(*files)
    return files


def kinds(graph):
    return [op.type for op in graph.operators]


class Doubled(nn.Layer):
    """The convolution's output is read twice, so the norm cannot be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4)

    def forward(self, image):
        x = self.conv(image)
        return self.norm(x) + x


class Shared(nn.Layer):
    """Two norms behind one shared weight."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2D(3), nn.BatchNorm2D(3)

    def forward(self, image):
        return self.second(self.conv(self.first(self.conv(image))))


FOLDED = {
    "conv": ([nn.Conv2D, (3, 4, 3), {}], nn.BatchNorm2D, 4),
    "conv, no bias": ([nn.Conv2D, (3, 4, 3), {"bias_attr": False}], nn.BatchNorm2D, 4),
    "conv, old norm": ([nn.Conv2D, (3, 4, 3), {}], nn.BatchNorm, 4),
    "grouped": ([nn.Conv2D, (4, 6, 3), {"groups": 2, "stride": 2}], nn.BatchNorm2D, 6),
    "depthwise": ([nn.Conv2D, (4, 8, 3), {"groups": 4}], nn.BatchNorm2D, 8),
    "transposed": ([nn.Conv2DTranspose, (3, 4, 3), {"stride": 2}], nn.BatchNorm2D, 4),
    "transposed, grouped": ([nn.Conv2DTranspose, (4, 6, 2), {"groups": 2}], nn.BatchNorm2D, 6),
    "linear": ([nn.Linear, (5, 4), {}], nn.BatchNorm1D, 4),
    "linear, no bias": ([nn.Linear, (5, 4), {"bias_attr": False}], nn.BatchNorm1D, 4),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folding_removes_the_norm_and_changes_nothing(case, tmp_path):
    (layer, arguments, options), norm, channels = FOLDED[case]
    model = randomize(nn.Sequential(layer(*arguments, **options), norm(channels), nn.ReLU()))
    shape = (2, arguments[0]) if layer is nn.Linear else (2, arguments[0], 7, 9)
    graph = build(model, shape)
    assert fold_batch_norms(graph) == 1
    assert "batch_norm" not in kinds(graph)
    assert "0.weight" in graph.weights
    assert len(graph.weights) == 2  # the weight, and one bias
    write(graph, tmp_path)
    image = np.random.default_rng(1).normal(size=shape).astype("float32")
    wanted = model(paddle.to_tensor(image)).numpy()
    got = load_predictor(tmp_path, own=True).run(image)["output"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "folded", "convs"), [(Doubled, 0, 1), (Shared, 2, 2)])
def test_what_serves_others_stays_as_it_is(model, folded, convs, tmp_path):
    layer = randomize(model())
    graph = build(layer, (1, 3, 6, 6))
    assert fold_batch_norms(graph) == folded
    assert kinds(graph).count("conv2d") == convs
    write(graph, tmp_path)
    image = np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype("float32")
    got = load_predictor(tmp_path, own=True).run(image)["output"]
    np.testing.assert_allclose(got, layer(paddle.to_tensor(image)).numpy(), rtol=1e-4, atol=1e-4)


def test_linear_on_sequences_is_not_folded():
    """A norm behind [N, L, C] normalizes L, the linear layer makes C."""
    graph = build(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1D(4)), (2, 4, 5))
    assert fold_batch_norms(graph) == 0


class Vectors(nn.Layer):
    """Vectors [N, L, C] that are flattened to be normalized, as in LeViT."""

    def __init__(self, watched=False):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 4, bias_attr=False), nn.BatchNorm1D(4)
        self.last, self.watched = nn.Linear(4, 3), watched

    def forward(self, vectors):
        x = self.first(vectors)
        flat = self.norm(x.flatten(0, 1))
        y = self.last(paddle.reshape(flat, [-1, *x.shape[1:]]))
        return (y, flat) if self.watched else y


@pytest.mark.parametrize("watched", [False, True])
def test_norms_of_flattened_vectors_become_a_product_and_a_sum(watched, tmp_path):
    model = randomize(Vectors(watched))
    graph = build(model, (2, 6, 5))
    assert fold_batch_norms(graph) == 0
    shapes = {"flatten_contiguous_range", "batch_norm", "reshape2"} & {*kinds(graph)}
    assert bool(shapes) == watched  # somebody else reads what is flattened
    write(graph, tmp_path)
    vectors = np.random.default_rng(1).normal(size=(2, 6, 5)).astype("float32")
    wanted = model(paddle.to_tensor(vectors))
    got = load_predictor(tmp_path, own=True).run(vectors)
    for name, value in zip(graph.outputs, wanted if watched else [wanted]):
        np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-5, atol=1e-5)


def test_a_norm_without_weights_stays():
    norm = nn.BatchNorm2D(4, weight_attr=False, bias_attr=False)
    graph = build(nn.Sequential(nn.Conv2D(3, 4, 3), norm), (1, 3, 6, 6))
    assert fold_batch_norms(graph) == 0
    assert "batch_norm" in kinds(graph)


def test_files_read_back_equal_and_weights_too(tmp_path):
    graph = build(randomize(nn.Sequential(nn.Conv2D(3, 4, 3), nn.Linear(4, 5))), (1, 3, 6, 6))
    files = write(graph, tmp_path)
    again = Graph.from_files(*files)
    assert again.to_program() == graph.to_program() == files[0].read_bytes()
    assert again.inputs == ["image"]
    assert again.outputs == ["output"]
    assert sorted(again.weights) == sorted(graph.weights)
    for name, array in again.weights.items():
        np.testing.assert_array_equal(array, graph.weights[name])


def test_equal_models_make_equal_bytes_without_source_paths(tmp_path):
    contents = []
    for _ in range(2):
        graph = build(randomize(nn.Sequential(nn.Conv2D(3, 4, 3), nn.ReLU())), (1, 3, 6, 6))
        contents.append([file.read_bytes() for file in write(graph, tmp_path)])
    assert contents[0] == contents[1]
    assert b".py" not in contents[0][0]


class Outputs(nn.Layer):
    """Outputs that are an input, a weight, and one tensor twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3)

    def forward(self, image):
        x = self.conv(image)
        return {"same": image, "weight": self.conv.weight, "first": x, "second": x}


def test_outputs_take_their_names_whatever_they_are(tmp_path):
    layer = Outputs()
    graph = build(layer, (1, 3, 6, 6))
    assert graph.outputs == ["same", "weight", "first", "second"]
    write(graph, tmp_path)
    image = np.ones((1, 3, 6, 6), "float32")
    got = load_predictor(tmp_path, own=True).run(image)
    np.testing.assert_array_equal(got["same"], image)
    np.testing.assert_array_equal(got["weight"], layer.conv.weight.numpy())
    np.testing.assert_array_equal(got["first"], got["second"])


class Dropouts(nn.Layer):
    """Dropouts that pass values on, as outputs and on the way, and one that scales."""

    def __init__(self):
        super().__init__()
        self.linear, self.passing = nn.Linear(4, 4), nn.Dropout(0.5)
        self.scaling = nn.Dropout(0.25, mode="downscale_in_infer")
        self.first = nn.Dropout(0.1)

    def forward(self, x):
        y = self.passing(self.linear(self.first(x)))
        return {"same": self.first(x), "sum": y + self.scaling(x), "passed": y}


def test_dropout_that_passes_values_on_is_left_out(tmp_path):
    layer = randomize(Dropouts())
    specs = [InputSpec([None, 4], "float32", "image")]
    assert kinds(Graph.from_trace(trace(layer, specs, training=True))).count("dropout") == 4
    graph = build(layer, (1, 4))
    assert kinds(graph).count("dropout") == 1
    assert graph.made["passing"] == graph.made["linear"] == "passed"
    write(graph, tmp_path)
    x = np.random.default_rng(0).random((2, 4), np.float32)
    got = load_predictor(tmp_path, own=True).run(x)
    for name, wanted in layer(paddle.to_tensor(x)).items():
        np.testing.assert_allclose(got[name], wanted.numpy(), rtol=1e-6, atol=1e-6, err_msg=name)


def test_broken_files_are_named(tmp_path):
    graph = build(nn.Sequential(nn.Conv2D(3, 4, 3)), (1, 3, 6, 6))
    model, params = write(graph, tmp_path)
    params.write_bytes(params.read_bytes()[:-3])
    with pytest.raises(ExportError, match=r"pdiparams: does not hold the weights of model.pdmodel"):
        Graph.from_files(model, params)
    model.write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"pdmodel: not a program of Paddle's old IR"):
        Graph.from_files(model, params)
    with pytest.raises(ExportError, match=r"absent: cannot be read"):
        Graph.from_files(tmp_path / "absent", params)


def test_onnx_keeps_names_and_has_biases_inside():
    model = randomize(
        nn.Sequential(
            nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.ReLU(), nn.Conv2DTranspose(4, 6, 2, groups=2)
        )
    )
    graph = build(model, (1, 3, None, None))
    fold_batch_norms(graph)
    proto = onnx.load_model_from_string(convert_to_onnx(graph))
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Relu", "ConvTranspose"]
    assert sorted(tensor.name for tensor in proto.graph.initializer) == sorted(graph.weights)
    (image,), (output,) = proto.graph.input, proto.graph.output
    dimensions = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 3, "image_2", "image_3"]
    assert output.name == "output"
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    array = np.random.default_rng(0).normal(size=(2, 3, 7, 8)).astype("float32")
    wanted = model(paddle.to_tensor(array)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": array})[0], wanted, atol=1e-4)


def test_tidy_keeps_what_an_onnx_graph_computes():
    floats = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "k"], ["c"]),
        helper.make_node("Identity", ["c"], ["y"]),
        helper.make_node("Identity", ["c"], ["z"]),
        helper.make_node("Identity", ["x"], ["w"]),
        helper.make_node("Relu", ["c"], ["dead"]),
    ]
    ports = {n: helper.make_tensor_value_info(n, floats, [None, 1]) for n in "xyzw"}
    numbers = [numpy_helper.from_array(np.float32([2.0]), "k")]
    graph = helper.make_graph(nodes, "g", [ports["x"]], [ports[n] for n in "yzw"], numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = np.float32([[1.0], [-3.0]])
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    clean_up(model.graph)
    onnx.checker.check_model(model)
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert len(model.graph.node) == 3
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one, other)


class Histogram(nn.Layer):
    """An operator that ONNX does not have."""

    def forward(self, image):
        return paddle.histogram(image, 8)


def test_onnx_errors_are_one_line():
    graph = build(Histogram(), (1, 3, 6, 6))
    with pytest.raises(ExportError, match=r"^opset: expected 13 or more, got 11"):
        convert_to_onnx(graph, opset=11)
    with pytest.raises(ExportError, match=r"^onnx: .*not supported.*histogram") as caught:
        convert_to_onnx(graph)
    assert "\n" not in str(caught.value)


class Pyramid(nn.Layer):
    def __init__(self, bins):
        super().__init__()
        self.conv, self.bins = nn.Conv2D(3, 2, 3), bins

    def forward(self, image):
        x = self.conv(image)
        return nn.functional.adaptive_avg_pool2d(x, self.bins), x


@pytest.mark.parametrize(
    ("size", "bins", "products"),
    [
        ((14, 17), (6, 6), 2),  # maps of 12 x 15: neither 15 nor both divide
        ((15, 17), (2, 5), 2),
        ((14, 17), (12, 4), 2),
        ((14, 17), (6, 5), 0),
        ((14, 17), (1, 1), 0),
        ((5, 5), (4, 7), 2),  # more bins than columns
    ],
)
def test_adaptive_pooling_is_the_same_in_onnx(size, bins, products, tmp_path):
    model = randomize(Pyramid(bins))
    graph = build(model, [2, 3, *size])
    before = graph.operators[:]
    write_files(graph, tmp_path, ["paddle", "onnx"])
    assert graph.operators == before
    x = np.random.default_rng(0).normal(size=(2, 3, *size)).astype("float32")
    wanted = [tensor.numpy() for tensor in model(paddle.to_tensor(x))]
    for backend in ("paddle", "onnxruntime", "openvino"):
        found = load_predictor(tmp_path, backend, own=True).run(x)
        for one, other in zip(found.values(), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert nodes.count("MatMul") == products


@pytest.mark.parametrize(("length", "bins"), [(15, 6), (12, 6), (5, 7), (1, 1), (64, 3)])
def test_the_matrix_averages_as_paddle_does(length, bins):
    x = np.random.default_rng(0).normal(size=(1, 1, length, 1)).astype("float32")
    wanted = nn.functional.adaptive_avg_pool2d(paddle.to_tensor(x), (bins, 1)).numpy()
    found = averaging_matrix(length, bins) @ x[0, 0]
    np.testing.assert_allclose(found, wanted[0, 0], rtol=0, atol=1e-6)
