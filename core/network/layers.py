"""Find, replace and listen to layers by glob on their dotted path."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.settings.config import suggest

AnyLayer = TypeVar("AnyLayer", bound=Layer)


@dataclass(frozen=True)
class LayerReference(Generic[AnyLayer]):
    """A layer that belongs elsewhere in the network.

    Paddle makes each layer that is an attribute of another one a sublayer, whose weights it then
    saves and trains a second time. Behind a reference a layer stays where it is.
    """

    layer: AnyLayer


def match(patterns: Sequence[str], names: Sequence[str], key: str) -> list[str]:
    """Return the names that any glob matches, in their own order.

    Args:
        patterns: Globs; `*` also crosses dots.
        names: Candidates, for instance dotted layer or parameter paths.
        key: The setting the patterns come from, for the message.

    Raises:
        ConfigError: A pattern matches nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            raise ConfigError(f"{key}: {pattern!r} matches nothing{suggest(pattern, names[:40])}")
        chosen.update(hits)
    return [name for name in names if name in chosen]


def get(model: Layer, path: str) -> Layer:
    """Return the layer at a dotted path.

    Raises:
        ConfigError: There is none.
    """
    found: Layer | None = model
    for name in path.split("."):
        found = None if found is None else found._sub_layers.get(name)
    if found is not None:
        return found
    layers = dict(model.named_sublayers())  # names may hold dots
    if path not in layers:
        raise ConfigError(f"{path}: the model has no such layer{suggest(path, list(layers))}")
    return layers[path]


def replace(model: Layer, path: str, layer: Layer) -> None:
    """Put another layer at a dotted path."""
    get(model, path)
    parent, _, name = path.rpartition(".")
    holder = get(model, parent) if parent else model
    holder._sub_layers[name] = layer


@contextlib.contextmanager
def tap(model: Layer, paths: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the outputs (any shape) of layers by path, run by run, while the context is open."""
    caught: dict[str, list[Tensor]] = {}
    handles = []

    def catch(path: str) -> None:
        def hook(_layer: Layer, _inputs: object, output: Tensor) -> None:
            caught.setdefault(path, []).append(output)

        handles.append(get(model, path).register_forward_post_hook(hook))

    try:
        for path in paths:
            catch(path)
        yield caught
    finally:
        for handle in handles:
            handle.remove()
