"""`tools/act.py` and `tools/ptq.py --model_dir` as a user calls them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml
from outside import toy

from core.export.package import export
from core.runtimes.description import read_description
from core.runtimes.predictor import load_predictor
from core.task import build_task


@pytest.fixture
def call_ptq(call_tool: Any) -> Any:
    return partial(call_tool, "ptq.py")


@pytest.fixture
def call_act(call_tool: Any) -> Any:
    return partial(call_tool, "act.py")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A float model, and pictures for calibration and validation."""
    paddle.seed(0)
    settings = {"data": {"root": str(tmp_path / "data")}, "synthetic": {}, "model": {"width": 8}}
    task = build_task("outside.toy", settings)
    for split in ("train", "val"):
        task.build_dataset(split)
    export(task, task.build_model(), tmp_path / "float")
    return tmp_path / "float"


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def act_file(folder: Path, **sections: Any) -> Path:
    content = {
        "Global": {"model_dir": "float", "batch_size": 4, "calibration_batches": 2},
        "Distillation": {"loss": "l2"},
        "QuantAware": {},
        "TrainConfig": {"epochs": 1, "eval_iter": 2, "logging_iter": 1, "learning_rate": 0.01},
    }
    merged = {name: {**content.get(name, {}), **given} for name, given in sections.items()}
    kept = {k: v for k, v in {**content, **merged}.items() if not (v or {}).get("absent")}
    (folder / "act.yml").write_text(yaml.safe_dump(kept))
    return folder / "act.yml"


@pytest.mark.chain
def test_static_quantization_of_an_exported_model(
    call_ptq: Any, call_tool: Any, exported: Path, tmp_path: Path
) -> None:
    toy.draw_images(tmp_path / "pictures", 5, seed=0)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no image")
    words = ("--model_dir", exported, "--images", "pictures", "--format", "paddle,onnx")
    words += ("--processors", "vnni")
    status, said = call_ptq(*words, "--observer", "avg", "--save_dir", "out")
    assert status == 0, said
    assert "broken.png: not an image" in said
    for row in ("float", "quantized, avg", "int8, paddle", "int8, onnxruntime", "int8, openvino"):
        assert re.search(rf"│ {row} +│ 0\.\d{{4}} │", said), row
    assert {path.name for path in (tmp_path / "out" / "int8").iterdir()} == {
        *("model.pdmodel", "model.pdiparams", "model.onnx", "deploy.yml"),
    }
    described = read_description(tmp_path / "out" / "int8")
    assert described is not None
    assert described.quantization is not None
    assert described.quantization.layers == 2
    assert described.quantization.processors == "vnni"
    status, shown = call_tool("eval.py", "--model_dir", "out/int8", "--batch_size", 2)
    assert status == 0, shown
    mae = re.search(r"mae: (\d\.\d{4})", shown)
    assert mae is not None
    assert re.search(rf"│ int8, paddle +│ {mae[1]} │", said)
    status, shown = call_tool(
        *("predict.py", "--model_dir", "out/int8", "--image_path", "data/val"),
        *("--save_dir", "drawn"),
    )
    assert status == 0, shown


@pytest.mark.chain
@pytest.mark.parametrize("teacher", [True, False])
def test_act(call_act: Any, call_tool: Any, exported: Path, tmp_path: Path, teacher: bool) -> None:
    if teacher:
        toy.draw_images(tmp_path / "pictures", 8, seed=0)
        file = act_file(tmp_path, Global={"images": "pictures"})
    else:
        file = act_file(tmp_path, Distillation={"absent": True}, QuantAware={"processors": "vnni"})
    status, said = call_act("--config_path", file, "--save_dir", "out", "--format", "paddle,onnx")
    assert status == 0, said
    term = r"distill_l2\(level\)" if teacher else "loss_square"
    steps = 2 if teacher else 4  # 8 pictures, or the 16 of the training split
    assert re.search(rf"step 1/{steps} {term} \d", said)
    assert re.search(rf"step {steps}: mae 0\.\d+, best 0\.\d+ after step \d", said)
    for row in ("float", "quantized", r"trained, step \d", "int8, paddle", "int8, openvino"):
        assert re.search(rf"│ {row} +│ 0\.\d{{4}} │", said), row
    description = load_predictor(tmp_path / "out").description
    assert description.task is not None
    assert description.quantization is not None
    assert description.quantization.processors == ("any" if teacher else "vnni")
    (float_metric,) = re.findall(r"│ float +│ (0\.\d{4}) │", said)
    status, said = call_tool("eval.py", "--config_path", file)  # measures what Global names
    assert status == 0, said
    assert f"mae: {float_metric}" in said


@pytest.mark.chain
def test_onnx_alone_of_exported_models(
    call_ptq: Any, call_act: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddle.inference.create_predictor", None)  # may not even be called
    toy.draw_images(tmp_path / "pictures", 8, seed=0)
    words = ("--model_dir", exported, "--images", "pictures", "--observer", "avg")
    runs = [
        (call_ptq, words, "ptq", tmp_path / "ptq" / "int8"),
        (call_act, ("--config_path", act_file(tmp_path)), "act", tmp_path / "act"),
    ]
    for call, options, folder, made in runs:
        status, said = call(*options, "--format", "onnx", "--save_dir", folder)
        assert status == 0, said
        assert {path.name for path in made.iterdir()} == {"model.onnx", "deploy.yml"}
        for row in ("int8, onnxruntime", "int8, openvino"):
            assert re.search(rf"│ {row} +│ 0\.\d{{4}} │", said), row
        assert "int8, paddle" not in said
        described = read_description(made)
        assert described is not None
        assert described.report is not None
        size = (made / "model.onnx").stat().st_size
        assert described.report.size_mb == round(size / 1e6, 3)


def test_an_exported_model_in_onnx_cannot_be_quantized(
    call_ptq: Any, exported: Path, tmp_path: Path
) -> None:
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}})
    export(task, task.build_model(), tmp_path / "onnx", ("onnx",))
    status, said = call_ptq("--model_dir", "onnx", "--save_dir", "out", "--no_metric")
    assert status == 2
    assert "error: onnx: no model.pdmodel and model.pdiparams, which" in last_line(said)
    assert "(formats there: onnx)" in last_line(said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model_dir", "absent"), "error: absent: no such folder of an exported model; export"),
        (("--equalize",), "error: equalize: needs the network's code"),
        (("--never_quantize", "haed"), "never_quantize: 'haed' matches nothing (did you mean"),
        (("--observer", "mes"), "did you mean 'mse'?"),
        (("--processors", "vni"), "error: processors: expected one of any, vnni, got 'vni'"),
        (("--images", "empty"), "error: empty: holds no images"),
        (("--images", "bad"), "error: calibration: none of 1 images can be read: bad/a.png: not"),
        (("--target", "openvio"), "did you mean 'openvino'?"),
        (("--save_dir", "float"), "error: save_dir: float"),
    ],
)
def test_wrong_calls_of_ptq(
    call_ptq: Any, exported: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    given = {"--model_dir": "float", "--save_dir": "out"}
    given |= {options[0]: options[1]} if len(options) == 2 else {}
    words = [word for pair in given.items() for word in pair]
    status, said = call_ptq(*words, "--no_metric", *options[:1] * (len(options) == 1))
    assert status == 2, said
    assert message in last_line(said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"Quantization": {"weight_bits": 8}}, "Quantization: unknown section (did you mean 'Quan"),
        (
            {"Global": {"model_dir": "absent"}},
            "absent: no such folder of an exported model; export",
        ),
        ({"QuantAware": {"never_quantize": ["haed"]}}, "QuantAware.never_quantize: 'haed' matches"),
        ({"Distillation": {"node": ["levle"]}}, "Distillation.node: the model has no variable"),
        (
            {"Global": {"images": "data"}, "Distillation": {"absent": True}},
            "Global.images: have no labels",
        ),
        ({"Global": {"images": "nowhere"}}, "nowhere: no such file or folder"),
        ({"Global": {"data_dir": "nowhere"}, "TrainConfig": {"epochs": 1}}, "nowhere"),
    ],
)
def test_wrong_files_of_act(
    call_act: Any, exported: Path, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    file = act_file(tmp_path, **sections)
    status, said = call_act(
        *("--config_path", file, "--save_dir", "out", "--no_metric", "-o", "synthetic=null")
    )
    assert status == 2, said
    assert message in last_line(said)
    assert not (tmp_path / "out").exists()


def test_a_wrong_origin_leaves_nothing(call_act: Any, exported: Path, tmp_path: Path) -> None:
    file = act_file(tmp_path, TrainConfig={"origin_metric": 0.99})
    status, said = call_act("--config_path", file, "--save_dir", "out")
    assert status == 2
    assert "TrainConfig.origin_metric: expected 0.99 within 0.05" in last_line(said)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
