"""PaddleDetection: data sets and readers of top-down keypoint files."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import Literal

from core.dialects.foreign import IntPair, Section, Settings
from core.errors import ConfigError
from core.settings.yaml_loader import TAG

PADDING = 1.25  # factor on a person's box, in PaddleDetection
# transforms that draw heatmaps, and around what
HEATMAPS = MappingProxyType(
    {
        "ToHeatmapsTopDown": "rounded",
        "ToHeatmapsTopDown_DARK": "subpixel",
        "ToHeatmapsTopDown_UDP": "subpixel",
    }
)


def read_data(root: Section, size: tuple[int, int]) -> Settings:
    """Return our sections data, joints, augment, codec, evaluation and train.

    Args:
        root: The file.
        size: Height and width that a person is cut to.

    Raises:
        ConfigError: A key is unknown, missing, wrong, or cannot act here.
    """
    height, width = size
    _check_pair(root, "trainsize", (width, height))
    _check_pair(root, "hmsize", (width // 4, height // 4))
    train, val = root.section("TrainDataset"), root.section("EvalDataset")
    first, second = _dataset(train, size), _below(_dataset(val, size), train.content["dataset_dir"])
    reader = root.section("TrainReader")
    augment, joints, codec = _sample_transforms(reader, size)
    mean, std = _batch_transforms(reader)
    reader.refuse("shuffle", "training pictures are shuffled", (True,))
    reader.put_aside("drop_last", "drop_empty", "use_shared_memory")
    batch = reader.take("batch_size", int, 64)
    reader.finish()
    if root.has("flip_perm"):
        joints["flip_pairs"] = [list(pair) for pair in root.take("flip_perm", list[IntPair])]
    root.take("flip_perm", list[IntPair], None)
    data: Settings = {
        "root": first["root"],
        "train_annotations": first["annotations"],
        "train_images": first["images"],
        "val_annotations": second["annotations"],
        "val_images": second["images"],
        "input_size": [height, width],
        "padding": PADDING,
        "box_ends": "last_pixel",
        "mean": mean,
        "std": std,
        "num_workers": root.take("worker_num", int, 2),
    }
    data |= {key: second[key] for key in ("detections", "detection_score") if key in second}
    return {
        "data": data,
        "joints": joints,
        "augment": augment,
        "codec": codec,
        "train": {"batch_size": batch, "eval_batch_size": _evaluation(root, size, (mean, std))},
    }


def _check_pair(section: Section, key: str, wanted: tuple[int, int]) -> None:
    pair = section.take(key, IntPair, wanted)
    if pair != wanted:
        raise ConfigError(
            f"{section.where(key)}: expected {list(wanted)}, as of train_width and train_height, "
            f"got {list(pair)}"
        )


def _dataset(section: Section, size: tuple[int, int]) -> Settings:
    section.take(TAG, Literal["KeypointTopDownCocoDataset"])
    section.put_aside("num_joints", "pixel_std")
    _check_pair(section, "trainsize", (size[1], size[0]))
    found: Settings = {
        "root": section.path_of("dataset_dir"),
        "annotations": section.take("anno_path", str),
        "images": section.take("image_dir", str),
    }
    boxes = section.path_of("bbox_file", default=None)
    if not section.take("use_gt_bbox", bool, True):
        if boxes is None:
            raise ConfigError(f"{section.where('bbox_file')}: required without use_gt_bbox")
        found["detections"] = boxes
    score = section.take("image_thre", float, 0.0)
    section.finish()
    return found | ({"detection_score": score} if score else {})


def _below(dataset: Settings, root: str) -> Settings:
    """Return a data set with its paths relative to the folder of another."""
    if os.path.normpath(dataset["root"]) == os.path.normpath(root):
        return dataset
    paths = {key: dataset[key] for key in ("annotations", "images", "detections") if key in dataset}
    moved: Settings = {
        k: os.path.relpath(os.path.join(dataset["root"], p), root) for k, p in paths.items()
    }
    return {**dataset, **moved}


def _sample_transforms(
    reader: Section, size: tuple[int, int]
) -> tuple[Settings, Settings, Settings]:
    """Return our section augment, what the joints are, and our section codec."""
    augment: Settings = {"flip": 0.0, "half_body": 0.0, "scale": 0.0, "rotation": 0.0}
    joints: Settings = {}
    codec: Settings = {}
    for name, op in reader.named("sample_transforms"):
        if name == "RandomFlipHalfBodyTransform":
            augment |= {
                "flip": 0.5 if op.take("flip", bool, True) else 0.0,
                "half_body": op.take("prob_half_body", float, 0.3),
                "half_body_joints": op.take("num_joints_half_body", int, 8),
                "scale": op.take("scale", float, 0.35),
                "rotation": op.take("rot", float, 40.0),
                "rotate": op.take("rot_prob", float, 0.6),
            }
            upper = op.take("upper_body_ids", list[int], None)
            joints |= {} if upper is None else {"upper_body": upper}
            pairs = op.take("flip_pairs", list[IntPair], None)
            joints |= {} if pairs is None else {"flip_pairs": [list(pair) for pair in pairs]}
            op.put_aside("pixel_std")
            _check_pair(op, "trainsize", (size[1], size[0]))
        elif name == "AugmentationbyInformantionDropping":
            augment["erase"] = op.take("prob_cutout", float, 0.0)
            op.refuse("num_patch", "one place of a picture is erased", (1,))
            op.put_aside("offset_factor")  # it is erased anywhere, not near a joint
            _check_pair(op, "trainsize", (size[1], size[0]))
        elif name == "TopDownAffine":
            _check_pair(op, "trainsize", (size[1], size[0]))
            op.put_aside("use_udp")  # it moves pixels by a part of one; heatmaps tell what counts
        elif name in HEATMAPS:
            _check_pair(op, "hmsize", (size[1] // 4, size[0] // 4))
            codec = {"target": HEATMAPS[name], "sigma": op.positive("sigma")}
            codec["udp"] = name == "ToHeatmapsTopDown_UDP"
        else:
            raise ConfigError(
                f"{op.path}: expected RandomFlipHalfBodyTransform, TopDownAffine, "
                f"AugmentationbyInformantionDropping or {', '.join(HEATMAPS)}"
            )
        op.finish()
    if "sigma" not in codec:
        raise ConfigError(f"{reader.where('sample_transforms')}: ToHeatmapsTopDown: required")
    return augment, joints, codec


def _batch_transforms(reader: Section) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation."""
    found = None
    for name, op in reader.named("batch_transforms"):
        if name == "NormalizeImage":
            op.refuse("is_scale", "values are in 0..1", (True,))
            op.put_aside("norm_type")
            mean = op.take("mean", tuple[float, float, float])
            found = (list(mean), list(op.take("std", tuple[float, float, float])))
        elif name != "Permute":
            raise ConfigError(f"{op.path}: expected NormalizeImage or Permute")
        op.finish()
    if found is None:
        raise ConfigError(f"{reader.where('batch_transforms')}: NormalizeImage: required")
    return found


def _evaluation(
    root: Section, size: tuple[int, int], scale: tuple[list[float], list[float]]
) -> int:
    """Check that persons are prepared as in training; return the size of a batch."""
    reader = root.section("EvalReader")
    for name, op in reader.named("sample_transforms"):
        if name in HEATMAPS:  # nothing is compared with them
            op.put_aside(*op.content)
            continue
        if name != "TopDownAffine":
            raise ConfigError(f"{op.path}: expected TopDownAffine")
        _check_pair(op, "trainsize", (size[1], size[0]))
        op.put_aside("use_udp")
        op.finish()
    if _batch_transforms(reader) != scale:
        raise ConfigError(f"{reader.where('batch_transforms')}: expected those of TrainReader")
    reader.put_aside("drop_empty")  # of pictures without boxes; here each sample is one person
    batch: int = reader.take("batch_size", int, 16)
    reader.finish()
    return batch
