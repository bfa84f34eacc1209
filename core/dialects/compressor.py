"""PaddleSlim 1.x: `pruners`, `distillers`, `controllers`, `strategies` and the `compressor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

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


@dataclass(frozen=True)
class _Pruner:
    """A registered pruner: its criterion, and the weights it is for."""

    criterion: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class _Registered:
    """Parts of a file that its strategies refer to by name."""

    pruners: Mapping[str, _Pruner]
    distillers: Mapping[str, list[Settings]]
    controllers: Mapping[str, Settings]


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
    registered = _Registered(
        {name: _pruner(each) for name, each in _entries(root, "pruners")},
        {name: _distiller(each) for name, each in _entries(root, "distillers")},
        {name: _controller(each) for name, each in _entries(root, "controllers")},
    )
    run, strategies = _run(root), dict(_entries(root, "strategies"))
    weights, every = run.take("init_model", str, None), run.take("eval_epoch", int, None)
    settings: Settings = {} if weights is None else {"model": {"pretrained": weights}}
    settings |= {} if every is None else {"train": {"eval_every": every}}
    epochs, save_dir = run.take("epoch", int), run.take("checkpoint_path", str, None)
    recipe: Settings = {"epochs": epochs, "strategies": []}
    origins = {
        "train.epochs": run.where("epoch"),
        "epochs": run.where("epoch"),
        "train.eval_every": run.where("eval_epoch"),
        "model.pretrained": run.where("init_model"),
    }
    named = run.take("strategies", list[str], [])
    for index, name in enumerate(named):
        if name not in strategies:
            where = f"{run.where('strategies')}.{index}"
            raise ConfigError(f"{where}: no strategy {name!r}{suggest(name, list(strategies))}")
        entry, exports = _strategy(strategies[name], registered, epochs)
        origins |= _origins(strategies[name], registered, index)
        for number, export in enumerate(exports, len(recipe.get("exports", []))):
            origins |= _origins_of_export(strategies[name], export, number)
        recipe["strategies"].append(entry)
        recipe.setdefault("exports", []).extend(exports)
    for name, section in strategies.items():
        if name not in named:
            _strategy(section, registered, epochs)  # checked, but not asked for
            root.notes.append(section.path)
    if not recipe.get("exports"):
        recipe.pop("exports", None)
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
        origins=origins if weights else {k: v for k, v in origins.items() if "model" not in k},
    )


def _origins(section: Section, registered: _Registered, index: int) -> dict[str, str]:
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
    place: str, distillers: Sequence[str], registered: _Registered
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


def _entries(root: Section, key: str) -> list[tuple[str, Section]]:
    section = root.section(key)
    return [(str(name), section.section(name)) for name in section.content]


def _class_of(section: Section, known: Mapping[str, Any]) -> str:
    name: str = section.take("class", str)
    if name not in known:
        raise ConfigError(f"{section.where('class')}: no class {name!r}{suggest(name, [*known])}")
    return name


def _pruner(section: Section) -> _Pruner:
    _class_of(section, {"StructurePruner": None})
    axes = section.take("pruning_axis", dict[str, int], {"*": 0})
    for pattern, axis in axes.items():
        if axis != 0:
            raise ConfigError(
                f"{section.where('pruning_axis')}.{pattern}: expected 0, filters; what reads them "
                f"is cut along by itself; got {axis}"
            )
    criteria = section.take("criterions", dict[str, str], {"*": "l1_norm"})
    if len(set(criteria.values())) > 1:
        raise ConfigError(
            f"{section.where('criterions')}: several criteria; give each a pruner, with a strategy "
            "of its own"
        )
    section.finish()
    patterns = [each for each in (*axes, *criteria) if each != "*"]
    return _Pruner(next(iter(criteria.values()), "l1_norm"), tuple(dict.fromkeys(patterns)))


def _controller(section: Section) -> Settings:
    _class_of(section, {"SAController": None})
    settings = {
        "search_cooling": section.take("reduce_rate", float, 0.85),
        "search_temperature": section.take("init_temperature", float, 1024.0),
    }
    # every plan is scaled until it holds the limit: there is nothing to try again
    section.put_aside("max_iter_number", "range_table", "init_tokens", "constrain_func")
    section.finish()
    return settings


def _distiller(section: Section) -> list[Settings]:
    kind = _class_of(section, DISTILLERS)
    weight = section.take("distillation_loss_weight", float, 1.0)
    terms = [{**term, "weight": weight} for term in DISTILLERS[kind](section)]
    section.finish()
    return terms


def _fsp(section: Section) -> list[Settings]:
    pairs = list[tuple[str, str]]
    teachers, students = section.take("teacher_pairs", pairs), section.take("student_pairs", pairs)
    if len(teachers) != len(students):
        raise ConfigError(
            f"{section.where('student_pairs')}: expected as many as teacher_pairs, "
            f"{len(teachers)}, got {len(students)}"
        )
    return [
        {"kind": "fsp", "student": list(own), "teacher": list(other)}
        for own, other in zip(students, teachers)
    ]


def _maps(section: Section) -> Settings:
    return {
        "student": section.take("student_feature_map", str),
        "teacher": section.take("teacher_feature_map", str),
    }


def _l2(section: Section) -> list[Settings]:
    return [{"kind": "l2", **_maps(section), "adapter": False}]


def _soft_label(section: Section) -> list[Settings]:
    return [
        {
            "kind": "soft_label",
            "form": "cross_entropy",
            **_maps(section),
            "student_temperature": section.positive("student_temperature", 1.0),
            "teacher_temperature": section.positive("teacher_temperature", 1.0),
        }
    ]


DISTILLERS: Mapping[str, Callable[[Section], list[Settings]]] = MappingProxyType(
    {"FSPDistiller": _fsp, "L2Distiller": _l2, "SoftLabelDistiller": _soft_label}
)


def _strategy(
    section: Section, registered: _Registered, epochs: int
) -> tuple[Settings, list[Settings]]:
    """Return the entry of a recipe, and the exports on the way."""
    kind = _class_of(section, STRATEGIES)
    entry = {"start_epoch": section.take("start_epoch", int, 0)}
    entry |= STRATEGIES[kind](section, registered)
    exports = _exports(section, epochs) if entry["kind"] == "qat" else []
    section.finish()
    return entry, exports


def _cut(section: Section, registered: _Registered) -> Settings:
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


def _uniform(section: Section, registered: _Registered) -> Settings:
    section.put_aside("end_epoch", "metric_name")  # nothing is measured
    ratio = section.take("target_ratio", float, 0.5)
    return {**_cut(section, registered), "target_ratio": ratio}


def _sensitive(section: Section, registered: _Registered) -> Settings:
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


def _auto(section: Section, registered: _Registered) -> Settings:
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


def _quantization(section: Section, registered: _Registered) -> Settings:
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


def _distillation(section: Section, registered: _Registered) -> Settings:
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
STRATEGIES: Mapping[str, Callable[[Section, _Registered], Settings]] = MappingProxyType(
    {
        "UniformPruneStrategy": _uniform,
        "SensitivePruneStrategy": _sensitive,
        "AutoPruneStrategy": _auto,
        "QuantizationStrategy": _quantization,
        "DistillationStrategy": _distillation,
    }
)
