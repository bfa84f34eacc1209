"""Settings for a user's own segmentation data, derived from images, masks and label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.errors import DataError
from core.settings.config import read
from core.task import Split
from core.training.images import as_rgb, read_annotated_image
from core.training.inspection import Inspection, Labelled, read_data_section
from core.training.looking import ImageSizes, look_at_images, some_of, spread
from core.training.splits import relative_names, write_list
from tasks.seg import cvat
from tasks.seg.annotations import Pair, classes_of_shapes, has_shapes
from tasks.seg.config import Config, DataConfig, Size
from tasks.seg.data import read_pairs
from tasks.seg.drawing import draw_mask
from tasks.seg.label_maps import Classes, find_label_map
from tasks.seg.labels import read_mask
from tasks.seg.layouts import Layout, find_layout, what_lies_there
from tasks.seg.mask_values import find_classes, look_at_masks
from tasks.seg.pairs import holds_masks, without_partner
from tasks.seg.review import SHORTEST

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "model": {"name": "BiSeNetV2"},
        "train": {
            "epochs": 60,
            "batch_size": 8,
            "learning_rate": 0.01,
            "optimizer": {"kind": "momentum", "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"kind": "poly", "power": 0.9},
        },
    }
)
LONGEST_SIDE = 1024  # longest side of an input that nobody chose
MULTIPLE = 32  # the networks halve their input five times
_SPLITS: tuple[Split, ...] = ("train", "val")
LAYOUTS = {
    "lists": "list files",
    "voc": "VOC's folders and lists",
    "splits": "folders of images and masks for each split",
    "one": "one folder of images and one of masks",
}


def from_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return classes with their names and colours, an input size, and a batch that can be filled.

    Raises:
        DataError: Masks and label map contradict each other, or say too little.
    """
    data, given = read_data_section(DataConfig, settings), settings.get("model")
    layout = find_layout(data) if data is not None else Layout("none")
    if data is None or layout.kind == "none":
        return {}
    splits = _splits(data, layout)
    pairs = read_pairs(data, splits[0])
    drawn = has_shapes(pairs[0][1])
    known = isinstance(given, Mapping) and "num_classes" in given
    if known and layout.kind == "lists" and not drawn:
        return {}
    found: dict[str, Any] = {"data": {}, "train": {}}
    if drawn or not (known or data.colors):
        classes = classes_of(data, splits)
        found |= {"model": {"num_classes": classes.count}}
        found["data"] = {"classes": list(classes.names), "colors": _lists(classes.colors)}
        found["data"]["ignored_colors"] = _lists(classes.ignored)
        if classes.nearest:
            found["data"]["nearest_color"] = True
    elif not known:
        found["model"] = {"num_classes": len(data.colors)}
    size = data.size or _input_size(look_at_images([str(image) for image, _ in pairs]))
    found["data"]["size"] = list(size)
    augment = settings.get("augment")
    if not isinstance(augment, Mapping) or not augment.keys() & {"resize", "crop"}:
        found["augment"] = {"resize": list(size)}
    found["train"]["batch_size"] = min(len(pairs), DEFAULTS["train"]["batch_size"])
    return found


def classes_of(data: DataConfig, splits: Sequence[Split]) -> Classes:
    """Conclude from masks and label map, or from shapes and their labels, what the classes are.

    Masks of the first split are looked at; shapes of all, as a label may occur in one place only.

    Raises:
        DataError: It cannot be concluded.
    """
    masks = [mask for _, mask in read_pairs(data, splits[0])]
    if has_shapes(masks[0]):
        rest = [mask for split in splits[1:] for _, mask in read_pairs(data, split)]
        return classes_of_shapes(data, [*masks, *rest])
    values = look_at_masks(masks)
    try:
        label_map = find_label_map(Path(data.root))
        return find_classes(values, label_map, data.ignore_index, data.nearest_color)
    except DataError as error:
        raise DataError(f"{masks[0].parent}: {error}") from error


def inspect(settings: Mapping[str, Any]) -> Inspection:
    """Look for images and masks, count them, open some, and list the classes."""
    data = read_data_section(DataConfig, settings)
    if data is None or not Path(data.root).is_dir():
        root = settings["data"].get("root")
        return Inspection("seg", missing=(f"{root}: no such folder",))
    layout = find_layout(data)
    if layout.kind == "none":
        return Inspection("seg", missing=(what_lies_there(data),))
    kind = _layout_in_words(layout)
    lines: list[str] = []
    missing: list[str] = []
    found: dict[str, Any] = {}
    trainable = False
    try:
        train, val = (read_pairs(data, split) for split in _SPLITS)
        told = f"{len(train)} images with masks for training, {len(val)} for validation"
        drawn = f", drawn: {100 * data.val_share:.0f} % (data.val_share, data.split_seed)"
        lines.append(told + (drawn if layout.is_drawn else ""))
        looked = look_at_images([str(image) for image, _ in train], whole=True)
        lines.append(looked.in_words())
        missing += [f"cannot be read: {line}" for line in looked.broken[:5]]
        missing += _without_partner(layout)
        classes = classes_of(data, _SPLITS)
        lines.append(f"{classes.count} classes{_names_of(classes)}; {classes.told_by}")
        missing += classes.left_out
        found = from_data(settings)
        wrong = _of_other_sizes([*train, *val], data, classes)
        missing += wrong
        trainable = not looked.broken and not wrong
    except DataError as error:
        missing.append(str(error))
    return Inspection("seg", kind, 2, tuple(lines), tuple(missing), found, trainable)


def labelled(config: Config, count: int) -> list[Labelled]:
    """Return training images tinted by the classes of their masks."""
    pairs = read_pairs(config.data, "train")
    drawn = []
    for index in spread([str(i) for i in range(len(pairs))], count):
        image_path, mask_path = pairs[int(index)]
        mask = read_mask(str(mask_path), config.data)
        size = mask.shape[1], mask.shape[0]
        image = as_rgb(read_annotated_image(str(image_path), size, f"the mask {mask_path.name}"))
        larger = max(1, round(SHORTEST / max(size)))  # small images have no room for names
        image, mask = (each.repeat(larger, 0).repeat(larger, 1) for each in (image, mask))
        tinted = draw_mask(image, mask, config.class_names, config.data.colors)
        drawn.append(Labelled(image_path.name, tinted))
    return drawn


def write_lists(config: Config, folder: Path) -> dict[str, Any]:
    """Write a split that was drawn as train.txt and val.txt, with tabs.

    Returns:
        The settings of `data` that read them; none where the data have splits of their own.
    """
    data, written = config.data, {}
    if not find_layout(data).is_drawn:
        return {}
    for split in _SPLITS:
        pairs = read_pairs(data, split)
        both = [relative_names([str(each) for each in pair], data.root) for pair in pairs]
        lines = ["\t".join(pair) for pair in both]
        written[f"{split}_list"] = write_list(folder / f"{split}.txt", lines)
    return written | {"separator": "\t"}


def _splits(data: DataConfig, layout: Layout) -> tuple[Split, ...]:
    """Return the splits that are there: data to measure on have no training split."""
    if layout.kind != "lists":
        return _SPLITS
    lists = {"train": data.train_list, "val": data.val_list}
    return tuple(split for split in _SPLITS if (Path(data.root) / lists[split]).is_file())


def _layout_in_words(layout: Layout) -> str:
    if layout.train is None:
        return LAYOUTS[layout.kind]
    images, masks = layout.train
    if cvat.file_of(masks / "x") is not None:
        return f"an export of CVAT for images ({masks.name}; images in {images.name})"
    if images == masks:
        what = "masks" if holds_masks(images) else "labelme's JSON files"
        return f"{what} beside their images"
    return f"{LAYOUTS[layout.kind]} ({images.name}, {masks.name})"


def _input_size(looked: ImageSizes) -> Size:
    """Return width and height of the middle image, not too large, as networks can halve them."""
    width, height = looked.median if len(looked.sizes) else (512, 512)
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    sides = [max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in (width, height)]
    return sides[0], sides[1]


def _without_partner(layout: Layout) -> list[str]:
    """Say which images have no mask, and which masks no image."""
    if layout.kind not in ("splits", "one"):
        return []
    told = []
    for folders in filter(None, (layout.train, layout.val)):
        images, masks = without_partner(folders)
        for alone, what, other in ((images, "image", "mask"), (masks, "mask", "image")):
            if alone:
                some = some_of(alone, 3)
                told.append(f"left out: {len(alone)} {what}s without {other} ({some})")
    return told


def _of_other_sizes(pairs: list[Pair], data: DataConfig, classes: Classes) -> list[str]:
    """Say of which images the mask has another size, or cannot be read."""
    told = []
    read_as = read(
        DataConfig,
        {
            "root": data.root,
            "classes": list(classes.names),
            "colors": _lists(data.colors or classes.colors),
            "ignored_colors": _lists(data.ignored_colors or classes.ignored),
            "nearest_color": data.nearest_color or classes.nearest,
        },
    )
    for index in spread([str(i) for i in range(len(pairs))], 50):
        image, mask = pairs[int(index)]
        try:
            label = read_mask(str(mask), read_as)
            size = label.shape[1], label.shape[0]
            read_annotated_image(str(image), size, f"the mask {mask.name}")
        except DataError as error:
            told.append(str(error))
    return told[:5]


def _names_of(classes: Classes) -> str:
    return f": {some_of(classes.names)}" if classes.names else ""


def _lists(colors: tuple[tuple[int, int, int], ...]) -> list[list[int]]:
    return [list(color) for color in colors]
