"""Find a network's classifier and its last feature map by running it once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.modes import evaluation_mode
from tasks.cls.models.outputs import name_outputs


@dataclass(frozen=True)
class Anatomy:
    """Layer paths that compression needs to know; None or empty where a network has no such."""

    classifiers: tuple[str, ...]  # the layers whose weights tell the classes apart
    logits: str | None  # the layer whose output is the logits, up to dimensions of size one
    feature: str | None  # the last layer in front of them that ends in a map [N, C, H, W]


@dataclass(frozen=True)
class _Call:
    path: str
    layer: Layer
    output: Tensor


def dissect(model: Layer, num_classes: int, shape: tuple[int, int, int]) -> Anatomy:
    """Run the network on a random picture [C, H, W] and see which layer returned what.

    Raises:
        ConfigError: The network does not run on such a picture.
    """
    noise = np.random.default_rng(0).random((1, *shape), np.float32)
    with evaluation_mode(model), _recording(model) as calls, paddle.no_grad():
        outputs = name_outputs(_run(model, paddle.to_tensor(noise)))
    classifiers = []
    logits = None
    for name, output in outputs.items():
        if name != "logits" and not name.startswith("auxiliary"):
            continue
        place = next((i for i, call in enumerate(calls) if _same(call.output, output)), None)
        if place is None:
            continue
        logits = calls[place].path if name == "logits" else logits
        classifiers += [call.path for call in calls[: place + 1] if _has_weight(call.layer)][-1:]
    if not classifiers:
        classifiers = _layers_as_wide_as(calls, num_classes)
    return Anatomy(tuple(dict.fromkeys(classifiers)), logits, _last_map(calls, classifiers))


def _run(model: Layer, image: Tensor) -> Any:
    try:
        return model(image)
    except Exception as error:  # whatever the network's own code raises
        told = (str(error).strip().splitlines() or [""])[0].strip()
        size = "x".join(map(str, image.shape[2:]))
        raise ConfigError(
            f"model.name: {type(model).__name__} does not run on a picture of {size} "
            f"(data.image_size), its code raises {type(error).__name__}: {told}"
        ) from error


@contextlib.contextmanager
def _recording(model: Layer) -> Iterator[list[_Call]]:
    """Collect the calls of all layers in the order in which they return."""
    calls: list[_Call] = []

    def record(path: str) -> Any:
        def hook(layer: Layer, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append(_Call(path, layer, output))

        return hook

    handles = [
        layer.register_forward_post_hook(record(path)) for path, layer in model.named_sublayers()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _same(one: Tensor, other: Tensor) -> bool:
    if one.size != other.size or one.shape[1:2] != other.shape[1:2]:
        return False
    return bool((one.reshape(other.shape) == other).all())


def _has_weight(layer: Layer) -> bool:
    return getattr(layer, "weight", None) is not None


def _layers_as_wide_as(calls: list[_Call], num_classes: int) -> list[str]:
    """Return the classifiers of a network that combines several (distilled transformers)."""
    return [
        call.path
        for call in calls
        if _has_weight(call.layer) and call.output.shape[1:] == [num_classes]
    ]


def _last_map(calls: list[_Call], classifiers: list[str]) -> str | None:
    paths = [call.path for call in calls]
    end = paths.index(classifiers[0]) if classifiers else len(calls)
    for call in reversed(calls[:end]):
        if call.output.ndim == 3:
            return None  # a transformer: the maps before are not what the classifier sees
        if call.output.ndim == 4 and min(call.output.shape[2:]) > 1 and call.layer.parameters():
            return call.path
    return None
