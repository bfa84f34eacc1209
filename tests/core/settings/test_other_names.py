"""Names of other libraries, and short names of networks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from core.errors import ConfigError
from core.settings.config import read
from core.settings.other_names import other_name, suggest_family

NETWORKS = ["MobileNetV3_small_x1_0", "MobileNetV3_large_x1_0", "ResNet50", "ResNet50_vd", "VGG16"]


@dataclass(frozen=True)
class Settings:
    learning_rate: float = 0.1
    batch_size: int = 1


@pytest.mark.parametrize(
    ("wrong", "known", "meant"),
    [
        ("lr", ["learning_rate", "epochs"], "learning_rate"),
        ("LR", ["learning_rate"], "learning_rate"),
        ("learning-rate", ["learning_rate"], "learning_rate"),
        ("imgsz", ["size", "input_size"], "input_size"),
        ("lr", ["epochs"], None),
        ("zebra", ["epochs"], None),
    ],
)
def test_a_name_of_another_library(wrong: str, known: list[str], meant: str | None) -> None:
    assert other_name(wrong, known) == meant


def test_the_message_of_an_unknown_key_names_it() -> None:
    with pytest.raises(ConfigError, match=r"^train\.lr: unknown key \(.* 'learning_rate'\?\)$"):
        read(Settings, {"lr": 1}, "train")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mobilenetv3", "MobileNetV3_large_x1_0, MobileNetV3_small_x1_0?)"),
        ("resnet50", "ResNet50, ResNet50_vd?)"),
        ("vgg-16", "'VGG16'?)"),
        ("qq", ""),
        ("re", ""),
    ],
)
def test_a_short_name_means_a_family(wrong: str, said: str) -> None:
    assert suggest_family(wrong, NETWORKS) == (f" (did you mean {said}" if said else "")


def test_a_large_family_is_cut_short() -> None:
    said = suggest_family("net", [f"Net{index:02}" for index in range(20)])
    assert said.endswith("Net11 and 8 more?)")
