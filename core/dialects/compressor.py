"""PaddleSlim 1.x: `pruners`, `distillers`, `controllers`, `strategies` and the `compressor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from core.dialects.compressor_parts import (
    RegisteredParts,
    class_of,
    read_registered,
    sections_of,
)
from core.dialects.foreign import Section, Settings, Translation
from core.errors import ConfigError
from core.settings.config import suggest

KEYS = (
    "version",
    "pruners",
    "distillers",
    "controllers",
    "strategies",
    "compressor",
    "compress_pass",
    "layers",
    "teacher_layers",
    "include",
    "quantizers",
)
SIDES = ("student", "teacher")
METRICS = MappingProxyType({"acc_top1": "top1", "acc_top5": "top5"})  # 1.x calls them so


def is_compressor(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is one of the 1.x Compressor."""
    named = {"compressor", "compress_pass", "pruners", "distillers"} & content.keys()
    return bool(named) or isinstance(content.get("strategies"), Mapping)


def translate(content: Mapping[str, Any]) -> Translation:
    """Turn a Compressor file into a recipe.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    root = Section(content, "", [])
    root.put_aside("version")
    root.refuse("include", "files are not put together; write their sections into this one")
    root.refuse("quantizers", "write their settings into the QuantizationStrategy", ({},))
    tables = [root.take(key, dict[str, str], {}) for key in ("layers", "teacher_layers")]
    registered = read_registered(root)
    run, strategies = _run(root), dict(sections_of(root, "strategies"))
    weights, every = run.take("init_model", str, None), run.take("eval_epoch", int, None)
    settings: Settings = {} if weights is None else {"model": {"pretrained": weights}}
    settings |= {} if every is None else {"train": {"eval_every": every}}
    epochs, save_dir = run.take("epoch", int), run.take("checkpoint_path", str, None)
    named = run.take("strategies", list[str], [])
    recipe, origins = _recipe(strategies, named, registered, epochs, run.where("strategies"))
    origins |= dict.fromkeys(("epochs", "train.epochs"), run.where("epoch"))
    origins["train.eval_every"] = run.where("eval_epoch")
    if weights:
        origins["model.pretrained"] = run.where("init_model")
    for name, section in strategies.items():
        if name not in named:
            _strategy(section, registered, epochs)  # checked, but not asked for
            root.notes.append(section.path)
    run.finish()
    root.finish()
    return Translation(
        "PaddleSlim 1.x",
        settings,
        recipe,
        save_dir=save_dir,
        resume="auto" if save_dir else None,
        layers=tables[0],
        teacher_layers=tables[1],
        variables=True,
        unused=tuple(root.notes),
        origins=origins,
    )


def _recipe(
    strategies: Mapping[str, Section],
    named: Sequence[str],
    registered: RegisteredParts,
    epochs: int,
    where: str,
) -> tuple[Settings, dict[str, str]]:
    """Return the recipe of the strategies that are listed, and the paths that it comes from.

    Args:
        strategies: All strategies of the file.
        named: Those that are listed, in this order.
        registered: What they refer to.
        epochs: Epochs of the run.
        where: Path of the list.
    """
    entries: list[Settings] = []
    exports: list[Settings] = []
    origins: dict[str, str] = {}
    for index, name in enumerate(named):
        if name not in strategies:
            hint = suggest(name, list(strategies))
            raise ConfigError(f"{where}.{index}: no strategy {name!r}{hint}")
        entry, own = _strategy(strategies[name], registered, epochs)
        origins |= _origins(strategies[name], registered, index)
        for number, export in enumerate(own, len(exports)):
            origins |= _origins_of_export(strategies[name], export, number)
        entries.append(entry)
        exports += own
    recipe: Settings = {"epochs": epochs, "strategies": entries}
    return recipe | ({"exports": exports} if exports else {}), origins


def _origins(section: Section, registered: RegisteredParts, index: int) -> dict[str, str]:
    """Return the paths of what a strategy, and what it refers to, became."""
    place, content = f"strategies.{index}", section.content
    found = {place: f"{section.path}."}
    pruner = str(content.get("pruner"))
    if content["class"] == "AutoPruneStrategy":
        controller = f"controllers.{content['controller']}"
        found |= {
            f"{place}.search_cooling": f"{controller}.reduce_rate",
            f"{place}.search_temperature": f"{controller}.init_temperature",
            f"{place}.search_steps": section.where("end_epoch"),
            f"{place}.target_ratio": section.where("max_ratio"),
            f"{place}.max_ratio": section.where("uniform_range"),
        }
    if pruner in registered.pruners:
        found[f"{place}.criterion"] = f"pruners.{pruner}.criterions"
        if registered.pruners[pruner].patterns:
            found[f"{place}.pruned_params"] = f"pruners.{pruner}.pruning_axis"
    if content["class"] == "DistillationStrategy":
        found |= _origins_of_losses(f"{place}.losses", content["distillers"], registered)
    return found


def _origins_of_losses(
    place: str, distillers: Sequence[str], registered: RegisteredParts
) -> dict[str, str]:
    found: dict[str, str] = {}
    number = 0
    for name in distillers:
        for term in registered.distillers[name]:
            place_of, path = f"{place}.{number}", f"distillers.{name}"
            what = "pairs" if term["kind"] == "fsp" else "feature_map"
            found |= {f"{place_of}.{side}": f"{path}.{side}_{what}" for side in SIDES}
            found |= {
                place_of: f"{path}.",
                f"{place_of}.weight": f"{path}.distillation_loss_weight",
            }
            number += 1
    return found


def _origins_of_export(section: Section, export: Settings, index: int) -> dict[str, str]:
    place = f"exports.{index}"
    path = next(key for key, form in SAVE_PATHS.items() if form == export["form"])
    own = {"after_epoch": "end_epoch", "ending": "save_out_nodes", "save_dir": path, "form": path}
    return {f"{place}.{ours}": section.where(theirs) for ours, theirs in own.items()}


def _run(root: Section) -> Section:
    if root.has("compressor") and root.has("compress_pass"):
        raise ConfigError("compress_pass: compressor says the same; give one of them")
    first, second = root.section("compressor"), root.section("compress_pass")
    run = second if root.has("compress_pass") else first
    run.put_aside("log_period")
    return run


def _strategy(
    section: Section, registered: RegisteredParts, epochs: int
) -> tuple[Settings, list[Settings]]:
    """Return the entry of a recipe, and the exports on the way."""
    kind = class_of(section, STRATEGIES)
    entry = {"start_epoch": section.take("start_epoch", int, 0)}
    entry |= STRATEGIES[kind](section, registered)
    exports = _exports(section, epochs) if entry["kind"] == "qat" else []
    section.finish()
    return entry, exports


def _cut(section: Section, registered: RegisteredParts) -> Settings:
    """Return the settings that all pruning strategies share."""
    pruner = _lookup(section, "pruner", registered.pruners)
    patterns = section.take("pruned_params", str | list[str], "*")
    chosen = [patterns] if isinstance(patterns, str) else list(patterns)
    if pruner.patterns and chosen != ["*"]:
        raise ConfigError(
            f"{section.where('pruned_params')}: the pruner names weights of its own, "
            f"{', '.join(pruner.patterns)}; name them in one place"
        )
    return {
        "kind": "prune",
        "criterion": pruner.criterion,
        "pruned_params": list(pruner.patterns) or chosen,
    }


def _uniform(section: Section, registered: RegisteredParts) -> Settings:
    section.put_aside("end_epoch", "metric_name")  # nothing is measured
    ratio = section.take("target_ratio", float, 0.5)
    return {**_cut(section, registered), "target_ratio": ratio}


def _sensitive(section: Section, registered: RegisteredParts) -> Settings:
    section.put_aside("end_epoch")
    entry = {
        **_cut(section, registered),
        "allocation": "sensitive",
        "target_ratio": section.take("target_ratio", float, 0.5),
        "delta_rate": section.take("delta_rate", float, 0.2),
        "num_steps": section.take("num_steps", int, 1),
        "eval_rate": section.take("eval_rate", float, 1.0),
        **_metric(section),
    }
    file = section.take("sensitivities_file", str, None)
    most = section.take("max_ratio", float, None)
    entry |= {} if file is None else {"sensitivities_file": file}
    return entry if most is None else {**entry, "max_ratio": most}


def _auto(section: Section, registered: RegisteredParts) -> Settings:
    section.refuse(
        "init_tokens",
        "a search begins with the same share everywhere; leave it out, or null; what an earlier "
        "search found is given as pruned_ratio of a recipe of ours",
    )
    section.refuse("retrain_epoch", "plans are ranked without training; leave it out, or 0", (0,))
    start, end = section.take("start_epoch", int, 0), section.take("end_epoch", int)
    least, most = section.take("min_ratio", float), section.take("max_ratio", float)
    if not 0 < least <= most < 1:
        raise ConfigError(
            f"{section.where('max_ratio')}: expected 0 < min_ratio <= max_ratio < 1, got {least} "
            f"and {most}"
        )
    entry = {
        **_cut(section, registered),
        "allocation": "search",
        "target_ratio": round((least + most) / 2, 6),
        "search_steps": max(end - start, 1),  # a plan in each epoch
        **_lookup(section, "controller", registered.controllers),
        **_metric(section),
    }
    limit = section.take("uniform_range", float, None)
    return entry if limit is None else {**entry, "max_ratio": limit}


def _metric(section: Section) -> Settings:
    name = section.take("metric_name", str, None)
    return {} if name is None else {"metric_name": METRICS.get(name, name)}


def _quantization(section: Section, registered: RegisteredParts) -> Settings:
    """Return the strategy that rounds to the end of training; files are written at `end_epoch`."""
    return {
        "kind": "qat",
        "weight_bits": section.take("weight_bits", int, 8),
        "activation_bits": section.take("activation_bits", int, 8),
        "weight_quantize_type": section.take("weight_quantize_type", str, "abs_max"),
        "activation_quantize_type": section.take("activation_quantize_type", str, "abs_max"),
    }


def _exports(section: Section, epochs: int) -> list[Settings]:
    inputs = section.take("save_in_nodes", list[str], None)
    if inputs is not None and inputs not in (["image"], ["data"], ["x"], ["inputs"]):
        raise ConfigError(
            f"{section.where('save_in_nodes')}: a graph begins at the task's inputs, image; it can "
            f"be cut at its end only, with save_out_nodes; got {inputs}"
        )
    outputs = section.take("save_out_nodes", list[str], None)
    start, end = section.take("start_epoch", int, 0), section.take("end_epoch", int, epochs)
    if not start <= end <= epochs:
        raise ConfigError(
            f"{section.where('end_epoch')}: expected an epoch from start_epoch {start} to "
            f"{epochs}, got {end}"
        )
    found = []
    for key, form in SAVE_PATHS.items():
        path = section.take(key, str, None)
        if path is not None and path != "None":
            ending = {} if not outputs else {"ending": ",".join(outputs)}
            # epochs are counted from 0: when the one called end_epoch ends, one more is finished
            found.append(
                {"after_epoch": min(end + 1, epochs), "save_dir": path, "form": form, **ending}
            )
    return found


def _distillation(section: Section, registered: RegisteredParts) -> Settings:
    names = section.take("distillers", list[str])
    losses: list[Settings] = []
    for index, name in enumerate(names):
        if name not in registered.distillers:
            where = f"{section.where('distillers')}.{index}"
            hint = suggest(name, list(registered.distillers))
            raise ConfigError(f"{where}: no distiller {name!r}{hint}")
        losses += registered.distillers[name]
    if not losses:
        raise ConfigError(f"{section.where('distillers')}: names no distiller")
    return {"kind": "distill", "end_epoch": section.take("end_epoch", int, None), "losses": losses}


def _lookup(section: Section, key: str, known: Mapping[str, Any]) -> Any:
    name = section.take(key, str)
    if name not in known:
        raise ConfigError(f"{section.where(key)}: no {key} {name!r}{suggest(name, list(known))}")
    return known[name]


SAVE_PATHS: Mapping[str, Literal["float", "int8", "lite"]] = MappingProxyType(
    {
        "float_model_save_path": "float",
        "int8_model_save_path": "int8",
        "mobile_model_save_path": "lite",
    }
)
STRATEGIES: Mapping[str, Callable[[Section, RegisteredParts], Settings]] = MappingProxyType(
    {
        "UniformPruneStrategy": _uniform,
        "SensitivePruneStrategy": _sensitive,
        "AutoPruneStrategy": _auto,
        "QuantizationStrategy": _quantization,
        "DistillationStrategy": _distillation,
    }
)
