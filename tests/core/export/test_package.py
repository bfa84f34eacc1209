"""Whole exports of a toy task: what the folder holds, and what happens when something is wrong."""

from __future__ import annotations

import re
import resource
import threading
import time

import numpy as np
import onnx
import paddle
import pytest
import yaml
from outside.toy import Named
from paddle import nn

from core.errors import ConfigError, ExportError, RejectedError, UserError
from core.export import parity
from core.export.package import export
from core.export.rejected import REASON
from core.graph.program import Graph
from core.runtimes.description import read_description
from core.runtimes.predictor import load_predictor
from core.settings.config import to_mapping
from core.settings.files import replacing
from core.targets.names import BACKENDS
from core.task import build_task
from core.training import checkpoint
from core.workflows.opening import exported_task
from tests.networks.shuffled import Residual


@pytest.fixture
def task(tmp_path):
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}})


@pytest.fixture
def model(task):
    paddle.seed(0)
    return task.build_model()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_export(task, model, tmp_path):
    made = export(task, model, tmp_path / "out", ("paddle", "onnx"))
    files = ["deploy.yml", "model.onnx", "model.pdiparams", "model.pdmodel"]
    assert left(tmp_path / "out") == left_in(made.file_bytes) == files
    assert left(tmp_path) == ["out"]
    assert {(d.runtime, d.output) for d in made.differences} == {(b, "level") for b in BACKENDS}
    assert model.training

    content = yaml.safe_load((tmp_path / "out" / "deploy.yml").read_text())
    assert content["inputs"] == [{"name": "image", "shape": [-1, 3, 8, 8], "dtype": "float32"}]
    assert content["outputs"] == [{"name": "level", "shape": [-1, 1], "dtype": "float32"}]
    assert content["task"] == {"name": "outside.toy", "settings": to_mapping(task.config)}
    assert content["preprocess"]["size"] == [8, 8]
    counted = content["report"]
    assert counted["parameters"] == 4 * 27 + 2 * 4 + 4 + 1
    assert counted["macs"] == 4 * 8 * 8 * 27 + 4
    size = sum(made.file_bytes[f"model.{ending}"] for ending in ("pdmodel", "pdiparams"))
    assert counted["size_mb"] == round(size / 1e6, 3)
    assert read_description(tmp_path / "out") == made.description

    image = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
    wanted = parity.run_eager(Named(model), [image])["level"]
    for backend in BACKENDS:
        predictor = load_predictor(tmp_path / "out", backend)
        first, second = predictor.run(image)["level"], predictor.run(image)["level"]
        np.testing.assert_allclose(first, wanted, rtol=1e-5)
        np.testing.assert_array_equal(first, second)


def left_in(names):
    return sorted(names)


def test_the_same_model_makes_the_same_bytes(task, model, tmp_path):
    contents = []
    for name in ("a", "b"):
        task.build_model()  # moves Paddle's counter of names on
        export(task, model, tmp_path / name)
        contents.append([file.read_bytes() for file in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("asked", "shape"),
    [((1, 3, 8, 8), [1, 3, 8, 8]), ((3, 8, 8), [-1, 3, 8, 8]), ((-1, 3, 16, 12), [-1, 3, 16, 12])],
)
def test_input_shape(task, model, tmp_path, asked, shape):
    made = export(task, model, tmp_path / "out", input_shape=asked)
    assert list(made.description.inputs[0].shape) == shape
    assert list(made.description.report.input_shapes[0]) == [1, *shape[1:]]
    with pytest.raises(ExportError, match=r"^image: the model takes"):
        load_predictor(tmp_path / "out").run(np.zeros((1, 3, 9, 9), np.float32))


@pytest.mark.parametrize("asked", [(1, 4, 8, 8), (8, 8), (1, 3, 0, 8), (1, 3, -5, 8)])
def test_bad_input_shapes(task, model, tmp_path, asked):
    with pytest.raises(ExportError, match=r"^input_shape: expected a shape like \[-1, 3, 8, 8\]"):
        export(task, model, tmp_path / "out", input_shape=asked)
    assert left(tmp_path) == []


class Flattening(nn.Layer):
    """A network that knows its numbers of rows and columns when it is written."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, image):
        _, _, height, width = image.shape
        if min(height, width) < 0:
            raise ValueError("rows and columns are wanted")
        return self.head(image.reshape([-1, 3, height * width]).mean(2))


def test_a_network_that_computes_with_the_size_of_images(task, tmp_path):
    model = Flattening()
    model.eval()
    message = (
        r"^input_shape: Flattening computes with the height and the width of its input, so that "
        r"they cannot be free; give numbers, .* \(model: cannot be traced: ValueError: rows"
    )
    with pytest.raises(ExportError, match=message):
        export(task, model, tmp_path / "out", input_shape=(-1, 3, -1, -1))
    assert left(tmp_path) == []


def test_bad_format_and_ending(task, model, tmp_path):
    with pytest.raises(ExportError, match=r"^format: no format 'onx' \(did you mean 'onnx'\?\)"):
        export(task, model, tmp_path / "out", ("onx",))
    with pytest.raises(ConfigError, match=r"^ending: expected raw"):
        export(task, model, tmp_path / "out", ending="points")
    assert left(tmp_path) == []


class Shuffling(nn.Layer):
    """A network with four channel shuffles, of which an export needs none."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Residual(), nn.Linear(4, 1)

    def forward(self, image):
        return self.head(self.body(image).mean([2, 3]))


def test_a_graph_is_rewritten_unless_that_is_switched_off(task, tmp_path):
    paddle.seed(0)
    shuffling, counts = Shuffling(), {}
    for rewritten in (True, False):
        folder = tmp_path / str(rewritten)
        export(task, shuffling, folder, ("paddle", "onnx"), rewritten=rewritten)
        graph = Graph.from_files(folder / "model.pdmodel", folder / "model.pdiparams")
        nodes = onnx.load(folder / "model.onnx").graph.node
        counts[rewritten] = (
            sum(op.type == "transpose2" for op in graph.operators),
            sum(node.op_type == "Transpose" for node in nodes),
        )
    assert counts == {True: (0, 0), False: (4, 4)}
    x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    for backend in BACKENDS:
        found, wanted = (
            load_predictor(tmp_path / str(each), backend).run(x)["level"] for each in (True, False)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


class Halves(nn.Layer):
    """A network of which a part can be exported; one layer runs twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2D(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2D(4)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2D(4, 6, 1))
        self.head = nn.Linear(6, 1)

    def forward(self, image):
        features = self.body(self.norm(self.stem(image)))
        return self.head(features.mean([2, 3])) + self.head(features.max([2, 3]))


def test_a_model_that_ends_in_layers(task, tmp_path):
    paddle.seed(0)
    halves = Halves()
    made = export(task, halves, tmp_path / "out", ("paddle", "onnx"), ending="body,norm")
    assert {d.output for d in made.differences} == {"body", "norm"}
    assert {d.runtime for d in made.differences} == set(BACKENDS)
    x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    halves.eval()
    norm = halves.norm(halves.stem(paddle.to_tensor(x)))
    for backend in BACKENDS:
        found = load_predictor(made.folder, backend).run(x)
        np.testing.assert_allclose(found["norm"], norm.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["body"], halves.body(norm).numpy(), atol=1e-5)
    described = made.description
    assert described.report.parameters == 4 * 27 + 4 + 8 + 6 * 4 + 6  # the head is not in it
    assert described.report.macs == 4 * 8 * 8 * 27 + 6 * 8 * 8 * 4
    assert (described.ending, [port.name for port in described.outputs]) == (
        "layers",
        ["body", "norm"],
    )
    assert not any("head" in name for name in Graph.from_files(*files(made.folder)).weights)
    assert all(not layer._forward_post_hooks for layer in halves.sublayers())
    with pytest.raises(
        ConfigError, match=r"ends in layers \(body, norm\), so there are no answers"
    ):
        exported_task(made.folder, described, described.inputs)


def test_an_ending_of_the_task_comes_before_a_layer_of_its_name(task, tmp_path):
    halves = Halves()
    halves.add_sublayer("raw", nn.ReLU())
    made = export(task, halves, tmp_path / "out", ending="raw")
    assert made.description.ending == "raw"


def files(folder):
    return folder / "model.pdmodel", folder / "model.pdiparams"


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("body,nrm", ConfigError, r"^ending: the model has no layer 'nrm' \(did you mean 'norm'"),
        ("nrm", ConfigError, r"^ending: "),
        ("head", ExportError, r"ending: head runs 2 times, once is wanted"),
        ("raw,body", ConfigError, r"no layer 'raw'"),
    ],
)
def test_layers_that_no_model_can_end_in(task, tmp_path, ending, error, message):
    with pytest.raises(error, match=message):
        export(task, Halves(), tmp_path / "out", ending=ending)
    assert left(tmp_path) == []


class Lying(nn.Layer):
    """Answers differently when it is traced."""

    def forward(self, image):
        mean = image.mean([2, 3])
        return mean if paddle.in_dynamic_mode() else mean * 1.01


def test_an_export_that_differs_is_kept_beside_its_place(task, tmp_path):
    message = r"^paddle: output 'level' of the exported model differs by 1.0e-02 of the largest"
    with pytest.raises(RejectedError, match=message) as caught:
        export(task, Lying(), tmp_path / "out")
    assert f"; the files are in {tmp_path}/out.rejected, not in {tmp_path}/out" in str(caught.value)
    assert left(tmp_path) == ["out.rejected"]
    assert re.match(message, (tmp_path / "out.rejected" / REASON).read_text())
    assert load_predictor(tmp_path / "out.rejected").description.outputs[0].name == "level"


def test_an_export_that_was_written_meanwhile_stays(task, model, tmp_path):
    """Another process holds the folder's lock while it exports, and this one waits a moment."""
    folder, exports = tmp_path / "out", []

    def locked():
        return any("lock" in path.name for path in tmp_path.iterdir())

    def other():
        with replacing(folder) as draft:
            exports.append("begun")
            time.sleep(0.2)
            (draft / "model.onnx").write_text("of the other")

    thread = threading.Thread(target=other)
    thread.start()
    while not exports:
        time.sleep(0.001)
    assert locked()
    assert not folder.exists()  # so that it seems to be free
    with pytest.raises(ExportError, match=r"out: holds an earlier export"):
        export(task, model, folder)
    thread.join()
    assert (folder / "model.onnx").read_text() == "of the other"
    assert left(tmp_path) == ["out"]


def test_an_earlier_export_is_replaced_only_on_demand(task, model, tmp_path):
    def content():
        return [file.read_bytes() for file in sorted((tmp_path / "out").iterdir())]

    export(task, model, tmp_path / "out")
    before = content()
    message = r"out: holds an earlier export; name another folder \(--save_dir\), or replace it"
    with pytest.raises(ExportError, match=message):
        export(task, model, tmp_path / "out")
    with pytest.raises(ExportError, match="differs by"):
        export(task, Lying(), tmp_path / "out", overwrite=True)
    assert content() == before
    assert left(tmp_path) == ["out", "out.rejected"]
    model.head.bias.set_value(paddle.ones([1]))
    export(task, model, tmp_path / "out", ("onnx",), overwrite=True)
    assert left(tmp_path / "out")[1] == "model.onnx"
    assert left(tmp_path) == ["out", "out.rejected"]


def test_a_folder_with_other_files_is_refused(task, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ExportError, match=r"out: holds thesis.tex, which is no part of an export"):
        export(task, model, tmp_path / "out")
    with pytest.raises(ExportError, match=r"thesis.tex: expected a folder, it is a file"):
        export(task, model, tmp_path / "out" / "thesis.tex")
    assert left(tmp_path / "out") == ["thesis.tex"]
    checkpoint.save(tmp_path / "best", checkpoint.describe(task), model.state_dict())
    with pytest.raises(ExportError, match=r"best/files: lies in a checkpoint"):
        export(task, model, tmp_path / "best" / "files")


def test_a_place_that_cannot_be_written(task, model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out: cannot be written: Not a directory"):
        export(task, model, tmp_path / "file" / "out")


def test_a_full_disk(task, model, tmp_path):
    """A limit on the size of files fails in the middle of a write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(UserError, match=r"out: cannot be written: File too large"):
            export(task, model, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left(tmp_path) == []
