"""Weights as arrays by name: read without running code, loaded strictly.

Two kinds of files are read: safetensors, which checkpoints are written in, and Paddle's own
`.pdparams` and `.pdopt`, which are pickles and how published weights come.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from core.errors import CheckpointError
from core.network.layers import match
from core.network.pickled_values import PickleError, RefusedError
from core.network.pickles import read_pickle
from core.network.tensor_files import TensorFileError, pack, unpack
from core.settings.config import suggest
from core.settings.reading import read_bytes
from core.settings.yaml_loader import shown

BACKBONE = "backbone."
SAFETENSORS = ".safetensors"
MOST_BYTES = 16 * 10**9  # of a file of weights
_WHOLE = "whole numbers"
_KINDS = MappingProxyType({"f": "numbers", "i": _WHOLE, "u": _WHOLE, "b": "flags"})
log = logging.getLogger(__name__)


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Read a `.safetensors`, `.pdparams` or `.pdopt` file without running any code it may hold.

    Raises:
        CheckpointError: The file is broken, or holds anything but arrays and plain values.
    """
    path = Path(path)
    try:
        content = read_bytes(path, CheckpointError, MOST_BYTES)
        if path.suffix == SAFETENSORS:
            return unpack(content)
        tree = read_pickle(content)
    except RefusedError as error:
        raise CheckpointError(f"{path}: refused: {error}") from error
    except (PickleError, TensorFileError) as error:
        raise CheckpointError(f"{path}: broken or not a file of weights: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds no dictionary of arrays")
    tree.pop("StructuredToParameterName@@", None)
    wrong = [key for key in tree if not isinstance(key, str)]
    if wrong:
        raise CheckpointError(f"{path}: expected names of arrays, got the key {shown(wrong[0])}")
    return tree


def save_arrays(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, arrays and plain values, nested at will, as `load_arrays` reads them."""
    path.write_bytes(pack(content))


def save_for_paddle(path: Path, weights: Mapping[str, Any]) -> None:
    """Write weights as `paddle.load` and the tools of Paddle's libraries read them."""
    arrays = {name: _as_numpy(value) for name, value in weights.items()}
    with open(path, "wb") as file:
        pickle.dump(arrays, file, protocol=4)


@contextlib.contextmanager
def blaming(where: str) -> Iterator[None]:
    """Say in one line that the content of a file is not what the code inside expects of it.

    Args:
        where: The file, or a part of it; begins the message.

    Raises:
        CheckpointError: Instead of the errors that missing keys and wrong types lead to.
    """
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{where}: has no {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0]
        raise CheckpointError(f"{where}: is not as it should be: {reason}"[:500]) from error


def assign(
    model: Layer, weights: Mapping[str, Any], source: str, reinit: Sequence[str] = ()
) -> None:
    """Load weights strictly: every entry present, known and of the right shape.

    Args:
        model: The network.
        weights: Arrays by structured name.
        source: Origin of the weights, for messages.
        reinit: Globs of entries that keep the network's fresh values, whatever the file has.

    Raises:
        CheckpointError: Anything does not fit; nothing is loaded then.
        ConfigError: A glob of `reinit` matches nothing.
    """
    own = model.state_dict()
    kept = set(match(reinit, list(own), "model.reinit")) if reinit else set()
    given = {
        name: np.empty(0) if name in kept else _as_array(value, f"{source}: {name}")
        for name, value in weights.items()
    }
    missing = [name for name in own if name not in given and name not in kept]
    unknown = [name for name in given if name not in own and name not in kept]
    shapes = [
        name
        for name in own
        if name in given and name not in kept and tuple(own[name].shape) != given[name].shape
    ]
    if missing or unknown or shapes:
        raise CheckpointError(_misfit(source, own, given, missing, unknown, shapes))
    fitting = {
        name: _cast(given[name], tensor, f"{source}: {name}")
        for name, tensor in own.items()
        if name not in kept
    }
    for name, array in fitting.items():
        own[name].set_value(array)


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


def _as_array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]  # (name, array): how paddle.save writes a lone tensor
    if isinstance(value, paddle.Tensor):
        value = value.numpy()
    if not isinstance(value, (np.ndarray, np.number, np.bool_)):
        raise CheckpointError(f"{where}: expected an array of numbers, got {_kind(value)}")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise CheckpointError(f"{where}: expected an array of numbers, got one of {array.dtype}")
    return array


def not_finite(model: Layer) -> list[str]:
    """Return the weights and statistics of a model that hold values which are not finite."""
    floats = {
        name: value for name, value in model.state_dict().items() if value.is_floating_point()
    }
    return [name for name, value in floats.items() if not bool(paddle.isfinite(value).all())]


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _cast(array: np.ndarray, tensor: paddle.Tensor, where: str) -> np.ndarray:
    """Return an array in the type of a tensor; one that cannot hold its values is refused."""
    wanted: np.dtype[Any] = tensor.numpy().dtype
    if _KINDS[array.dtype.kind] != _KINDS[wanted.kind]:  # 8-bit weights, without their scales
        raise CheckpointError(f"{where}: expected {wanted}, got {array.dtype}")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted, copy=False)
    if wanted.kind != "f" and not np.array_equal(cast, array):
        raise CheckpointError(f"{where}: has values that {wanted} cannot hold")
    if not np.isfinite(cast).all():
        count = int((~np.isfinite(cast)).sum())
        raise CheckpointError(f"{where}: {count} of {cast.size} values are not finite")
    return cast


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


def _as_numpy(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, paddle.Tensor) else np.asarray(value)
