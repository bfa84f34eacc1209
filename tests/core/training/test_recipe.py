"""Recipes: every rule of order has an answer that names the strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.settings.config import load_yaml
from core.training.recipe import (
    Recipe,
    check_beginning,
    compose_recipes,
    read_recipe,
    recipe_epochs,
    shortened,
)

NARROW, ROUND = "outside.strategies:Narrow", "outside.strategies:Round"
LISTEN, TEACHER = "outside.strategies:Listen", "outside.strategies:NeedsTeacher"


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        ([{"kind": "prnue"}], "strategies.0.kind: no strategy 'prnue'"),
        ([{"start_epoch": 1}], "strategies.0.kind: required"),
        (["prune"], "strategies.0: expected a mapping with a kind, got 'prune'"),
        ([{}], "strategies.0.kind: required"),
        ([{"kind": ":X"}], "strategies.0.kind: no strategy ':X'"),
        ([{"kind": ".a:X"}], "strategies.0.kind: no strategy '.a:X'"),
        ([{"kind": "outside.strategies:Nothing"}], "strategies.0.kind: no strategy"),
        ([{"kind": "pathlib:Path"}], "strategies.0.kind: 'pathlib:Path' is not a Strategy"),
        ([{"kind": NARROW, "kep": 1}], "strategies.0.kep: unknown key (did you mean 'keep'?)"),
        ([{"kind": NARROW, "keep": "x"}], "strategies.0.keep: expected int, got str"),
        ([{"kind": LISTEN, "start_epoch": -1}], "strategies.0.start_epoch: expected 0 or more"),
        (
            [{"kind": LISTEN, "learning_rate_scale": 0}],
            "strategies.0.learning_rate_scale: expected > 0",
        ),
        (
            [{"kind": LISTEN, "start_epoch": 10}],
            f"strategies.0 ({LISTEN}): window [10, 10) is past",
        ),
        ([{"kind": LISTEN, "end_epoch": 11}], f"strategies.0 ({LISTEN}): window [0, 11) is past"),
        (
            [{"kind": LISTEN, "start_epoch": 4, "end_epoch": 4}],
            f"strategies.0 ({LISTEN}): window [4, 4) is empty",
        ),
        ([{"kind": ROUND}, {"kind": NARROW}], f"strategies.1 ({NARROW}): channels cannot"),
        (
            [{"kind": NARROW, "start_epoch": 5}, {"kind": ROUND, "start_epoch": 3}],
            f"strategies.0 ({NARROW}): channels cannot be removed beside or after",
        ),
        (
            [{"kind": NARROW, "end_epoch": 6}, {"kind": ROUND, "start_epoch": 5}],
            f"strategies.0 ({NARROW}): channels cannot",
        ),
        (
            [{"kind": ROUND}, {"kind": ROUND, "start_epoch": 5}],
            f"strategies.1 ({ROUND}): the model is already quantized by strategies.0",
        ),
        ([{"kind": TEACHER}], f"strategies.0 ({TEACHER}): needs a teacher"),
    ],
)
def test_refused(strategies: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe({"strategies": strategies}, epochs=10, has_teacher=False)
    assert str(caught.value).startswith(message)


def test_keys_and_epochs_of_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^strategys: unknown key \(did you mean 'strategies'"):
        read_recipe({"strategys": []}, 10, False)
    with pytest.raises(ConfigError, match=r"^strategies: expected a list, got dict"):
        read_recipe({"strategies": {}}, 10, False)
    with pytest.raises(ConfigError, match=r"^distill_config: no strategy .* takes a teacher"):
        read_recipe({"strategies": [{"kind": LISTEN}]}, 10, True)
    assert recipe_epochs({"epochs": 3}) == 3
    assert recipe_epochs({}) is None
    for wrong in (0, "3", True, 1.5):
        with pytest.raises(ConfigError, match=r"^epochs: expected"):
            recipe_epochs({"epochs": wrong})


def test_phases_order_the_strategies_whatever_the_file_says() -> None:
    recipe = read_recipe(
        {
            "strategies": [
                {"kind": LISTEN},
                {"kind": ROUND, "start_epoch": 1},
                {"kind": LISTEN, "end_epoch": 2},
                {"kind": NARROW},
            ]
        },
        epochs=4,
        has_teacher=False,
    )
    assert [recipe.active(epoch) for epoch in range(4)] == [[3, 0, 2], [1, 0, 2], [1, 0], [1, 0]]


def test_two_cuts_at_different_times_are_fine() -> None:
    cuts = [{"kind": NARROW, "start_epoch": 0}, {"kind": NARROW, "start_epoch": 2}]
    recipe = read_recipe({"strategies": cuts}, 4, False)
    assert [recipe.active(epoch) for epoch in range(4)] == [[0], [], [1], []]


def test_recipes_are_composed_in_order() -> None:
    first = {"epochs": 5, "strategies": [{"kind": NARROW}]}
    second = {"strategies": [{"kind": LISTEN}, {"kind": ROUND, "start_epoch": 2}]}
    whole = compose_recipes({"a": first, "b": second})
    assert whole == {"epochs": 5, "strategies": first["strategies"] + second["strategies"]}
    assert compose_recipes({}) == {}
    # the same rules as for one file
    twice = compose_recipes({"a": {"strategies": [{"kind": ROUND}]}, "b": second})
    with pytest.raises(ConfigError, match=r"^strategies\.2 .*: the model is already quantized"):
        read_recipe(twice, 5, False)
    with pytest.raises(ConfigError, match=r"^epochs: a has 5, b has 6"):
        compose_recipes({"a": first, "b": {"epochs": 6}})
    with pytest.raises(ConfigError, match=r"^strategies: expected a list, got dict"):
        compose_recipes({"a": {"strategies": {}}})


def test_exports_on_the_way() -> None:
    strategies = [{"kind": ROUND, "start_epoch": 1}]

    def reading(**export: Any) -> Any:
        given = {"after_epoch": 2, "save_dir": "x", **export}
        return read_recipe({"strategies": strategies, "exports": [given]}, 4, False).exports

    assert reading(form="float")[0].form == "float"
    for wrong, message in (
        ({"after_epoch": 5}, r"^exports\.0\.after_epoch: expected 1 to 4, got 5"),
        ({"after_epoch": 1}, r"^exports\.0\.after_epoch: nothing is quantized after epoch 1"),
        ({"form": "int4"}, r"^exports\.0\.form: expected one of int8, float, lite"),
        ({"foder": "x"}, r"^exports\.0\.foder: unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            reading(**wrong)
    grid = {"kind": "qat", "weight_bits": 4}
    export = {"after_epoch": 2, "save_dir": "x"}
    assert read_recipe({"strategies": [grid], "exports": [{**export, "form": "float"}]}, 4, False)
    with pytest.raises(ConfigError, match=r"^strategies\.0\.weight_bits: expected 8, as the files"):
        read_recipe({"strategies": [grid], "exports": [export]}, 4, False)


@pytest.mark.parametrize(
    "file",
    sorted((Path(__file__).resolve().parents[3] / "configs/slim").glob("*.yml")),
    ids=lambda f: f.stem,
)
def test_every_recipe_of_ours_obeys_the_rules(file: Path) -> None:
    content = load_yaml(file)
    kinds = [entry["kind"] for entry in content["strategies"]]
    recipe = read_recipe(content, recipe_epochs(content) or 30, "distill" in kinds)
    assert [step.kind for step in recipe.steps] == kinds
    if file.stem == "prune_twice":
        assert [(step.start, step.end) for step in recipe.steps] == [(0, 1), (10, 11)]


def windows(recipe: dict[str, Any]) -> list[tuple[int | None, int | None]]:
    return [(each.get("start_epoch"), each.get("end_epoch")) for each in recipe["strategies"]]


@pytest.mark.parametrize(
    ("given", "epochs", "expected"),
    [
        ([(0, 100), (90, None)], 10, [(0, 10), (9, None)]),
        ([(None, None), (80, None)], 30, [(None, None), (24, None)]),
        ([(0, 90), (90, 100)], 3, [(0, 2), (2, 3)]),  # each keeps an epoch, and their order
        ([(0, 1), (1, 2), (2, 100)], 4, [(0, 1), (1, 2), (2, 4)]),
        ([(98, 99), (99, 100)], 3, [(1, 2), (2, 3)]),
    ],
)
def test_windows_of_a_shorter_training(given: Any, epochs: int, expected: Any) -> None:
    names = ("start_epoch", "end_epoch")
    strategies = [
        {key: value for key, value in zip(names, each) if value is not None} for each in given
    ]
    recipe = {"strategies": [{"kind": LISTEN, **each} for each in strategies]}
    found = shortened(recipe, 100, epochs)
    assert windows(found) == expected
    assert len(read_recipe(found, epochs, False).steps) == len(given)


def test_exports_and_intervals_follow_and_what_is_wrong_stays() -> None:
    recipe = {
        "strategies": [{"kind": "prune", "every_epochs": 4}, {"kind": "qat", "start_epoch": 50}],
        "exports": [{"after_epoch": 100, "save_dir": "a"}, {"after_epoch": 60, "save_dir": "b"}],
    }
    found = shortened(recipe, 100, 10)
    assert found["strategies"] == [
        {"kind": "prune", "every_epochs": 1},
        {"kind": "qat", "start_epoch": 5},
    ]
    assert [each["after_epoch"] for each in found["exports"]] == [10, 6]
    with pytest.raises(ConfigError, match=r"^train\.epochs: .* need 3 epochs at least, got 2$"):
        shortened(recipe, 100, 2)
    for wrong in ({"strategies": "x"}, {"strategies": [{"start_epoch": 200}, 3]}, {}):
        assert shortened(wrong, 100, 10) == wrong


def test_quantized_weights_are_neither_cut_nor_quantized_again() -> None:
    recipe = read_recipe({"strategies": [{"kind": NARROW}]}, 2, has_teacher=False)
    check_beginning(recipe, [("prune", {})])
    check_beginning(Recipe(), [("qat", {})])
    with pytest.raises(
        ConfigError, match=r"^strategies\.0 .*: the weights of model.pretrained are"
    ):
        check_beginning(recipe, [("prune", {}), ("qat", {})])
