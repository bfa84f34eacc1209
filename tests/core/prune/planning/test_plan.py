"""Scores of channels against their formulas; plans against targets, steps and patterns."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outside.toy import Config, DataConfig, Task
from paddle import nn
from paddle.static import InputSpec

from core.errors import ConfigError, DataError
from core.network.channels import ChannelSplit
from core.prune.planning.criteria import fpgm, l1_norm, l2_norm, mean_gradients, score
from core.prune.planning.plan import (
    Ranking,
    by_loss,
    choose_groups,
    global_order,
    ratios_by_layer,
    step_share,
    uniform,
)
from core.prune.planning.search import anneal
from core.prune.structure.analysis import Analysis
from tests.networks.rules import analyze


class Residual(nn.Layer):
    """Two convolutions meet in a sum, so their channels go together; a third stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.second = nn.Conv2D(8, 8, 3, padding=1)
        self.alone = nn.Conv2D(8, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = nn.functional.relu(self.norm(self.first(x)))
        x = x + self.second(x)
        return self.head(self.alone(x).mean([2, 3]))


@pytest.fixture(scope="module")
def model() -> nn.Layer:
    paddle.seed(3)
    network = Residual()
    network.norm.weight.set_value(paddle.arange(8, 0, -1).astype("float32"))
    return network


@pytest.fixture(scope="module")
def analysis(model: nn.Layer) -> Analysis:
    return analyze(model, [InputSpec([1, 3, 12, 12], "float32", "x")])


def scores(model: nn.Layer, analysis: Analysis, criterion: Any = "l1_norm", **options: Any) -> Any:
    return score(model, analysis.groups, analysis.weights, criterion, **options)


def test_groups_are_what_the_network_says(analysis: Analysis) -> None:
    assert [(group.name, len(group)) for group in analysis.groups] == [("first", 8), ("alone", 16)]
    first, alone = analysis.groups
    assert [name for name, _ in first.producers] == ["first.weight", "second.weight"]
    assert first.norms == ("norm.weight",)
    assert set(alone.members) == {("alone.weight", 0), ("alone.bias", 0), ("head.weight", 0)}
    assert [(f.layer, f.channels) for f in analysis.fixed] == [("head", 5)]


@pytest.mark.parametrize("function", [l1_norm, l2_norm, fpgm])
def test_scores_of_filters_against_their_formulas(function: Any) -> None:
    filters = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    formulas = {
        l1_norm: lambda row: sum(abs(float(v)) for v in row) / 10,
        l2_norm: lambda row: (sum(float(v) ** 2 for v in row) / 10) ** 0.5,
        fpgm: lambda row: sum(float(np.linalg.norm(row - other)) for other in filters),
    }
    expected = [formulas[function](row) for row in filters]
    np.testing.assert_allclose(function(filters), expected, rtol=1e-5)


def test_several_layers_are_aggregated_with_equal_weight(
    model: nn.Layer, analysis: Analysis
) -> None:
    parts = []
    for layer in (model.first, model.second):
        norms = np.abs(layer.weight.numpy()).reshape(8, -1).mean(1)
        parts.append(norms / norms.mean())
    for how, expected in {
        "mean": (parts[0] + parts[1]) / 2,
        "sum": parts[0] + parts[1],
        "max": np.maximum(*parts),
        "first": parts[0],
    }.items():
        found = scores(model, analysis, aggregate=how)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_scale_of_batch_norm_and_what_has_none(
    model: nn.Layer, analysis: Analysis, caplog: pytest.LogCaptureFixture
) -> None:
    found = scores(model, analysis, "bn_scale")
    np.testing.assert_array_equal(found[0], np.arange(8, 0, -1))
    np.testing.assert_allclose(found[1], l1_norm(model.alone.weight.numpy().reshape(16, -1)))
    assert "alone" in caplog.text


def test_random_scores_follow_their_seed(model: nn.Layer, analysis: Analysis) -> None:
    one, two, three = (scores(model, analysis, "random", seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, two))
    assert any((a != b).any() for a, b in zip(one, three))


def test_taylor_is_gradient_times_weight(tmp_path: Any) -> None:
    task = Task(Config(DataConfig(str(tmp_path))))
    paddle.seed(1)
    network = task.build_model()
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": paddle.to_tensor(rng.normal(size=(4, 3, 8, 8)).astype(np.float32)),
            "target": paddle.to_tensor(rng.normal(size=(4, 1)).astype(np.float32)),
        }
        for _ in range(2)
    ]
    before = {name: value.numpy() for name, value in network.state_dict().items()}
    network.eval()
    gradients = mean_gradients(task, network, batches)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert not network.training
    assert not network.norm.training
    # the derivative along one filter, by differences of the loss
    eps, unit = 1e-3, 2
    values = []
    network.train()
    for sign in (1, -1):
        weight = before["conv.weight"].copy()
        weight[unit] *= 1 + sign * eps
        network.conv.weight.set_value(weight)
        losses = [
            float(task.losses({"level": network(b["image"])}, b)["loss_square"]) for b in batches
        ]
        values.append(np.mean(losses))
    slope = (values[0] - values[1]) / (2 * eps)
    network.conv.weight.set_value(before["conv.weight"])
    found = analyze(network, [InputSpec([1, 3, 8, 8], "float32", "image")])
    rated = score(network, found.groups, found.weights, "taylor", gradients=gradients)
    assert rated[0][unit] == pytest.approx(slope**2, rel=0.05, abs=1e-9)
    with pytest.raises(DataError, match="calibration"):
        mean_gradients(task, network, [])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(target=st.floats(0.05, 0.8), round_to=st.sampled_from([1, 2, 4]))
@pytest.mark.parametrize("allocate", [uniform, global_order])
def test_a_target_is_met_as_closely_as_the_steps_allow(
    allocate: Any, target: float, round_to: int, model: nn.Layer, analysis: Analysis
) -> None:
    ranking = Ranking(analysis, scores(model, analysis), round_to=round_to)
    whole = analysis.cost.macs(analysis.keep_all())
    counts = allocate(ranking, analysis.cost.macs, whole * (1 - target))
    assert all(count in steps for count, steps in zip(counts, ranking.steps))
    reached = analysis.cost.macs(ranking.keep(counts))
    gap = abs(reached - whole * (1 - target))
    if gap > 0.01 * whole:
        for group, steps in enumerate(ranking.steps):
            for step in steps:
                other = ranking.keep([*counts[:group], step, *counts[group + 1 :]])
                assert abs(analysis.cost.macs(other) - whole * (1 - target)) >= gap


def test_uniform_takes_the_same_share_and_global_the_least_important(
    model: nn.Layer, analysis: Analysis
) -> None:
    rated = [np.linspace(1, 2, 8), np.concatenate([np.full(8, 0.01), np.full(8, 3.0)])]
    ranking = Ranking(analysis, rated)
    whole = analysis.cost.macs(analysis.keep_all())
    cost_of_even = analysis.cost.macs(ranking.keep([3, 6]))
    assert uniform(ranking, analysis.cost.macs, cost_of_even) == [3, 6]
    ranked = global_order(ranking, analysis.cost.macs, whole * 0.95)
    assert ranked[1] > 0
    assert ranked[0] == 0
    # scores of another scale are the same scores
    scaled = Ranking(analysis, [rated[0] * 1e-3, rated[1]])
    assert global_order(scaled, analysis.cost.macs, whole * 0.95) == ranked


def test_steps_respect_rounding_limits_and_what_must_stay(
    model: nn.Layer, analysis: Analysis
) -> None:
    ranking = Ranking(analysis, scores(model, analysis), round_to=4, max_ratio=0.8, chosen=[1])
    assert ranking.steps == [[0], [0, 4, 8, 12]]
    ranking = Ranking(analysis, scores(model, analysis), max_ratio=0.3)
    assert [steps[-1] for steps in ranking.steps] == [2, 4]  # of 8 and of 16
    everything = Ranking(analysis, scores(model, analysis), max_ratio=0.99)
    keep = everything.keep([len(group) for group in analysis.groups])
    assert [int(keep[group.units].sum()) for group in analysis.groups] == [1, 1]


def test_rounding_is_paddleslims(model: nn.Layer, analysis: Analysis) -> None:
    ranking = Ranking(analysis, scores(model, analysis))
    for ratio in (0.1, 0.3, 0.31, 0.5, 0.69):
        assert ranking.counts([ratio, ratio]) == [round(8 * ratio), round(16 * ratio)]


def test_sensitivity_decides_who_gives(model: nn.Layer, analysis: Analysis) -> None:
    ranking = Ranking(analysis, scores(model, analysis))
    whole = analysis.cost.macs(analysis.keep_all())
    hurts = [(0.2, 0.3), (0.4, 0.5), (0.6, 0.7), (0.8, 0.9)]
    free = [(0.2, 0.0), (0.4, -0.01), (0.6, 0.0), (0.8, 0.0)]
    counts = by_loss(ranking, analysis.cost.macs, whole * 0.92, [hurts, free])
    assert counts[0] == 0
    assert counts[1] > 0
    assert analysis.cost.macs(ranking.keep(counts)) == pytest.approx(whole * 0.92, rel=0.02)
    limit = analysis.cost.macs(ranking.keep([6, 3]))  # 0.8 of what is free, 0.2 of what hurts
    assert by_loss(ranking, analysis.cost.macs, limit, [free, hurts]) == [6, 3]


def test_annealing_finds_what_is_worth_more() -> None:
    paddle.seed(5)
    widths = [3, 16, 16, 16, 16]
    convolutions = [nn.Conv2D(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]
    chain = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(16, 2))
    found = analyze(chain, [InputSpec([1, 3, 8, 8], "float32", "x")])
    ranking, tried = Ranking(found, scores(chain, found)), []
    whole = found.cost.macs(found.keep_all())

    def worth(keep: Any) -> float:  # only channels of the second convolution count
        tried.append(found.cost.macs(keep))
        return float(keep[found.groups[1].units].sum())

    limit = whole * 0.5
    even = uniform(ranking, found.cost.macs, limit)
    counts = anneal(ranking, found.cost.macs, limit, worth, steps=30, seed=0, heat=(0.05, 0.85))
    assert worth(ranking.keep(counts)) > worth(ranking.keep(even))
    assert (
        anneal(ranking, found.cost.macs, limit, worth, steps=30, seed=0, heat=(0.05, 0.85))
        == counts
    )
    assert max(abs(macs - limit) for macs in tried) <= 0.05 * whole


def test_annealing_cools_down() -> None:
    """Late in the search a much worse plan is left again; only the start point is worth much."""
    paddle.seed(5)
    chain = nn.Sequential(nn.Conv2D(3, 32, 3), nn.Conv2D(32, 32, 3), nn.Conv2D(32, 4, 3))
    found = analyze(chain, [InputSpec([1, 3, 12, 12], "float32", "x")])
    ranking = Ranking(found, scores(chain, found))
    limit = found.cost.macs(found.keep_all()) * 0.5
    even = ranking.keep(uniform(ranking, found.cost.macs, limit))
    far: list[int] = []

    def worth(keep: Any) -> float:
        far.append(int((keep != even).sum()))
        return 1.0 if far[-1] == 0 else 1.0 - 0.2 * far[-1]

    counts = anneal(ranking, found.cost.macs, limit, worth, steps=40, seed=1, heat=(0.05, 0.85))
    assert (ranking.keep(counts) == even).all()
    assert max(far[-15:]) <= 2 * max(far[1:4])  # a walk that took every step would be far away
    frozen = anneal(ranking, found.cost.macs, limit, worth, steps=6, seed=1, heat=(0.05, 1e-200))
    assert (ranking.keep(frozen) == even).all()  # the temperature is zero from step 2 on


@given(target=st.floats(0.01, 0.95), steps=st.integers(1, 8))
def test_steps_multiply_to_the_target(target: float, steps: int) -> None:
    share = step_share(target, steps)
    assert 1 - (1 - share) ** steps == pytest.approx(target)


def test_patterns_are_globs_or_expressions_and_a_miss_is_an_error(analysis: Analysis) -> None:
    assert choose_groups(analysis, ["*"], "pruned_params") == [0, 1]
    assert choose_groups(analysis, ["alone.*"], "pruned_params") == [1]
    assert choose_groups(analysis, [r"(first|second)\.weight"], "pruned_params") == [0]
    assert ratios_by_layer(analysis, {"second*": 0.25, "*": 0.5}) == [0.25, 0.5]
    for wrong in ("alnoe.weight", "head.*", "("):
        with pytest.raises(ConfigError, match=r"pruned_params: .* matches no weight"):
            choose_groups(analysis, [wrong], "pruned_params")
    with pytest.raises(ConfigError, match=r"did you mean 'alone\.weight'"):
        choose_groups(analysis, ["alnoe.weight"], "pruned_params")


def analysis_of_split(parts: list[int]) -> Analysis:
    """Analyse a network in which two layers read parts of the channels of a third."""

    class Halves(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.split = nn.Conv2D(3, sum(parts), 1), ChannelSplit(parts)
            self.left, self.right = (nn.Conv2D(part, 3, 1) for part in parts)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            left, right = self.split(self.conv(x))
            return self.left(left) + self.right(right)

    paddle.seed(0)
    return analyze(Halves(), [InputSpec([1, 3, 4, 4], "float32", "x")])


def test_units_that_must_stay_are_not_in_the_order() -> None:
    found = analysis_of_split([2, 4])
    ranking = Ranking(found, [np.arange(6.0)], max_ratio=1.0)
    # each part loses the same share, and its last unit stays
    assert ranking.orders[0].tolist() == [2, 0, 3, 4]
    kept = found.weights["conv.weight"][0]
    assert np.flatnonzero(ranking.keep([4])[kept]).tolist() == [1, 5]
    assert [len(group) for group in found.groups] == [6]


@pytest.mark.parametrize(
    ("parts", "steps"),
    [
        ([8, 8], [0, 8]),  # 4 of each
        ([8, 16], [0, 12]),  # not 4 of the second alone
        ([5, 11], [0, 4]),  # to 4 and 8
        ([3, 13], [0, 4, 8, 12]),  # the first part never
    ],
)
def test_every_layer_of_a_group_is_rounded_if_it_can(parts: list[int], steps: list[int]) -> None:
    found = analysis_of_split(parts)
    scores = [np.random.default_rng(0).random(sum(parts))]
    ranking = Ranking(found, scores, round_to=4)
    assert ranking.steps == [steps]
    mask = ranking.keep([steps[1]])
    kept = [int(mask[found.weights[name][1]].sum()) for name in ("left.weight", "right.weight")]
    assert parts[0] == 3 or all(count % 4 == 0 for count in kept)


def test_taylor_ranks_frozen_layers_by_their_weights(
    model: nn.Layer, analysis: Analysis, caplog: pytest.LogCaptureFixture
) -> None:
    gradients = {"alone.weight": np.ones(model.alone.weight.shape)}
    found = scores(model, analysis, "taylor", gradients=gradients)
    np.testing.assert_array_equal(found[0], scores(model, analysis)[0])
    assert "for want of gradients (frozen weights): first" in caplog.text
