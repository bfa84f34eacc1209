"""Look into, cut short and freeze a network by the names of its layers."""

from __future__ import annotations

import re
from typing import Any

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.layers import get
from core.settings.config import suggest


def resolve_layer(model: Layer, name: str, key: str) -> str:
    """Return the dotted path of a layer that may be written as PaddleClas does (`blocks[2].conv`).

    Args:
        model: Where to look.
        name: Layer path, or a pattern of PaddleClas.
        key: The setting it comes from, for the message.

    Raises:
        ConfigError: There is no such layer.
    """
    paths = [path for path, _ in model.named_sublayers()]
    dotted = re.sub(r"\[(\d+)\]", r".\1", name)
    # some stage patterns in PaddleClas lack the underscore that the attribute has
    for path in (dotted, f"_{dotted}"):
        if path in paths:
            return path
    raise ConfigError(f"{key}: the network has no layer {name!r}{suggest(dotted, paths[:60])}")


def collect_stages(model: Layer, stages: list[tuple[str, str]]) -> None:
    """Make the forward return `{"logits": ..., stage: feature map, ...}`.

    Args:
        model: Changed in place; its parameters keep their names.
        stages: Name in the result and layer path of each stage.
    """
    store: dict[str, Any] = {}
    layers = dict(model.named_sublayers())
    for name, path in stages:
        layers[path].register_forward_post_hook(_Keep(store, name))
    model.register_forward_post_hook(_Return(store))


class _Keep:
    """Hook that puts a layer's output aside. An object, not a closure: deep copies follow it."""

    def __init__(self, store: dict[str, Any], name: str) -> None:
        self.store = store
        self.name = name

    def __call__(self, _layer: Layer, _inputs: Any, output: Any) -> None:
        self.store[self.name] = output


class _Return:
    def __init__(self, store: dict[str, Any]) -> None:
        self.store = store

    def __call__(self, _layer: Layer, _inputs: Any, output: Any) -> dict[str, Any]:
        result = {"logits": output, **self.store}
        self.store.clear()
        return result


def run_up_to(model: Layer, path: str, image: Tensor) -> Any:
    """Return the output of the layer at `path` for images [N, C, H, W]; nothing behind it runs.

    Raises:
        ConfigError: The network never calls this layer.
    """
    handle = get(model, path).register_forward_post_hook(_stop)
    try:
        model(image)
    except _Stopped as stopped:
        return stopped.output
    finally:
        handle.remove()
    raise ConfigError(f"model.stop_after: the network never calls its layer {path!r}")


class _Stopped(Exception):  # noqa: N818 - no error, a way out of the forward
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(_layer: Layer, _inputs: Any, output: Any) -> None:
    raise _Stopped(output)


def freeze_up_to(model: Layer, path: str) -> None:
    """Freeze the parameters and batch norms of all layers defined up to and including `path`."""
    for name, layer in model.named_sublayers():
        if path == name or not _is_ancestor(name, path):
            _freeze(layer)
        if path == name:
            for inner in layer.sublayers():
                _freeze(inner)
            break
    # the network's own parameters are used at its entry (class tokens, position embeddings)
    for parameter in model.parameters(include_sublayers=False):
        parameter.stop_gradient = True


def freeze_norms(model: Layer) -> None:
    """Make all batch norms use their stored statistics for good, and freeze scale and shift."""
    for layer in model.sublayers():
        if _is_batch_norm(layer):
            _freeze(layer)


def _freeze(layer: Layer) -> None:
    for parameter in layer.parameters(include_sublayers=False):
        parameter.stop_gradient = True
    if _is_batch_norm(layer):
        # unlike eval(), this survives the next model.train()
        layer._use_global_stats = True


def _is_batch_norm(layer: Layer) -> bool:
    return hasattr(layer, "_use_global_stats") and isinstance(layer._mean, Tensor)


def _is_ancestor(name: str, path: str) -> bool:
    return path.startswith(f"{name}.")
