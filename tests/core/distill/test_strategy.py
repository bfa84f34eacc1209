"""Teachers on the toy task: what they teach, what they must leave alone, what is refused."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from core.distill.strategy import DistillConfig, WeightScheduleConfig
from core.distill.teacher import read_teacher
from core.errors import ConfigError
from core.network.weights import load_arrays
from core.settings.config import read
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Hook
from tests.networks.students import RECIPES, Watch, bytes_of, make_engine
from tests.toy_runs import STOP_NAMES, STOPS, plain


def states(save_dir: Path) -> tuple[Any, ...]:
    latest = save_dir / "latest"
    files = [load_arrays(latest / name) for name in ("model.safetensors", "training.safetensors")]
    return (*map(plain, files), json.loads((latest / "model.json").read_text()))


def test_its_metric_is_logged_before_the_first_epoch(
    toy_settings: Any, teacher: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = checkpoint.load_description(teacher)
    assert expected is not None

    class Note(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            logging.getLogger("test").info("step")

    for start in (0, 2):  # a later window is checked before the training, too
        caplog.clear()
        steps = [{"kind": "distill", "start_epoch": start}]
        with caplog.at_level(logging.INFO):
            make_engine(
                toy_settings(epochs=3),
                tmp_path / f"{start}",
                steps,
                [read_teacher(teacher)],
                [Note()],
            ).train()
        texts = [record.getMessage() for record in caplog.records]
        line = next(text for text in texts if text.startswith(f"teacher {teacher}: mae"))
        assert texts.index(line) < texts.index("step")
        assert float(line.rpartition(" ")[2]) == pytest.approx(expected.metrics["mae"], abs=1e-4)


def test_the_three_terms_are_logged_and_only_two_of_them_train(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    weights = {}
    for watched in (True, False):
        watch = Watch()
        steps = [{"kind": "distill", "teacher_truth": watched}]
        name = f"out{watched}"
        engine = make_engine(
            toy_settings(epochs=2), tmp_path / name, steps, [read_teacher(teacher)], [watch]
        )
        engine.train()
        weights[watched] = bytes_of(engine.model)
        terms = {"loss_square", "distill.l2"} | ({"teacher.loss_square"} if watched else set())
        assert all(set(each) == terms for each in watch.terms)
        assert engine.watched == ({"teacher.loss_square"} if watched else set())
    assert weights[True] == weights[False]


def test_weights_windows_and_schedules(toy_settings: Any, teacher: str, tmp_path: Path) -> None:
    base = {"kind": "distill", "start_epoch": 1, "end_epoch": 3}
    seen = {}
    for name, extra in {
        "plain": {},
        "heavy": {"weight": 3.0, "truth_weight": 0.25},
        "faded": {"schedule": {"decay": "linear", "end_factor": 0.5}},
    }.items():
        watch = Watch()
        make_engine(
            toy_settings(learning_rate=1e-9),
            tmp_path / name,
            [{**base, **extra}],
            [read_teacher(teacher)],
            [watch],
        ).train()
        seen[name] = watch.terms
    steps = len(seen["plain"]) // 4
    for terms in seen.values():
        inside = ["distill.l2" in each for each in terms]
        assert inside == [False] * steps + [True] * 2 * steps + [False] * steps
    for index in range(steps, 3 * steps):
        one, heavy, faded = (seen[name][index] for name in ("plain", "heavy", "faded"))
        assert heavy["distill.l2"] == pytest.approx(3 * one["distill.l2"], rel=1e-4)
        assert heavy["loss_square"] == pytest.approx(one["loss_square"] / 4, rel=1e-4)
        factor = 1.0 if index < 2 * steps else 0.5
        assert faded["distill.l2"] == pytest.approx(factor * one["distill.l2"], rel=1e-4)


def test_schedule_by_hand() -> None:
    linear = WeightScheduleConfig(decay="linear", end_factor=0.2, warmup_epochs=1)
    assert [linear.factor(e, 2, 8) for e in range(2, 8)] == pytest.approx(
        [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    )
    cosine = WeightScheduleConfig(decay="cosine")
    assert [cosine.factor(e, 0, 3) for e in range(3)] == pytest.approx([1.0, 0.5, 0.0])
    assert WeightScheduleConfig().factor(5, 0, 9) == 1.0
    assert WeightScheduleConfig(decay="linear").factor(0, 0, 1) == 1.0


def test_a_window_may_have_its_own_optimizer(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    watch = Watch()
    steps = [{"kind": "distill", "end_epoch": 2, "optimizer": {"kind": "adamw"}}]
    teachers = [read_teacher(teacher)]
    make_engine(toy_settings(epochs=3), tmp_path / "out", steps, teachers, [watch]).train()
    third = len(watch.optimizers) // 3
    assert watch.optimizers == ["AdamW"] * 2 * third + ["Momentum"] * third
    steps = [{"kind": "distill", "optimizer": {"kind": kind}} for kind in ("adamw", "sgd")]
    with pytest.raises(
        ConfigError, match=r"^strategies\.1\.optimizer: strategies\.0 \(distill\) asks"
    ):
        make_engine(toy_settings(), tmp_path / "two", steps, teachers).train()


@pytest.mark.parametrize("steps", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop", STOPS, ids=STOP_NAMES)
def test_resume_equals_training_straight(
    toy_settings: Any, teacher: str, tmp_path: Path, steps: Any, stop: Hook
) -> None:
    settings = toy_settings(ema_decay=0.9)
    settings["model"] = {"dropout": 0.5}
    teachers = [read_teacher(teacher)]
    make_engine(settings, tmp_path / "straight", steps, teachers).train()
    with contextlib.suppress(KeyboardInterrupt):
        make_engine(settings, tmp_path / "halves", steps, teachers, [stop]).train()
    make_engine(settings, tmp_path / "halves", steps, teachers).train(resume=True)
    assert states(tmp_path / "straight") == states(tmp_path / "halves")


def test_adapters_learn(toy_settings: Any, teacher: str, tmp_path: Path) -> None:
    values = []

    class Look(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            (strategy,) = engine.windows._live.values()
            values.append({k: v.numpy().copy() for k, v in strategy.parameters().items()})

    steps = [{"kind": "distill", "losses": [{"kind": "mgd", "student": "conv", "weight": 1.0}]}]
    engine = make_engine(
        toy_settings(epochs=1), tmp_path / "out", steps, [read_teacher(teacher)], [Look()]
    )
    engine.train()
    assert {name.split(".")[2] for name in values[0]} == {"0", "generator"}
    assert all((values[0][name] != values[-1][name]).any() for name in values[0])


def test_weights_that_leave_nothing_to_learn() -> None:
    with pytest.raises(ConfigError, match="weight and truth_weight are 0"):
        read(DistillConfig, {"kind": "distill", "weight": 0, "truth_weight": 0})


FSP = {"kind": "fsp", "student": ["conv", "head"], "teacher": ["conv", "norm"]}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"kind": "sotf"}], r"^strategies\.0\.losses\.0\.kind: got 'sotf' \(known: att.*cwd"),
        ([{"kind": "mdg"}], r"^strategies\.0\.losses\.0\.kind: got 'mdg' \(did you mean 'mgd'"),
        ([{"kind": "l2", "wieght": 1}], r"^strategies\.0\.losses\.0\.wieght: unknown key"),
        ([{"kind": "l2", "weight": -1}], r"^strategies\.0\.losses\.0\.weight: expected 0"),
        (
            [{"kind": "l2", "student": "cnov"}],
            r"^distill\.losses\.0 \(l2\)\.student: 'cnov' matches nothing in the student: "
            r"conv \[4, 4, 8, 8\], .*head \[4, 1\]",
        ),
        (
            [{"kind": "l2", "student": "conv", "teacher": "x"}],
            r"^distill\.losses\.0 \(l2\)\.teacher: 'x' matches nothing in the teacher .*"
            r"conv \[4, 6, 8, 8\]",
        ),
        (
            [{"kind": "l2", "student": "*n*", "teacher": "conv"}],
            r"^distill\.losses\.0 \(l2\): '\*n\*' matches 2 layers of the student, 'conv' 1 of",
        ),
        (
            [{"kind": "l2", "student": "conv", "adapter": False}],
            r"adapter is false; conv of the student is \[4, 4, 8, 8\], conv of the teacher .* is "
            r"\[4, 6, 8, 8\]",
        ),
        ([{"kind": "soft_label"}], r"\(soft_label\): compares class_logits, but the student has"),
        ([{"kind": "cwd", "student": "head"}], r"expected maps \[N, C, H, W\]; head of the stu"),
        ([{"kind": "dml", "student": "conv"}], r"as many channels are needed; conv of the stud"),
        ([{"kind": "l2", "key": "levle"}], r"\.key: 'levle' matches nothing in the student: lev"),
        ([{"kind": "l2", "key": "a", "student": "b"}], r"key: names an output in place of lay"),
        ([FSP], r"\(fsp\): expected maps \[N, C, H, W\]; head of the student is \[4, 1\]"),
        ([{"kind": "fsp"}], r"student: expected two layers"),
        ([{"kind": "dkd", "student": "conv", "teacher": "conv"}], r"as many channels"),
    ],
)
def test_terms_that_cannot_be(
    toy_settings: Any, teacher: str, tmp_path: Path, losses: Any, message: str
) -> None:
    steps = [{"kind": "distill", "losses": losses}]
    with pytest.raises(ConfigError, match=message):
        make_engine(toy_settings(), tmp_path / "out", steps, [read_teacher(teacher)]).train()


def test_a_later_window_is_refused_before_training(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    watch = Watch()
    steps = [{"kind": "distill", "start_epoch": 3, "losses": [{"kind": "l2", "student": "no"}]}]
    with pytest.raises(ConfigError, match="'no' matches nothing"):
        make_engine(
            toy_settings(), tmp_path / "out", steps, [read_teacher(teacher)], [watch]
        ).train()
    assert watch.terms == []
