"""PaddleClas: a whole training file, `Global` to `Metric`, with its `Slim` block."""

from __future__ import annotations

import math
import os
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
from core.dialects.paddleclas_data import read_loaders
from core.errors import ConfigError

KEYS = (
    "Global",
    "AMP",
    "EMA",
    "Slim",
    "Arch",
    "Loss",
    "Optimizer",
    "DataLoader",
    "Infer",
    "Metric",
    "profiler_options",
)
TRAIN, EVAL = "DataLoader.Train", "DataLoader.Eval"
ORIGINS = MappingProxyType(  # keys of ours, by what they are here
    {
        "model.name": "Arch.name",
        "model.num_classes": "Arch.class_num",
        "model.options": "Arch.",
        "data.root": f"{TRAIN}.dataset.image_root",
        "data.train_list": f"{TRAIN}.dataset.cls_label_path",
        "data.val_list": f"{EVAL}.dataset.cls_label_path",
        "data.num_workers": f"{TRAIN}.loader.num_workers",
        "data.image_size": f"{TRAIN}.dataset.transform_ops",
        "data.resize_short": f"{EVAL}.dataset.transform_ops",
        "data.interpolation": f"{TRAIN}.dataset.transform_ops",
        "data.mean": f"{TRAIN}.dataset.transform_ops",
        "data.std": f"{TRAIN}.dataset.transform_ops",
        "augment": f"{TRAIN}.dataset.transform_ops",
        "augment.mixup": f"{TRAIN}.dataset.batch_transform_ops",
        "augment.cutmix": f"{TRAIN}.dataset.batch_transform_ops",
        "loss": "Loss.Train",
        "evaluation": "Metric.Eval",
        "train.epochs": "Global.epochs",
        "epochs": "Global.epochs",
        "train.eval_every": "Global.eval_interval",
        "train.accumulate": "Global.update_freq",
        "train.batch_size": f"{TRAIN}.sampler.batch_size",
        "train.eval_batch_size": f"{EVAL}.sampler.batch_size",
        "train.learning_rate": "Optimizer.lr.learning_rate",
        "train.schedule": "Optimizer.lr",
        "train.optimizer": "Optimizer",
        "train.clip_norm": "Optimizer.clip_norm",
        "train.ema_decay": "EMA.decay",
        "train.amp": "AMP",
        "seed": "Global.seed",
        "device": "Global.device",
    }
)
ELSEWHERE = (  # keys of Global that only PaddleClas reads
    "save_interval",
    "print_batch_step",
    "log_interval",
    "to_static",
    "use_dali",
    "infer_during_train",
    "export_for_fd",
    "print_mem_info",
    "uniform_output_enabled",
)


def is_paddleclas(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is one of PaddleClas."""
    return "Arch" in content or "Slim" in content or "DataLoader" in content


def translate(content: Mapping[str, Any]) -> Translation:
    """Turn a training file of PaddleClas into a run of ours.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    root = Section(content, "", [])
    root.put_aside("Infer", "profiler_options")
    run = root.section("Global")
    model = _model(root.section("Arch"), run)
    side, data, augment, train = read_loaders(root.section("DataLoader"))
    _check_side(run, side)
    settings: Settings = {"task": {"name": "cls"}, "model": model, "data": data}
    settings |= {"augment": augment, "loss": _loss(root.section("Loss"))}
    settings |= {"evaluation": _metric(root.section("Metric"))}
    epochs = run.take("epochs", int)
    train |= {"epochs": epochs, "eval_every": _eval_every(run, epochs)}
    train |= {"accumulate": run.take("update_freq", int, 1)}
    train |= _optimizer(root.section("Optimizer"), epochs)
    train |= _amp(root.section("AMP"), run)
    train |= _ema(root.section("EMA"))
    settings |= {"train": train, "seed": run.take("seed", int, 0), "device": _device(run)}
    recipe = _slim(root.section("Slim"))
    output = run.take("output_dir", str, "./output/")
    given = "Global.pretrained_model" if run.has("pretrained_model") else "Arch.pretrained"
    slim = "Slim.prune." if recipe and recipe["strategies"][0]["kind"] == "prune" else "Slim.quant."
    return Translation(
        "PaddleClas",
        settings,
        {**recipe, "epochs": epochs} if recipe else {},
        save_dir=os.path.join(output, model["name"]),
        use_vdl=run.take("use_visualdl", bool, False),
        export_dir=run.take("save_inference_dir", str, None),
        unused=tuple(_finished(root, run)),
        origins={**ORIGINS, "model.pretrained": given, "strategies.0": slim},
    )


def _finished(root: Section, run: Section) -> list[str]:
    run.put_aside(*ELSEWHERE)
    run.refuse("checkpoints", "to go on with a run: --save_dir FOLDER --resume")
    run.refuse("use_multilabel", "one label per image is trained on", (False,))
    run.refuse("eval_mode", "retrieval is no task here", ("classification",))
    run.refuse("task", "only classification is a task of this kind here", ("classification",))
    run.refuse("train_mode", "one way to train is known", ("classification",))
    run.refuse("start_eval_epoch", "evaluation begins with the first epoch", (0, 1))
    run.refuse("freeze_backbone", "give Arch.freeze_at of a config of ours", (False,))
    run.finish()
    root.finish()
    return root.notes


def _model(arch: Section, run: Section) -> Settings:
    """Return the network; the other keys of Arch are arguments of its class."""
    name = arch.take("name", str)
    if name in ("DistillationModel", "RecModel", "AttentionModel"):
        arch.refuse(
            "name",
            f"{name} is a network around others; a teacher goes into a file of its own, "
            "--distill_config, and retrieval is no task here",
        )
    arch.refuse("use_ssld", "only the plain published weights are known; give a path", (False,))
    arch.refuse("models", "networks of a distillation; see --distill_config")
    arch.refuse("pretrained_list", "see model.pretrained", ([],))
    arch.refuse("use_ml_decoder", "one label per image is trained on", (False,))
    arch.put_aside("use_sync_bn")  # statistics are those of each process
    published = arch.take("pretrained", bool | str, None)
    given = run.take("pretrained_model", str, None)
    model: Settings = {
        "name": name,
        "num_classes": arch.take("class_num", int, 1000),
        "pretrained": given if given is not None else (published or None),
    }
    rest = [str(key) for key in arch.content if not arch.knows(key)]
    options = {key: arch.take(key, bool | int | float | str, None) for key in rest}
    options = {key: value for key, value in options.items() if value is not None}
    arch.finish()
    return {**model, "options": options} if options else model


def _check_side(run: Section, side: int) -> None:
    shape = run.take("image_shape", tuple[int, int, int], (3, side, side))
    if shape != (3, side, side):
        raise ConfigError(
            f"Global.image_shape: expected [3, {side}, {side}], as pictures are cropped to, "
            f"got {list(shape)}"
        )


def _device(run: Section) -> str:
    device: str = run.take("device", str, "auto")
    if device not in ("cpu", "gpu", "auto"):
        raise ConfigError(f"Global.device: expected cpu or gpu, got {device!r}")
    return device


def _eval_every(run: Section, epochs: int) -> int:
    every: int = run.take("eval_interval", int, 1)
    return every if run.take("eval_during_train", bool, True) else epochs


def _slim(slim: Section) -> Settings:
    quant, prune = slim.section("quant"), slim.section("prune")
    slim.finish()
    strategies = []
    if prune.content:
        strategies.append(
            {
                "kind": "prune",
                "criterion": prune.take("name", Literal["fpgm", "l1_norm"], "fpgm"),
                "pruned_ratio": prune.take("pruned_ratio", float),
            }
        )
    if quant.content:
        if quant.take("name", str) != "pact":
            raise ConfigError(
                f"Slim.quant.name: expected pact, got {quant.content['name']!r}; others are in "
                "recipes: --slim qat"
            )
        # the file's learning rate and schedule are meant for quantization already
        strategies.append(
            {
                "kind": "qat",
                "activation_preprocess_type": "PACT",
                "quantizable_layer_type": ["Conv2D", "Linear"],
                "learning_rate_scale": 1.0,
                "warmup_epochs": 0,
            }
        )
    if len(strategies) > 1:
        raise ConfigError(
            "Slim.quant: pruned channels need epochs of training before quantization; prune first, "
            "or use the recipe prune_qat"
        )
    quant.finish()
    prune.finish()
    return {"strategies": strategies} if strategies else {}


def _loss(loss: Section) -> Settings:
    loss.put_aside("Eval")
    entries = loss.named("Train")
    loss.finish()
    if len(entries) != 1:
        raise ConfigError(f"Loss.Train: expected one loss, got {len(entries)}")
    name, section = entries[0]
    if name not in ("CELoss", "MixCELoss"):
        raise ConfigError(f"{section.path}: expected CELoss or MixCELoss; labels are trained on")
    section.refuse("weight", "one loss has the weight 1; scale the learning rate", (1, 1.0))
    smoothing = section.take("epsilon", float, 0.0)
    section.refuse("reduction", "the mean over the batch is taken", ("mean",))
    section.finish()
    return {"label_smoothing": smoothing}


def _metric(metric: Section) -> Settings:
    metric.put_aside("Train")
    topk: list[int] = [1, 5]
    for name, section in metric.named("Eval"):
        if name != "TopkAcc":
            raise ConfigError(f"{section.path}: expected TopkAcc, the metric of one label")
        chosen = section.take("topk", int | list[int], topk)
        topk = [chosen] if isinstance(chosen, int) else chosen
        section.finish()
    metric.finish()
    return {"topk": topk}


def _amp(amp: Section, run: Section) -> Settings:
    amp.put_aside("scale_loss", "use_dynamic_loss_scaling", "use_fp16_test", "use_promote")
    level = amp.take("level", Literal["O0", "O1", "O2"], "O1")
    wanted = amp.take("use_amp", bool, bool(amp.content))
    wanted = run.take("use_amp", bool, wanted) and level != "O0"
    if level == "O2":
        raise ConfigError("AMP.level: expected O1; weights stay in float32")
    amp.finish()
    return {"amp": "float16"} if wanted else {}


def _ema(ema: Section) -> Settings:
    if not ema.content:
        return {}
    decay = ema.take("decay", float, 0.9999)
    ema.finish()
    return {"ema_decay": decay}


def _optimizer(optimizer: Section, epochs: int) -> Settings:
    name = optimizer.take("name", Literal["Momentum", "SGD", "Adam", "AdamW"])
    optimizer.refuse(
        "one_dim_param_no_weight_decay",
        "name the weights: no_weight_decay_name, or no_weight_decay of a config of ours",
        (False,),
    )
    optimizer.put_aside("multi_precision")
    regularizer = optimizer.section("regularizer")
    regularizer.take("name", Literal["L2"], "L2")
    decay = regularizer.take("coeff", float, 0.0)
    regularizer.finish()
    given = optimizer.take("weight_decay", float, None)
    if given is not None and not optimizer.content.get("regularizer"):  # which goes before it
        decay = given
    found: Settings = {"weight_decay": decay}
    spared = optimizer.take("no_weight_decay_name", str, "").split()
    if spared:
        found["no_weight_decay"] = [f"*{each}*" for each in spared]
    if name == "Momentum":
        momentum = optimizer.take("momentum", float, 0.9)
        nesterov = optimizer.take("use_nesterov", bool, False)
        found |= {"kind": "momentum", "momentum": momentum, "nesterov": nesterov}
    elif name == "SGD":
        found["kind"] = "sgd"
    else:
        if name == "Adam":
            refuse_decay_of_adam("Optimizer.regularizer.coeff", name, decay)
        found |= adamw(optimizer)
    clip = optimizer.take("clip_norm", float, None)
    rate, schedule = _rate(optimizer.section("lr"), epochs)
    optimizer.finish()
    train: Settings = {"optimizer": found, "learning_rate": rate, "schedule": schedule}
    return train if clip is None else {**train, "clip_norm": clip, "clip_each": True}


def _rate(lr: Section, epochs: int) -> tuple[float, Settings]:
    """Return the learning rate and how it goes on."""
    kinds = Literal["Cosine", "Linear", "Step", "Piecewise", "MultiStepDecay", "Constant"]
    name = lr.take("name", kinds)
    lr.refuse("by_epoch", "the rate falls from step to step", (False,))
    lr.refuse("last_epoch", "a run is gone on with by --resume", (-1,))
    lr.put_aside("verbose", "epochs")
    if name == "Piecewise":
        values, milestones = _steps(lr, epochs)
        rate, schedule = values[0] if values else 0.0, piecewise(values, milestones, "Optimizer.lr")
    else:
        rate = lr.positive("learning_rate")
        schedule = _falling(lr, name, rate, epochs)
    warmup = lr.take("warmup_epoch", float, 0.0)
    start = lr.take("warmup_start_lr", float, 0.0)
    lr.finish()
    return rate, schedule_with_warmup(schedule, rate, warmup, start)


def _steps(lr: Section, epochs: int) -> tuple[list[float], list[float]]:
    """Return rates, and when they change: by a rule where `learning_rate` is given."""
    first = lr.take("learning_rate", float, None)
    if not first:
        return lr.take("values", list[float]), lr.take("decay_epochs", list[float])
    milestones = [float(each) for each in range(30, epochs, 30)]
    values = [first * 0.1**power for power in range(len(milestones) + 1)]
    for key, wanted in (("values", values), ("decay_epochs", milestones)):
        found = lr.take(key, list[float], wanted)[: len(wanted)]  # more of them come too late
        if len(found) < len(wanted) or not all(map(math.isclose, found, wanted)):
            raise ConfigError(
                f"{lr.where(key)}: PaddleClas takes {wanted} in its place where learning_rate is "
                "given; give one of them"
            )
    return values, milestones


def _falling(lr: Section, name: str, rate: float, epochs: int) -> Settings:
    if name == "Cosine":
        least = lr.take("eta_min", float, 0.0)
        return {"kind": "cosine", "end_factor": least / rate}
    if name == "Linear":
        least, power = lr.take("end_lr", float, 0.0), lr.take("power", float, 1.0)
        return {"kind": "poly", "power": power, "end_factor": least / rate}
    if name == "Step":
        size = lr.take("step_size", float)
        if not size > 0:
            raise ConfigError(f"Optimizer.lr.step_size: expected > 0, got {size}")
        marks = [size * i for i in range(1, math.ceil(epochs / size))]
        return {"kind": "piecewise", "milestones": marks, "gamma": lr.take("gamma", float, 0.1)}
    if name == "MultiStepDecay":
        marks = lr.take("milestones", list[float])
        return {"kind": "piecewise", "milestones": marks, "gamma": lr.take("gamma", float, 0.1)}
    return {"kind": "constant"}
