"""The predictor's one face over three runtimes, prediction on files, and the benchmark."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import paddle
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from paddle import nn
from paddle.static import InputSpec
from PIL import Image

from core.errors import ConfigError, DataError, ExportError
from core.export.onnx.convert import convert_to_onnx
from core.export.package import export
from core.graph.program import Graph
from core.graph.trace import trace
from core.runtimes import memory
from core.runtimes.benchmark import Protocol, benchmark, write_json
from core.runtimes.benchmark_tables import to_table
from core.runtimes.description import Port
from core.runtimes.environment import environment
from core.runtimes.image_model import ImageModel, exported_model
from core.runtimes.predict_images import list_images, predict_files
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS
from core.task import build_task
from core.workflows.opening import exported_task

BOTH = ("paddle", "onnx")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """An exported toy model, in all formats."""
    folder = tmp_path_factory.mktemp("toy")
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}})
    paddle.seed(0)
    export(task, task.build_model(), folder / "out", BOTH)
    return folder / "out"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A model without deploy.yml, with two inputs, and its eager layer."""
    folder = tmp_path_factory.mktemp("bare")
    layer = Weighted()
    specs = [InputSpec([None, 3], "float32", "left"), InputSpec([None, 3], "float32", "right")]
    graph = Graph.from_trace(trace(layer, specs))
    graph.write(folder / "model.pdmodel", folder / "model.pdiparams")
    onnx = convert_to_onnx(folder / "model.pdmodel", folder / "model.pdiparams")
    (folder / "model.onnx").write_bytes(onnx)
    return folder


class Weighted(nn.Layer):
    def forward(self, left, right):
        return {"sum": left + right, "difference": left - right}


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


def load_model(folder) -> ImageModel:
    """Open an exported model with the task that it names."""
    predictor = load_predictor(folder)
    about = predictor.description
    return exported_model(exported_task(folder, about, about.inputs), predictor)


def test_prediction_on_a_folder(toy, tmp_path):
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for name, value in (("a.png", 20), ("below/b.jpg", 200)):
        cv2.imwrite(str(images / name), np.full((12, 10, 3), value, np.uint8))
    (images / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (images / "notes.txt").touch()
    for hidden in (".hidden.png", "below/._b.jpg"):
        (images / hidden).write_bytes(b"no image")
    latin = os.fsdecode(b"caf\xe9.png")  # no UTF-8
    shutil.copy(images / "a.png", images / latin)
    model = load_model(toy)
    told = []
    skipped = predict_files(model, images, tmp_path / "out", tell=told.append)
    assert [line.partition(": level ")[0] for line in told] == ["a.png", "below/b.jpg", latin]
    assert len(skipped) == 1
    assert "broken.jpg" in skipped[0]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(results) == ["a.png", "below/b.jpg", latin]
    assert isinstance(results["a.png"]["level"], float)
    assert cv2.imread(str(tmp_path / "out" / "below" / "b.png")).shape == (12, 10, 3)
    with pytest.raises(DataError, match=r"broken.jpg: the JPEG file is truncated"):
        predict_files(model, images / "broken.jpg", tmp_path / "out")
    with pytest.raises(DataError, match=r"notes.txt/x: cannot be written"):
        predict_files(model, images / "a.png", images / "notes.txt" / "x")


def test_label_maps_become_files(toy, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    model = load_model(toy)
    task = model.task
    mask = np.arange(16).reshape(4, 4)
    found = {"mask": mask, "points": np.float32([[1.5, 2]]), "level": np.float32(0.25)}
    monkeypatch.setattr(task, "postprocess", lambda outputs, info: found)
    predict_files(model, tmp_path / "a.png", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert results == {
        "a.png": {
            **{"picture": "a.png", "mask": "a_mask.png"},
            **{"points": [[1.5, 2.0]], "level": 0.25},
        }
    }
    read = cv2.imread(str(tmp_path / "out" / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, mask)


def test_label_maps_have_the_colours_of_the_task(toy, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    model = load_model(toy)
    colours = np.array([[70, 130, 180], [0, 128, 0], [200, 0, 0]], np.uint8)
    mask = np.array([[0, 1], [2, 1]])
    maps = {"level": 1.0, "mask": mask, "many": mask + 300}
    monkeypatch.setattr(model.task, "postprocess", lambda outputs, info: maps)
    monkeypatch.setattr(type(model.task), "palette", lambda self: colours, raising=False)
    predict_files(model, tmp_path / "a.png", tmp_path / "out")
    with Image.open(tmp_path / "out" / "a_mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[mask])
    seen = cv2.imread(str(tmp_path / "out" / "a_mask.png"))
    np.testing.assert_array_equal(seen[..., ::-1], colours[mask])
    many = cv2.imread(str(tmp_path / "out" / "a_many.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(many, mask + 300)  # no palette has so many


def draw_levels(folder, levels):
    for name, level in levels.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((4, 4, 3), level, np.uint8))


def contents(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("image_path", "save_dir"),
    [
        ("pics", "pics"),
        ("pics", "pics/../pics/out"),
        ("pics", "link"),
        ("pics/pics", "pics"),  # pics/pics/pics/a.png would go to pics/pics/a.png
        ("pics/a.png", "pics"),
        ("links", "pics"),
    ],
)
def test_predictions_are_not_written_among_the_images(toy, tmp_path, image_path, save_dir):
    draw_levels(tmp_path, {f"{each}a.png": 9 for each in ("pics/", "pics/pics/", "pics/pics/b/")})
    draw_levels(tmp_path, {"pics/pics/pics/a.png": 9})
    (tmp_path / "link").symlink_to(tmp_path / "pics", target_is_directory=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "pics" / "a.png")
    before = contents(tmp_path)
    model = load_model(toy)
    with pytest.raises(DataError, match=r"^save_dir: expected a folder apart from the images"):
        predict_files(model, tmp_path / image_path, tmp_path / save_dir)
    assert contents(tmp_path) == before


def test_no_two_predictions_share_a_file(toy, tmp_path, monkeypatch):
    levels = {
        **{"a.png": 10, "a.bmp": 20, "A.jpg": 30, "a.bmp.png": 40, "a.png_mask.png": 50},
        **{"c.png/a.png": 60, "c.bmp": 70, "c_mask.png": 80},
    }
    draw_levels(tmp_path / "pics", levels)
    model = load_model(toy)
    task = model.task

    def prepare(image):
        return {"image": np.zeros((3, 8, 8), np.float32)}, int(image[0, 0, 0])

    def answer(outputs, level):
        mask = np.full((2, 2), level, np.uint8)
        return {"mask": mask, "parts": [mask + 1, mask + 2]}

    monkeypatch.setattr(task, "preprocess", prepare)
    monkeypatch.setattr(task, "postprocess", answer)
    monkeypatch.setattr(task, "draw", lambda image, prediction: image)
    for _ in range(2):
        predict_files(model, tmp_path / "pics", tmp_path / "out")
        results = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert results.keys() == levels.keys()
        for name, level in levels.items():
            found = results[name]
            for file, value in zip(
                (found["picture"], found["mask"], *found["parts"]),
                (level, level, level + 1, level + 2),
            ):
                read = cv2.imread(str(tmp_path / "out" / file), cv2.IMREAD_GRAYSCALE)
                assert abs(int(read[0, 0]) - value) <= 1, (name, file)
        written = [file.relative_to(tmp_path) for file in contents(tmp_path / "out")]
        assert len(written) == 4 * len(levels) + 1
        assert len({file.as_posix().casefold() for file in written}) == len(written)
    assert results["a.png"]["picture"] == "a.png.png"
    assert results["a.bmp"]["picture"] == "a.bmp.png"
    assert results["c_mask.png"]["picture"] == "c_mask.png"


def test_no_images_and_no_task(bare, tmp_path):
    with pytest.raises(DataError, match=r"absent: no such file or folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no images \(.jpg"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match=r"has no deploy\.yml; name its config"):
        load_model(bare)


class Slow:
    """A predictor that notes when it was called."""

    def __init__(self, inner, name, calls):
        self.inner, self.name, self.calls = inner, name, calls
        self.description, self.backend = inner.description, inner.backend

    def run(self, *arrays):
        self.calls.append(self.name)
        return self.inner.run(*arrays)


def test_benchmark_runs_in_turn_and_compares_with_the_first(toy, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "core.runtimes.benchmark.load_predictor",
        lambda folder, backend, threads: Slow(load_predictor(folder, backend), backend, calls),
    )
    protocol = Protocol(warmup=2, runs=3, batch_size=2, memory=False)
    rows = benchmark([toy, toy], protocol)
    assert calls == [*BACKENDS, *BACKENDS] * 5
    assert [row.backend for row in rows] == [*BACKENDS, *BACKENDS]
    for first, second in zip(rows[:3], rows[3:]):
        assert len(first.times_ms) == 3
        assert first.mean_ms == pytest.approx(np.mean(first.times_ms), rel=1e-3)
        assert first.median_ms == pytest.approx(np.median(first.times_ms), abs=1e-3)
        assert first.speedup == 0
        assert second.speedup == pytest.approx((first.mean_ms - second.mean_ms) / first.mean_ms)
        assert second.ratio == pytest.approx(first.mean_ms / second.mean_ms)
        assert (second.threads, second.operators) == (1, None)
        assert first.macs == 2 * (4 * 8 * 8 * 27 + 4)
        assert first.parameters == 121
    write_json(rows, protocol, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["protocol"]["runs"] == 3
    assert written["rows"][0]["model"] == str(toy)
    assert {"cpu", "cores", "os", "python", "packages", "variables"} <= set(written["environment"])
    assert to_table(rows).row_count == 6


def test_benchmark_of_models_from_elsewhere(bare, monkeypatch):
    for module in ("predictor", "benchmark"):  # models are opened here alone, which is faster
        monkeypatch.setattr(f"core.runtimes.{module}.try_out", lambda *given: None)
    rows = benchmark([bare], Protocol(memory=False, warmup=0, runs=1, batch_size=2))
    assert [row.backend for row in rows] == list(BACKENDS)  # sizes come from the files
    once = Protocol(memory=False, warmup=0, runs=1, output="sum")
    assert len(benchmark([bare / "model.onnx"], once)) == 2
    with pytest.raises(ExportError, match=r"--output: .* has no output 'top': sum \[-1, 3\]"):
        benchmark([bare], replace(once, output="top"))
    with pytest.raises(ExportError, match=r"batch_size: expected 1 or more, got 0"):
        Protocol(batch_size=0)


def test_benchmark_measures_memory(toy):
    (row,) = benchmark([toy], Protocol(backends=("onnxruntime",), warmup=0, runs=1))
    assert 0 < row.peak_memory_mb < 200


def test_the_peak_of_memory_on_windows(monkeypatch, tmp_path):
    class Process:
        def memory_info(self):
            return SimpleNamespace(rss=5, peak_wset=7_000_000)

    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(memory.psutil, "Process", Process)
    assert memory._peak_bytes() == 7_000_000


def test_environment_names_what_matters():
    found = environment()
    assert found["packages"]["paddlepaddle"] == paddle.__version__
    assert found["cores"] >= 1
