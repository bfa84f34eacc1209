"""Teachers on the toy task: what they teach, what they must leave alone, what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

from core import checkpoint
from core.config import merge
from core.distill.strategy import Distill, ScheduleConfig
from core.distill.taps import in_full_precision
from core.distill.teacher import Teacher, read_teachers
from core.engine import Engine
from core.errors import ConfigError, UserError
from core.hooks import Checkpoints, Hook
from core.recipe import read_recipe
from core.run import read_run
from core.weights import load_arrays

NARROW, ROUND = "outside.strategies:Narrow", "outside.strategies:Round"
WIDE = {"model": {"width": 6}}


def make_engine(
    settings: Any, save_dir: Path, steps: Any, teachers: Any, hooks: Any = ()
) -> Engine:
    run = read_run(settings)
    recipe = read_recipe({"strategies": list(steps)}, run.train.epochs, bool(teachers))
    save_dir.mkdir(exist_ok=True)
    return Engine(run, recipe, save_dir, [Checkpoints(), *hooks], teachers)


class Watch(Hook):
    """Notes the terms and the optimizer of every step."""

    def __init__(self, stop: int = 99) -> None:
        self.terms: list[dict[str, float]] = []
        self.optimizers: list[str] = []
        self.stop = stop

    def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
        self.terms.append(dict(terms))
        self.optimizers.append(type(engine._optimizer._paddle).__name__)

    def after_epoch(self, engine: Engine) -> None:
        engine.stop = engine.epoch == self.stop


@pytest.fixture
def teacher(toy_settings: Any, tmp_path: Path) -> str:
    """A wider network, trained for two epochs; its checkpoint folder."""
    settings = merge(toy_settings(epochs=2), WIDE)
    run = read_run(settings)
    Engine(run, read_recipe({}, 2, False), tmp_path / "teacher", [Checkpoints()]).train()
    return str(tmp_path / "teacher" / "latest")


def bytes_of(model: paddle.nn.Layer) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def states(save_dir: Path) -> tuple[Any, ...]:
    latest = save_dir / "latest"
    files = [load_arrays(latest / name) for name in ("model.safetensors", "training.safetensors")]
    return (*map(plain, files), json.loads((latest / "model.json").read_text()))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_a_teacher_stays_as_it_was_to_the_byte(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    class Look(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            (strategy,) = engine.windows._live.values()
            assert isinstance(strategy, Distill)
            self.model = strategy._teachers[0].model
            engine.model.train()
            assert not any(layer.training for layer in self.model.sublayers(include_self=True))
            assert all(p.stop_gradient and p.grad is None for p in self.model.parameters())
            names = [p.name for p in (*self.model.parameters(), *engine.model.parameters())]
            assert len(names) == len(set(names))

    look = Look()
    steps = [{"kind": "distill", "losses": [{"kind": "l2", "student": "conv"}]}]
    engine = make_engine(toy_settings(), tmp_path / "out", steps, read_teachers([teacher]), [look])
    engine.train()
    _, before = checkpoint.restore(teacher)
    assert bytes_of(look.model) == bytes_of(before)
    # nor is anything of it, or of the adapter to its width, in what the student leaves behind
    weights = load_arrays(tmp_path / "out" / "latest" / "model.safetensors")
    assert weights.keys() == engine.task.build_model().state_dict().keys()
    assert not engine.model.conv._forward_post_hooks


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
                toy_settings(epochs=3), tmp_path / "out", steps, read_teachers([teacher]), [Note()]
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
            toy_settings(epochs=2), tmp_path / name, steps, read_teachers([teacher]), [watch]
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
            read_teachers([teacher]),
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
    linear = ScheduleConfig(decay="linear", end_factor=0.2, warmup_epochs=1)
    assert [linear.factor(e, 2, 8) for e in range(2, 8)] == pytest.approx(
        [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    )
    cosine = ScheduleConfig(decay="cosine")
    assert [cosine.factor(e, 0, 3) for e in range(3)] == pytest.approx([1.0, 0.5, 0.0])
    assert ScheduleConfig().factor(5, 0, 9) == 1.0
    assert ScheduleConfig(decay="linear").factor(0, 0, 1) == 1.0


def test_a_window_may_have_its_own_optimizer(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    watch = Watch()
    steps = [{"kind": "distill", "end_epoch": 2, "optimizer": {"kind": "adamw"}}]
    teachers = read_teachers([teacher])
    make_engine(toy_settings(epochs=3), tmp_path / "out", steps, teachers, [watch]).train()
    third = len(watch.optimizers) // 3
    assert watch.optimizers == ["AdamW"] * 2 * third + ["Momentum"] * third
    steps = [{"kind": "distill", "optimizer": {"kind": kind}} for kind in ("adamw", "sgd")]
    with pytest.raises(ConfigError, match=r"^strategies\.1\.optimizer: strategies\.0 asks"):
        make_engine(toy_settings(), tmp_path / "two", steps, teachers).train()


ADAPTED = {"kind": "l2", "student": "conv"}
RECIPES = {
    "adapter": [{"kind": "distill", "end_epoch": 3, "losses": [ADAPTED, {"kind": "l2"}]}],
    "generated": [{"kind": "distill", "losses": [{"kind": "mgd", "student": "conv"}]}],
    "own optimizer": [
        {"kind": "distill", "end_epoch": 3, "losses": [ADAPTED], "optimizer": {"kind": "adamw"}}
    ],
    "narrow and round": [
        {"kind": "distill", "losses": [ADAPTED]},
        {"kind": NARROW, "start_epoch": 1},
        {"kind": ROUND, "start_epoch": 2},
    ],
}


@pytest.mark.parametrize("steps", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_equals_training_straight(
    toy_settings: Any, teacher: str, tmp_path: Path, steps: Any, stop: int
) -> None:
    settings = toy_settings(ema_decay=0.9)
    settings["model"] = {"dropout": 0.5}
    teachers = read_teachers([teacher])
    make_engine(settings, tmp_path / "straight", steps, teachers).train()
    make_engine(settings, tmp_path / "halves", steps, teachers, [Watch(stop)]).train()
    make_engine(settings, tmp_path / "halves", steps, teachers).train(resume=True)
    assert states(tmp_path / "straight") == states(tmp_path / "halves")


def test_resume_wants_the_same_teacher(toy_settings: Any, teacher: str, tmp_path: Path) -> None:
    steps = [{"kind": "distill"}]
    make_engine(
        toy_settings(), tmp_path / "out", steps, read_teachers([teacher]), [Watch(1)]
    ).train()
    settings = merge(toy_settings(epochs=1), {"data": {"root": str(tmp_path / "data")}})
    train_alone(settings, tmp_path / "other")
    other = read_teachers([str(tmp_path / "other" / "latest")])
    with pytest.raises(ConfigError, match=r"^distill_config: the run to resume had other teach"):
        make_engine(toy_settings(), tmp_path / "out", steps, other).train(resume=True)


def test_taps_and_adapters_follow_the_edits(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    shapes = []

    class Look(Hook):
        def after_epoch(self, engine: Engine) -> None:
            strategy = next(s for s in engine.windows._live.values() if isinstance(s, Distill))
            conv = engine.model.conv
            adapter = strategy.parameters()["0.l2.0.project.weight"]
            shapes.append((type(conv).__name__, adapter.shape, len(conv._forward_post_hooks)))

    watch = Watch()
    engine = make_engine(
        toy_settings(epochs=3),
        tmp_path / "out",
        RECIPES["narrow and round"],
        read_teachers([teacher]),
        [Look(), watch],
    )
    engine.train()
    assert shapes == [
        ("Conv2D", [6, 4, 1, 1], 1),
        ("Conv2D", [6, 2, 1, 1], 1),
        ("Rounded", [6, 2, 1, 1], 1),
    ]
    assert all("distill.l2" in terms for terms in watch.terms)
    assert [kind for kind, _ in engine.windows.edits()] == [NARROW, ROUND]
    assert not engine.model.conv._forward_post_hooks


def test_adapters_learn(toy_settings: Any, teacher: str, tmp_path: Path) -> None:
    values = []

    class Look(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            (strategy,) = engine.windows._live.values()
            values.append({k: v.numpy().copy() for k, v in strategy.parameters().items()})

    steps = [{"kind": "distill", "losses": [{"kind": "mgd", "student": "conv", "weight": 1.0}]}]
    engine = make_engine(
        toy_settings(epochs=1), tmp_path / "out", steps, read_teachers([teacher]), [Look()]
    )
    engine.train()
    assert {name.split(".")[2] for name in values[0]} == {"0", "generator"}
    assert all((values[0][name] != values[-1][name]).any() for name in values[0])


def test_several_teachers_and_what_their_files_say(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    file = tmp_path / "second.yml"
    distill = {"weight": 0.5, "losses": [{"kind": "l1"}, {"kind": "l1", "key": "level"}]}
    settings = {**merge(toy_settings(), WIDE), "weights": teacher, "distill": distill}
    file.write_text(yaml.safe_dump(settings))
    watch = Watch()
    steps = [{"kind": "distill", "weight": 2.0}]
    teachers = read_teachers([teacher, str(file)])
    make_engine(toy_settings(epochs=1), tmp_path / "out", steps, teachers, [watch]).train()
    terms = watch.terms[0]
    assert list(terms) == [
        "loss_square",
        "distill1.l2",
        "teacher1.loss_square",
        "distill2.l1",
        "distill2.l1#2",
        "teacher2.loss_square",
    ]
    # the layer `head` makes the output `level`; 2 * 0.5 * mean |d|, and 2 * mean d^2
    assert terms["distill2.l1"] == terms["distill2.l1#2"]
    assert terms["teacher1.loss_square"] == terms["teacher2.loss_square"]
    assert terms["distill1.l2"] >= 2 * terms["distill2.l1"] ** 2


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
        make_engine(toy_settings(), tmp_path / "out", steps, read_teachers([teacher])).train()


def test_a_later_window_is_refused_before_training(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    watch = Watch()
    steps = [{"kind": "distill", "start_epoch": 3, "losses": [{"kind": "l2", "student": "no"}]}]
    with pytest.raises(ConfigError, match="'no' matches nothing"):
        make_engine(
            toy_settings(), tmp_path / "out", steps, read_teachers([teacher]), [watch]
        ).train()
    assert watch.terms == []


def test_teachers_that_cannot_be(
    toy_settings: Any, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merge(toy_settings(), WIDE)
    student = read_run(toy_settings()).task
    elsewhere = {**whole, "task": {"name": "nothing"}, "weights": teacher}
    for settings, message in (
        (whole, r"^t: weights: a teacher must be trained: .* got None \(-o teacher\.weights"),
        ({**whole, "weights": False}, r"^t: weights: a teacher must be trained"),
        ({**whole, "weights": True}, r"^model\.pretrained: no weights .* published"),
        ({**whole, "weights": "gone"}, r"^gone: no such weights file"),
        ({**whole, "wieghts": teacher}, r"^t: wieghts: unknown key"),
        ({**toy_settings(), "weights": teacher}, r"weights of another network"),
        (
            merge(whole, {"model": {"pretrained": teacher, "reinit": ["head.*"]}}),
            r"^t: model\.reinit: a teacher with fresh layers",
        ),
        ({**whole, "weights": teacher, "distill": {"wait": 1}}, r"^t: distill\.wait: unknown key"),
        ({"weights": teacher, "modle": {}}, r"^t: modle: has no meaning without task\.name"),
        (elsewhere, r"^t: task\.name: no task 'nothing'"),
    ):
        with pytest.raises(UserError, match=message):
            Teacher({"source": "t", **settings}, student)
    with pytest.raises(ConfigError, match=r"^teacher: -o teacher\.weights=x .* there is none"):
        read_teachers([], ["weights=x"])
    with pytest.raises(ConfigError, match=r"^teacher: .* 2 are given"):
        read_teachers(["a", "b"], ["weights=x"])
    with pytest.raises(ConfigError, match=r"gone\.yml: no such config file"):
        read_teachers(["gone.yml"])

    accepted = Teacher({"source": "t", **whole, "weights": teacher}, student)
    assert accepted.model.head.weight.shape == [6, 1]
    monkeypatch.setattr(student, "preprocess", lambda image: ({"image": image[:3]}, None))
    with pytest.raises(ConfigError, match="wants pictures normalised in another way: grey 128"):
        Teacher({"source": "t", "weights": teacher}, student)


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    student, teacher = (classifier(tmp_path, classes) for classes in (4, 5))
    train_alone(teacher, tmp_path / "five")
    teachers = read_teachers([str(tmp_path / "five" / "latest")])
    message = r"latest: its output logits has 5 channels, the student's 4: a teacher of other"
    with pytest.raises(ConfigError, match=message):
        make_engine(student, tmp_path / "out", [{"kind": "distill"}], teachers).train()


def test_a_teacher_may_see_larger_pictures(tmp_path: Path) -> None:
    settings = classifier(tmp_path, 4)
    larger = merge(settings, {"data": {"image_size": 64, "resize_short": 64}})
    train_alone(larger, tmp_path / "large")
    run = read_run(settings)
    teacher = Teacher(*read_teachers([str(tmp_path / "large" / "latest")]), run.task)
    batch = {"image": paddle.rand([2, 3, 32, 32])}
    assert teacher.inputs(batch)[0].shape == [2, 3, 64, 64]
    assert teacher.outputs(batch)["logits"].shape == [2, 4]
    assert teacher.at_students_scale(paddle.rand([2, 4, 16, 16])).shape == [2, 4, 8, 8]


def classifier(tmp_path: Path, classes: int) -> dict[str, Any]:
    return {
        "task": {"name": "cls"},
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": classes},
        "data": {
            **{"root": str(tmp_path / f"data{classes}"), "image_size": 32, "resize_short": 32},
            **{"num_workers": 0},
        },
        "synthetic": {"train_images": 8, "val_images": 4, "side": 32},
        "augment": {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "flip": 0.0},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01},
        "device": "cpu",
    }


def train_alone(settings: Any, save_dir: Path) -> None:
    run = read_run(settings)
    save_dir.mkdir()
    Engine(run, read_recipe({}, run.train.epochs, False), save_dir, [Checkpoints()]).train()


def test_answers_are_kept_on_disk_where_nothing_is_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = classifier(tmp_path, 4)
    train_alone(settings, tmp_path / "teacher")
    teachers = read_teachers([str(tmp_path / "teacher" / "latest")])
    asked = []
    answer = Teacher.outputs
    monkeypatch.setattr(Teacher, "outputs", lambda *args: asked.append(1) or answer(*args))
    steps = [{"kind": "distill", "cache": True, "losses": [{"kind": "soft_label"}]}]
    seen = []
    for _ in range(2):
        watch = Watch()
        make_engine(settings, tmp_path / "out", steps, teachers, [watch]).train()
        seen.append(watch.terms)
    # of 4 batches of 4, the first epoch asked for two; the second epoch mixes known pictures anew
    assert len(asked) == 2
    files = sorted((tmp_path / "out" / "teacher_cache").rglob("*.npz"))
    assert len(files) == 8
    assert seen[0] == seen[1]

    uncached = Watch()
    steps = [{"kind": "distill", "losses": [{"kind": "soft_label"}]}]
    make_engine(settings, tmp_path / "plain", steps, teachers, [uncached]).train()
    for with_cache, without in zip(seen[0], uncached.terms):
        assert with_cache == pytest.approx(without, rel=1e-4)

    files[0].write_bytes(files[0].read_bytes()[:-40])
    middle = bytearray(files[1].read_bytes())
    middle[len(middle) // 2] ^= 255
    files[1].write_bytes(bytes(middle))
    steps[0]["cache"] = True
    again = Watch()
    with caplog.at_level(logging.WARNING):
        make_engine(settings, tmp_path / "out", steps, teachers, [again]).train()
    broken = [record for record in caplog.records if "broken, made anew" in record.getMessage()]
    assert {record.args[0] for record in broken} == set(files[:2])
    assert again.terms[0] == pytest.approx(seen[0][0], rel=1e-4)
    assert not list((tmp_path / "out" / "teacher_cache").rglob("*.draft"))


def test_no_cache_of_what_is_never_seen_twice(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    steps = [{"kind": "distill", "cache": True}]
    with pytest.raises(ConfigError, match=r"^distill\.cache: .* at random \(image differs"):
        make_engine(toy_settings(), tmp_path / "out", steps, read_teachers([teacher])).train()


def test_half_precision_is_compared_in_single() -> None:
    for dtype in ("float16", "bfloat16"):
        assert in_full_precision(paddle.ones([2]).astype(dtype)).dtype == paddle.float32
    assert in_full_precision(paddle.ones([2], "float64")).dtype == paddle.float64
