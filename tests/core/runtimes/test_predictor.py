"""The predictor's one face over three runtimes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.runtimes.description import Port
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS


def test_a_signal_after_models_of_openvino_were_freed_is_handled(toy):
    code = (
        "import os, signal, sys\n"
        "from core.runtimes.predictor import load_predictor\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "models = [load_predictor(sys.argv[1], 'openvino', own=True) for _ in range(2)]\n"
        "del models[0]\n"
        "del models[0]\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "while True: pass\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code, toy], cwd=root, timeout=60)
    assert done.returncode == 7


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_without_description_still_loads(bare, backend):
    predictor = load_predictor(bare, backend)
    assert sorted(port.name for port in predictor.description.inputs) == ["left", "right"]
    order = [port.name for port in predictor.description.inputs]
    arrays = {"left": np.float32([[1, 2, 3]]), "right": np.float32([[1, 1, 1]])}
    got = predictor.run(*(arrays[name] for name in order))
    np.testing.assert_array_equal(got["sum"], [[2, 3, 4]])
    np.testing.assert_array_equal(got["difference"], [[0, 1, 2]])
    with pytest.raises(ExportError, match=r"^inputs: expected 2 arrays, got 1"):
        predictor.run(arrays["left"])


def test_openvino_names_outputs_as_the_file_does(tmp_path):
    """It also knows the names of equal tensors, here that of a reshape that changes nothing."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a_relu"]),
        helper.make_node("Reshape", ["a_relu", "shape"], ["out"]),
    ]
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])] for name in ("x", "out")
    ]
    shape = numpy_helper.from_array(np.array([1, 3], np.int64), "shape")
    graph = helper.make_graph(nodes, "graph", *ports, [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    assert set(load_predictor(tmp_path, "openvino").run(np.ones((1, 3)))) == {"out"}


@pytest.mark.parametrize(
    "names",
    [
        ("inference.pdmodel", "inference.pdiparams"),
        ("__model__", "__params__"),
        ("anything.pdmodel", "anything.pdiparams"),
    ],
)
def test_other_names_of_paddle_files(bare, tmp_path, names):
    for source, target in zip(("model.pdmodel", "model.pdiparams"), names):
        (tmp_path / target).write_bytes((bare / source).read_bytes())
    assert (
        load_predictor(tmp_path, own=True).run(np.ones((1, 3)), np.ones((1, 3)))["sum"].sum() == 6
    )


def test_pir_models(tmp_path, capfd):
    layer = nn.Sequential(nn.Conv2D(3, 4, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2D(1))
    layer.eval()
    spec = [InputSpec([None, 3, 8, 8], "float32", "input")]
    paddle.jit.save(layer, str(tmp_path / "inference"), input_spec=spec)
    x = np.random.default_rng(0).random((2, 3, 8, 8), "float32")
    wanted = layer(paddle.to_tensor(x)).numpy()
    (tmp_path / "other").mkdir()
    for ending in ("json", "pdiparams"):
        content = (tmp_path / f"inference.{ending}").read_bytes()
        (tmp_path / "other" / f"best.{ending}").write_bytes(content)
    capfd.readouterr()
    for place in (tmp_path, tmp_path / "inference.json", tmp_path / "other"):
        predictor = load_predictor(place, own=True)
        assert predictor.description.inputs == (Port("input", (-1, 3, 8, 8), "float32"),)
        assert [port.shape for port in predictor.description.outputs] == [(-1, 4, 1, 1)]
        for _ in range(2):
            (got,) = predictor.run(x).values()
            np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert capfd.readouterr() == ("", "")  # Paddle would list passes, and what oneDNN looks at
    with pytest.raises(ExportError, match=r"input: the model takes \[-1, 3, 8, 8\]"):
        predictor.run(x[:, :, 1:])
    (tmp_path / "inference.pdiparams").unlink()
    with pytest.raises(ExportError, match=r"inference\.json: no model\.pdmodel and model\.pdipar"):
        load_predictor(tmp_path / "inference.json", own=True)


def test_a_lock_that_a_fork_has_copied_does_not_hold_the_child_up(toy):
    predictor = load_predictor(toy, "onnxruntime")
    with predictor._alone:  # as another thread would at the moment of the fork
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            predictor._run = lambda fed: os._exit(7)
            predictor.run(np.zeros((1, 3, 8, 8), np.float32))
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_inputs_are_cast_and_made_contiguous(toy):
    image = np.random.default_rng(0).random((2, 8, 8, 3)).transpose(0, 3, 1, 2)
    values = [load_predictor(toy, backend).run(image)["level"] for backend in BACKENDS]
    for value in values:
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, values[0], rtol=1e-5)


def test_what_cannot_be_loaded(bare, toy, tmp_path):
    with pytest.raises(ExportError, match=r"absent: no such folder"):
        load_predictor(tmp_path / "absent")
    with pytest.raises(
        ExportError,
        match=r"no model.onnx, which openvino reads \(formats there: none\); export with .*onnx",
    ):
        load_predictor(tmp_path, "openvino")
    with pytest.raises(ExportError, match=r"no model.pdmodel .* --format paddle"):
        load_predictor(tmp_path)
    with pytest.raises(ExportError, match=r"^backend: no backend 'padle' \(did you mean 'paddle'"):
        load_predictor(toy, "padle")
    with pytest.raises(ExportError, match=r"^threads: expected 1 or more"):
        load_predictor(toy, threads=0)
    with pytest.raises(ExportError, match=r"^threads: expected 1024 at most, got 40000"):
        load_predictor(toy, threads=40000)
    for name in ("model.pdmodel", "model.pdiparams", "model.onnx"):
        (tmp_path / name).write_bytes((bare / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"not onnx")
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(ExportError, match=rf"model.onnx: {backend} cannot load it: ") as caught:
            load_predictor(tmp_path, backend)
        assert "\n" not in str(caught.value)
    (tmp_path / "deploy.yml").write_bytes((toy / "deploy.yml").read_bytes())
    with pytest.raises(ExportError, match=r"model\.onnx: is not as it was written: its digest in"):
        load_predictor(tmp_path)
    older = yaml.safe_load((toy / "deploy.yml").read_text())
    del older["digest"], older["files"]  # as exports had it once
    (tmp_path / "deploy.yml").write_text(yaml.safe_dump(older))
    with pytest.raises(ExportError, match=r"deploy.yml: the inputs \['image'\] and outputs"):
        load_predictor(tmp_path)
    (tmp_path / "deploy.yml").write_text("format_version: 99\n")
    with pytest.raises(ExportError, match=r"deploy.yml: format_version 99, expected 1"):
        load_predictor(tmp_path)


def test_a_backend_that_is_not_installed(toy, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"^openvino: not installed; run: pip install openvino"):
        load_predictor(toy, "openvino")
