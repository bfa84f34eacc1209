"""Layers by path, and references that leave a layer where it is."""

from __future__ import annotations

import pytest
from paddle import nn

from core.errors import ConfigError
from core.network.layers import LayerReference, get, match


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2D(3, 4, 1), nn.BatchNorm2D(4)
        self.conv.behind = LayerReference(self.norm)


def test_a_reference_adds_no_sublayer_and_no_weight() -> None:
    model = Net()
    assert model.conv.behind.layer is model.norm
    assert [path for path, _ in model.named_sublayers()] == ["conv", "norm"]
    assert not [name for name in model.state_dict() if name.startswith("conv.behind")]
    model.conv.train()
    model.norm.eval()
    model.conv.eval()
    model.conv.train()
    assert not model.norm.training


def test_globs_keep_the_order_of_the_names_and_name_what_matches_nothing() -> None:
    names = ["stem.conv", "stem.norm", "head"]
    assert match(["head", "stem.*"], names, "never") == names
    with pytest.raises(ConfigError, match=r"^never: 'haed' matches nothing .did you mean 'head'"):
        match(["haed"], names, "never")


def test_names_with_dots_are_found() -> None:
    model = nn.Sequential(("block", nn.Sequential(("conv.1", nn.Linear(2, 3)))))
    assert get(model, "block.conv.1").weight.shape == [2, 3]


def test_a_path_that_is_not_there_is_named() -> None:
    assert get(Net(), "norm").__class__ is nn.BatchNorm2D
    with pytest.raises(ConfigError, match=r"^nrom: the model has no such layer"):
        get(Net(), "nrom")
