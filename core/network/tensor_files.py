"""Arrays and plain values in safetensors files, which hold numbers and text and no code.

A flat mapping of arrays becomes a plain safetensors file, as other programs write and read it. What
is nested, or has plain values among the arrays, keeps its structure as JSON in the file's notes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialize

from core.network.pickled_values import LARGEST_KEY

_NOTES = "__metadata__"  # the header's word for the notes
_STRUCTURE = "trislim"  # our note: the content as JSON
_ARRAY, _ITEMS = "$array", "$items"  # placeholders of an array, and of a mapping with arrays
_MAX_DEPTH = 64
_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("bool"),
        **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
        **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
        **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    }
)


class TensorFileError(Exception):
    """The content is no safetensors file that this module can read; says why."""


def pack(content: Mapping[str, Any]) -> bytes:
    """Return the content of a safetensors file; equal contents make equal bytes.

    Args:
        content: Arrays, tensors and plain values (None, bool, int, float, str) in dictionaries and
            lists, nested at will. Tuples are read back as lists, numpy's scalars as plain numbers,
            dictionaries in the order of their keys.

    Raises:
        TypeError: Holds anything else; names where.
    """
    arrays: dict[str, np.ndarray] = {}
    if _is_flat(content):
        for name, value in content.items():
            arrays[name] = _array(value, name)
        return serialize(arrays)
    structure = _describe(content, "", arrays)
    return serialize(arrays, {_STRUCTURE: json.dumps(structure, sort_keys=True)})


def unpack(content: bytes) -> dict[str, Any]:
    """Return the content given to `pack`, or the arrays of any safetensors file by name.

    Raises:
        TensorFileError: It is broken, or holds numbers of a type that weights do not have.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        for name, entry in deserialize(content):  # type: ignore[no-untyped-call]
            if entry["dtype"] not in _DTYPES:
                raise TensorFileError(f"{name}: numbers of the type {entry['dtype']}")
            flat = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"])
        structure = _structure(content)
    except (SafetensorError, ValueError, RecursionError, struct.error) as error:
        raise TensorFileError(f"broken or no safetensors file: {error}"[:300]) from error
    if structure is None:
        return arrays
    tree = _restore(structure, arrays, 0)
    if not isinstance(tree, dict):
        raise TensorFileError("its structure is no mapping")
    return tree


def _is_flat(content: Mapping[str, Any]) -> bool:
    return all(
        isinstance(name, str) and name != _NOTES and isinstance(value, (np.ndarray, paddle.Tensor))
        for name, value in content.items()
    )


def _structure(content: bytes) -> Any:
    """Return our note in the header of a file that was read already; None if it has none."""
    (length,) = struct.unpack_from("<Q", content)
    text = json.loads(content[8 : 8 + length]).get(_NOTES, {}).get(_STRUCTURE)
    return None if text is None else json.loads(text)


def _array(value: Any, where: str) -> np.ndarray:
    array = value.numpy() if isinstance(value, paddle.Tensor) else np.asarray(value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{where}: {array.dtype} cannot be saved, only numbers")
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return np.require(little, requirements="C")


def _describe(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON, and put the arrays in it aside."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (np.ndarray, paddle.Tensor)):
        name = where
        while name in arrays or name in ("", _NOTES):
            name += "'"
        arrays[name] = _array(value, where)
        return {_ARRAY: name}
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        parts = {key: _describe(each, _join(where, key), arrays) for key, each in items}
        if all(isinstance(key, str) and not key.startswith("$") for key in parts):
            return parts
        keys = [_describe(key, where, arrays) for key in parts]
        return {_ITEMS: [list(pair) for pair in zip(keys, parts.values())]}
    if isinstance(value, (list, tuple)):
        return [_describe(each, _join(where, i), arrays) for i, each in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where}: a {type(value).__name__} cannot be saved, only plain values")


def _join(where: str, key: Any) -> str:
    return f"{where}/{key}" if where else str(key)


def _restore(value: Any, arrays: Mapping[str, np.ndarray], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise TensorFileError(f"containers in containers, more than {_MAX_DEPTH}")
    if isinstance(value, list):
        return [_restore(each, arrays, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_ARRAY}:
        name = value[_ARRAY]
        if not isinstance(name, str) or name not in arrays:
            raise TensorFileError(f"it has no array {name!r}"[:200])
        return arrays[name]
    if value.keys() == {_ITEMS}:
        return _restore_items(value[_ITEMS], arrays, depth)
    return {key: _restore(each, arrays, depth + 1) for key, each in value.items()}


def _is_key(part: Any) -> bool:
    """Tell whether a value may be a key; many numbers that are larger share one hash."""
    return isinstance(part, str) or (isinstance(part, (int, float)) and abs(part) <= LARGEST_KEY)


def _restore_items(pairs: Any, arrays: Mapping[str, np.ndarray], depth: int) -> dict[Any, Any]:
    if not isinstance(pairs, list):
        raise TensorFileError("a mapping that is no list of pairs")
    restored: dict[Any, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise TensorFileError("a mapping with something else than pairs")
        parts = pair[0] if isinstance(pair[0], list) else [pair[0]]
        if len(parts) > 2 or not all(map(_is_key, parts)):
            raise TensorFileError("a mapping with a key that is none")
        key = tuple(parts) if isinstance(pair[0], list) else pair[0]
        if key in restored:
            raise TensorFileError("a mapping with a key twice")
        restored[key] = _restore(pair[1], arrays, depth + 1)
    return restored
