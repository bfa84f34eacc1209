"""Keys in the wrong section, under a wrong name, or both."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import ConfigError
from core.settings.config import merge, parse_overrides
from core.training.run import TrainConfig, read_run
from core.training.unknown_keys import key_paths


def test_all_settings_have_a_path_also_in_unions() -> None:
    paths = list(key_paths(TrainConfig, "train"))
    assert paths[0] == "train.epochs"  # outer ones first
    for path in ("train.optimizer.beta1", "train.optimizer.weight_decay", "train.schedule.power"):
        assert path in paths


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trian.epochs=3", "trian: unknown key (did you mean 'train'?)"),
        ("epochs=3", "epochs: unknown key (did you mean 'train.epochs'?)"),
        ("lr=3", "lr: unknown key (did you mean 'train.learning_rate'?)"),
        ("train.lr=3", "train.lr: unknown key (did you mean 'learning_rate'?)"),
        ("model.lr=3", "model.lr: unknown key (did you mean 'train.learning_rate'?)"),
        ("train.num_workers=3", "train.num_workers: unknown key (did you mean 'data.num_workers'?"),
        ("data.batch_size=3", "data.batch_size: unknown key (did you mean 'train.batch_size'?)"),
        ("train.seed=3", "train.seed: unknown key (did you mean 'seed' at the top of the file?)"),
        ("learningrate=3", "learningrate: unknown key (did you mean 'train.learning_rate'?)"),
        ("pretrained=x", "pretrained: unknown key (did you mean 'model.pretrained'?)"),
        ("train.optimizer.wd=3", "train.optimizer.wd: unknown key (did you mean 'weight_decay'?)"),
        (
            "train.schedule={kind: cosine, milestones: [1]}",
            "train.schedule.milestones: unknown key of this kind (known: ",
        ),
        (f"task.name={'x' * 9000}", "task.name: no task 'xxxx"),
        ("task.name=a b", "task.name: expected a name or a dotted path, got 'a b'"),
        ("zebra=3", "zebra: unknown key (known: data, device, distill_config, model, noise, "),
    ],
)
def test_where_a_key_has_its_place(
    toy_settings: Callable[..., dict[str, Any]], override: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        read_run(merge(toy_settings(), parse_overrides([override])))
    assert len(str(caught.value)) < 1000


def test_a_misspelt_section_is_told_before_the_missing_one(
    toy_settings: Callable[..., dict[str, Any]],
) -> None:
    settings = toy_settings()
    settings["trian"] = settings.pop("train")
    with pytest.raises(ConfigError, match=r"^trian: unknown key \(did you mean 'train'\?\)"):
        read_run(settings)
