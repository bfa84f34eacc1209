"""Weights as arrays by name: read without running code, loaded strictly."""

from __future__ import annotations

import _codecs
import collections
import io
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from core.config import suggest
from core.errors import CheckpointError
from core.layers import match

BACKBONE = "backbone."
log = logging.getLogger(__name__)


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Read a `.pdparams` or `.pdopt` file without running any code it may hold.

    Raises:
        CheckpointError: The file is broken, or holds anything but arrays and plain values.
    """
    try:
        content = _ArrayUnpickler(Path(path).read_bytes()).load()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except _RefusedError as error:
        raise CheckpointError(f"{path}: refused: {error}") from error
    except Exception as error:  # a broken pickle may end in any of them
        raise CheckpointError(f"{path}: broken or not a Paddle file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no dictionary of arrays")
    content.pop("StructuredToParameterName@@", None)
    return content


def save_arrays(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, arrays and plain values, nested at will, as `load_arrays` reads them."""
    plain = _to_numpy(content)
    with open(path, "wb") as file:
        pickle.dump(plain, file, protocol=4)


def assign(
    model: Layer, weights: Mapping[str, Any], source: str, reinit: Sequence[str] = ()
) -> None:
    """Load weights strictly: every entry present, known and of the right shape.

    Args:
        model: The network.
        weights: Arrays by structured name.
        source: Where they come from, for messages.
        reinit: Globs of entries that keep the network's fresh values, whatever the file has.

    Raises:
        CheckpointError: Anything does not fit; nothing is loaded then.
        ConfigError: A glob of `reinit` matches nothing.
    """
    own = model.state_dict()
    kept = set(match(reinit, list(own), "model.reinit")) if reinit else set()
    given = {name: _as_array(value) for name, value in weights.items()}
    missing = [name for name in own if name not in given and name not in kept]
    unknown = [name for name in given if name not in own and name not in kept]
    shapes = [
        name
        for name in own
        if name in given and name not in kept and tuple(own[name].shape) != given[name].shape
    ]
    if missing or unknown or shapes:
        raise CheckpointError(_misfit(source, own, given, missing, unknown, shapes))
    for name, tensor in own.items():
        if name not in kept:
            tensor.set_value(given[name].astype(_numpy_dtype(tensor), copy=False))


def complete_backbone(model: Layer, weights: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Make weights of a classifier into weights of a whole network around such a backbone.

    They are taken for those of a backbone alone if no name in them begins with `backbone.`, but
    some fit with that in front. The classifier's own head is left out, and what lies behind the
    backbone keeps its fresh values; the log tells how much. Other weights are returned as they are.
    """
    own = model.state_dict()
    fitting = {BACKBONE + name: value for name, value in weights.items() if BACKBONE + name in own}
    if not fitting or any(name.startswith(BACKBONE) for name in weights):
        return dict(weights)
    fresh = {name: own[name].numpy() for name in own if not name.startswith(BACKBONE)}
    log.info(
        "%s: weights of a backbone alone; %d entries left out, %d of the network stay fresh",
        source,
        len(weights) - len(fitting),
        len(fresh),
    )
    return {**fitting, **fresh}


class _RefusedError(Exception):
    pass


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickles arrays and plain containers only.

    The unpickler written in Python, from memory: the one written in C can be made to fill the
    machine by one wrong byte (the index of a memo), reading from a file by one wrong length.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name in ("_reconstruct", "scalar"):
                return getattr(np.core.multiarray, name)
        elif module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        elif (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        elif (module, name) == ("_codecs", "encode"):
            return _codecs.encode
        elif module in ("builtins", "__builtin__") and name in ("tuple", "list", "dict", "set"):
            return {"tuple": tuple, "list": list, "dict": dict, "set": set}[name]
        raise _RefusedError(f"it asks for {module}.{name}, which weights do not need")


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]  # (name, array): how paddle.save writes a lone tensor
    return np.asarray(value)


def _numpy_dtype(tensor: paddle.Tensor) -> Any:
    return tensor.numpy().dtype


def _misfit(
    source: str,
    own: Mapping[str, paddle.Tensor],
    given: Mapping[str, np.ndarray],
    missing: list[str],
    unknown: list[str],
    shapes: list[str],
) -> str:
    parts = []
    if shapes:
        name = shapes[0]
        parts.append(
            f"{name} is {list(own[name].shape)} in the network, {list(given[name].shape)} in the "
            f"file" + (f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else "")
        )
    if missing:
        parts.append(f"{len(missing)} missing, first {missing[0]}{suggest(missing[0], unknown)}")
    if unknown:
        parts.append(f"{len(unknown)} unknown to the network, first {unknown[0]}")
    text = f"{source}: weights of another network: " + "; ".join(parts)
    if not unknown and len(shapes) + len(missing) <= len(own) // 4:
        globs = sorted({name.rpartition(".")[0] + ".*" for name in shapes + missing})
        text += f". To start these layers anew: -o 'model.reinit=[{', '.join(globs)}]'"
    return text


def _to_numpy(value: Any) -> Any:
    if isinstance(value, paddle.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _to_numpy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_numpy(item) for item in value)
    return value
