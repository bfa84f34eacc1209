"""Grids of activations: how their ends move in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from core.quant.quantizers import ActivationQuantizer, Rounding


def quantizer(**options: Any) -> ActivationQuantizer:
    made = ActivationQuantizer(Rounding(**options))
    made.begin(1.0, False, False)
    made.train()
    return made


def feed(made: ActivationQuantizer, *largest: float) -> list[float]:
    ends = []
    for value in largest:
        made(paddle.to_tensor([0.1, -value]))
        ends.append(made.grid().absmax)
    return ends


def test_statistics_move_as_they_say() -> None:
    assert feed(quantizer(moving_rate=0.5), 3.0, 3.0) == pytest.approx([2.0, 2.5])
    kind = "range_abs_max"
    found = feed(quantizer(activation_type=kind, window_size=2), 3.0, 5.0, 2.0, 1.0, 4.0)
    assert found == pytest.approx([3, 5, 5, 2, 4])
    assert feed(quantizer(activation_type="fixed"), 9.0) == [1.0]
    dynamic = quantizer(activation_type="abs_max", moving_rate=0.5)
    assert float(dynamic(paddle.to_tensor([8.0]))) == 8.0  # its own batch's
    assert dynamic.grid().absmax == pytest.approx(4.5)
    dynamic.eval()
    assert float(dynamic(paddle.to_tensor([8.0]))) == pytest.approx(4.5)
    still = quantizer()
    still.tracking = False
    assert feed(still, 9.0) == [1.0]
    assert feed(quantizer(), 0.0)[0] > 0


def with_zero_point(**options: Any) -> ActivationQuantizer:
    made = quantizer(zero_points=True, **options)
    made.begin(1.0, False, True, -0.5)
    assert made.asymmetric
    return made


def ends(made: ActivationQuantizer) -> list[float]:
    grid = made.grid()
    assert not grid.signed
    return [grid.lowest * grid.step, grid.absmax]


def test_both_ends_of_a_grid_with_a_zero_point_move() -> None:
    made = with_zero_point(moving_rate=0.5)
    assert ends(made) == pytest.approx([-0.5, 1.0], abs=0.003)
    made(paddle.to_tensor([-1.5, 0.2, 2.0]))
    assert ends(made) == pytest.approx([-1.0, 1.5], abs=0.005)
    made.use_unsigned(False)
    assert made.grid().signed
    assert made.grid().absmax == pytest.approx(1.5)
    made.use_unsigned(True)
    assert ends(made) == pytest.approx([-1.0, 1.5], abs=0.005)
    made.eval()
    found = made(paddle.to_tensor([-9.0, 9.0])).numpy()
    np.testing.assert_allclose(found, ends(made), rtol=1e-6)


def test_a_window_knows_both_ends_and_goes_on_exactly() -> None:
    made = with_zero_point(activation_type="range_abs_max", window_size=2)
    for low, high in ((-4.0, 1.0), (-1.0, 3.0), (-2.0, 2.0)):
        made(paddle.to_tensor([low, high]))
    assert ends(made) == pytest.approx([-2.0, 3.0], abs=0.02)
    again = with_zero_point(activation_type="range_abs_max", window_size=2)
    again.set_state_dict(made.state_dict())
    again.load_training_state(made.training_state())
    for each in (made, again):
        each(paddle.to_tensor([-1.0, 1.0]))
        assert ends(each) == pytest.approx([-2.0, 2.0], abs=0.02)


def test_a_learned_step_keeps_its_zero_point_and_its_reach() -> None:
    made = with_zero_point(activation_type="lsq")
    assert ends(made) == pytest.approx([-0.5, 1.0], abs=0.003)
    made.step.set_value(made.step * 2)
    assert ends(made) == pytest.approx([-1.0, 2.0], abs=0.006)
    learned = made.learned_step()
    made.use_unsigned(False)
    assert made.grid().absmax == pytest.approx(2.0, abs=0.006)
    made.use_unsigned(True, learned)
    assert ends(made) == pytest.approx([-1.0, 2.0], abs=0.006)


def test_what_is_never_negative_needs_no_zero_point() -> None:
    made = with_zero_point()
    made.begin(1.0, True, True)
    assert not made.asymmetric
    assert (made.grid().lowest, made.grid().highest) == (0, 255)


def test_pact_ends_the_grid_at_the_threshold() -> None:
    made = quantizer(pact=True)
    made.threshold.set_value(paddle.to_tensor([0.5]))
    assert float(made(paddle.to_tensor([3.0]))) == pytest.approx(0.5)
    assert made.grid().absmax == pytest.approx(0.5)
