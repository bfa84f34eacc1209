"""Classifiers of PaddleClas by name, with PaddleClas' parameter names."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from paddle import nn
from paddle.nn import Layer
from paddle.utils import unique_name

from core.errors import ConfigError
from core.settings.config import check_words, suggest
from core.settings.other_names import suggest_family
from core.settings.versions import require
from core.training.images import check_channels
from tasks.cls.models.stages import collect_stages, resolve_layer

_CLASS_COUNTS = ("class_num", "num_classes")  # the two words PaddleClas has for it


def list_backbones() -> list[str]:
    """Return the names of all classifiers in PaddleClas."""
    return sorted(_factories())


def family(name: str) -> str:
    """Return the file of PaddleClas that holds a network and its relatives of other sizes.

    Raises:
        ConfigError: Unknown name.
    """
    return _factory(name).__module__.rpartition(".")[2]


def build_backbone(
    name: str,
    num_classes: int = 1000,
    return_stages: bool | Sequence[int | str] = False,
    options: Mapping[str, Any] | None = None,
) -> Layer:
    """Build a classifier of PaddleClas with fresh weights.

    Its parameters have the names of the published weights. Unlike PaddleClas' own `return_stages`,
    the one here survives a deep copy and tracing.

    Args:
        name: As PaddleClas calls it.
        num_classes: Width of the classifier.
        return_stages: True, or numbers or names of stages: the forward then returns a dict of
            `logits` and these feature maps.
        options: Further arguments of the PaddleClas class.

    Raises:
        ConfigError: Unknown name, option or stage; or PaddleClas cannot build the network.
    """
    factory = _factory(name)
    options = dict(options or {})
    for key in ("pretrained", *_CLASS_COUNTS):
        if key in options:
            raise ConfigError(f"model.options.{key}: is set by model.pretrained or num_classes")
    check_words(options, "model.options")
    check_channels(options, "model.options")
    known = inspect.signature(factory).parameters
    given: dict[str, Any] = {"num_classes" if "num_classes" in known else "class_num": num_classes}
    if "pretrained" in known:  # some would fetch weights by themselves
        given["pretrained"] = False
    _check_required(name, known.values(), {**given, **options})
    try:
        with _quiet():
            model = _build_with_own_names(lambda: factory(**given, **options))
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError, NameError) as error:
        reason = " ".join(str(error).split())[:300]
        if options:
            raise ConfigError(f"model.options: {name} refuses {options}: {reason}") from error
        raise ConfigError(
            f"model.name: the code of {name} in PaddleClas does not build it: "
            f"{type(error).__name__}: {reason}"
        ) from error
    _check_options(model, factory, options)
    if not _has_width(model, num_classes):
        raise ConfigError(f"model.name: {name} has no classifier whose classes can be chosen")
    if return_stages:
        collect_stages(model, resolve_stages(model, name, return_stages))
    return model


def resolve_stages(
    model: Layer, name: str, stages: bool | Sequence[int | str]
) -> list[tuple[str, str]]:
    """Return (PaddleClas' name of the stage, dotted layer path) of the stages asked for.

    Raises:
        ConfigError: A stage that the network does not have.
    """
    known = stage_names(name)
    if stages is True and not known:
        raise ConfigError(
            f"model.return_stages: PaddleClas names no stages of {name}; list layer paths instead"
        )
    chosen = known if isinstance(stages, bool) else stages
    return [resolve_stage(model, known, stage, "model.return_stages") for stage in chosen]


def resolve_stage(
    model: Layer, known: Sequence[str], stage: int | str, key: str
) -> tuple[str, str]:
    """Return the name and the layer path of one stage; `key` is the setting, for messages.

    Raises:
        ConfigError: The network does not have it.
    """
    if isinstance(stage, int):
        if not 0 <= stage < len(known):
            raise ConfigError(f"{key}: expected a stage in 0..{len(known) - 1}, got {stage}")
        stage = known[stage]
    return stage, resolve_layer(model, stage, key)


def stage_names(name: str) -> list[str]:
    """Return how PaddleClas calls the stages of a network; empty where it defines none."""
    patterns = getattr(_module(_factory(name)), "MODEL_STAGES_PATTERN", {})
    families = [family for family in patterns if name.startswith(family)]
    return list(patterns[max(families, key=len)]) if families else []


def pretrained_url(name: str) -> str:
    """Return where PaddleClas publishes the ImageNet weights of a network.

    Raises:
        ConfigError: Unknown name, or PaddleClas knows of no weights.
    """
    url = getattr(_module(_factory(name)), "MODEL_URLS", {}).get(name)
    if not url:
        raise ConfigError(f"model.pretrained: PaddleClas publishes no weights of {name}")
    return str(url)


def _factories() -> dict[str, Callable[..., Layer]]:
    require("paddleclas", "model.name")
    # Deferred: importing PaddleClas takes a second and half of the scientific Python stack.
    with _quiet():
        from paddleclas.ppcls.arch import backbone

    functions = {name: getattr(backbone, name) for name in backbone.__all__}
    return {
        name: function
        for name, function in functions.items()
        if inspect.isfunction(function)
        and {"pretrained", *_CLASS_COUNTS} & {*_parameters(function)}
    }


def _factory(name: str) -> Callable[..., Layer]:
    factories = _factories()
    if name not in factories:
        hint = suggest_family(name, list(factories))
        hint = hint or (suggest(name, list(factories)) if len(name) > 2 else "")
        # a list of several hundred names would not help
        hint = hint if "did you mean" in hint else " (tasks/cls/README.md tells how to list them)"
        raise ConfigError(f"model.name: PaddleClas has no network {name!r}{hint}")
    return factories[name]


def _build_with_own_names(build: Callable[[], Layer]) -> Layer:
    """Build a network whose parameter names are unique in this process.

    Many networks of PaddleClas have fixed names, which Paddle refuses the second time. So the
    names taken so far are forgotten while it is built, and names that were taken are changed.
    """
    generator, taken = unique_name.switch()
    unique_name.switch(generator)
    try:
        model = build()
    finally:
        unique_name.switch(generator, taken)
    for tensor in model.state_dict().values():
        if taken(tensor.name):
            tensor.name = unique_name.generate(tensor.name)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages that PaddleClas and faiss log about themselves."""
    loggers = [logging.getLogger(name) for name in ("ppcls", "faiss.loader")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _module(factory: Callable[..., Layer]) -> Any:
    return sys.modules[factory.__module__]


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _check_options(model: Layer, factory: Callable[..., Layer], options: Mapping[str, Any]) -> None:
    """Refuse arguments that no constructor names: PaddleClas' base class accepts any keyword."""
    known = set(_parameters(factory))
    for cls in type(model).__mro__:
        if "__init__" in vars(cls) and cls.__module__ == type(model).__module__:
            known.update(_parameters(vars(cls)["__init__"]))
    known -= {"self", "args", "kwargs", "pretrained", "use_ssld", *_CLASS_COUNTS}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"model.options.{key}: unknown argument of {type(model).__name__}"
                f"{suggest(key, sorted(known))}"
            )


def _check_required(
    name: str, parameters: Iterable[inspect.Parameter], given: Mapping[str, Any]
) -> None:
    """Refuse to build a network without the arguments for which PaddleClas has no defaults."""
    missing = [
        each.name
        for each in parameters
        if each.default is each.empty
        and each.kind is each.POSITIONAL_OR_KEYWORD
        and each.name not in given
    ]
    if missing:
        raise ConfigError(f"model.options: {name} needs {', '.join(missing)}, which are not given")


def _has_width(model: Layer, width: int) -> bool:
    weights = [layer.weight for layer in model.sublayers() if isinstance(layer, nn.Linear)]
    convolutions = [layer.weight for layer in model.sublayers() if isinstance(layer, nn.Conv2D)]
    return any(weight.shape[-1] == width for weight in weights) or any(
        weight.shape[0] == width for weight in convolutions
    )
