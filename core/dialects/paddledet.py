"""PaddleDetection and HRNet-Keypoint: top-down keypoint files with `slim: QAT`, and teachers."""

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
)
from core.dialects.paddledet_data import read_data
from core.errors import ConfigError
from core.settings.yaml_loader import TAG

KEYS = (
    "use_gpu",
    "use_xpu",
    "log_iter",
    "save_dir",
    "snapshot_epoch",
    "weights",
    "pretrain_weights",
    "epoch",
    "num_joints",
    "pixel_std",
    "metric",
    "num_classes",
    "train_height",
    "train_width",
    "trainsize",
    "hmsize",
    "flip_perm",
    "slim",
    "QAT",
    "architecture",
    "TopDownHRNet",
    "LiteHRNet",
    "HRNet",
    "KeyPointMSELoss",
    "LearningRate",
    "OptimizerBuilder",
    "TrainDataset",
    "EvalDataset",
    "TestDataset",
    "worker_num",
    "init_loss_scaling",
    "master_grad",
    "global_mean",
    "global_std",
    "TrainReader",
    "EvalReader",
    "TestReader",
    "freeze_parameters",
    "distill_loss",
)
ORIGINS = MappingProxyType(  # keys of ours, by what they are here
    {
        "model.name": "TopDownHRNet.backbone",
        "model.num_joints": "num_joints",
        "model.pretrained": "pretrain_weights",
        "data.root": "TrainDataset.dataset_dir",
        "data.train_annotations": "TrainDataset.anno_path",
        "data.train_images": "TrainDataset.image_dir",
        "data.val_annotations": "EvalDataset.anno_path",
        "data.val_images": "EvalDataset.image_dir",
        "data.detections": "EvalDataset.bbox_file",
        "data.detection_score": "EvalDataset.image_thre",
        "data.input_size": "train_height",
        "data.mean": "TrainReader.batch_transforms",
        "data.std": "TrainReader.batch_transforms",
        "data.num_workers": "worker_num",
        "joints": "flip_perm",
        "augment": "TrainReader.sample_transforms",
        "codec": "TrainReader.sample_transforms",
        "loss": "KeyPointMSELoss.",
        "train.epochs": "epoch",
        "epochs": "epoch",
        "train.eval_every": "snapshot_epoch",
        "train.batch_size": "TrainReader.batch_size",
        "train.eval_batch_size": "EvalReader.batch_size",
        "train.learning_rate": "LearningRate.base_lr",
        "train.schedule": "LearningRate.schedulers",
        "train.optimizer": "OptimizerBuilder",
        "device": "use_gpu",
        "strategies.0": "QAT.quant_config.",
    }
)
ELSEWHERE = (  # keys that only PaddleDetection reads
    "use_xpu",
    "log_iter",
    "num_classes",
    "pixel_std",
    "init_loss_scaling",
    "master_grad",
    "TestDataset",
    "TestReader",
    "global_mean",
    "global_std",
)


def is_paddledet(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is one of PaddleDetection."""
    return bool({"architecture", "LearningRate", "TrainReader"} & content.keys())


def translate(content: Mapping[str, Any]) -> Translation:
    """Turn a keypoint file of PaddleDetection into a run of ours, or into a teacher.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    root = Section(content, "", [])
    root.put_aside(*ELSEWHERE)
    root.refuse("metric", "keypoints are measured as COCO does", ("KeyPointTopDownCOCOEval",))
    teaches = "distill_loss" in content
    model, dark, flips = _model(root)
    size = root.take("train_height", int, 256), root.take("train_width", int, 192)
    settings: Settings = {
        "task": {"name": "keypoint"},
        "model": {**model, "num_joints": root.take("num_joints", int, 17)},
        "codec": {"udp": False, "target": "rounded", "sigma": 2.0, "decoding": "quarter"},
        "loss": _loss(root.section("KeyPointMSELoss")),
    }
    if dark:  # PaddleDetection smooths with a kernel of 3
        settings["codec"] |= {"decoding": "dark", "blur_kernel": 3}
    settings["evaluation"] = flips
    return (_teacher if teaches else _run)(root, settings, size)


def _run(root: Section, settings: Settings, size: tuple[int, int]) -> Translation:
    root.put_aside("weights")  # where a training ends
    root.refuse("freeze_parameters", "only a teacher is frozen; it needs a distill_loss", (False,))
    weights = root.take("pretrain_weights", str, None)
    epochs = root.take("epoch", int)
    found = read_data(root, size)
    train = {"epochs": epochs, "eval_every": root.take("snapshot_epoch", int, 1)}
    train |= {**found.pop("train"), **_learning_rate(root.section("LearningRate"), epochs)}
    train |= _optimizer(root.section("OptimizerBuilder"))
    settings["codec"] |= found.pop("codec")
    settings |= {**found, "train": train}
    settings["model"]["pretrained"] = weights
    if root.has("use_gpu"):
        settings["device"] = "gpu" if root.content["use_gpu"] else "cpu"
    root.take("use_gpu", bool, None)
    folder = root.take("save_dir", str, None)
    recipe = _slim(root)
    root.finish()
    return Translation(
        "PaddleDetection",
        settings,
        {"epochs": epochs, **recipe} if recipe else {},
        save_dir=None if folder == "output" else folder,
        unused=tuple(root.notes),
        origins=ORIGINS,
    )


def _teacher(root: Section, settings: Settings, size: tuple[int, int]) -> Translation:
    root.put_aside("pretrain_weights", "trainsize", "hmsize", "flip_perm")
    root.refuse("freeze_parameters", "a teacher is frozen; equals learn by --slim mutual", (True,))
    loss = root.section("distill_loss")
    loss.take("name", Literal["DistMSELoss"])
    loss.refuse("key", "the heatmaps are compared, which are the output", ("output",))
    term = {
        "kind": "dist_mse",
        "weight": loss.take("weight", float, 1.0),
        "loss_scale": loss.take("loss_scale", float, 0.5),
        "use_target_weight": loss.take("use_target_weight", bool, True),
    }
    loss.finish()
    weights = root.take("weights", str)
    root.finish()
    settings["data"] = {"root": ".", "input_size": list(size)}
    return Translation(
        "PaddleDetection",
        settings,
        distill={"losses": [term]},
        weights=weights,
        unused=tuple(root.notes),
    )


def _model(root: Section) -> tuple[Settings, bool, Settings]:
    """Return the network, whether points are decoded by DARK, and how pictures are mirrored."""
    root.take("architecture", Literal["TopDownHRNet"])
    top = root.section("TopDownHRNet")
    name = top.take("backbone", Literal["LiteHRNet", "HRNet"])
    top.put_aside("post_process", "flip_perm", "num_joints", "loss")
    width = top.take("width", int, 32 if name == "HRNet" else 40)
    dark = top.take("use_dark", bool, True)
    flips: Settings = {"flip_test": top.take("flip", bool, True)}
    if top.has("shift_heatmap"):
        flips["shift_heatmap"] = top.content["shift_heatmap"]
    top.take("shift_heatmap", bool, None)
    top.finish()
    backbone = root.section(name)
    other = "HRNet" if name == "LiteHRNet" else "LiteHRNet"
    root.refuse(other, f"TopDownHRNet.backbone is {name}")
    at = backbone.take("freeze_at", int, -1)
    found: Settings = {"freeze_norm": backbone.take("freeze_norm", bool, False)}
    backbone.refuse("return_idx", "the finest maps are what heatmaps are made of", ([0],))
    if name == "LiteHRNet":
        kinds = Literal["lite_18", "lite_30", "naive", "wider_naive"]
        kind = backbone.take("network_type", kinds, "lite_18")
        found["name"] = f"lite_hrnet_{kind.removeprefix('lite_')}"
        wanted = [30] if kind == "naive" else [40]
    else:
        width = backbone.take("width", int, width)
        found["name"] = f"hrnet_w{width}"
        wanted = [32, 48]
    if width not in wanted:
        raise ConfigError(
            f"TopDownHRNet.width: expected {' or '.join(map(str, wanted))}, got {width}"
        )
    backbone.finish()
    return found | ({} if at < 0 else {"freeze_at": at}), dark, flips


def _loss(loss: Section) -> Settings:
    found = {
        "kind": "mse",
        "loss_scale": loss.take("loss_scale", float, 0.5),
        "use_target_weight": loss.take("use_target_weight", bool, True),
    }
    loss.finish()
    return found


def _learning_rate(rate: Section, epochs: int) -> Settings:
    base = rate.positive("base_lr")
    schedule: Settings = {"kind": "constant"}
    warmup: Settings = {}
    warms = True
    for each in rate.sections("schedulers"):
        name = each.take(TAG, str, None) or each.take("name", str)
        each.take("name", str, None)
        if name == "PiecewiseDecay":
            milestones = each.take("milestones", list[float], [8.0, 11.0])
            gamma = each.take("gamma", float | list[float], [0.1, 0.01])
            if isinstance(gamma, float):  # the first of factors that fall to a tenth each time
                gamma = [gamma / 10**power for power in range(len(milestones))]
            rates = [base, *(base * factor for factor in gamma)]
            schedule = piecewise(rates, milestones, each.where("gamma"))
            warms = each.take("use_warmup", bool, True)
        elif name == "CosineDecay":
            warms = each.take("use_warmup", bool, True)
            last = each.take("max_epochs", int, 1000)
            if last != epochs:
                raise ConfigError(
                    f"{each.where('max_epochs')}: expected {epochs}, the rate falls to the end of "
                    f"training; got {last}"
                )
            schedule = {"kind": "cosine", "end_factor": each.take("min_lr_ratio", float, 0.0)}
        elif name == "LinearWarmup":
            warmup = {"warmup_start": each.take("start_factor", float, 1 / 3)}
            if each.has("epochs"):
                warmup["warmup_epochs"] = each.take("epochs", float)
            else:
                warmup["warmup_steps"] = each.take("steps", int, 500)
        else:
            raise ConfigError(
                f"{each.path}: expected PiecewiseDecay, CosineDecay or LinearWarmup, got {name!r}"
            )
        each.finish()
    rate.finish()
    return {"learning_rate": base, "schedule": {**schedule, **(warmup if warms else {})}}


def _optimizer(builder: Section) -> Settings:
    section, regularizer = builder.section("optimizer"), builder.section("regularizer")
    kind = section.take("type", Literal["Adam", "AdamW", "Momentum", "SGD"], "Momentum")
    regularizer.take("type", Literal["L2"], "L2")
    given = "regularizer" in builder.content
    decay = regularizer.take("factor", float, 0.0 if given else 1e-4)  # which is its default
    if kind == "AdamW":  # has no regularizer
        decay = section.take("weight_decay", float, 0.01)
    if kind == "Adam":
        refuse_decay_of_adam("OptimizerBuilder.regularizer.factor", kind, decay)
    found: Settings = {"weight_decay": decay}
    if kind == "Momentum":
        found |= {"kind": "momentum", "momentum": section.take("momentum", float, 0.9)}
        found["nesterov"] = section.take("use_nesterov", bool, False)
    elif kind == "SGD":
        found["kind"] = "sgd"
    else:
        found |= adamw(section)
    clip = builder.take("clip_grad_by_norm", float, None)
    for each in (section, regularizer, builder):
        each.finish()
    return {"optimizer": found} | ({} if clip is None else {"clip_norm": clip})


def _slim(root: Section) -> Settings:
    kind = root.take("slim", str, None)
    quant = root.section("QAT")
    if kind is None:
        if quant.content:
            raise ConfigError("QAT: acts only with slim: QAT")
        return {}
    if kind != "QAT":
        raise ConfigError(f"slim: expected QAT, got {kind!r}; others are recipes, see --slim")
    config = quant.section("quant_config")
    quant.put_aside("print_model")
    quant.finish()
    known = {
        "activation_preprocess_type": str,
        "weight_quantize_type": str,
        "activation_quantize_type": str,
        "weight_bits": int,
        "activation_bits": int,
        "dtype": str,
        "window_size": int,
        "moving_rate": float,
        "quantizable_layer_type": list[str],
    }
    found = {key: config.take(key, wanted, None) for key, wanted in known.items()}
    config.refuse("weight_preprocess_type", "weights are rounded as they are")
    config.finish()
    entry = {key: value for key, value in found.items() if value is not None}
    # learning rate and epochs of the file are meant for quantization already
    return {
        "strategies": [{"kind": "qat", **entry, "learning_rate_scale": 1.0, "warmup_epochs": 0}]
    }
