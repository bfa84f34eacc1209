"""Variables of a program, as 1.x files name them, mean layers."""

from __future__ import annotations

import pytest

from core.dialects.variables import Variables
from core.errors import ConfigError

MADE = {
    "conv.conv": "conv2d_0.tmp_0",
    "conv": "relu_0.tmp_0",
    "head": "linear_0.tmp_1",
    "last": "linear_0.tmp_1",
}
SHAPES = {"conv2d_0.tmp_0": (1, 8, 4, 4), "relu_0.tmp_0": (1, 8, 4, 4), "linear_0.tmp_1": (1, 5)}


def test_each_way_to_name_a_layer() -> None:
    known = Variables("student", MADE, SHAPES, {"res2a.conv2d.output.1.tmp_0": "conv"})
    for name, layer in (
        ("res2a.conv2d.output.1.tmp_0", "conv"),
        ("conv.conv", "conv.conv"),
        ("conv2d_0.tmp_0", "conv.conv"),
        ("linear_0.tmp_1", "head"),
        ("fc_0.tmp_0", "head"),
    ):
        assert known.layer(name, "x") == layer


@pytest.mark.parametrize(
    ("title", "table"), [("student", "layers"), ("teacher t", "teacher_layers")]
)
def test_a_miss_lists_candidates_with_shapes(title: str, table: str) -> None:
    known = Variables(title, MADE, SHAPES, {})
    with pytest.raises(ConfigError) as caught:
        known.layer("conv2d_1.tmp_0", "strategies.0.losses.0.student")
    text = str(caught.value)
    assert text.startswith("strategies.0.losses.0.student: 'conv2d_1.tmp_0' is no layer or var")
    assert f"under {table}, for instance conv2d_0.tmp_0 (conv.conv) [1, 8, 4, 4]" in text
    with pytest.raises(ConfigError, match="fc_1"):
        known.layer("fc_1.tmp_0", "x")
