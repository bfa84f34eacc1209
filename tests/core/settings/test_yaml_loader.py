"""YAML that readers stumble over, merge keys, and values as messages show them."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from core.settings.yaml_loader import MOST_DEPTH, parse_yaml, shown


def bomb(levels: int) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    for number in range(1, levels):
        lines.append(f"l{number}: &l{number} [{', '.join([f'*l{number - 1}'] * 10)}]")
    return "\n".join(lines)


def chain(levels: int) -> str:
    lines = ["l0: &l0 [x]"]
    lines += [f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2020-13-45", "line 2: '2020-13-45' is no timestamp"),
        ("a: !!int x", "line 1: 'x' is no int"),
        ("a: !!int ''", "line 1: '' is no int"),
        ("a: !!float x", "line 1: 'x' is no float"),
        ("a: !!bool x", "line 1: 'x' is no bool"),
        ("a: !!timestamp x", "line 1: 'x' is no timestamp"),
        ("a: " + "9" * 5000, "is no int"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("[" * 5000, f"line 1: nested deeper than {MOST_DEPTH} levels"),
        ("{a: " * 5000, f"line 1: nested deeper than {MOST_DEPTH} levels"),
        ("- " * 5000, f"line 1: nested deeper than {MOST_DEPTH} levels"),
        # they would all be at one place of a hash table
        (f"{{{', '.join(f'{n * (2**61 - 1)}: 1' for n in range(30_000))}}}", "cannot be a key"),
        (chain(200), "line [0-9]+: nested deeper than"),
        (bomb(9), r"line [0-9]+: more than 100,000 values"),
        ("a: &a [*a]", "holds itself, by an alias"),
        ("a: &a {b: {c: *a}}", "holds itself, by an alias"),
        ("a: {<<: 3}", "expected a mapping"),
        ("<<: {a: 1}\n<<: {b: 1}", "line 2: the key '<<' is written twice"),
        ("{[1]: 2}", r"line 1: \[1\] cannot be a key"),
        ("{null: 2}", "line 1: None cannot be a key"),
        ("{2020-01-01: 2}", "cannot be a key"),
        ("{1: 1, 0x1: 2}", "line 1: the key 1 is written twice"),
    ],
)
def test_what_is_no_setting_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 500


def test_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\ntwo: {<<: [*b, {z: 4}]}"
    assert parse_yaml(text) == {
        "base": {"x": 1, "y": 2},
        "other": {"x": 1, "y": 3},
        "two": {"x": 1, "y": 2, "z": 4},
    }
    # a mapping that merges is itself merged before it is built
    nested = "a: &a {k: 1}\nm: {<<: &b {<<: *a, k: 2}}\nn: *b"
    assert parse_yaml(nested) == {"a": {"k": 1}, "m": {"k": 2}, "n": {"k": 2}}


def test_aliases_that_repeat_little_are_taken() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert parse_yaml("") is None
    assert parse_yaml("- - 1e-3") == [[1e-3]]


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.integers() | st.text() | st.floats() | st.none() | st.binary(max_size=30),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
        max_leaves=40,
    )
)
def test_values_are_shown_shortened(value: object) -> None:
    assert len(shown(value)) < 20_000
    if isinstance(value, int) and abs(value) < 10**20:
        assert shown(value) == repr(value)


def test_huge_values_are_shown_shortened() -> None:
    huge: list[object] = ["x" * 100] * 10
    for _ in range(12):
        huge = [huge] * 10  # 10 ** 13 values
    assert len(shown(huge)) < 20_000
    assert shown(10**400) == "a whole number of 1329 bits"
    assert shown("x" * 10**6).startswith("'xxx")
    assert len(shown("x" * 10**6)) <= 80


@given(st.text(st.sampled_from("&*a:{}[],<-? \n'\"|>!%#1x"), max_size=40))
def test_no_text_ends_otherwise(text: str) -> None:
    try:
        parse_yaml(text)
    except yaml.YAMLError:
        return
