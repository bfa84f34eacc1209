"""Build a network of PaddleSeg by name, from settings that are checked against its constructor."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from paddle.nn import Layer
from paddle.utils import unique_name

from core.errors import ConfigError
from core.settings.config import check_words, suggest
from core.settings.files import scratch
from core.settings.other_names import suggest_family
from core.training.images import CHANNELS, check_channels
from tasks.seg.config import ModelConfig
from tasks.seg.models.espnet import keep_stem_width

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
    network = _call(factory, arguments, "model.arguments", config.name)
    for path, weight in network.named_parameters():
        if not weight.size:  # a width that is a fraction of the number of classes
            raise ConfigError(
                f"model.num_classes: {config.name} cannot tell {config.num_classes} classes apart, "
                f"{path} would have no channels; it needs more classes, or choose another network"
            )
    if config.name == "ESPNetV1":
        keep_stem_width(network)
    return network


def _build_backbone(config: ModelConfig, backbones: Mapping[str, Callable[..., Layer]]) -> Layer:
    assert config.backbone is not None
    name, arguments = config.backbone.name, dict(config.backbone.arguments)
    factory = _find(backbones, name, "model.backbone.name")
    accepted = _accepted(factory)
    _check_arguments("model.backbone.arguments", name, arguments, accepted, False)
    with _without_loading(_class_behind(factory)):
        return _call(factory, arguments, "model.backbone.arguments", name)


@contextlib.contextmanager
def _without_loading(layer: Callable[..., Layer]) -> Iterator[None]:
    """Let a VisionTransformer be built; PaddleSeg's fails where no weights are given."""
    if layer.__name__ != "VisionTransformer":
        yield
        return
    init_weight = vars(layer)["init_weight"]
    layer.init_weight = lambda self: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        layer.init_weight = init_weight  # type: ignore[attr-defined]


def _find(known: Mapping[str, Callable[..., Layer]], name: str, key: str) -> Callable[..., Layer]:
    if name not in known:
        hint = suggest_family(name, list(known)) or suggest(name, list(known))
        raise ConfigError(f"{key}: PaddleSeg has no {name!r}{hint}")
    return known[name]


def _check_arguments(
    key: str, name: str, given: Mapping[str, Any], accepted: Mapping[str, Any], is_open: bool
) -> None:
    check_words(given, key)
    # elsewhere, in_channels is the width of a head
    check_channels({k: v for k, v in given.items() if _default(accepted, k) == CHANNELS}, key)
    for argument in given:
        if argument in OWN:
            raise ConfigError(f"{key}.{argument}: cannot be set here; see the other keys of model")
        if argument not in accepted and not is_open:
            free = [one for one in accepted if one not in OWN]
            hint = suggest(argument, free)
            raise ConfigError(f"{key}.{argument}: {name} takes no such argument{hint}")


def _default(accepted: Mapping[str, inspect.Parameter], name: str) -> Any:
    return accepted[name].default if name in accepted else None


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
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that weights are not loaded
            return _with_own_names(factory, arguments)
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{key}: {name} cannot be built with these: {reason}") from error


def _with_own_names(factory: Callable[..., Layer], arguments: dict[str, Any]) -> Layer:
    """Build a layer; where its weights have fixed names, a second one gets names of its own."""
    try:
        return factory(**arguments)
    except ValueError as error:
        if "name of parameter can't be same" not in str(error):
            raise
    with unique_name.guard():
        layer = factory(**arguments)
    for parameter in layer.parameters():
        parameter.name = unique_name.generate(parameter.name)
    return layer


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
    with scratch() as home, warnings.catch_warnings():
        os.environ["SEG_HOME"] = str(home)
        try:
            yield
        finally:
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value
