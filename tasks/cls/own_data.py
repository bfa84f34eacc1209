"""Settings for a user's own classification data, derived from class folders and list files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from core.errors import DataError
from core.settings.files import write_text
from core.task import Split
from core.training.images import as_rgb, read_image
from core.training.inspection import Inspection, Labelled, read_data_section
from core.training.looking import look_at_images, some_of, spread
from core.training.splits import relative_names, write_list
from tasks.cls.class_names import class_names, folder_classes
from tasks.cls.config import MOST_CLASSES, Config, DataConfig
from tasks.cls.data import Items, read_split
from tasks.cls.layouts import Layout, find_layout, flat_classes, what_lies_there

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "model": {"name": "MobileNetV3_small_x1_0"},
        "train": {
            "epochs": 30,
            "batch_size": 32,
            "learning_rate": 0.002,
            "optimizer": {"kind": "adamw", "weight_decay": 0.05},
            "schedule": {"kind": "cosine", "warmup_epochs": 2},
        },
    }
)
_SPLITS: tuple[Split, ...] = ("train", "val")
LAYOUTS = {
    "lists": "list files",
    "folders": "train/ and val/ with one folder for each class",
    "flat": "one folder for each class",
}


def from_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return number and names of the classes, and a batch that a small data set can fill.

    Raises:
        DataError: A list or a labels file is malformed.
    """
    data = read_data_section(DataConfig, settings)
    model = settings.get("model")
    given = isinstance(model, Mapping) and "num_classes" in model
    if data is None or given or find_layout(data).kind == "none":
        return {}
    # data to measure on have no training split
    alone = find_layout(data).kind == "lists" and not (Path(data.root) / data.train_list).is_file()
    train = read_split(data, MOST_CLASSES, "val" if alone else "train")
    batch = min(len(train.paths), DEFAULTS["train"]["batch_size"])
    found: dict[str, Any] = {"model": {"num_classes": count_classes(data, train)}}
    names = class_names(data)
    if names:
        found["data"] = {"class_names": list(names)}
    return found | {"train": {"batch_size": batch}}


def count_classes(data: DataConfig, train: Items) -> int:
    """Return the number of classes: of their names, or one more than the highest label.

    Raises:
        DataError: A labels file is malformed, or there is one class only.
    """
    names = class_names(data)
    count = len(names) or int(train.labels.max()) + 1
    if count < 2:
        only = repr(names[0]) if names else "0"
        raise DataError(f"data.root: {data.root} has one class only ({only}); expected 2 or more")
    return count


def inspect(settings: Mapping[str, Any]) -> Inspection:
    """Look at class folders or list files, count their pictures, and open some."""
    data = read_data_section(DataConfig, settings)
    if data is None or not Path(data.root).is_dir():
        root = settings["data"].get("root")
        return Inspection("cls", missing=(f"{root}: no such folder",))
    layout = find_layout(data)
    if layout.kind == "none":
        return Inspection("cls", missing=(what_lies_there(data),))
    drawn = layout.kind in ("folders", "flat") and layout.val is None
    kind = "train/ with one folder for each class, no val/" if drawn else LAYOUTS[layout.kind]
    kind = LAYOUTS["flat"] + ", no train/ and val/" if layout.kind == "flat" else kind
    sure = 2 if layout.kind == "lists" else 1
    try:
        found = from_data(settings)
        train, val = (read_split(data, MOST_CLASSES, split) for split in _SPLITS)
    except DataError as error:
        return Inspection("cls", kind, sure, missing=(str(error),), trainable=False)
    names = class_names(data) or tuple(map(str, range(found["model"]["num_classes"])))
    counts = np.bincount(train.labels, minlength=len(names))
    looked = look_at_images(train.paths, whole=True)
    told = some_of([f"{name} ({count})" for name, count in zip(names, counts)])
    lines = (
        f"{len(names)} classes (pictures for training): {told}",
        _splits_in_words(train, val, data, drawn),
        looked.in_words(),
        *_folders_of_one_class(layout),
    )
    few = [name for name, count in zip(names, counts) if count == 0]
    missing = [f"no picture for training of: {some_of(few)}"] if few else []
    missing += [f"cannot be read: {line}" for line in looked.broken[:5]]
    return Inspection("cls", kind, sure, lines, tuple(missing), found, not looked.broken)


def labelled(config: Config, count: int) -> list[Labelled]:
    """Return training pictures, named after their classes."""
    items = read_split(config.data, config.model.num_classes, "train")
    names = class_names(config.data)
    indices = [int(i) for i in spread([str(i) for i in range(len(items.paths))], count)]
    drawn = []
    for index in indices:
        label = int(items.labels[index])
        image = as_rgb(read_image(items.paths[index]))
        title = names[label] if label < len(names) else f"class {label}"
        drawn.append(Labelled(f"{title}: {Path(items.paths[index]).name}", image))
    return drawn


def write_lists(config: Config, folder: Path) -> dict[str, Any]:
    """Write a split that was drawn as train_list.txt and val_list.txt, and labels.txt.

    Returns:
        The settings of `data` that read them; none where the data have splits of their own.
    """
    layout = find_layout(config.data)
    if layout.kind not in ("folders", "flat") or layout.val is not None:
        return {}
    written = {}
    for split in _SPLITS:
        items = read_split(config.data, config.model.num_classes, split)
        names = relative_names(items.paths, config.data.root)
        lines = [f"{name} {label}" for name, label in zip(names, items.labels)]
        written[f"{split}_list"] = write_list(folder / f"{split}_list.txt", lines)
    labels = "".join(f"{i} {name}\n" for i, name in enumerate(class_names(config.data)))
    write_text(folder / "labels.txt", labels)
    return written | {"labels": str((folder / "labels.txt").absolute())}


def _folders_of_one_class(layout: Layout) -> list[str]:
    """Say which classes have folders below their own, which might be meant as classes."""
    if layout.kind not in ("folders", "flat") or not layout.train.is_dir():
        return []
    deeper = {
        name: [f"{name}/{below}" for below in flat_classes(layout.train / name)]
        for name in folder_classes(layout)
    }
    several = [name for name, below in deeper.items() if len(below) > 1]
    if not several:
        return []
    below, name = some_of(deeper[several[0]], 3), several[0]
    told = f"folders below that of a class are of the same class: {below} are {name!r}"
    return [f"{told} (likewise in {some_of(several[1:])})" if several[1:] else told]


def _splits_in_words(train: Items, val: Items, data: DataConfig, drawn: bool) -> str:
    told = f"{len(train.paths)} pictures for training, {len(val.paths)} for validation"
    if not drawn:
        return told
    share = f"{100 * data.val_share:.0f} % of each class"
    return f"{told}, drawn: {share} (data.val_share, data.split_seed)"
