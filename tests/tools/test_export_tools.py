"""tools/export_model.py, predict.py and benchmark.py as a user calls them, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.task import build_task
from core.training.checkpoint import describe, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(call_tool):
    """Run a tool; return its status and what it printed."""
    return call_tool


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of the toy task."""
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}})
    save(tmp_path / "best_model", describe(task), task.build_model().state_dict())
    return tmp_path / "best_model" / "model.pdparams"


def last_line(text):
    return text.strip().splitlines()[-1]


def test_from_checkpoint_to_pictures_and_figures(call, weights, tmp_path):
    status, said = call(
        *("export_model.py", "--weights", weights, "--save_dir", "out"),
        *("--format", "paddle,onnx", "--input_shape", "3,8,8", "--card", "other"),
    )
    assert status == 0, said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other" in card
    assert "- openvino: level " in card  # how far it is from the original
    assert "model-index" not in card  # no metric was measured
    for line in (
        "same as the original in paddle: level",
        "same as the original in onnxruntime: level",
        "same as the original in openvino: level",
        "parameters 0.000 M",
        "MACs 0.0 M at 1x3x8x8",
        "exported to out",
    ):
        assert line in said
    for file in (tmp_path / "out").iterdir():
        if file.name == "README.md":  # is written last
            continue
        assert f"{file.name:<16} {file.stat().st_size:>12,} bytes" in said

    status, said = call(
        "eval.py", "--model_dir", "out", "-o", "synthetic={}", "--pictures", "p.png"
    )
    assert status == 2
    assert "error: pictures: the task outside.toy cannot draw its samples" in last_line(said)

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((12, 12, 3), 90, np.uint8))
    asked = ("predict.py", "--model_dir", "out", "--image_path", "images", "--save_dir")
    status, said = call(*asked, "seen", "--backend", "onnxruntime")
    assert status == 0, said
    assert json.loads((tmp_path / "seen" / "predictions.json").read_text())["a.png"]["level"]
    assert (tmp_path / "seen" / "a.png").is_file()
    (tmp_path / "images" / "b.jpg").write_bytes(b"no image")
    status, said = call(*asked, "seen")
    assert status == 1
    assert "b.jpg: not an image" in said

    status, said = call(
        *("benchmark.py", "--model_dir", "out", "--backends", "onnxruntime,paddle"),
        *("--warmup", "1", "--runs", "2", "--no_memory", "--save", "bench/out.json"),
        *("--threads", "1,2", "--operators"),
    )
    assert status == 0, said
    assert "│ convolution " in said
    assert "2 threads, ms" in said
    assert "onnxruntime" in said
    assert "mean ms" in said
    rows = json.loads((tmp_path / "bench" / "out.json").read_text())["rows"]
    assert [(row["backend"], row["threads"]) for row in rows] == [
        *(("onnxruntime", 1), ("paddle", 1), ("onnxruntime", 2), ("paddle", 2))
    ]
    assert rows[0]["operators"]
    assert not any(row["operators"] for row in rows[1:])


def test_a_checkpoint_predicts_without_an_export(call, weights, tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((12, 12, 3), 90, np.uint8))
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (16, 16)
    )
    for _ in range(3):
        writer.write(np.full((16, 16, 3), 90, np.uint8))
    writer.release()
    asked = ("predict.py", "--weights", weights, "--save_dir", "seen", "--image_path")
    status, said = call(*asked, "images")
    assert status == 0, said
    assert "\na.png: level " in f"\n{said}"
    assert json.loads((tmp_path / "seen" / "predictions.json").read_text())["a.png"]["level"]
    status, said = call(*asked, "clip.avi", "--max_frames", "2")
    assert status == 0, said
    assert "frame 0: level " in said
    assert "written to seen/clip.mp4" in said
    found = json.loads((tmp_path / "seen" / "predictions.json").read_text())["clip.avi"]
    assert len(found["frames"]) == 2
    for words, message in (
        (("--threshold", "0.5"), "error: --threshold: what the task outside.toy predicts has no"),
        (("--threshold", "nan"), "argument --threshold: expected a number, got 'nan'"),
        (("--boxes", "b.json"), "error: --boxes: the task outside.toy answers for whole images"),
        (("--camera", "-1"), "expected a whole number, 0 or more, got '-1'"),
        (("--model_dir", "out"), "argument --model_dir: not allowed with argument --weights"),
    ):
        status, said = call(*asked, "images", *words)
        assert status == 2
        assert message in last_line(said)


def test_a_folder_with_onnx_alone_is_enough(call, weights, tmp_path):
    status, said = call(
        *("export_model.py", "--weights", weights, "--save_dir", "out", "--format", "onnx"),
        *("--rewrite", "off"),
    )
    assert status == 0, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "deploy.yml"}
    assert "same as the original in onnxruntime: level" in said
    assert "same as the original in openvino: level" in said
    assert "in paddle" not in said
    size = (tmp_path / "out" / "model.onnx").stat().st_size / 1e6
    assert f"size {size:.3f} MB (model.onnx)\n" in said

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((12, 12, 3), 90, np.uint8))
    asked = {
        "predict.py": ("--image_path", "images", "--save_dir", "seen"),
        "eval.py": ("-o", "synthetic={}"),
    }
    for tool, words in asked.items():
        status, said = call(tool, "--model_dir", "out", *words)
        assert status == 0, said
        assert "out: runs in onnxruntime" in said
        status, said = call(tool, "--model_dir", "out", *words, "--backend", "openvino")
        assert status == 0, said
        status, said = call(tool, "--model_dir", "out", *words, "--backend", "paddle")
        assert status == 2
        assert last_line(said).startswith("error: out: no model.pdmodel and model.pdiparams")
        assert "which paddle reads (formats there: onnx)" in last_line(said)
        status, said = call(tool, "--model_dir", "out", *words, "--backend", "onnx")
        assert status == 2
        assert (
            "error: backend: no backend 'onnx' (known: onnxruntime, openvino, paddle)"
            in last_line(said)
        )
    assert json.loads((tmp_path / "seen" / "predictions.json").read_text())["a.png"]["level"]

    words = ("benchmark.py", "--model_dir", "out", "--warmup", "0", "--runs", "1")
    status, said = call(*words, "--save", "figures.json")
    assert status == 0, said
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["backend"] for row in rows] == ["onnxruntime", "openvino"]
    status, said = call(*words, "--backends", "onnxruntime,paddle")
    assert status == 2
    assert "which paddle reads (formats there: onnx)" in last_line(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", ""), "error: format: no format '' (known: lite, onnx, openvino, paddle)"),
        (("--weights", "absent"), "error: absent: no such weights file"),
        (
            ("--format", "coreml"),
            "error: format: no format 'coreml' (known: lite, onnx, openvino, paddle)",
        ),
        (("--card", "a b"), "error: card: expected the licence of the weights as Hugging Face"),
        (("--ending", "points"), "error: ending: expected raw, got 'points'"),
        (("--input_shape", "8,8"), "error: input_shape: expected a shape like [-1, 3, 8, 8]"),
        (("--input_shape", "a,b"), "expected whole numbers with commas between, got 'a,b'"),
        (("--save_dir", "best_model"), "error: best_model: holds model.json, which is no part"),
    ],
)
def test_export_errors_are_one_line(call, weights, tmp_path, arguments, message):
    given = {"--weights": weights, "--save_dir": "out", **dict([arguments])}
    status, said = call("export_model.py", *(part for pair in given.items() for part in pair))
    assert status == 2
    assert message in last_line(said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tool", [("eval.py",), ("predict.py", "--image_path", "x", "--save_dir", "y")]
)
def test_a_model_that_ends_in_layers_has_no_answers(call, weights, tmp_path, tool):
    status, said = call(
        *("export_model.py", "--weights", weights, "--save_dir", "out", "--ending", "conv")
    )
    assert status == 0, said
    assert "same as the original in paddle: conv" in said
    (tmp_path / "x").mkdir()
    cv2.imwrite(str(tmp_path / "x" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    status, said = call(*tool, "--model_dir", "out")
    assert status == 2
    assert "error: out: ends in layers (conv), so there are no answers" in last_line(said)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("predict.py", ("--image_path", "x", "--save_dir", "y"), "error: absent: no such folder"),
        ("benchmark.py", (), "error: absent: no such folder"),
        ("benchmark.py", ("--runs", "0"), "error: runs: expected 1 or more, got 0"),
        ("benchmark.py", ("--threads", "1,0"), "expected numbers of threads such as 1,all, got"),
        ("eval.py", ("--save", "a.onnx"), "--save: expected the name of a file that ends in .json"),
        ("eval.py", ("--pictures", "a.jpg"), "--pictures: expected the name of a file that ends"),
        ("predict.py", ("--save_dir", ""), "--save_dir: expected a path, got '', as of a variable"),
    ],
)
def test_other_errors_are_one_line(call, tool, arguments, message):
    status, said = call(tool, "--model_dir", "absent", *arguments)
    assert status == 2
    assert message in last_line(said)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("eval.py", ("--backend", "onnxruntime"), "--backend: is for exported models (--model_dir"),
        ("eval.py", ("--threads", "2"), "--threads: is for exported models"),
        ("eval.py", ("--output", "x"), "--output: is for exported models"),
        ("predict.py", ("--backend", "paddle"), "--backend: is for exported models"),
        ("predict.py", ("--threads", "1"), "--threads: is for exported models"),
        ("predict.py", ("--box_threshold", "0.3"), "--box_threshold: is for the boxes of --boxes"),
    ],
)
def test_options_without_effect_are_refused(call, weights, tool, arguments, message):
    where = ("--image_path", "x", "--save_dir", "y") if tool == "predict.py" else ()
    status, said = call(tool, "--weights", weights, *where, *arguments)
    assert status == 2
    assert f"error: {message}" in last_line(said)


@pytest.mark.parametrize("tool", ["export_model.py", "predict.py", "benchmark.py"])
def test_help_and_length(call, tool):
    status, said = call(tool, "--help")
    assert status == 0
    assert "usage: " in said
    assert len((ROOT / "tools" / tool).read_text().splitlines()) < 150
