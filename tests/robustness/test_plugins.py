"""A file names no code: nothing is imported, evaluated, fetched or drawn because of it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

from core.errors import CheckpointError, ConfigError, DataError
from core.export.package import export
from core.runtimes.description import TaskSettings, read_description, write_description
from core.runtimes.memory import peak_memory_mb
from core.runtimes.predictor import load_predictor
from core.settings.plugins import load_plugin
from core.strategy import KINDS, recorded_strategy
from core.task import build_recorded_task, build_task
from core.training import checkpoint
from core.training.checkpoint import CheckpointDescription
from core.workflows.opening import exported_task
from tests.robustness.conftest import PLUGINS, ROOT, one_line, train

EVIL = "from pathlib import Path\nPath(__file__).with_name('hacked').touch()\n"
STRATEGY = (
    "from core.strategy import Strategy\n"
    "class Config: pass\n"
    "class Task: pass\n"
    "class Evil(Strategy):\n"
    "    @staticmethod\n"
    "    def replay(model, record): record['part']\n"
)
FOREIGN = ["evil", "antigravity", "this", "evil.inner", "ensurepip", "idlelib.idle", "turtledemo"]


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path that the user stands in, with modules that leave a mark."""
    (tmp_path / "evil").mkdir()
    for name in ("evil/__init__.py", "evil/inner.py"):
        (tmp_path / name).write_text(EVIL + STRATEGY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hacked(folder: Path) -> bool:
    return any(folder.rglob("hacked"))


def describe(folder: Path, **changes: Any) -> Path:
    """Write a checkpoint of the toy task that says something else."""
    task = build_task("outside.toy", {"data": {"root": "data"}})
    described = {"task": "outside.toy", "settings": {"data": {"root": "data"}}, **changes}
    checkpoint.save(folder, CheckpointDescription(**described), task.build_model().state_dict())
    return folder


@pytest.mark.parametrize("module", FOREIGN)
def test_kinds_and_tasks_of_files_are_not_imported(trap: Path, module: str) -> None:
    before = set(sys.modules)
    for kind in (
        "two\nlines:x",
        f"{module}:Evil",
        f"{module}:x",
        f"{module}:Task",
        module,
        f"{module}:",
        "",
    ):
        folder = describe(trap / "model", edits=[(kind, {})])
        with one_line() as said:
            checkpoint.restore(folder)
        assert said[0].startswith(f"{folder}/model.json: edits.0: ")
        if kind.partition(":")[2] and "\n" not in kind:
            assert said[0].endswith(f"if you trust it, name it yourself: --plugin {kind}")
    for name in (module, f"{module}.inner", f"tasks.{module}", f"{module}/../x"):
        folder = describe(trap / "model", task=name)
        with one_line() as said:
            checkpoint.restore(folder)
        assert said[0].startswith(f"{folder}/model.json: ")
    assert not hacked(trap)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert module.partition(".")[0] not in new


def test_modules_that_are_loaded_and_no_strategies_are_refused() -> None:
    modules = "os:system subprocess:Popen core.strategy:Phase paddle:Model sys:exit builtins:eval"
    for kind in (*modules.split(), "core.training.checkpoint:restore", "core.quant:strategy"):
        with pytest.raises(ConfigError, match=r"^file: asks for the strategy .*--plugin"):
            recorded_strategy(kind, "file")
    for name in ("os.path", "core.task", "paddle.nn", "xml.dom", "core.strategy"):
        with pytest.raises(ConfigError, match=r"^file: asks for the task .*--plugin"):
            build_recorded_task(name, {}, "file")
    with pytest.raises(ConfigError, match=r"^file: task: no task 'seq' \(did you mean 'seg'"):
        build_recorded_task("seq", {}, "file")
    with pytest.raises(ConfigError, match=r"^file: no strategy 'prun' \(did you mean 'prune'"):
        recorded_strategy("prun", "file")
    assert all(recorded_strategy(kind, "file").__module__.startswith("core.") for kind in KINDS)


def test_what_the_user_names_may_be_named_by_a_file(trap: Path) -> None:
    folder = describe(trap / "model", edits=[("evil.inner:Evil", {})])
    with pytest.raises(ConfigError, match=r"--plugin evil\.inner:Evil$"):
        checkpoint.restore(folder)
    assert load_plugin("evil.inner:Evil") == "evil.inner:Evil"
    assert hacked(trap)  # it was imported now
    with pytest.raises(CheckpointError, match=r"edits\.0 \(evil\.inner:Evil\): has no 'part'$"):
        checkpoint.restore(folder)
    for wrong, message in (
        ("evil.inner:Gone", r"^--plugin: evil\.inner has no 'Gone'"),
        ("gone.away", r"^--plugin: no module 'gone\.away' on Python's path"),
        ("evil inner", r"^--plugin: expected MODULE or MODULE:NAME, got 'evil inner'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_plugin(wrong)
    sys.modules.pop("evil.inner"), sys.modules.pop("evil")


def test_tools_want_plugins_on_the_command_line(child: Any, tmp_path: Path) -> None:
    settings = {
        "task": {"name": "outside.toy"},
        "data": {"root": str(tmp_path / "data")},
        "synthetic": {"train_images": 8, "val_images": 4},
        "train": {"epochs": 1, "batch_size": 4, "learning_rate": 0.05},
        "device": "cpu",
    }
    train(settings, tmp_path / "run", {"kind": "outside.strategies:Narrow"})
    (tmp_path / "outside").mkdir()  # of the same name, where the user stands
    (tmp_path / "outside" / "__init__.py").write_text(EVIL)
    words = (ROOT / "tools" / "eval.py", "--weights", "run/latest")
    plugins: list[str] = []
    for missing in ("outside.toy", "outside.strategies:Narrow"):
        done = child(*words, *plugins, cwd=tmp_path, path=str(PLUGINS))
        assert done.returncode == 2
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert "run/latest/model.json: " in last
        assert last.endswith(f"--plugin {missing}")
        assert "Traceback" not in done.stderr
        plugins += ["--plugin", missing]
    done = child(*words, *plugins, cwd=tmp_path, path=str(PLUGINS))
    assert done.returncode == 0, done.stderr
    assert "mae" in done.stdout
    assert not hacked(tmp_path)


def test_processes_of_ours_import_nothing_from_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}, "synthetic": {}})
    stranger = tmp_path / "model"
    export(task, task.build_model(), stranger, ("paddle", "onnx"))
    (stranger / "deploy.yml").unlink()
    for name in ("numpy", "onnx", "onnxruntime", "core", "sitecustomize", "json"):
        (stranger / f"{name}.py").write_text(EVIL)
    monkeypatch.chdir(stranger)
    predictor = load_predictor(".", "onnxruntime")
    assert predictor.backend == "onnxruntime"
    image = paddle.ones([1, 3, 8, 8]).numpy()
    assert peak_memory_mb(Path(), "onnxruntime", 1, [image]) >= 0
    assert not hacked(tmp_path)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("cls", {"name": "ViT_small_patch16_224", "options": {"norm_layer": "{}"}}),
        ("cls", {"name": "PPLCNet_x1_0", "options": {"lr_mult_list": "{} or [1.0] * 6"}}),
        ("cls", {"name": "DeiT_tiny_patch16_224", "options": {"norm_layer": "{} or nn.LayerNorm"}}),
        ("seg", {"name": "PPLiteSeg", "backbone": {"name": "STDC1"},
                 "arguments": {"arm_type": "{}"}}),
        ("seg", {"name": "SegFormer", "backbone": {"name": "ViT_small_patch16_224",
                                                   "arguments": {"norm_layer": "{}"}}}),
        ("seg", {"name": "BiSeNetV2", "arguments": {"lambd": ["x", {"deep": "{}"}]}}),
    ],
)  # fmt: skip
def test_arguments_of_networks_are_not_evaluated(
    tmp_path: Path, task: str, model: dict[str, Any]
) -> None:
    mark = tmp_path / "hacked"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    settings = json.loads(json.dumps(model).replace("{}", json.dumps(code)[1:-1]))
    with one_line() as said:
        build_recorded_task(task, {"model": settings, "data": {"root": "x"}}, "f").build_model()
    assert said[0].startswith("model.")
    assert "expected a word" in said[0]
    assert not mark.exists()


def test_a_file_has_no_data_drawn_or_fetched(tmp_path: Path, serve: Any) -> None:
    web = serve(tmp_path / "web")
    shutil.make_archive(str(tmp_path / "web" / "set"), "zip", PLUGINS)
    for name, settings in (
        ("cls", {"synthetic": {}, "model": {"name": "PPLCNet_x0_25", "num_classes": 6}}),
        ("seg", {"synthetic": {}, "model": {"num_classes": 4}}),
        ("keypoint", {"synthetic": {}, "model": {"name": "lite_hrnet_18"}}),
        ("seg", {"model": {"num_classes": 4}, "data": {"download": f"{web}/set.zip"}}),
        ("outside.toy", {"synthetic": {}}),
    ):
        root = tmp_path / "elsewhere"
        data = {"root": str(root), **settings.get("data", {})}
        task = build_recorded_task(name, {**settings, "data": data}, "file")
        with pytest.raises(DataError):
            task.build_dataset("val").sample(0, np.random.default_rng(0))
        assert not root.exists(), name
        drawn = {"synthetic": settings.get("synthetic")}
        again = build_recorded_task(name, {**settings, "data": data}, "file", drawn)
        if drawn["synthetic"] is not None:  # the user's own word goes on top
            assert again.config.synthetic is not None


def test_descriptions_of_exports_are_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "secret.yml").write_text("ending: argmax\n")
    (tmp_path / "deploy.yml").write_text(
        "_base_: secret.yml\nformat_version: 1\ninputs: []\noutputs: []\n"
    )
    with one_line() as said:
        read_description(tmp_path)
    assert "_base_: unknown key" in said[0]


def test_an_export_names_no_code(trap: Path) -> None:
    task = build_task("outside.toy", {"data": {"root": "data"}, "synthetic": {}})
    made = export(task, task.build_model(), trap / "out")
    content = yaml.safe_load((trap / "out" / "deploy.yml").read_text())
    assert content["task"]["name"] == "outside.toy"
    write_description(replace(made.description, task=TaskSettings("evil.inner", {})), trap / "out")
    with pytest.raises(ConfigError, match=r"out/deploy\.yml: asks for the task 'evil\.inner'"):
        exported_task(trap / "out", read_description(trap / "out"), ())
    assert not hacked(trap)
