"""Which layers terms meet on, and how shapes are brought together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from core.distill import feature_losses, losses
from core.distill.adapters import Adapter, Generator
from core.distill.pairs import Comparison, default_terms, pair_up
from core.distill.strategy import DistillConfig
from core.distill.taps import Side, Taps, look_at
from core.distill.terms import L2, Cwd, DistMse, SoftLabel, Term
from core.errors import ConfigError
from core.settings.config import read
from core.task import DistillPoint, build_task

TARGET = {"target_weight": paddle.ones([2, 3])}


def side(title: str, points: dict[str, str], **shapes: list[int]) -> Side:
    named = {name.replace("__", "."): shape for name, shape in shapes.items()}
    chosen = tuple(DistillPoint(layer, kind) for layer, kind in points.items())  # type: ignore
    return Side(title, chosen, {**named, "@out": next(reversed(named.values()))})


def terms_of(*entries: dict[str, Any]) -> tuple[Term, ...]:
    return read(DistillConfig, {"losses": list(entries)}).losses


def compare(entry: dict[str, Any], student: Side, teacher: Side) -> Comparison:
    pairs = pair_up(terms_of(entry), student, teacher, {}, "losses")
    return Comparison(pairs, student, teacher)


def test_defaults_follow_what_the_outputs_are() -> None:
    flat = side("student", {"fc": "class_logits", "f": "feature"}, f=[2, 8], fc=[2, 5])
    pooled = side("teacher", {"c": "class_logits"}, c=[2, 5, 1, 1])
    maps = side("student", {"c": "class_logits"}, c=[2, 5, 4, 4])
    heat = side("student", {"h": "heatmap", "f": "feature"}, f=[2, 8, 4, 4], h=[2, 3, 4, 4])
    other = side("teacher", {"x": "feature"}, x=[2, 8, 4, 4])
    assert [type(t) for t in default_terms(flat, pooled, {})] == [SoftLabel]
    assert [type(t) for t in default_terms(pooled, flat, {})] == [SoftLabel]
    assert [type(t) for t in default_terms(maps, maps, {})] == [Cwd]
    assert default_terms(heat, heat, TARGET) == [DistMse()]
    assert default_terms(heat, heat, {}) == [DistMse(use_target_weight=False)]
    assert [type(t) for t in default_terms(heat, other, {})] == [L2]


def test_points_that_never_run_are_passed_over() -> None:
    student = side("student", {"gone": "feature", "f": "feature"}, f=[2, 4, 3, 3])
    (pair,) = pair_up(terms_of({"kind": "pkd"}), student, student, {}, "losses")
    assert (pair.student, pair.teacher) == (("f",), ("f",))


def test_globs_pair_layers_in_order() -> None:
    student = side("student", {}, b__1=[2, 4, 8, 8], b__2=[2, 4, 4, 4], head=[2, 4, 4, 4])
    teacher = side("teacher", {}, x__1=[2, 4, 8, 8], x__2=[2, 6, 4, 4])
    entry = {"kind": "l2", "student": "b.*", "teacher": "x.*"}
    pairs = pair_up(terms_of(entry, {"kind": "l2", "student": "head", "teacher": "x.1"}),
                    student, teacher, {}, "losses")  # fmt: skip
    assert [(p.name, p.student, p.teacher) for p in pairs] == [
        ("l2", ("b.1",), ("x.1",)),
        ("l2#2", ("b.2",), ("x.2",)),
        ("l2#3", ("head",), ("x.1",)),
    ]
    comparison = Comparison(pairs, student, teacher)
    assert {name: p.shape for name, p in comparison.parameters().items()} == {
        "l2#2.0.project.weight": [6, 4, 1, 1],
        "l2#2.0.project.bias": [6],
    }


def test_heatmaps_are_no_probabilities() -> None:
    heat = side("student", {"h": "heatmap"}, h=[2, 3, 4, 4])
    for kind in ("js_div", "soft_label", "dml", "dist", "dkd"):
        for layer in ({}, {"student": "h"}):
            with pytest.raises(ConfigError, match=r"take l1, l2, smooth_l1 or dist_mse"):
                compare({"kind": kind, **layer}, heat, heat)


def test_a_miss_lists_the_nearest_layers_with_their_shapes() -> None:
    shapes = {f"stage__{i}__conv": [2, i + 1, 4, 4] for i in range(60)}
    student = side("student", {}, **shapes, final_layer=[2, 3])
    with pytest.raises(ConfigError) as caught:
        compare({"kind": "l1", "student": "final_layre"}, student, student)
    message = str(caught.value)
    assert "in the student: final_layer [2, 3], " in message
    assert message.endswith("and 31 more")


def test_ends_of_a_section_have_one_size() -> None:
    student = side("student", {}, a=[2, 4, 8, 8], b=[2, 6, 4, 4])
    teacher = side("teacher", {}, a=[2, 4, 8, 8], b=[2, 6, 8, 8])
    entry = {"kind": "fsp", "student": ["a", "b"], "teacher": ["a", "b"]}
    with pytest.raises(ConfigError, match=r"in the student a is \[2, 4, 8, 8\], b is \[2, 6, 4,"):
        compare(entry, student, teacher)
    with pytest.raises(ConfigError, match=r"'\*' matches 2 layers, the end is one"):
        compare({**entry, "teacher": ["*", "b"]}, teacher, teacher)
    # sizes may differ between the networks, and channels through an adapter
    student = side("student", {}, a=[2, 4, 4, 4], b=[2, 5, 4, 4])
    comparison = compare(entry, student, teacher)
    assert list(comparison.parameters()) == ["fsp.1.project.weight", "fsp.1.project.bias"]
    ours = {"a": paddle.rand([2, 4, 4, 4]), "b": paddle.rand([2, 5, 4, 4])}
    theirs = {"a": paddle.rand([2, 4, 8, 8]), "b": paddle.rand([2, 6, 8, 8])}
    weight, bias = (value.numpy() for value in comparison.parameters().values())
    widened = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], ours["b"].numpy())
    expected = feature_losses.fsp(
        (ours["a"], paddle.to_tensor(widened + bias[:, None, None])), (theirs["a"], theirs["b"])
    )
    found = comparison.losses(ours, theirs, {})["fsp"]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_class_scores_meet_whatever_their_form() -> None:
    paddle.seed(0)
    flat, pooled = paddle.rand([2, 5]), paddle.rand([2, 5])
    student, teacher = side("student", {}, a=[2, 5]), side("teacher", {}, a=[2, 5, 1, 1])
    entry = {"kind": "soft_label", "student": "a", "weight": 2.0}
    found = compare(entry, student, teacher).losses(
        {"a": flat}, {"a": pooled.reshape([2, 5, 1, 1])}, {}
    )
    assert float(found["soft_label"]) == pytest.approx(2 * float(losses.soft_label(flat, pooled)))
    # a larger map of the teacher comes down to the student's
    student, teacher = side("student", {}, a=[1, 5, 4, 4]), side("teacher", {}, a=[1, 5, 8, 8])
    ours, theirs = paddle.rand([1, 5, 4, 4]), paddle.rand([1, 5, 8, 8])
    comparison = compare(entry, student, teacher)
    assert comparison.parameters() == {}
    small = paddle.nn.functional.interpolate(theirs, [4, 4], mode="bilinear", align_corners=True)
    found = comparison.losses({"a": ours}, {"a": theirs}, {})
    assert float(found["soft_label"]) == pytest.approx(2 * float(losses.soft_label(ours, small)))


@pytest.mark.parametrize("kind", ["l1", "attention", "l2"])
def test_pixel_i_lies_on_pixel_2i_where_the_task_aligns_at_the_origin(kind: str) -> None:
    ours = np.random.default_rng(0).normal(size=[1, 5, 4, 4]).astype("float32")
    theirs = ours
    for axis in (2, 3):  # what is between two pixels is their mean, the last pixel goes on
        following = np.concatenate([theirs, theirs.take([-1], axis)], axis).take(range(1, 5), axis)
        both = np.stack([theirs, (theirs + following) / 2], axis + 1)
        theirs = both.reshape([8 if at == axis else side for at, side in enumerate(theirs.shape)])
    student = replace(side("student", {}, a=[1, 5, 4, 4]), aligned_at="origin")
    comparison = compare({"kind": kind, "student": "a"}, student, side("t", {}, a=[1, 5, 8, 8]))
    given = {"a": paddle.to_tensor(ours)}, {"a": paddle.to_tensor(theirs)}
    assert float(comparison.losses(*given, {})[kind]) == pytest.approx(0, abs=2e-6)


def test_decoupled_distillation_takes_labels_of_any_form() -> None:
    flat, maps = side("student", {}, a=[2, 3]), side("student", {}, a=[1, 3, 2, 2])
    entry = {"kind": "dkd", "student": "a"}
    ours, theirs = paddle.rand([2, 3]), paddle.rand([2, 3])
    expected = float(losses.dkd(ours, theirs, paddle.to_tensor([2, 0])))
    comparison = compare(entry, flat, flat)
    for label in (paddle.to_tensor([2, 0]), paddle.to_tensor([[0.2, 0.1, 0.7], [0.6, 0.4, 0.0]])):
        found = comparison.losses({"a": ours}, {"a": theirs}, {"label": label})
        assert float(found["dkd"]) == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"dkd\.label_key: the batch has no 'label', only x"):
        comparison.losses({"a": ours}, {"a": theirs}, {"x": ours})
    # a label map four times as large: every second pixel
    ours, theirs = paddle.rand([1, 3, 2, 2]), paddle.rand([1, 3, 2, 2])
    label = paddle.to_tensor(np.arange(16).reshape(1, 4, 4) % 3)
    expected = float(losses.dkd(ours, theirs, label[:, ::2, ::2]))
    found = compare(entry, maps, maps).losses({"a": ours}, {"a": theirs}, {"label": label})
    assert float(found["dkd"]) == pytest.approx(expected)


def test_heatmaps_leave_out_unlabelled_joints() -> None:
    heat = side("student", {"h": "heatmap"}, h=[2, 3, 4, 4])
    ours, theirs = paddle.rand([2, 3, 4, 4]), paddle.rand([2, 3, 4, 4])
    mask = paddle.to_tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    comparison = compare({"kind": "dist_mse", "loss_scale": 1.0}, heat, heat)
    found = comparison.losses({"h": ours}, {"h": theirs}, {"target_weight": mask})["dist_mse"]
    errors = ((ours.numpy() - theirs.numpy()) ** 2).mean(axis=(2, 3))
    assert float(found) == pytest.approx((errors * mask.numpy()).sum() / 6, rel=1e-5)
    with pytest.raises(ConfigError, match=r"dist_mse\.use_target_weight: the batch has no 'targ"):
        comparison.losses({"h": ours}, {"h": theirs}, {})


def test_looking_changes_nothing(tmp_path: Path) -> None:
    task = build_task("outside.toy", {"data": {"root": str(tmp_path)}})
    model = task.build_model()
    model.train()
    image = paddle.rand([4, 3, 8, 8])
    before = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    seen = look_at("student", task, model, [image])
    assert {n: value.numpy().tobytes() for n, value in model.state_dict().items()} == before
    assert seen.shapes["conv"] == [4, 4, 8, 8]
    assert seen.main_output == "@level"
    assert not any(layer._forward_post_hooks for layer in model.sublayers())
    model(image)
    after = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    assert after != before  # a real step does move the statistics


def test_taps_listen_in_training_only_and_miss_nothing(tmp_path: Path) -> None:
    model = build_task("outside.toy", {"data": {"root": str(tmp_path)}}).build_model()
    model.train()
    taps = Taps(model, ["conv", "@level", "conv"])
    level = model(paddle.rand([4, 3, 8, 8]))
    model.eval()
    model(paddle.rand([1, 3, 8, 8]))
    caught = taps.collect({"level": level})
    assert {name: value.shape for name, value in caught.items()} == {
        "conv": [4, 4, 8, 8],
        "@level": [4, 1],
    }
    with pytest.raises(ConfigError, match=r"^conv: this layer was not run in a training step"):
        taps.collect({"level": level})
    taps.remove()
    assert not model.conv._forward_post_hooks


def test_adapter_and_generator() -> None:
    paddle.seed(3)
    values, wanted = paddle.rand([2, 4, 3, 3]), paddle.rand([2, 6, 5, 7])
    assert Adapter(4, 6, is_map=True, aligned_at="corners")(values, wanted).shape == [2, 6, 5, 7]
    assert Adapter(4, 4, is_map=True, aligned_at="corners")(values, values) is values
    assert Adapter(4, 6, is_map=False, aligned_at="corners")(
        paddle.rand([2, 4]), paddle.rand([2, 6])
    ).shape == [2, 6]
    generator = Generator(4, 0.5)
    same = np.zeros([4, 4, 3, 3], np.float32)
    same[range(4), range(4), 1, 1] = 1.0
    for layer in (generator.first, generator.second):
        layer.weight.set_value(same)
    generated = generator(paddle.ones([40, 4, 6, 6])).numpy()
    assert set(np.unique(generated)) == {0.0, 1.0}
    assert (generated == generated[:, :1]).all()  # whole places are hidden
    assert generated.mean() == pytest.approx(0.5, abs=0.05)
