"""What tells an agreement from chance, and when nothing of the model is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.export import parity
from core.export.int8 import comparison
from core.export.int8.comparison import (
    COUNTS,
    ArrayBatches,
    OutputKinds,
    WholeAnswers,
    compare,
    compare_enough,
    nothing_left,
)
from core.export.softmax_outputs import logits_of


@pytest.mark.parametrize(
    ("values", "decided", "off", "left"),
    [
        ([1.0, 2.0, 3.0], [], 0.37, True),  # the distance of 2, the mean, is 0.378
        ([1.0, 2.0, 3.0], [], 0.38, False),
        ([1.0, 2.0, 3.0], [], float("nan"), False),
        ([4, 4, 4, 5], [], 0.24, True),  # always 4 is wrong in a quarter
        ([4, 4, 4, 5], [], 0.25, False),
        ([0.5, 0.5, 0.7], ["y"], 0.3, True),
        ([0.5, 0.5, 0.7], ["y"], 0.4, False),
    ],
)
def test_nothing_is_left_where_a_constant_is_as_near(
    values: list[float], decided: list[str], off: float, left: bool
) -> None:
    wanted = [{"y": np.asarray(part)} for part in (values[:2], values[2:])]
    difference = parity.Difference("paddle", "y", off, None, 0.0, 0.0)
    assert nothing_left(difference, wanted, OutputKinds(decided)) is not left


def test_a_few_values_that_are_not_clear_refuse_nothing() -> None:
    for size, left in ((10, True), (100, False)):  # of two images
        wanted = [{"a": np.random.default_rng(0).normal(size=(2, size)).astype("float32")}]
        difference = parity.Difference("paddle", "a", 2.0, None, 0.1, 0.15, enough=False)
        assert nothing_left(difference, wanted, OutputKinds()) is not left
        assert nothing_left(replace(difference, enough=True), wanted, OutputKinds())


def test_nothing_is_left_where_the_answer_to_another_image_is_as_near() -> None:
    wanted = [{"y": np.asarray([[0.0, 8.0]])}, {"y": np.asarray([[0.0, 8.0], [1.0, 8.0]])}]
    # of four pairs that differ, by 1 each; a constant is 1.0 off
    between = (4 / (2 * 64 + 2 * 65)) ** 0.5
    for off, left in ((0.99 * between, True), (1.01 * between, False)):
        difference = parity.Difference("paddle", "y", off, None, 0.0, 0.0)
        assert nothing_left(difference, wanted, OutputKinds()) is not left
    difference = parity.Difference("paddle", "y", 0.7, None, 0.0, 0.0)
    assert not nothing_left(difference, wanted[:1], OutputKinds())  # of one image
    decisions = [{"y": np.asarray([[1, 2, 3, 4]])}, {"y": np.asarray([[1, 2, 3, 5]])}]
    difference = parity.Difference("paddle", "y", 0.25, None, 0.0, 0.0)
    assert nothing_left(difference, decisions, OutputKinds())


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = (powers / powers.sum(axis=1, keepdims=True)).astype("float32")
    return probabilities


VALUES, LOGITS = OutputKinds(), OutputKinds(softmax={"y": 1})


class TwoRoundings:
    """A network of two classes, rounded twice: the file's rounding is so many times the model's."""

    def __init__(self, times: float, seed: int, closed: bool = False, there: int = 256) -> None:
        generator = np.random.default_rng(seed)
        exact = generator.normal(0, 2, (there, 2))
        wanted = exact + generator.normal(0, 0.1, exact.shape)
        found = wanted + generator.normal(0, 0.1 * times, exact.shape)
        as_output = softmax if closed else np.float32
        self.all = [as_output(each) for each in (wanted, found, exact)]
        self.there, self.asked = there, [4]

    def answer(self, batches: ArrayBatches) -> WholeAnswers:
        count = len(batches[0][0])
        return WholeAnswers(*([{"y": each[:count]}] for each in self.all))

    def more(self, count: int) -> ArrayBatches:
        self.asked.append(count)
        return [[np.zeros((min(count, self.there), 1))]]

    def compared(self, kinds: OutputKinds = VALUES) -> parity.Difference:
        few = [[np.zeros((4, 1))]]
        ((found,), answers) = compare_enough("paddle", self.answer, few, self.more, kinds)
        assert len(answers.wanted[0]["y"]) == found.images
        return found


@pytest.mark.parametrize(("closed", "kinds"), [(False, VALUES), (True, LOGITS)])
def test_two_values_of_four_images_are_no_coin_toss(closed: bool, kinds: OutputKinds) -> None:
    """Four images refuse every third agreement; enough of them none, and let no wrong file pass."""
    of_four, refused, passed = 0, 0, 0
    for seed in range(20):
        right = TwoRoundings(1.3, seed, closed)
        of_four += not compare("paddle", right.answer([[np.zeros((4, 1))]]), kinds)[0].passes
        found = right.compared(kinds)
        refused += not found.passes and found.enough
        passed += TwoRoundings(3.0, seed, closed).compared(kinds).passes
    assert of_four >= 5
    assert (refused, passed) == (0, 0)


def test_no_more_images_are_asked_for_than_it_takes() -> None:
    near = TwoRoundings(0.01, 0)
    assert near.compared().images == 4  # so near that no other image could tell otherwise
    assert near.asked == [4]
    found = TwoRoundings(50.0, 0).compared()
    assert (found.passes, found.enough) == (False, True)
    border = TwoRoundings(1.55, 0)
    border.compared()
    assert border.asked == [4, *COUNTS]
    few = TwoRoundings(1.9, 0, there=6)  # there are no more, so nobody can tell
    found = few.compared()
    assert (found.images, found.enough) == (6, False)


def test_how_many_images_is_said() -> None:
    found = TwoRoundings(3.0, 0).compared()
    assert f"over {found.images} images, rounding itself by" in str(found)
    assert parity.summary([found])["paddle"].endswith(f", {found.images} images)")


def test_not_a_number_is_clear() -> None:
    broken = TwoRoundings(1.0, 0)
    broken.all[1] = np.full_like(broken.all[1], np.nan)
    found = broken.compared()
    assert (found.passes, found.enough, found.images) == (False, True, 4)


def test_large_outputs_are_not_held_by_the_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MOST_VALUES", 40)  # two values each
    large = TwoRoundings(1.55, 0)
    assert large.compared().images == 20
    assert large.asked == [4, 20]


def test_decisions_need_many_images_too() -> None:
    zeros, other = [{"y": np.zeros(4, int)}], [{"y": np.array([1, 0, 0, 0])}]
    (found,) = compare("paddle", WholeAnswers(zeros, other, zeros), OutputKinds())
    assert (found.relative, found.passes, found.enough) == (0.25, False, False)
    (found,) = compare("paddle", WholeAnswers(zeros, zeros, other), OutputKinds())
    assert (found.relative, found.effect, found.passes, found.enough) == (0.0, 0.25, True, True)


def test_logits_are_those_before_the_softmax() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (3, 4, 2))
    found = logits_of(softmax(logits), 1)
    np.testing.assert_allclose(found, logits - logits.mean(axis=1, keepdims=True), atol=1e-4)
    assert np.isfinite(logits_of(np.array([[0.0, 1.0]], np.float32), 1)).all()
