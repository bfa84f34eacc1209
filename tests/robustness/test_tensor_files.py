"""Safetensors files: everything comes back, equal contents make equal bytes, damage is noticed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.network.tensor_files import TensorFileError, pack, unpack

NUMBERS = st.sampled_from(["<f4", ">f4", "<f2", "<f8", "<i8", ">i2", "|u1", "|b1", "<u4"]).flatmap(
    lambda kind: arrays.arrays(np.dtype(kind), arrays.array_shapes(min_dims=0, min_side=0))
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
)
INTEGERS = st.integers(-(2**60), 2**60)
KEYS = st.one_of(st.text(max_size=4), st.sampled_from(["__metadata__", "$array", "a/b", "a", "b"]))
TREES = st.recursive(
    st.one_of(NUMBERS, PLAIN),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(st.one_of(INTEGERS, st.tuples(INTEGERS)), inner, max_size=3),
    ),
    max_leaves=10,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        equal = np.array_equal(one, other, equal_nan=other.dtype.kind == "f")
        return equal and one.dtype == other.dtype.newbyteorder("<") and one.shape == other.shape
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    if isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_what_was_packed_comes_back(tree: dict[str, Any]) -> None:
    content = pack(tree)
    assert same(unpack(content), tree)
    backwards = dict(reversed(tree.items()))
    assert pack(backwards) == content


def test_flat_arrays_make_a_file_that_others_read(tmp_path: Any) -> None:
    from safetensors import safe_open

    weights = {"b": np.ones((2, 3), "f4").T, "a": np.array(3)}
    (tmp_path / "w.safetensors").write_bytes(pack(weights))
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata() is None
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118
            "a": 3,
            "b": [[1, 1], [1, 1], [1, 1]],
        }


@pytest.mark.parametrize("value", [object(), b"bytes", {1}, np.array(["x"]), np.array([1j])])
def test_other_things_are_no_content(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^deep/0: .* cannot be saved, only"):
        pack({"deep": [value]})


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    flat = pack({"a": np.arange(6, dtype="f4"), "b": np.zeros((2, 0))})
    nested = pack({"a": {"x": [np.ones(3), 1.5, None]}, "b": {(1, 2): np.array(True)}, "$c": "d"})
    refused = 0
    for seed in range(6000):
        rng = random.Random(seed)
        content = bytearray(rng.choice((flat, nested)))
        for _ in range(rng.choice((1, 1, 2, 5))):
            place = rng.randrange(len(content))
            action = rng.randrange(3)
            if action == 0:
                content[place] ^= 1 << rng.randrange(8)
            elif action == 1:
                content = content[: place + 1]
            else:
                content[place] = rng.choice(b'0129{}[],:"-e')
        try:
            unpack(bytes(content))
        except TensorFileError:
            refused += 1
    assert refused > 4000


def test_a_structure_that_does_not_fit_is_refused() -> None:
    from safetensors.numpy import save

    deep = "[" * 100 + "]" * 100
    for structure in ("[1]", "3", '{"a": {"$array": "gone"}}', '{"a": {"$array": 1}}', deep,
                      '{"a": {"$items": [[1]]}}', '{"a": {"$items": 5}}', "{", "[" * 100_000,
                      '{"a": {"$items": [[{"b": 1}, 2]]}}', f'{{"a": {deep}}}',
                      '{"a": {"$items": [[1, 2], [true, 3]]}}',  # a key twice
                      f'{{"a": {{"$items": [[{2**61}, 2]]}}}}',
                      '{"a": {"$items": [[[1, 2, 3], 4]]}}'):  # fmt: skip
        with pytest.raises(TensorFileError):
            unpack(save({"x": np.ones(1)}, {"trislim": structure}))
