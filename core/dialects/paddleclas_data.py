"""PaddleClas: the section `DataLoader`, with the transforms of pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from core.dialects.foreign import Section, Settings, ratio_of
from core.errors import ConfigError

ELSEWHERE = ("backend", "channel_num", "channel_first", "order", "output_fp16")
OF_A_PICTURE = ("side", "interpolation", "mean", "std")  # shared by training and validation
Interpolation = Literal["bilinear", "bicubic", "area"]


def read_loaders(loaders: Section) -> tuple[int, Settings, Settings, Settings]:
    """Return the side of a picture, and our sections data, augment and train.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    train, val = loaders.section("Train"), loaders.section("Eval")
    loaders.finish()
    first, second = train.section("dataset"), val.section("dataset")
    data = _lists(first, second)
    side, augment, scale = _training_pictures(first)
    data |= _evaluation_pictures(second, side, scale)
    augment |= _batches(first)
    second.refuse("batch_transform_ops", "validation pictures are not mixed", ([],))
    sampler, evaluated = _sampler(train, True), _sampler(val, False)
    workers = _workers(train)
    _workers(val)
    for section in (first, second, train, val):
        section.finish()
    data |= {"image_size": side, "num_workers": workers}
    return side, data, augment, {"batch_size": sampler, "eval_batch_size": evaluated}


def _lists(train: Section, val: Section) -> Settings:
    """Return where pictures and lists are; paths of lists are relative to the pictures."""
    for section in (train, val):
        section.refuse("relabel", "labels are taken as they are", (False,))
        section.refuse("delimiter", "a list has a space between path and label", (" ",))
        section.take("name", Literal["ImageNetDataset"], "ImageNetDataset")
    root = train.path_of("image_root")
    if os.path.normpath(val.path_of("image_root")) != os.path.normpath(root):
        raise ConfigError(
            f"{val.where('image_root')}: expected {root}, as of the training pictures; give both "
            "the folder above, with its paths in the lists"
        )
    return {
        "root": root,
        "train_list": train.path_of("cls_label_path", root),
        "val_list": val.path_of("cls_label_path", root),
    }


def _sampler(loader: Section, train: bool) -> int:
    sampler = loader.section("sampler")
    names = Literal["DistributedBatchSampler", "BatchSampler"]
    sampler.take("name", names, "DistributedBatchSampler")
    sampler.put_aside("drop_last")
    sampler.refuse(
        "shuffle",
        "training pictures are shuffled" if train else "validation pictures are not shuffled",
        (train,),
    )
    size: int = sampler.take("batch_size", int)
    sampler.finish()
    return size


def _workers(loader: Section) -> int:
    section = loader.section("loader")
    section.put_aside("use_shared_memory")
    count: int = section.take("num_workers", int, 0)
    section.finish()
    return count


def _training_pictures(dataset: Section) -> tuple[int, Settings, Settings]:
    """Return the side, the augmentation, and the normalisation of a picture."""
    found: Settings = {"flip": 0.0}
    read: Settings = {}
    for part in _transforms(dataset, TRAINING, "training"):
        read |= {key: value for key, value in part.items() if key in OF_A_PICTURE}
        found |= {key: value for key, value in part.items() if key not in OF_A_PICTURE}
    if "side" not in read:
        raise ConfigError(
            f"{dataset.where('transform_ops')}: RandCropImage: required, but not given; training "
            "pictures are cropped at random"
        )
    return read.pop("side"), found, read


def _evaluation_pictures(dataset: Section, side: int, scale: Settings) -> Settings:
    """Return how validation pictures are prepared; training ones are scaled likewise."""
    found: Settings = {}
    for part in _transforms(dataset, EVALUATION, "validation"):
        found |= part
    where = dataset.where("transform_ops")
    if "resize_short" not in found or found.pop("side", None) != side:
        raise ConfigError(
            f"{where}: expected ResizeImage with resize_short, and CropImage to {side}, the size "
            "of training pictures"
        )
    ours = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for key in ("mean", "std", "interpolation"):
        if key in found and key in scale and found[key] != scale[key]:
            raise ConfigError(f"{where}: {key} is {found[key]}, for training {scale[key]}")
    chosen = {**ours, **scale, **found}
    return {key: value for key, value in chosen.items() if value is not None}


def _transforms(
    dataset: Section, known: Mapping[str, Callable[[Section], Settings]], pictures: str
) -> Iterator[Settings]:
    """Yield the settings that each of the `transform_ops` stands for.

    Raises:
        ConfigError: An operator is unknown here, or one of its keys.
    """
    for name, op in dataset.named("transform_ops"):
        if name not in known:
            raise ConfigError(
                f"{op.path}: does not exist for {pictures} pictures here; known: {', '.join(known)}"
            )
        yield known[name](op)
        op.finish()


def _batches(dataset: Section) -> Settings:
    """Return the augmentation of whole batches."""
    entries = dataset.named("batch_transform_ops")
    if len(entries) > 1:
        raise ConfigError(
            f"{dataset.where('batch_transform_ops')}: a batch is mixed in one way; give one "
            "operator, or several in an OpSampler, which draws"
        )
    if not entries:
        return {}
    name, op = entries[0]
    if name != "OpSampler":
        return _mixing(name, op)
    found: Settings = {}
    shares = []
    for each in op.content:
        mixing = op.section(str(each))
        shares.append(mixing.take("prob", float))
        found |= _mixing(str(each), mixing)
    op.finish()
    if len(set(shares)) != 1 or sum(shares) > 1:
        raise ConfigError(f"{op.path}: expected operators with the same prob, up to 1 in all")
    return {**found, "mix_probability": sum(shares)}


def _mixing(name: str, op: Section) -> Settings:
    """Return how batches are mixed, with what PaddleClas takes where there is no alpha."""
    known = {"MixupOperator": ("mixup", 1.0), "CutmixOperator": ("cutmix", 0.2)}
    if name not in known:
        raise ConfigError(f"{op.path}: expected {' or '.join(known)}")
    op.put_aside("class_num")
    key, default = known[name]
    found = {key: op.take("alpha", float, default)}
    op.finish()
    return found


def _decode(op: Section) -> Settings:
    op.refuse("to_rgb", "pictures are read as RGB", (True,))
    op.refuse("to_np", "see ToCHWImage", (False,))
    op.put_aside(*ELSEWHERE)
    return {}


def _random_crop(op: Section) -> Settings:
    op.put_aside(*ELSEWHERE, "use_log_aspect")
    side = _side(op)
    low, high = op.take("scale", tuple[float, float], (0.08, 1.0))
    narrow, wide = op.take("ratio", tuple[float, float], (3 / 4, 4 / 3))
    return {"side": side, "scale": [low, high], "ratio": [narrow, wide], **_interpolation(op)}


def _flip(op: Section) -> Settings:
    op.refuse("flip_code", "pictures are mirrored from left to right, code 1", (1,))
    return {"flip": op.take("prob", float, 0.5)}


def _normalize(op: Section) -> Settings:
    op.put_aside(*ELSEWHERE)
    if op.has("scale"):
        scale = ratio_of(op.content["scale"], op.where("scale"))
        if not math.isclose(scale, 1 / 255, rel_tol=1e-3):
            raise ConfigError(f"{op.where('scale')}: expected 1.0/255.0, got {scale:g}")
        op.refuse("scale", "", (op.content["scale"],))
    mean = op.take("mean", list[float], [0.485, 0.456, 0.406])
    return {"mean": mean, "std": op.take("std", list[float], [0.229, 0.224, 0.225])}


def _policy(op: Section) -> Settings:
    return {"policy": "autoaugment"}


def _random_policy(op: Section) -> Settings:
    return {
        "policy": "randaugment",
        "policy_layers": op.take("num_layers", int, 2),
        "policy_magnitude": op.take("magnitude", float, 5.0),
    }


def _jitter(op: Section) -> Settings:
    op.refuse("prob", "every picture is changed, each by a factor of its own", (1, 1.0))
    names = ("brightness", "contrast", "saturation", "hue")
    return {name: op.take(name, float, 0.0) for name in names}


def _erasing(op: Section) -> Settings:
    op.put_aside("attempt", "use_log_aspect")
    mode = op.take("mode", Literal["const", "pixel"], "const")
    narrow = op.positive("r1", 0.3)
    share = op.content.get("EPSILON")
    op.take("EPSILON", float, None)
    return {
        "erasing": 0.5 if share is None else share,
        "erasing_area": [op.take("sl", float, 0.02), op.take("sh", float, 0.4)],
        "erasing_ratio": [narrow, 1 / narrow],
        "erasing_fill": "mean" if mode == "const" else "noise",
    }


def _resize(op: Section) -> Settings:
    op.put_aside(*ELSEWHERE)
    op.refuse("size", "give resize_short; a picture keeps its shape until it is cropped")
    return {"resize_short": op.take("resize_short", int), **_interpolation(op)}


def _crop(op: Section) -> Settings:
    return {"side": _side(op)}


def _nothing(op: Section) -> Settings:
    return {}


def _side(op: Section) -> int:
    size = op.take("size", int | list[int])
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) != 1:
        raise ConfigError(f"{op.where('size')}: expected a square, got {size}")
    return sides[0]


def _interpolation(op: Section) -> Settings:
    chosen = op.take("interpolation", Interpolation, None)
    return {} if chosen is None else {"interpolation": chosen}


TRAINING: Mapping[str, Callable[[Section], Settings]] = MappingProxyType(
    {
        "DecodeImage": _decode,
        "RandCropImage": _random_crop,
        "RandFlipImage": _flip,
        "AutoAugment": _policy,
        "RandAugment": _random_policy,
        "ColorJitter": _jitter,
        "NormalizeImage": _normalize,
        "RandomErasing": _erasing,
        "ToCHWImage": _nothing,
    }
)
EVALUATION: Mapping[str, Callable[[Section], Settings]] = MappingProxyType(
    {
        "DecodeImage": _decode,
        "ResizeImage": _resize,
        "CropImage": _crop,
        "NormalizeImage": _normalize,
        "ToCHWImage": _nothing,
    }
)
