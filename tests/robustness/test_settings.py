"""Settings that would break later, or never end: each is one line before anything begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.act.config import read_act
from core.errors import ConfigError, UserError
from core.settings.config import check_plain, load_yaml, merge, parse_overrides, read
from core.training.recipe import read_recipe
from core.training.run import read_run
from tests.robustness.conftest import one_line

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DEMOS = {task: load_yaml(CONFIGS / task / "demo.yml") for task in ("cls", "seg", "keypoint")}
RECIPES = [load_yaml(file) for file in sorted((CONFIGS / "slim").glob("*.yml"))]
ACT = load_yaml(CONFIGS / "act" / "qat_distill.yml")
NEVER = [float("nan"), float("inf"), -float("inf"), 10**400, 2**64, "a\0b", "\ud800", "x" * 3000]
ODD = [None, True, "", "a", -1, 0, 1, 0.5, 1e308, 1e-320, 2**63 - 1, [], {}, [[]], {"kind": []}]


def numbers(mapping: Any, above: str = "") -> list[str]:
    """Return the paths of all numbers in nested settings."""
    if isinstance(mapping, dict):
        return [p for k, v in mapping.items() for p in numbers(v, f"{above}.{k}" if above else k)]
    is_number = isinstance(mapping, (int, float)) and not isinstance(mapping, bool)
    return [above] if is_number else []


def places(mapping: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = mapping.items() if isinstance(mapping, dict) else ()
    pairs = enumerate(mapping) if isinstance(mapping, list) else pairs
    found = [above] if above else []
    for key, value in pairs:
        found += places(value, (*above, key))
    return found


def changed(mapping: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return nested settings with one value replaced."""
    if not place:
        return value
    copy = dict(mapping) if isinstance(mapping, dict) else list(mapping)
    copy[place[0]] = changed(mapping[place[0]], place[1:], value)
    return copy


def nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("task", DEMOS)
@pytest.mark.parametrize("value", NEVER)
def test_what_is_never_a_setting(task: str, value: Any) -> None:
    for path in numbers(DEMOS[task]):
        with one_line() as said:
            read_run(merge(DEMOS[task], nested(path, value)))
        assert said[0].startswith(f"{path}: expected"), said
        assert len(said[0]) < 500


@pytest.mark.parametrize("value", [1e-320, -5e-324])
def test_numbers_that_are_hardly_any(value: float) -> None:
    with pytest.raises(ConfigError, match=r"train\.clip_norm: expected 0, or at least 2\.2e-308"):
        check_plain({"train": {"clip_norm": value}}, "")
    check_plain({"train": {"clip_norm": 1e-300, "weight_decay": 0.0}}, "")


def test_numbers_in_open_sections_are_finite_too() -> None:
    arguments = {"model": {"arguments": {"lambd": float("nan")}}}
    with pytest.raises(ConfigError, match=r"^model\.arguments\.lambd: expected a finite number"):
        read_run(merge(DEMOS["seg"], arguments))


@pytest.mark.parametrize(
    ("task", "path", "value"),
    [
        ("cls", "train.optimizer", {"kind": "adamw", "beta1": 1}),
        ("cls", "train.optimizer", {"kind": "adamw", "beta2": -0.1}),
        ("cls", "train.optimizer", {"kind": "adamw", "epsilon": -1e-8}),
        ("cls", "train.optimizer", {"kind": "momentum", "momentum": 5}),
        ("cls", "train.optimizer", {"kind": "sgd", "weight_decay": -1000}),
        ("cls", "train.schedule", {"kind": "poly", "power": -1}),
        ("cls", "train.schedule", {"kind": "piecewise", "milestones": [1], "gamma": 1e308}),
        ("cls", "train.schedule", {"kind": "cosine", "warmup_epochs": 1e300}),
        ("cls", "train.steps_per_epoch", 10**12),
        ("cls", "seed", -1),
        ("cls", "seed", 2**62),
        ("cls", "data.num_workers", 10**6),
        ("cls", "data", {"image_size": 10**9, "resize_short": 10**9}),
        ("cls", "data.std", [1e-300, 1, 1]),
        ("cls", "data.mean", [1e300, 0, 0]),
        ("cls", "augment.ratio", [1, 1e308]),
        ("cls", "augment.erasing_ratio", [1e-320, 1]),
        ("cls", "augment.scale", [1e-300, 1]),
        ("cls", "augment.cutmix", 1e-320),
        ("cls", "augment.mixup", 1e300),
        ("cls", "synthetic.train_images", 10**12),
        ("seg", "augment.scale_max", 1e300),
        ("seg", "augment.scale_step", 1e-300),
        ("seg", "augment.crop", [10**9, 64]),
        ("seg", "data.size", [10**9, 64]),
        ("seg", "evaluation.scales", [1e300]),
        ("seg", "loss.coef", [0, 0, 0, 0, 0]),
        ("seg", "loss.function", {"kind": "cross_entropy", "class_weights": [0, 0, 0, 0]}),
        ("seg", "loss.function", {"kind": "dice", "class_weights": [-1, 1, 1, 1]}),
        ("seg", "loss.function", {"kind": "mixed", "losses": [{"kind": "dice"}], "coef": [0]}),
        ("keypoint", "data.padding", 1e300),
        ("keypoint", "codec.sigma", 1e308),
        ("keypoint", "codec.blur_kernel", 10**9 + 1),
        ("keypoint", "augment.rotation", 1e300),
        ("keypoint", "joints.sigmas", [0.0] * 17),
        ("keypoint", "loss", {"kind": "mse", "joint_weights": [0.0] * 17}),
        ("keypoint", "loss", {"kind": "mse", "loss_scale": -1}),
    ],
)
def test_values_that_would_break_later(task: str, path: str, value: Any) -> None:
    with one_line() as said:
        read_run(merge(DEMOS[task], nested(path, value)))
    assert said[0].startswith(path)
    assert "expected" in said[0]


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"kind": "prune", "target_latency_ms": 1e-9}, "target_latency_ms"),
        ({"kind": "prune", "target_ratio": 0.3, "delta_rate": 1e-9}, "delta_rate"),
        ({"kind": "prune", "target_ratio": 0.3, "round_to": 10**9}, "round_to"),
        ({"kind": "qat", "learning_rate_scale": float("nan")}, "learning_rate_scale"),
        ({"kind": "qat", "learning_rate_scale": 1e300}, "learning_rate_scale"),
        ({"kind": "qat", "window_size": 10**12}, "window_size"),
        ({"kind": "distill", "weight": 1e300}, "weight"),
        ({"kind": "distill", "losses": [{"kind": "dkd", "beta": -1}]}, "losses.0.beta"),
        ({"kind": "distill", "losses": [{"kind": "cwd", "temperature": 1e-300}]}, "losses.0.temp"),
        ({"kind": "mutual", "students": 10**6}, "students"),
        ({"kind": []}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "x" * 10_000}, "kind"),
    ],
)
def test_recipes_that_would_break_later(entry: dict[str, Any], key: str) -> None:
    with one_line() as said:
        read_recipe({"strategies": [entry]}, 10, True)
    assert said[0].startswith(f"strategies.0.{key}")
    assert len(said[0]) < 500


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([*NEVER, *ODD]))
def test_one_odd_value_anywhere(data: st.DataObject, value: Any) -> None:
    what = data.draw(st.sampled_from(["run", "recipe", "act"]))
    source = {"run": list(DEMOS.values()), "recipe": RECIPES, "act": [ACT]}[what]
    mapping = data.draw(st.sampled_from(source))
    mapping = changed(mapping, data.draw(st.sampled_from(places(mapping))), value)
    read = {"run": read_run, "act": read_act, "recipe": lambda m: read_recipe(m, 100, True)}[what]
    said = ""
    try:
        read(mapping)
    except UserError as error:
        said = str(error)
    assert len(said) < 4000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_: /dev/zero", "a pipe, socket or device, not a file"),
        ("_base_: fifo", "a pipe, socket or device, not a file"),
        ("_base_: loop", "Too many levels of symbolic links"),
        ('_base_: "a\\0b"', "no such config file"),
        ("_base_: .", "Is a directory"),
        ("a: 2020-13-45", "line 1: '2020-13-45' is no timestamp"),
        ("a: " + "[" * 5000, "nested deeper than 50 levels"),
        ("a: " + "x" * (1 << 20), "has more than 1,048,576 bytes"),
        ("\0", "not a UTF-8 text file"),
        ("_base_: [" + "me.yml, " * 100 + "]", "_base_: expected up to 50, got 100"),
    ],
)
def test_config_files_of_strangers(tmp_path: Path, text: str, message: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "me.yml").write_text(text)
    with one_line() as said:
        load_yaml(tmp_path / "me.yml")
    assert message in said[0]
    assert len(said[0]) < 500


def test_bases_of_bases_are_read_once(tmp_path: Path) -> None:
    for number in range(40):  # 2 ** 40 ways lead to the last one
        base = f"_base_: [{number + 1}.yml, {number + 1}.yml]\n"
        (tmp_path / f"{number}.yml").write_text(f"{base}k{number}: 1\n")
    (tmp_path / "40.yml").write_text("last: 2\n")
    assert load_yaml(tmp_path / "0.yml")["last"] == 2
    for number in range(40, 60):
        (tmp_path / f"{number}.yml").write_text(f"_base_: {number + 1}.yml\n")
    with pytest.raises(ConfigError, match="leads over more than 50 files"):
        load_yaml(tmp_path / "0.yml")


@pytest.mark.parametrize("text", ["train=3", "train=[1]", "data=", "model=a", "seed={}"])
def test_overrides_of_whole_sections(text: str) -> None:
    with one_line() as said:
        read_run(merge(DEMOS["cls"], parse_overrides([text])))
    assert said[0].startswith(text.partition("=")[0])


def test_overrides_that_are_too_much() -> None:
    for text in (".".join("a" * 3000) + "=1", "a=" + "[" * 3000, "x" * 5000, "a=2020-13-45"):
        with one_line() as said:
            parse_overrides([text])
        assert len(said[0]) < 500


def test_measured_values_may_be_anything() -> None:
    assert read(dict[str, float], {"loss": float("inf")}, measured=True)["loss"] == float("inf")
