"""Files of the documents, run by their commands at small scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from core.graph.program import Graph
from core.runtimes.description import read_description
from core.settings.config import merge
from core.training import checkpoint
from core.training.checkpoint import load_description
from core.training.run import read_run
from tests.tasks.keypoint_data import write_two_persons

Call = Callable[..., tuple[Any, str]]
FILES = Path(__file__).resolve().parents[1] / "core" / "dialects" / "files"
LAYERS = 'layers={".*_sep_weights": "conv.*", "quan.tmp_2": "head"}'


@pytest.fixture
def compress(
    call_tool: Call, toy_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> Callable[..., str]:
    """Train a network, then train it on by a file of PaddleSlim 1.x; return what is said."""
    settings = merge(toy_settings(epochs=1), {"model": {"width": 16}, "device": "cpu"})
    (tmp_path / "toy.yml").write_text(yaml.safe_dump(settings))
    status, said = call_tool("train.py", "-c", "toy.yml", "--save_dir", "trained")
    assert status == 0, said

    def run(name: str, *overrides: str, teacher: bool = False) -> str:
        given = ("model.pretrained=trained/best_model", *overrides)
        words = [word for each in given for word in ("-o", each)]
        words += ["--distill_config", "trained/best_model"] if teacher else []
        slim = FILES / f"compressor_{name}.yml"
        status, said = call_tool("train.py", "-c", "toy.yml", "--slim", slim, *words)
        assert status == 0, said
        return said

    return run


def cuts_of(folder: Path) -> list[Any]:
    """Return the cuts of the last checkpoint of a training."""
    description = load_description(folder / "latest")
    assert description is not None
    return [cut for kind, edit in description.edits if kind == "prune" for cut in edit["cuts"]]


def test_two_cuts(compress: Callable[..., str], tmp_path: Path) -> None:
    short = ("compress_pass.epoch=3", "strategies.second.start_epoch=2", LAYERS)
    said = compress("twice", *short, "strategies.second.target_ratio=0.2")
    assert said.count("pruned_params: ") >= 2
    assert len(cuts_of(tmp_path / "checkpoints")) == 2


def test_quantization_with_its_save_paths(compress: Callable[..., str], tmp_path: Path) -> None:
    short = ("compressor.epoch=3", "strategies.q.end_epoch=1", LAYERS)
    compress("quantized", *short, "strategies.q.mobile_model_save_path=null")
    for form, kind in (("int8", np.int8), ("float", np.float32)):
        folder = tmp_path / "output" / form
        files = folder / "model.pdmodel", folder / "model.pdiparams"
        assert any(each.dtype == kind for each in Graph.from_files(*files).weights.values())
        description = read_description(folder)
        assert description is not None
        assert [port.name for port in description.outputs] == ["head"]
    last = load_description(tmp_path / "checkpoints_quan" / "latest")
    assert last is not None
    assert last.epoch == 3  # training went on


def test_sensitive_pruning(compress: Callable[..., str], tmp_path: Path) -> None:
    short = ("compressor.epoch=2", "compressor.eval_epoch=1", "strategies.s.start_epoch=0")
    own = ("compressor.init_model=trained/best_model", "strategies.s.metric_name=mae")
    few = ("strategies.s.delta_rate=0.4", "compressor.checkpoint_path=run")
    compress("sensitive", *short, *own, *few)
    assert len(cuts_of(tmp_path / "run")) == 2
    assert json.loads((tmp_path / "s.data").read_text())


def test_search(compress: Callable[..., str], tmp_path: Path) -> None:
    short = ("compressor.epoch=2", "strategies.a.start_epoch=0", "strategies.a.end_epoch=2")
    own = ("strategies.a.metric_name=mae", "compressor.checkpoint_path=run")
    compress("searched", *short, *own, "strategies.a.uniform_range=0.9")
    assert len(cuts_of(tmp_path / "run")) == 1


def test_distillers(compress: Callable[..., str], tmp_path: Path) -> None:
    """All three, from layers that the file's table names; then the student alone."""
    names = {"a": "conv", "b": "norm", "c": "conv", "d": "act"}
    tables = [
        f"{key}={json.dumps({**{f'{side}.{n}': layer for n, layer in names.items()}, **more})}"
        for key, side, more in (
            ("layers", "s", {"student.tmp_1": "conv", "fc_0.tmp_0": "head"}),
            ("teacher_layers", "t", {"teacher.tmp_1": "conv", "fc_1.tmp_0": "head"}),
        )
    ]
    short = (
        "compressor.epoch=2",
        "strategies.d.end_epoch=1",
        "compressor.checkpoint_path=run",
    )
    compress("distilled", *short, *tables, teacher=True)
    header, *rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    terms = [name for name in header.split(",") if "distill" in name]
    assert len(terms) == 4, header
    assert len(rows) == 2


SMALLER = {
    **{"&train_height 128": "&train_height 64", "&train_width 96": "&train_width 64"},
    **{"[24, 32]": "[16, 16]", "dataset/coco": ".", "lite_30": "lite_18", "epoch: 50": "epoch: 1"},
    **{"train2017": "train", "val2017": "val", "annotations/": "", "use_gt_bbox: False": ""},
    **{"bbox_file: boxes.json": "", "worker_num: 4": "worker_num: 0"},
    **{"batch_size: 64": "batch_size: 2", "batch_size: 16": "batch_size: 2"},
    "https://example.org/lite_hrnet_30.pdparams": "float/best_model",
    "https://example.org/hrnet_w32.pdparams": "teacher",
}


@pytest.mark.chain
def test_keypoints_under_a_teacher_and_with_pact(call_tool: Call, tmp_path: Path) -> None:
    """The two commands of the guide on light-weight models, on two persons."""
    write_two_persons(tmp_path)
    for name in ("paddledet", "paddledet_teacher"):
        text = (FILES / f"{name}.yml").read_text()
        for theirs, smaller in SMALLER.items():
            text = text.replace(theirs, smaller)
        (tmp_path / f"{name}.yml").write_text(text)
    plain = ["-c", "paddledet.yml", "-o", "slim=null", "-o", "QAT=null"]
    data = {f"{split}_annotations": f"{split}.json" for split in ("train", "val")}
    data |= {"root": str(tmp_path), "train_images": "train", "val_images": "val"}
    settings = {"task": {"name": "keypoint"}, "model": {"name": "hrnet_w32"}, "data": data}
    task = read_run(settings).task
    state = task.build_model().state_dict()
    checkpoint.save(tmp_path / "teacher", checkpoint.describe(task), state)
    under = ["--distill_config", "paddledet_teacher.yml", "-o", "pretrain_weights=null"]
    status, said = call_tool("train.py", *plain, *under, "--save_dir", "float")
    assert status == 0, said
    assert "distill" in (tmp_path / "float" / "results.csv").read_text().splitlines()[0]
    status, said = call_tool("train.py", "-c", "paddledet.yml", "--save_dir", "pact")
    assert status == 0, said
    description = load_description(tmp_path / "pact" / "latest")
    assert description is not None
    (kind, edit) = description.edits[0]
    assert kind == "qat"
    assert edit["rounding"]["pact"]
