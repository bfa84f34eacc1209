"""PaddleSeg: the sections `train_dataset` and `val_dataset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from core.dialects.foreign import IntPair, Section, Settings
from core.errors import ConfigError

OPTIC_DISC = "https://paddleseg.bj.bcebos.com/dataset/optic_disc_seg.zip"
# data sets that PaddleSeg knows by name: classes, training and validation list, where to fetch
NAMED: Mapping[str, Settings] = MappingProxyType(
    {
        "OpticDiscSeg": {
            "num_classes": 2,
            "train": "train_list.txt",
            "val": "val_list.txt",
            "test": "test_list.txt",
            "download": OPTIC_DISC,
            "classes": ["background", "optic disc"],
        },
        "Cityscapes": {  # lists are made once, see tasks/seg/README.md
            "num_classes": 19,
            "train": "train.list",
            "val": "val.list",
        },
    }
)
ORDER = ("Resize", "ResizeStepScaling", "RandomPaddingCrop")  # in which ours are done


def read_datasets(train: Section, val: Section) -> tuple[int, Settings, Settings]:
    """Return the number of classes, and our sections data and augment.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    classes, data = _lists(train, "train")
    others, found = _lists(val, "val")
    for key, ours, theirs in (
        ("num_classes", classes, others),
        ("dataset_root", data["root"], found["root"]),
    ):
        if ours != theirs:
            raise ConfigError(f"val_dataset.{key}: expected {ours}, as for training, got {theirs}")
    augment, scale = _training(train)
    size, again = _validation(val)
    if scale != again:
        raise ConfigError(
            f"val_dataset.transforms: Normalize with {again}, for training with {scale}"
        )
    train.finish()
    val.finish()
    return classes, {**found, **data, **scale, "size": size}, augment


def _lists(dataset: Section, split: str) -> tuple[int, Settings]:
    kind = dataset.take("type", str, "Dataset")
    if kind not in (*NAMED, "Dataset"):
        raise ConfigError(
            f"{dataset.where('type')}: expected Dataset with lists of `image label`, or "
            f"{', '.join(NAMED)}, got {kind!r}"
        )
    mode = dataset.take("mode", Literal["train", "val", "test"], split)
    dataset.put_aside("edge")
    root = dataset.path_of("dataset_root", default=None)
    if kind in NAMED:
        known = dict(NAMED[kind])
        classes = known.pop("num_classes")
        dataset.take("num_classes", int, classes)
        lists = {name: known.pop(name, None) for name in ("train", "val", "test")}
        if lists[mode] is None:
            raise ConfigError(f"{dataset.where('mode')}: {kind} has no labels for {mode}")
        return classes, {"root": root or f"data/{kind}", f"{split}_list": lists[mode], **known}
    if root is None:
        raise ConfigError(f"{dataset.where('dataset_root')}: required, but not given")
    key = f"{mode}_path"
    dataset.put_aside(*({"train_path", "val_path", "test_path"} - {key}))
    found: Settings = {"root": root, f"{split}_list": dataset.path_of(key, root)}
    found["separator"] = dataset.take("separator", str, " ")
    found["ignore_index"] = dataset.take("ignore_index", int, 255)
    dataset.refuse("img_channels", "pictures have three channels", (3,))
    return dataset.take("num_classes", int), found


def _training(dataset: Section) -> tuple[Settings, Settings]:
    """Return the augmentation of training pictures, and mean and standard deviation."""
    augment: Settings = {"flip": 0.0}
    scale, sizes = None, []
    for op in dataset.sections("transforms"):
        kind = op.take("type", str)
        if kind == "Normalize":
            scale = _normalize(op)
        elif kind in TRAINING:
            augment |= TRAINING[kind](op)
            sizes += [kind] if kind in ORDER else []
        else:
            raise ConfigError(
                f"{op.where('type')}: {kind!r} does not exist for training pictures here; known: "
                f"{', '.join([*TRAINING, 'Normalize'])}"
            )
        op.finish()
    if sizes != sorted(sizes, key=ORDER.index):
        raise ConfigError(
            f"{dataset.where('transforms')}: expected {', then '.join(ORDER)}, got "
            f"{', then '.join(sizes)}"
        )
    if scale is None:
        raise ConfigError(f"{dataset.where('transforms')}: Normalize: required, but not given")
    return augment, scale


def _validation(dataset: Section) -> tuple[list[int] | None, Settings]:
    """Return the size of validation pictures, and mean and standard deviation."""
    size, scale = None, None
    for op in dataset.sections("transforms"):
        kind = op.take("type", str)
        if kind == "Normalize":
            scale = _normalize(op)
        elif kind == "Resize":
            size = _resize(op)["resize"]
        else:
            raise ConfigError(
                f"{op.where('type')}: {kind!r} does not exist for validation pictures here; known: "
                "Resize, Normalize"
            )
        op.finish()
    if scale is None:
        raise ConfigError(f"{dataset.where('transforms')}: Normalize: required, but not given")
    return size, scale


def _normalize(op: Section) -> Settings:
    found = {}
    for key in ("mean", "std"):
        values = op.take(key, list[float], [0.5])
        if len(values) not in (1, 3):
            raise ConfigError(f"{op.where(key)}: expected 1 or 3 values, got {len(values)}")
        found[key] = values * 3 if len(values) == 1 else values
    return found


def _resize(op: Section) -> Settings:
    op.refuse("keep_ratio", "pictures are resized to the very size", (False,))
    op.refuse("size_divisor", "give a target_size that it divides")
    op.refuse("interp", "pictures are resized bilinearly", ("LINEAR",))
    return {"resize": list(op.take("target_size", IntPair, (512, 512)))}


def _scale(op: Section) -> Settings:
    return {
        "scale_min": op.take("min_scale_factor", float, 0.75),
        "scale_max": op.take("max_scale_factor", float, 1.25),
        "scale_step": op.take("scale_step_size", float, 0.25),
    }


def _crop(op: Section) -> Settings:
    op.refuse("im_padding_value", "padding is filled with the mean", (127.5, [127.5] * 3))
    op.refuse("label_padding_value", "padding is ignored by loss and metric", (255,))
    return {"crop": list(op.take("crop_size", IntPair, (512, 512)))}


def _flip(op: Section) -> Settings:
    return {"flip": op.take("prob", float, 0.5)}


def _distort(op: Section) -> Settings:
    found: Settings = {}
    shares = set()
    for name, default in (("brightness", 0.5), ("contrast", 0.5), ("saturation", 0.5)):
        found[name] = op.take(f"{name}_range", float, default)
        shares.add(op.take(f"{name}_prob", float, 0.5))
    found["hue"] = op.take("hue_range", float, 18.0)
    shares.add(op.take("hue_prob", float, 0.5))
    op.refuse("sharpness_prob", "pictures are not sharpened", (0, 0.0))
    op.put_aside("sharpness_range")
    if len(shares) > 1:
        raise ConfigError(
            f"{op.where('brightness_prob')}: expected one probability for all four, got "
            f"{sorted(shares)}"
        )
    return {**found, "distort": shares.pop()}


TRAINING: Mapping[str, Callable[[Section], Settings]] = MappingProxyType(
    {
        "Resize": _resize,
        "ResizeStepScaling": _scale,
        "RandomPaddingCrop": _crop,
        "RandomHorizontalFlip": _flip,
        "RandomDistort": _distort,
    }
)
