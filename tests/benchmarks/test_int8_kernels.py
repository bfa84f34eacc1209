"""The search for wrong int8 kernels: its layers are valid, and right where a kernel is right."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.measure import int8_kernels
from benchmarks.measure.int8_kernels import WRONG, Shape, difference, draw


def _small(kind: str) -> Shape:
    return Shape(
        kind=kind,
        groups=1,
        channels=4,
        outputs=16,
        side=8,
        kernel=(3, 3),
        stride=1,
        padding=(1, 1),
        zero_point=126,
    )


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_small_kernel_is_right_everywhere(kind: str) -> None:
    assert difference(_small(kind), np.random.default_rng(0)) < WRONG


def test_a_wrong_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = int8_kernels.openvino.Core.compile_model

    def other(self: object, model: object, *rest: object) -> object:
        compiled = honest(self, model, *rest)
        return lambda feeds: [2 * compiled(feeds)[0]]

    monkeypatch.setattr(int8_kernels.openvino.Core, "compile_model", other)
    assert difference(_small("Conv"), np.random.default_rng(0)) > WRONG


def test_kernels_fit_into_their_maps() -> None:
    rng = np.random.default_rng(0)
    for shape in (draw(rng) for _ in range(200)):
        for pad, size in zip(shape.padding, shape.kernel):
            assert shape.side + 2 * pad >= size
