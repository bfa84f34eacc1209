"""Teachers: frozen, of any task, refused where they cannot teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from core.distill.strategy import Distill
from core.distill.teacher import Teacher, read_teacher
from core.errors import ConfigError, UserError
from core.network.weights import load_arrays
from core.settings.config import merge
from core.training import checkpoint
from core.training.engine import Engine
from core.training.hooks import Hook
from core.training.run import read_run
from tests.networks.students import WIDE, Watch, bytes_of, classifier, make_engine, train_alone


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
    engine = make_engine(toy_settings(), tmp_path / "out", steps, [read_teacher(teacher)], [look])
    engine.train()
    _, before = checkpoint.restore(teacher)
    assert bytes_of(look.model) == bytes_of(before)
    # nor is anything of it, or of the adapter to its width, in what the student leaves behind
    weights = load_arrays(tmp_path / "out" / "latest" / "model.safetensors")
    assert weights.keys() == engine.task.build_model().state_dict().keys()
    assert not engine.model.conv._forward_post_hooks


def test_resume_wants_the_same_teacher(toy_settings: Any, teacher: str, tmp_path: Path) -> None:
    steps = [{"kind": "distill"}]
    make_engine(
        toy_settings(), tmp_path / "out", steps, [read_teacher(teacher)], [Watch(1)]
    ).train()
    settings = merge(toy_settings(epochs=1), {"data": {"root": str(tmp_path / "data")}})
    train_alone(settings, tmp_path / "other")
    other = [read_teacher(str(tmp_path / "other" / "latest"))]
    with pytest.raises(ConfigError, match=r"^distill_config: the run to resume had other teach"):
        make_engine(toy_settings(), tmp_path / "out", steps, other).train(resume=True)


def test_several_teachers_and_what_their_files_say(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    file = tmp_path / "second.yml"
    distill = {"weight": 0.5, "losses": [{"kind": "l1"}, {"kind": "l1", "key": "level"}]}
    settings = {**merge(toy_settings(), WIDE), "weights": teacher, "distill": distill}
    file.write_text(yaml.safe_dump(settings))
    watch = Watch()
    steps = [{"kind": "distill", "weight": 2.0}]
    teachers = [read_teacher(teacher), read_teacher(str(file))]
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
    with pytest.raises(ConfigError, match=r"gone\.yml: no such config file"):
        read_teacher("gone.yml")
    (tmp_path / "sourced.yml").write_text(f"weights: {teacher}\nsource: elsewhere\n")
    with pytest.raises(ConfigError, match=r"sourced\.yml: source: has no meaning; the weights are"):
        read_teacher(str(tmp_path / "sourced.yml"))

    accepted = Teacher({"source": "t", **whole, "weights": teacher}, student)
    assert accepted.model.head.weight.shape == [6, 1]
    monkeypatch.setattr(student, "preprocess", lambda image: ({"image": image[:3]}, None))
    with pytest.raises(ConfigError, match="wants pictures normalised in another way: grey 128"):
        Teacher({"source": "t", "weights": teacher}, student)


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    student, teacher = (classifier(tmp_path, classes) for classes in (4, 5))
    train_alone(teacher, tmp_path / "five")
    teachers = [read_teacher(str(tmp_path / "five" / "latest"))]
    message = r"latest: its output logits has 5 channels, the student's 4: a teacher of other"
    with pytest.raises(ConfigError, match=message):
        make_engine(student, tmp_path / "out", [{"kind": "distill"}], teachers).train()


def test_a_teacher_may_see_larger_pictures(tmp_path: Path) -> None:
    settings = classifier(tmp_path, 4)
    larger = merge(settings, {"data": {"image_size": 64, "resize_short": 64}})
    train_alone(larger, tmp_path / "large")
    run = read_run(settings)
    teacher = Teacher(read_teacher(str(tmp_path / "large" / "latest")), run.task)
    batch = {"image": paddle.rand([2, 3, 32, 32])}
    assert teacher.inputs(batch)[0].shape == [2, 3, 64, 64]
    assert teacher.outputs(batch)["logits"].shape == [2, 4]
    assert teacher.at_students_scale(paddle.rand([2, 4, 16, 16])).shape == [2, 4, 8, 8]
