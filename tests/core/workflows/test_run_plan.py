"""A whole run from files: composed recipes and files of other projects, interrupted anywhere."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import CheckpointError, ConfigError
from core.runtimes.description import read_description
from core.settings.config import load_yaml, merge
from core.training import checkpoint
from core.training.hooks import Checkpoints, Hook
from core.workflows.run_plan import RunFiles, read_plan, settle
from core.workflows.training import PreparedRun
from tests.toy_runs import StopAfter

COMPRESSOR = """
version: 1.0
pruners: {p: {class: StructurePruner, pruning_axis: {'*': 0}, criterions: {'*': l1_norm}}}
distillers:
  l2: {class: L2Distiller, teacher_feature_map: fc_0.tmp_0, student_feature_map: linear_0.tmp_1,
       distillation_loss_weight: 0.5}
  fsp: {class: FSPDistiller, teacher_pairs: [[conv2d_0.tmp_0, tap]],
        student_pairs: [[conv2d_0.tmp_0, batch_norm_0.tmp_2]]}
strategies:
  distil: {class: DistillationStrategy, distillers: [l2, fsp], start_epoch: 0, end_epoch: 3}
  cut: {class: UniformPruneStrategy, pruner: p, start_epoch: 2, target_ratio: 0.4,
        pruned_params: '.*_sep_weights'}
  round: {class: QuantizationStrategy, start_epoch: 4, end_epoch: 4, int8_model_save_path: INT8,
          activation_quantize_type: moving_average_abs_max, save_out_nodes: [quan.tmp_2]}
compressor: {epoch: 6, checkpoint_path: RUN, strategies: [distil, cut, round]}
layers: {.*_sep_weights: conv.*, quan.tmp_2: head}
teacher_layers: {tap: conv}
"""


@pytest.fixture
def config(toy_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    settings = merge(toy_settings(epochs=6), {"model": {"width": 8}, "device": "cpu"})
    return _write(tmp_path / "toy.yml", settings)


@pytest.fixture
def teacher(toy_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> str:
    settings = merge(toy_settings(epochs=1), {"model": {"width": 6}, "device": "cpu"})
    plan = settle(read_plan(RunFiles(str(_write(tmp_path / "teacher.yml", settings)))))
    PreparedRun(*plan, tmp_path / "teacher").train()
    return str(tmp_path / "teacher" / "latest")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    strategies = [
        {"kind": "prune", "target_ratio": 0.5},
        {"kind": "qat", "start_epoch": 90, "learning_rate": 0.01},
    ]
    return str(_write(tmp_path / "recipe.yml", {"epochs": 100, "strategies": strategies}))


@pytest.mark.parametrize("prefix", ["", "slim."])
def test_settings_of_a_recipe_on_the_command_line(
    config: Path, recipe: str, tmp_path: Path, prefix: str
) -> None:
    overrides = [f"{prefix}strategies.0.target_ratio=0.3", f"{prefix}strategies.1.start_epoch=80"]
    plan = read_plan(RunFiles(str(config), recipe, (), overrides))
    assert plan.recipe["strategies"][0]["target_ratio"] == 0.3
    assert plan.recipe["strategies"][1]["start_epoch"] == 80
    assert "slim" not in plan.settings
    whole = _write(tmp_path / "whole.yml", plan.to_mapping())  # also of a recipe in a config
    again = read_plan(RunFiles(str(whole), overrides=[f"{prefix}strategies.0.target_ratio=0.2"]))
    assert again.recipe["strategies"][0]["target_ratio"] == 0.2
    with pytest.raises(ConfigError, match=r"^strategies\.2\.x: a list with 2 entries has no '2'"):
        read_plan(RunFiles(str(config), recipe, (), [f"{prefix}strategies.2.x=1"]))
    with pytest.raises(ConfigError, match=r"^strategies\.0\.x=1: there is no recipe; name one"):
        read_plan(RunFiles(str(config), overrides=[f"{prefix}strategies.0.x=1"]))


def test_what_a_config_may_say_the_command_line_may_say_too(config: Path, recipe: str) -> None:
    overrides = [f"slim={recipe}", "save_dir=there", "use_vdl=true"]
    plan = read_plan(RunFiles(str(config), overrides=overrides))
    assert len(plan.recipe["strategies"]) == 2
    assert (plan.save_dir, plan.use_vdl) == ("there", True)
    with pytest.raises(ConfigError, match=r"^slim: given twice"):
        read_plan(RunFiles(str(config), recipe, (), [f"slim={recipe}"]))


def test_a_recipe_of_the_command_line_is_told_to_replace_that_of_the_config(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**load_yaml(config), "slim": "prune"}
    plan = read_plan(RunFiles(str(_write(tmp_path / "run.yml", settings)), "qat"))
    assert [step["kind"] for step in plan.recipe["strategies"]] == ["qat"]
    assert "slim: qat takes the place of what the config says, 'prune'" in caplog.text


@pytest.mark.parametrize("key", ["train.epochs", "slim.epochs"])
def test_a_shorter_training_shortens_the_windows(
    config: Path, recipe: str, tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plan = read_plan(RunFiles(str(config), recipe, (), [f"{key}=10"]))
    assert plan.settings["train"]["epochs"] == 10
    assert plan.recipe["epochs"] == 10
    assert plan.recipe["strategies"][1]["start_epoch"] == 9
    assert "10 in the place of 100, so the windows of the recipe are shortened" in caplog.text
    again = read_plan(RunFiles(str(_write(tmp_path / "again.yml", plan.to_mapping()))))
    assert (again.settings, again.recipe) == (plan.settings, plan.recipe)
    own = [f"{key}=10", "strategies.1.start_epoch=7"]  # said by hand: as it is
    assert read_plan(RunFiles(str(config), recipe, (), own)).recipe["strategies"][1] == (
        {"kind": "qat", "start_epoch": 7, "learning_rate": 0.01}
    )
    longer = read_plan(RunFiles(str(config), recipe, (), [f"{key}=200"]))
    assert longer.recipe["strategies"][1]["start_epoch"] == 90
    assert longer.to_mapping()["slim"]["epochs"] == 200


def test_a_shortened_recipe_goes_on_for_more_epochs_as_the_refusal_says(
    config: Path, tmp_path: Path
) -> None:
    def trained(files: RunFiles, **how: bool) -> int:
        return PreparedRun(*settle(read_plan(files)), tmp_path / "run").train(**how).epoch

    steps = [
        {"kind": "prune", "start_epoch": 50, "target_ratio": 0.3},
        {"kind": "qat", "start_epoch": 80, "learning_rate": 0.01},
    ]
    recipe = _write(tmp_path / "late.yml", {"epochs": 100, "strategies": steps})
    files = RunFiles(str(config), str(recipe), (), ["train.epochs=10"])
    assert trained(files) == 10
    with pytest.raises(ConfigError) as caught:
        trained(files)
    said = re.search(r"more epochs \(-c (\S+) --save_dir (\S+) --resume -o", str(caught.value))
    assert said is not None
    assert said[2] == str(tmp_path / "run")
    assert trained(RunFiles(said[1], overrides=["train.epochs=12"]), resume=True) == 12


@pytest.mark.parametrize(
    ("config", "slim", "teachers", "name"),
    [
        ("configs/cls/toy.yml", None, (), "toy"),
        (Path("toy.yml"), "prune", (), "toy_prune"),
        ("toy.yml", "prune,mine/late_qat.yml", (), "toy_prune_late_qat"),
        ("toy.yml", None, ("teacher.yml",), "toy_distill"),
        ("toy.yml", "distill_qat", ("teacher.yml",), "toy_distill_qat"),
        (None, "compress.yaml", (), "compress"),
        ({"task": {"name": "cls"}}, "qat", (), "qat"),
    ],
)
def test_a_run_is_called_after_its_config_and_recipes(
    config: Any, slim: str | None, teachers: tuple[str, ...], name: str
) -> None:
    assert RunFiles(config, slim, teachers).name == name


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def _bytes(folder: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "training.safetensors", "model.json")
    return {name: (folder / "latest" / name).read_bytes() for name in names}


def _check_resume(files: RunFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a run after each of its epochs: it ends with the same bytes."""
    plan, run, recipe = settle(read_plan(files))
    engine = PreparedRun(plan, run, recipe, tmp_path / "whole").train()
    recipe = replace(recipe, exports=())  # they take long, and change nothing of the run
    expected = _bytes(tmp_path / "whole")
    for epochs in range(1, engine.epochs):
        folder = tmp_path / f"until {epochs}"
        training = PreparedRun(plan, run, recipe, folder)
        with monkeypatch.context() as patch:
            hooks = _standard_hooks(epochs)
            patch.setattr("core.workflows.training.standard_hooks", hooks)
            assert training.train().epoch == epochs
        training.train(resume=plan.resume is None)  # a Compressor file resumes by itself
        assert _bytes(folder) == expected, epochs


def _standard_hooks(epochs: int) -> Callable[..., list[Hook]]:
    return lambda *_: [Checkpoints(), StopAfter(epochs)]


def test_a_composed_recipe_resumes_anywhere(
    config: Path, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = {"kind": "prune", "start_epoch": 1, "target_ratio": 0.3, "calibration_samples": 4}
    grid = {"kind": "qat", "start_epoch": 4, "calibration_samples": 4, "learning_rate": 0.01}
    learn = {"kind": "distill", "start_epoch": 1, "end_epoch": 5, "optimizer": {"kind": "adamw"}}
    first = _write(tmp_path / "a.yml", {"epochs": 6, "strategies": [cut]})
    second = _write(tmp_path / "b.yml", {"strategies": [grid, learn]})
    files = RunFiles(str(config), f"{first},{second}", [teacher])
    _check_resume(files, tmp_path, monkeypatch)


def test_a_compressor_file_resumes_anywhere_by_itself(
    config: Path,
    teacher: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = COMPRESSOR.replace("INT8", str(tmp_path / "int8")).replace("RUN", str(tmp_path / "ck"))
    slim = _write(tmp_path / "compress.yaml", text)
    files = RunFiles(str(config), str(slim), [teacher])
    with caplog.at_level(logging.INFO):
        plan, run, recipe = settle(read_plan(files))
    assert f"{slim}: not used here: version" in caplog.text
    assert plan.save_dir == str(tmp_path / "ck")
    assert run.train.epochs == 6
    assert [(step.kind, step.start, step.end) for step in recipe.steps] == [
        ("distill", 0, 3),
        ("prune", 2, 3),
        ("qat", 4, 6),
    ]
    assert plan.recipe["strategies"][0]["losses"][:2] == [
        {"kind": "l2", "student": "head", "teacher": "head", "adapter": False, "weight": 0.5},
        {"kind": "fsp", "student": ["conv", "norm"], "teacher": ["conv", "conv"], "weight": 1.0},
    ]
    assert plan.recipe["strategies"][1]["pruned_params"] == ["conv.*"]
    _check_resume(files, tmp_path, monkeypatch)
    description = read_description(tmp_path / "int8")
    assert description is not None
    assert [port.name for port in description.outputs] == ["head"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategies.cut.pruned_params=res.*", "strategies.cut.pruned_params: 'res.*' matches no "),
        ("strategies.cut.target_ratio=1.5", "strategies.cut.target_ratio: expected"),
        ("strategies.cut.start_epoch=5", "strategies.cut (prune): channels cannot be removed"),
        ("strategies.round.weight_bits=1", "strategies.round.weight_bits: expected 2 to 8"),
        (
            "strategies.round.weight_bits=4",
            "strategies.round.weight_bits: expected 8, as the files",
        ),
        ("strategies.round.save_out_nodes=[x]", "strategies.round.save_out_nodes: 'x' is no layer"),
        ("distillers.l2.teacher_feature_map=x", "distillers.l2.teacher_feature_map: 'x' is no la"),
        ("distillers.fsp.student_pairs=[[x, x]]", "distillers.fsp.student_pairs: 'x' is no layer"),
        (
            "distillers.l2.distillation_loss_weight=-1",
            "distillers.l2.distillation_loss_weight: expected",
        ),
        ("compressor.eval_epoch=-1", "compressor.eval_epoch: expected"),
        # said in our words on the command line, it is told in our words
        ("train.eval_every=-1", "train.eval_every: expected"),
    ],
)
def test_errors_name_the_keys_of_the_file(
    config: Path, teacher: str, recipe: str, tmp_path: Path, override: str, message: str
) -> None:
    text = COMPRESSOR.replace("INT8", str(tmp_path / "int8")).replace("RUN", str(tmp_path / "ck"))
    slim = _write(tmp_path / "compress.yaml", text)
    with pytest.raises(ConfigError) as caught:
        settle(read_plan(RunFiles(str(config), str(slim), [teacher], [override])))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("file", "override", "message"),
    [
        ("paddleclas", "Global.epochs=0", "Global.epochs: expected 1 or more, got 0"),
        ("paddleclas", "Arch.class_num=1", "Arch.class_num: expected at least 2, got 1"),
        ("paddleclas", "Optimizer.momentum=2", "Optimizer (train.optimizer.momentum): expected"),
        ("paddleclas_pruned", "Slim.prune.pruned_ratio=2", "Slim.prune.pruned_ratio: expected"),
        ("paddledet", "epoch=0", "epoch: expected 1 or more, got 0"),
        ("paddledet", "QAT.quant_config.weight_bits=1", "QAT.quant_config.weight_bits: expected"),
        ("paddledet", "TrainReader.batch_size=0", "TrainReader.batch_size: expected 1 or more"),
        ("paddleseg", "batch_size=0", "batch_size: expected 1 or more, got 0"),
        (
            "paddleseg",
            "lr_scheduler.learning_rate=1e9",
            "lr_scheduler.learning_rate: expected 0 to",
        ),
        ("paddleseg", "model.type=7", "model.type: expected"),
    ],
)
def test_errors_name_the_keys_of_whole_files(file: str, override: str, message: str) -> None:
    path = Path(__file__).parents[1] / "dialects" / "files" / f"{file}.yml"
    with pytest.raises(ConfigError) as caught:
        settle(read_plan(RunFiles(str(path), None, (), [override])))
    assert str(caught.value).startswith(message)


def test_errors_of_a_file_after_another_recipe(config: Path, teacher: str, tmp_path: Path) -> None:
    """The strategies of the file are counted after those of the recipe before it."""
    text = COMPRESSOR.replace("INT8", str(tmp_path / "int8")).replace("RUN", str(tmp_path / "ck"))
    slim = _write(tmp_path / "compress.yaml", text)
    first = _write(tmp_path / "a.yml", {"strategies": [{"kind": "prune", "target_ratio": 0.1}]})
    bits = "strategies.round.weight_bits=1"
    with pytest.raises(ConfigError, match=r"^strategies\.round\.weight_bits: expected 2 to 8"):
        settle(read_plan(RunFiles(str(config), f"{first},{slim}", [teacher], [bits])))


def test_an_export_that_cannot_be(config: Path, teacher: str, tmp_path: Path) -> None:
    """What fails when training begins, a dry run tells by the key of the file as well."""
    text = COMPRESSOR.replace("INT8", str(tmp_path / "int8")).replace("RUN", str(tmp_path / "ck"))
    slim = _write(tmp_path / "compress.yaml", text)
    plan = settle(read_plan(RunFiles(str(config), str(slim), [teacher])))
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "mine.txt").write_text("mine")
    training = PreparedRun(*plan, tmp_path / "ck")
    for attempt in (training.rehearse, training.train):
        with pytest.raises(ConfigError, match=r"^strategies\.round\.int8_model_save_path: "):
            attempt()


def test_a_file_that_says_no_task(tmp_path: Path) -> None:
    text = COMPRESSOR.replace("INT8", "int8").replace("RUN", "checkpoints")
    slim = _write(tmp_path / "compress.yaml", text)
    for files in (RunFiles(str(slim)), RunFiles(None, str(slim))):
        with pytest.raises(
            ConfigError,
            match="says no task; name its config with -c, or -o task=cls -o",
        ):
            read_plan(files)


def test_a_dry_run_refuses_what_the_run_would_refuse(config: Path, tmp_path: Path) -> None:
    plan, run, recipe = settle(read_plan(RunFiles(str(config))))
    training = PreparedRun(plan, run, recipe, tmp_path / "out")
    checkpoint.save(tmp_path / "out" / "latest", checkpoint.describe(run.task), {})
    for attempt in (training.rehearse, training.train):
        with pytest.raises(ConfigError, match=r"^save_dir: .*/out holds an earlier run; go on"):
            attempt()
    with pytest.raises(CheckpointError, match="latest: training cannot go on from it"):
        training.rehearse(resume=True)
    assert training.rehearse(overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["latest"]


def test_a_misspelt_task(config: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["taks"] = content.pop("task")
    with pytest.raises(ConfigError, match=r"^taks: unknown key \(did you mean 'task'\?\)"):
        read_plan(RunFiles(content))


def test_teachers_of_a_config(config: Path, teacher: str, tmp_path: Path) -> None:
    """A config may hold its recipe and its teachers; the command line goes before both."""
    content = yaml.safe_load(config.read_text())
    content |= {"slim": {"strategies": [{"kind": "distill"}]}, "distill_config": [teacher]}
    whole = str(_write(tmp_path / "whole.yml", content))
    plan = read_plan(RunFiles(whole, overrides=["teacher.distill.weight=2.0"]))
    assert plan.teachers[0]["distill"] == {"weight": 2.0}
    content["distill_config"] = [{"weights": teacher, "distill": {"weight": 3.0}}]
    inside = str(_write(tmp_path / "inside.yml", content))
    assert read_plan(RunFiles(inside)).teachers[0]["source"] == "distill_config.0"
    assert read_plan(RunFiles(inside, distill_config=[teacher])).teachers[0]["source"] == teacher
    for wrong, message in (
        ({"distill_config": 3}, r"^distill_config: expected a list"),
        ({"slim": 3}, r"^slim: expected names of recipes or a recipe"),
        ({"save_dir": 3}, r"^save_dir: expected str"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_plan(RunFiles(str(_write(tmp_path / "wrong.yml", content | wrong))))
    for given, found in (([], "there is none"), ([teacher, teacher], "2 are given")):
        files = RunFiles(str(config), distill_config=given, overrides=["teacher.weights=x"])
        message = rf"^teacher: -o teacher\.weights=x needs one teacher, {found}"
        with pytest.raises(ConfigError, match=message):
            read_plan(files)
