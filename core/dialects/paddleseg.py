"""PaddleSeg: a whole training file, `batch_size` to `model`, with the flags of its tools."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from core.dialects.foreign import (
    Section,
    Settings,
    Translation,
    adamw,
    piecewise,
    refuse_decay_of_adam,
    schedule_with_warmup,
)
from core.dialects.origins import told_by
from core.dialects.paddleseg_data import read_datasets
from core.errors import ConfigError

KEYS = (
    "batch_size",
    "iters",
    "train_dataset",
    "val_dataset",
    "optimizer",
    "lr_scheduler",
    "learning_rate",
    "loss",
    "model",
    "test_config",
    "export",
    "to_static_training",
    "seed",
    "global",
    "train",
    "test",
    "flags",
)
ORIGINS = MappingProxyType(  # keys of ours, by what they are here
    {
        "model.name": "model.type",
        "model.num_classes": "train_dataset.num_classes",
        "model.arguments": "model.",
        "model.backbone.name": "model.backbone.type",
        "model.backbone.arguments": "model.backbone.",
        "data.root": "train_dataset.dataset_root",
        "data.train_list": "train_dataset.train_path",
        "data.val_list": "val_dataset.val_path",
        "data.separator": "train_dataset.separator",
        "data.ignore_index": "train_dataset.ignore_index",
        "data.download": "train_dataset.type",
        "data.size": "val_dataset.transforms",
        "data.mean": "train_dataset.transforms",
        "data.std": "train_dataset.transforms",
        "augment": "train_dataset.transforms",
        "loss.heads": "loss.types",
        "loss.function": "loss.types",
        "evaluation": "test_config",
        "train.epochs": "iters",
        "train.steps_per_epoch": "iters",
        "train.batch_size": "batch_size",
        "train.optimizer": "optimizer",
        "train.learning_rate": "lr_scheduler.learning_rate",
        "train.schedule": "lr_scheduler",
    }
)
SAVE_INTERVAL = 1000  # iterations, the default of PaddleSeg's train.py
RUNTIME = ("device", "num_workers")  # keys of `global`
TRAIN = ("save_dir", "do_eval", "save_interval", "seed", "precision")  # keys of `train`


def is_paddleseg(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is one of PaddleSeg."""
    return bool({"train_dataset", "val_dataset", "iters"} & content.keys())


def translate(content: Mapping[str, Any]) -> Translation:
    """Turn a training file of PaddleSeg into a run of ours.

    What the flags of its tools say stands under the key `flags`.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    root = Section(content, "", [])
    root.put_aside("export", "to_static_training")
    flags, origins = _flags(root)
    with told_by(origins):
        return _run(root, flags)


def _run(root: Section, flags: Section) -> Translation:
    classes, data, augment = read_datasets(
        root.section("train_dataset"), root.section("val_dataset")
    )
    model = _model(root.section("model"), classes, flags)
    train = _length(root, flags)
    train |= _optimizer(root.section("optimizer"))
    train |= _learning_rate(root, flags, train)
    data["num_workers"] = flags.take("num_workers", int, 0)
    older = root.take("seed", int, 0)
    settings: Settings = {
        "task": {"name": "seg"},
        "seed": flags.take("seed", int, older),
        "model": model,
        "data": data,
        "augment": augment,
        "loss": _losses(root.section("loss")),
        "evaluation": _evaluation(root),
        "train": train,
    }
    settings |= _device(flags)
    settings["train"] |= {"amp": "float16"} if _half(flags) else {}
    folder = flags.take("save_dir", str, None)
    flags.finish()
    root.finish()
    save_dir = None if folder in (None, "output", "./output") else folder
    older_rate = {"train.learning_rate": "learning_rate.value", "train.schedule": "learning_rate"}
    return Translation(
        "PaddleSeg",
        settings,
        save_dir=save_dir,
        unused=tuple(root.notes),
        origins={**ORIGINS, **({} if root.has("lr_scheduler") else older_rate)},
    )


def _flags(root: Section) -> tuple[Section, dict[str, str]]:
    """Return the settings of flags, which override `global` and `train` of newer files.

    And what the user has called each of them.
    """
    flags, runtime, train = (root.section(key) for key in ("flags", "global", "train"))
    runtime.refuse("data_format", "maps are [N, C, H, W]", ("NCHW",))
    train.put_aside("log_iters", "keep_checkpoint_max", "amp_level", "repeats")
    train.refuse("resume_model", "to go on with a run: --save_dir FOLDER --resume")
    for section, keys in ((runtime, RUNTIME), (train, TRAIN)):
        for key in keys:
            section.take(key, Any, None)
        section.finish()
    found: Settings = {}
    origins: dict[str, str] = {}
    for section, keys in ((runtime, RUNTIME), (train, TRAIN), (flags, tuple(flags.content))):
        given = [key for key in keys if section.has(key)]
        found |= {key: section.content[key] for key in given}
        said = "--{}" if section is flags else f"{section.path}.{{}}"
        origins |= {f"flags.{key}": said.format(key) for key in given}
    return Section(found, "flags", root.notes), origins


def _device(flags: Section) -> Settings:
    """Return the device; PaddleSeg takes a CPU where a file says gpu and there is none."""
    device = flags.take("device", Literal["cpu", "gpu"], "gpu")
    return {"device": "cpu"} if device == "cpu" else {}


def _half(flags: Section) -> bool:
    return bool(flags.take("precision", Literal["fp32", "fp16"], "fp32") == "fp16")


def _length(root: Section, flags: Section) -> Settings:
    """Return iterations as epochs of so many steps: PaddleSeg evaluates every `save_interval`."""
    iters = flags.take("iters", int, None) or root.take("iters", int)
    root.take("iters", int, None)
    interval = flags.take("save_interval", int, SAVE_INTERVAL)
    batch = flags.take("batch_size", int, None) or root.take("batch_size", int, 1)
    root.take("batch_size", int, None)
    if iters < 1 or interval < 1:
        raise ConfigError(f"iters: expected 1 or more, got {iters}, evaluated every {interval}")
    steps = next(size for size in range(min(interval, iters), 0, -1) if iters % size == 0)
    epochs = iters // steps
    # without the flag PaddleSeg does not evaluate; here the end always is
    every = max(interval // steps, 1) if flags.take("do_eval", bool, True) else epochs
    return {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "batch_size": batch,
        "eval_batch_size": 1,
        "eval_every": every,
    }


def _model(model: Section, classes: int, flags: Section) -> Settings:
    """Return the network; the other keys of the section are arguments of its class."""
    count = model.take("num_classes", int, classes)
    if count != classes:
        raise ConfigError(f"model.num_classes: expected {classes}, as of the data, got {count}")
    found: Settings = {"name": model.take("type", str), "num_classes": classes}
    weights = model.take("pretrained", str, None)
    backbone = model.section("backbone")
    known = ["type", "num_classes", "pretrained", "backbone"]
    if backbone.content:
        name, inner = backbone.take("type", str), backbone.take("pretrained", str, None)
        weights = weights or inner
        arguments = _rest(backbone, ["type", "pretrained"])
        found["backbone"] = {"name": name, "arguments": arguments}
        backbone.finish()
    rest = _rest(model, known)
    found |= {"arguments": rest} if rest else {}
    model.finish()
    given = flags.take("model_path", str, None)
    return {**found, "pretrained": given or weights}


def _rest(section: Section, known: list[str]) -> Settings:
    keys = [str(key) for key in section.content if key not in known]
    found = {key: section.take(key, Any, None) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def _optimizer(optimizer: Section) -> Settings:
    kind = optimizer.take("type", str, "sgd")
    optimizer.refuse("backbone_lr_mult", "all weights have one learning rate", (1, 1.0))
    decay = optimizer.take("weight_decay", float, 0.01 if kind == "AdamW" else 0.0)
    found: Settings = {"weight_decay": decay}
    if kind == "SGD" and not optimizer.has("momentum"):  # `sgd` is that of 2.7, with momentum
        optimizer.take("momentum", float, None)
        found["kind"] = "sgd"
    elif kind in ("sgd", "SGD", "Momentum"):
        found |= {"kind": "momentum", "momentum": optimizer.take("momentum", float, 0.9)}
        found["nesterov"] = optimizer.take("use_nesterov", bool, False)
    elif kind in ("adam", "Adam", "AdamW"):
        if kind != "AdamW":
            refuse_decay_of_adam("optimizer.weight_decay", kind, decay)
        found |= adamw(optimizer)
    else:
        raise ConfigError(f"optimizer.type: expected SGD, Momentum, Adam or AdamW, got {kind!r}")
    optimizer.finish()
    return {"optimizer": found}


def _learning_rate(root: Section, flags: Section, train: Settings) -> Settings:
    """Return rate and schedule, from `lr_scheduler` or the older `learning_rate`."""
    given = flags.positive("learning_rate", None)
    if root.has("lr_scheduler"):
        root.refuse("learning_rate", "lr_scheduler says the same; give one of them")
        section = root.section("lr_scheduler")
        kind = section.take("type", str)
    else:
        root.section("lr_scheduler")
        older = root.section("learning_rate")
        decay, value = dict(older.section("decay").content), older.take("value", Any)
        older.finish()
        names = {"poly": "PolynomialDecay", "piecewise": "PiecewiseDecay"}
        named = str(decay.pop("type", "poly"))
        kind = names.get(named, named)
        key = "values" if kind == "PiecewiseDecay" else "learning_rate"
        section = Section({key: value, **decay}, "learning_rate.decay", root.notes)
    rate, schedule = _schedule(section, kind, given, train)
    return {"learning_rate": rate, "schedule": schedule}


def _schedule(
    section: Section, kind: str, given: float | None, train: Settings
) -> tuple[float, Settings]:
    steps: int = train["steps_per_epoch"]
    section.put_aside("verbose", "last_epoch")
    warmed = section.take("warmup_iters", int, 0)
    for key in ("decay_steps", "T_max"):
        iters = train["epochs"] * steps
        reason = f"expected {iters}, the rate falls to the end of training"
        section.refuse(key, reason, (iters, iters - warmed))
    if kind == "PiecewiseDecay":
        values = section.take("values", list[float])
        marks = [mark / steps for mark in section.take("boundaries", list[int])]
        schedule = piecewise(values, marks, section.where("values"))
        section.take("learning_rate", Any, None)
        rate = given or values[0]
    else:
        rate = section.positive("learning_rate")
        if kind == "PolynomialDecay":
            power, end = section.take("power", float, 0.9), section.take("end_lr", float, 0.0)
            schedule = {"kind": "poly", "power": power, "end_factor": end / rate}
        elif kind == "CosineAnnealingDecay":
            end = section.take("eta_min", float, 0.0)
            schedule = {"kind": "cosine", "end_factor": end / rate}
        else:
            raise ConfigError(
                f"{section.where('type')}: expected PolynomialDecay, PiecewiseDecay or "
                f"CosineAnnealingDecay, got {kind!r}"
            )
        rate = given or rate
    warmup = warmed / steps
    start = section.take("warmup_start_lr", float, 0.0)
    section.finish()
    return rate, schedule_with_warmup(schedule, rate, warmup, start)


def _losses(loss: Section) -> Settings:
    functions = [_loss(each) for each in loss.sections("types")]
    coef = loss.take("coef", list[float])
    loss.finish()
    if not functions or len(functions) not in (1, len(coef)):
        raise ConfigError(
            f"loss.types: expected one, or one for each of {len(coef)} coef, got {len(functions)}"
        )
    if len(functions) == 1:
        return {"function": functions[0], "coef": coef}
    return {"heads": functions, "coef": coef}


def _loss(section: Section) -> Settings:
    kind = section.take("type", str)
    section.refuse("ignore_index", "data.ignore_index is one for all losses", (255,))
    found: Settings
    if kind == "CrossEntropyLoss":
        section.refuse("avg_non_ignore", "the mean is over the pixels that count", (True,))
        section.refuse("top_k_percent_pixels", "see OhemCrossEntropyLoss", (1, 1.0))
        found = {"kind": "cross_entropy"}
        weights = section.take("weight", list[float], None)
        found |= {} if weights is None else {"class_weights": weights}
    elif kind == "OhemCrossEntropyLoss":
        found = {"kind": "ohem", "threshold": section.take("thresh", float, 0.7)}
        found["min_kept"] = section.take("min_kept", int, 10000)
    elif kind == "DiceLoss":
        found = {"kind": "dice", "smooth": section.take("smooth", float, 1.0)}
        weights = section.take("weight", list[float], None)
        found |= {} if weights is None else {"class_weights": weights}
    elif kind == "DetailAggregateLoss":
        found = {"kind": "detail"}
    elif kind == "MixedLoss":
        losses = [_loss(each) for each in section.sections("losses")]
        found = {"kind": "mixed", "losses": losses, "coef": section.take("coef", list[float])}
    else:
        raise ConfigError(
            f"{section.where('type')}: expected CrossEntropyLoss, OhemCrossEntropyLoss, DiceLoss, "
            f"DetailAggregateLoss or MixedLoss, got {kind!r}"
        )
    section.finish()
    return found


def _evaluation(root: Section) -> Settings:
    """Return how validation pictures are looked at: `test_config`, `test` in newer files."""
    older, newer = root.section("test_config"), root.section("test")
    if older.content and newer.content:
        raise ConfigError("test_config: test says the same; give one of them")
    test = newer if newer.content else older
    test.put_aside("auc_roc")
    found: Settings = {}
    if test.take("is_slide", bool, False):
        pair = tuple[int, int]
        crop, stride = test.take("crop_size", pair), test.take("stride", pair)
        found["sliding_window"] = {"crop": list(crop), "stride": list(stride)}
    if test.take("aug_eval", bool, False):
        scales = test.take("scales", float | list[float], 1.0)
        found["scales"] = scales if isinstance(scales, list) else [scales]
        found["flip"] = test.take("flip_horizontal", bool, False)
    test.refuse("flip_vertical", "pictures are mirrored from left to right only", (False,))
    for key in ("crop_size", "stride", "scales", "flip_horizontal"):
        test.take(key, Any, None)  # they do not matter where they are not used
    test.finish()
    return found
