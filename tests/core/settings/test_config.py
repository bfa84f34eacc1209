"""Strict, typed settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.settings.config import (
    assignment,
    load_yaml,
    merge,
    override,
    parse_overrides,
    read,
    to_mapping,
)


@dataclass(frozen=True)
class Fast:
    kind: ClassVar[str] = "fast"
    speed: float = 1.0


@dataclass(frozen=True)
class Slow:
    kind: ClassVar[str] = "slow"
    patience: int = 3


@dataclass(frozen=True)
class Inner:
    ratio: float
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio: expected 0..1, got {self.ratio}")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    count: int = 1
    mode: Literal["a", "bee"] = "a"
    pace: Fast | Slow = field(default_factory=Fast)
    pretrained: bool | str | None = None
    sizes: tuple[int, int] = (1, 2)
    table: dict[str, int] = field(default_factory=dict)
    flag: bool = False


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"inner": {"ratio": 0.5}, "cuont": 2}, "cuont: unknown key (did you mean 'count'?)"),
        ({"inner": {"raito": 0.5}}, "inner.raito: unknown key (did you mean 'ratio'?)"),
        ({}, "inner: required, but not given"),
        ({"inner": {}}, "inner.ratio: required, but not given"),
        ({"inner": {"ratio": "x"}}, "inner.ratio: expected float, got str ('x')"),
        ({"inner": {"ratio": True}}, "inner.ratio: expected float, got bool (True)"),
        ({"inner": {"ratio": 2}}, "inner.ratio: expected 0..1, got 2.0"),
        ({"inner": 3}, "inner: expected a mapping, got int"),
        ({"inner": None}, "inner: expected a mapping, got nothing"),
        ({"inner": {"ratio": 0.5}, "count": 1.5}, "count: expected int, got float (1.5)"),
        ({"inner": {"ratio": 0.5}, "count": True}, "count: expected int, got bool (True)"),
        ({"inner": {"ratio": 0.5}, "mode": "be"}, "mode: expected one of a, bee, got 'be'"),
        ({"inner": {"ratio": 0.5}, "pace": {"kind": "slwo"}}, "pace.kind: got 'slwo'"),
        ({"inner": {"ratio": 0.5}, "pace": {"speed": 1}}, "pace.kind: got None"),
        (
            {"inner": {"ratio": 0.5}, "pace": {"kind": "slow", "speed": 1}},
            "pace.speed: unknown key",
        ),
        ({"inner": {"ratio": 0.5}, "sizes": [1]}, "sizes: expected 2 values, got 1"),
        ({"inner": {"ratio": 0.5, "names": "ab"}}, "inner.names: expected a list, got str"),
        ({"inner": {"ratio": 0.5, "names": [1]}}, "inner.names.0: expected str, got int"),
        ({"inner": {"ratio": 0.5}, "table": {"x": "y"}}, "table.x: expected int, got str"),
        ({"inner": {"ratio": 0.5}, "pretrained": 3}, "pretrained: expected bool or str, got int"),
        ({"inner": {"ratio": 0.5}, "flag": 1}, "flag: expected bool, got int (1)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_path(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Outer, mapping)
    assert str(caught.value).startswith(message)


def test_all_wrong_settings_are_told_together() -> None:
    wrong = {"inner": {"ratio": "x", "names": [1, "b", 2]}, "count": "y", "sizes": 3, "moed": "a"}
    with pytest.raises(ConfigError) as caught:
        read(Outer, wrong)
    assert caught.value.problems == (
        "moed: unknown key (did you mean 'mode'?)",
        "inner.ratio: expected float, got str ('x')",
        "inner.names.0: expected str, got int (1); write it in quotes if it is a text",
        "inner.names.2: expected str, got int (2); write it in quotes if it is a text",
        "count: expected int, got str ('y')",
        "sizes: expected a list, got int (3)",
    )
    # a key that is misspelt is not missing as well, and a dataclass speaks beside unknown keys
    with pytest.raises(
        ConfigError, match=r"^inner\.raito: unknown key \(did you mean 'ratio'\?\)$"
    ):
        read(Outer, {"inner": {"raito": 0.5}})
    with pytest.raises(
        ConfigError, match=r"^inner\.x: unknown key.*; inner\.ratio: expected 0\.\.1"
    ):
        read(Outer, {"inner": {"ratio": 2, "x": 1}})


def test_of_very_many_the_first_are_told() -> None:
    with pytest.raises(ConfigError, match=r"and 89 more$") as caught:
        read(Outer, {"inner": {"ratio": 0.5}} | {f"x{i}": 1 for i in range(101)})
    assert len(caught.value.problems) == 101


def test_read_converts_what_is_the_same_value() -> None:
    outer = read(
        Outer,
        {
            "inner": {"ratio": 1, "names": ["x"]},
            "count": 2.0,
            "pace": {"kind": "slow", "patience": 5},
            "sizes": [3, 4],
            "pretrained": True,
            "table": {"x": 1},
        },
    )
    assert outer == Outer(
        Inner(1.0, ("x",)), 2, pace=Slow(5), sizes=(3, 4), pretrained=True, table={"x": 1}
    )
    assert isinstance(outer.inner.ratio, float)
    assert isinstance(outer.count, int)


whole = st.integers(-(2**63) + 1, 2**63 - 1)
ratios = st.floats(0, 1, allow_subnormal=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)


@given(
    st.builds(
        Outer,
        st.builds(Inner, ratios, st.lists(texts, max_size=2).map(tuple)),
        st.integers(-5, 5),
        st.sampled_from(["a", "bee"]),
        st.builds(Fast, ratios) | st.builds(Slow, st.integers(0, 9)),
        st.none() | st.booleans() | texts,
        st.tuples(whole, whole),
        st.dictionaries(texts, whole),
        st.booleans(),
    )
)
def test_to_mapping_and_back_through_yaml(outer: Outer) -> None:
    text = yaml.safe_dump(to_mapping(outer))
    assert read(Outer, yaml.safe_load(text)) == outer


def test_bases_merge_in_order_and_are_relative(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yml").write_text("x: {p: 1, q: 2}\nlist: [1, 2]\n")
    (tmp_path / "b.yml").write_text("x: {q: 3}\n")
    (tmp_path / "sub/c.yml").write_text("_base_: [../a.yml, ../b.yml]\nlist: [9]\n")
    assert load_yaml(tmp_path / "sub/c.yml") == {"x": {"p": 1, "q": 3}, "list": [9]}


def test_a_mapping_may_inherit_nothing(tmp_path: Path) -> None:
    """As in PaddleSeg's files, where another optimizer takes none of the keys of the base's."""
    (tmp_path / "a.yml").write_text("x: {p: 1, q: 2}\ny: {p: 1}\n")
    over = "x: {_inherited_: false, q: 3}\ny: {_inherited_: true, q: 2}\nz: {_inherited_: false}\n"
    (tmp_path / "b.yml").write_text(f"_base_: a.yml\n{over}")
    assert load_yaml(tmp_path / "b.yml") == {"x": {"q": 3}, "y": {"p": 1, "q": 2}, "z": {}}


def test_another_kind_replaces_a_mapping_whole() -> None:
    base = {"pace": {"kind": "slow", "patience": 1}}
    assert merge(base, {"pace": {"kind": "fast"}}) == {"pace": {"kind": "fast"}}
    assert merge(base, {"pace": {"patience": 2}}) == {"pace": {"kind": "slow", "patience": 2}}
    assert base == {"pace": {"kind": "slow", "patience": 1}}
    # only where both name a kind: a default below loses nothing, nor does the order of -o
    assert merge({"pace": {"patience": 1}}, {"pace": {"kind": "slow"}}) == base
    overrides = parse_overrides(["pace.speed=2", "pace.kind=fast"])
    assert merge(base, overrides) == {"pace": {"kind": "fast", "speed": 2}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x: [1", "not YAML"),
        ("x: 1\nx: 2", "line 2: the key 'x' is written twice"),
        ("- 1", "expected a mapping of settings, got list"),
        ("_base_: gone.yml", "gone.yml: no such config file"),
        ("_base_: me.yml", "_base_ leads back to the file itself"),
        ("_base_: 3", "_base_: expected a path or a list of paths, got 3"),
        ("_base_:", "_base_: expected a path or a list of paths, got None"),
        ("[1, 2]: x", "line 1: [1, 2] cannot be a key"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "me.yml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="yml: ") as caught:
        load_yaml(path)
    assert message in str(caught.value)


def test_numbers_like_1e_3_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "n.yml").write_text("a: 1e-3\nb: -2E5\nc: 1.5e2\nd: e3\n")
    assert load_yaml(tmp_path / "n.yml") == {"a": 1e-3, "b": -2e5, "c": 150.0, "d": "e3"}


def test_overrides() -> None:
    assignments = ["a.b=1e-3", "a.c=[x, 2]", "d=", "a.b=2", "e=x=y"]
    assert parse_overrides(assignments) == {"a": {"b": 2, "c": ["x", 2]}, "d": None, "e": "x=y"}
    with pytest.raises(ConfigError, match=r"^novalue: an override is written key\.sub=value"):
        parse_overrides(["novalue"])
    with pytest.raises(ConfigError, match=r"^a: '\[1' is not YAML"):
        parse_overrides(["a=[1"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a #1", "a #1"),
        ("#1", "#1"),
        ("a#1", "a#1"),
        ("folder #1/x #2", "folder #1/x #2"),
        ("'a' #1", "a"),
        ("3 # three", 3),
        ("[1] # one", [1]),
    ],
)
def test_a_path_is_not_cut_at_a_comment(text: str, value: Any) -> None:
    assert parse_overrides([f"key={text}"]) == {"key": value}


@pytest.mark.parametrize(
    "text",
    ["a #1", "[x]", "2024", "a: b", "null", "'q'", '"q"', "é😀", "two\nlines", "#", "", " a ", "~"],
)
def test_a_text_arrives_as_it_is(text: str) -> None:
    assert parse_overrides([assignment("a.b", text)]) == {"a": {"b": text}}


def test_overrides_reach_into_lists() -> None:
    settings = {"steps": [{"kind": "a", "at": 1}, {"kind": "b"}], "count": 1}
    changed = override(settings, ["steps.1.at=5", "steps.0.at=null", "new.key=[1]", "count=2"])
    assert changed == {
        "steps": [{"kind": "a", "at": None}, {"kind": "b", "at": 5}],
        "count": 2,
        "new": {"key": [1]},
    }
    assert settings["steps"][1] == {"kind": "b"}
    for wrong, message in (
        ("steps.2.at=1", r"^steps\.2\.at: a list with 2 entries has no '2'"),
        ("steps.x.at=1", r"^steps\.x\.at: a list with 2 entries has no 'x'"),
        ("steps", r"^steps: an override is written"),
        ("count=[", r"^count: '\[' is not YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(settings, [wrong])
