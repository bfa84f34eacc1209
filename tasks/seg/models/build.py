"""Build a network of PaddleSeg by name, from settings that are checked against its constructor."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from paddle.nn import Layer

from core.config import suggest
from core.errors import ConfigError
from tasks.seg.config import ModelConfig

# set by this project from settings of its own
OWN = ("num_classes", "backbone", "pretrained", "data_format")


def build_network(config: ModelConfig) -> Layer:
    """Build the network with fresh weights; nothing is downloaded.

    Raises:
        ConfigError: No such network or backbone, or an argument that it does not take.
    """
    networks, backbones = _registries()
    factory = _find(networks, config.name, "model.name")
    accepted = _accepted(factory)
    arguments = dict(config.arguments)
    _check_arguments("model.arguments", config.name, arguments, accepted, _is_open(factory))
    if "num_classes" in accepted:
        arguments["num_classes"] = config.num_classes
    if config.backbone is not None:
        if "backbone" not in accepted:
            raise ConfigError(f"model.backbone: {config.name} has no exchangeable backbone")
        arguments["backbone"] = _build_backbone(config, backbones)
    elif "backbone" in accepted:
        raise ConfigError(
            f"model.backbone: {config.name} needs one, for instance {{name: ResNet50_vd}}"
        )
    return _call(factory, arguments, "model.arguments", config.name)


def _build_backbone(config: ModelConfig, backbones: Mapping[str, Callable[..., Layer]]) -> Layer:
    assert config.backbone is not None
    name, arguments = config.backbone.name, dict(config.backbone.arguments)
    factory = _find(backbones, name, "model.backbone.name")
    accepted = _accepted(factory)
    _check_arguments("model.backbone.arguments", name, arguments, accepted, False)
    return _call(factory, arguments, "model.backbone.arguments", name)


def _find(known: Mapping[str, Callable[..., Layer]], name: str, key: str) -> Callable[..., Layer]:
    if name not in known:
        raise ConfigError(f"{key}: PaddleSeg has no {name!r}{suggest(name, list(known))}")
    return known[name]


def _check_arguments(
    key: str, name: str, given: Mapping[str, Any], accepted: Mapping[str, Any], is_open: bool
) -> None:
    for argument in given:
        if argument in OWN:
            raise ConfigError(f"{key}.{argument}: cannot be set here; see the other keys of model")
        if argument not in accepted and not is_open:
            free = [one for one in accepted if one not in OWN]
            hint = suggest(argument, free)
            raise ConfigError(f"{key}.{argument}: {name} takes no such argument{hint}")


def _accepted(factory: Callable[..., Layer]) -> dict[str, inspect.Parameter]:
    """Return the arguments one may give; a function in front of a class fixes some of them."""
    layer = _class_behind(factory)
    fixed: set[object] = set()
    if layer is not factory:
        for const in factory.__code__.co_consts:
            fixed.update(const if isinstance(const, tuple) else (const,))
    parameters = inspect.signature(layer).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in fixed
    }


def _is_open(factory: Callable[..., Layer]) -> bool:
    """Return whether a network hands unnamed arguments on to its head."""
    parameters = inspect.signature(_class_behind(factory)).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _class_behind(factory: Callable[..., Layer]) -> Callable[..., Layer]:
    if inspect.isclass(factory):
        return factory
    for name in factory.__code__.co_names:
        candidate = factory.__globals__.get(name)
        if inspect.isclass(candidate) and issubclass(candidate, Layer):
            return candidate
    return factory


def _call(factory: Callable[..., Layer], arguments: dict[str, Any], key: str, name: str) -> Layer:
    try:
        return factory(**arguments)
    except (
        TypeError,
        ValueError,
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{key}: {name} cannot be built with these: {reason}") from error


def _registries() -> tuple[Mapping[str, Callable[..., Layer]], Mapping[str, Callable[..., Layer]]]:
    with _quiet_import():
        import paddleseg.models
        from paddleseg.cvlibs import manager
    assert paddleseg.models
    return manager.MODELS.components_dict, manager.BACKBONES.components_dict


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Take back what importing PaddleSeg leaves behind.

    It makes folders in the user's home, and packages it imports change warning filters and
    environment variables.
    """
    if "paddleseg.models" in sys.modules:
        yield
        return
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        os.environ["SEG_HOME"] = home
        try:
            yield
        finally:
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value
