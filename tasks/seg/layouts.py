"""How images and masks lie in a folder: in lists, or in folders with matching names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import DataError
from core.settings.reading import read_lines
from core.training.image_files import list_class_folders, list_image_files
from core.training.looking import files_in, folder_in_words, holds_images
from tasks.seg.config import DataConfig

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "inputs", "input")
MASKS = (
    *("masks", "mask", "SegmentationClassPNG", "SegmentationClass", "labels", "label"),
    *("annotations", "annotation", "gt", "segmentations"),
)
MASK_FOLDERS = ("annot", "_labels", "_masks", "_mask")  # behind the name of the images' folder
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
VOC_LISTS = Path("ImageSets", "Segmentation")
# what tools put behind the name of an image to name its mask
_SUFFIX = re.compile(r"[-_. ]?(masks?|labels?|labelids|seg|gt|segmentation|annot|json)$", re.I)
Kind = Literal["lists", "voc", "splits", "one", "none"]
Pair = tuple[Path, Path]  # image, mask


@dataclass(frozen=True)
class Layout:
    """Where images and masks are.

    Attributes:
        kind: `lists` of PaddleSeg, `voc` with its lists, folders of `splits`, `one` pair of
            folders for all, or `none`.
        train: Folders of images and of masks; of all images where there is no `val`.
        val: Likewise; None: a part of the others is drawn.
        lists: Of `voc`: the list of each split; no list for `val`: a part is drawn.
    """

    kind: Kind
    train: Pair | None = None
    val: Pair | None = None
    lists: tuple[Path | None, Path | None] = (None, None)

    @property
    def is_drawn(self) -> bool:
        """Whether the validation split is drawn from all images."""
        return self.kind in ("voc", "splits", "one") and self.val is None and self.lists[1] is None


def find_layout(data: DataConfig) -> Layout:
    """Look for images and masks; list files go before folders.

    Raises:
        DataError: A folder cannot be read.
    """
    root = Path(data.root)
    if any((root / name).is_file() for name in (data.train_list, data.val_list)):
        return Layout("lists")
    train, val = (_split_folders(root, SPLITS[split]) for split in ("train", "val"))
    if train is not None:
        return Layout("splits", train, val)
    both = _pair_in(root)
    if both is None and val is None:
        both = _other_pair(root)
    if both is None:
        return Layout("none")
    lists = [_voc_list(root, names) for names in (*SPLITS.values(), ("trainval", "default"))]
    if lists[0] or lists[2]:
        return Layout("voc", both, None, (lists[0] or lists[2], lists[1] if lists[0] else None))
    return Layout("one", both)


def match_pairs(folders: Pair, stems: Sequence[str] | None = None) -> list[Pair]:
    """Return the images that have a mask of their name, with it, in order of their names.

    Args:
        folders: Of the images and of the masks, which may be the same.
        stems: Only these images, in this order.

    Raises:
        DataError: A folder cannot be read, or an image that is asked for, or its mask, is absent.
    """
    images, masks = by_name(folders[0]), by_name(folders[1], masks=True)
    if folders[0] == folders[1]:
        images = {name: path for name, path in images.items() if path not in masks.values()}
    if stems is None:
        return [(path, masks[name]) for name, path in images.items() if name in masks]
    for stem in stems:
        if stem not in images or stem not in masks:
            where = folders[1 if stem in images else 0]
            raise DataError(f"{where / stem}: listed, but there is no such file")
    return [(images[stem], masks[stem]) for stem in stems]


def by_name(folder: Path, masks: bool = False) -> dict[str, Path]:
    """Return the images of a folder, or its masks, by their names without endings, sorted.

    Raises:
        DataError: It cannot be read.
    """
    found: dict[str, Path] = {}
    for path in list_image_files(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        found[stem] = path
        if masks:
            found.setdefault(_SUFFIX.sub("", stem), path)
    return found


def read_stems(path: Path) -> list[str]:
    """Read a list of VOC: the name of an image per line, or paths of image and mask (CVAT).

    Raises:
        DataError: It cannot be read.
    """
    return [Path(line.split()[0]).stem for _, line in read_lines(path, DataError)]


def what_lies_there(data: DataConfig) -> str:
    """Say what was found in place of images and masks, and what was wanted."""
    root = Path(data.root)
    hint = ""
    if root.is_dir():
        inside = [root / name for name in list_class_folders(root)]
        fitting = [e for e in inside if find_layout(DataConfig(str(e))).kind != "none"]
        hint = f"; {fitting[0]} has: make that data.root" if len(fitting) == 1 else ""
        if any(files_in(place, (".json",)) for place in (root, *inside[:20])):
            hint += "; polygons in JSON are not read: export masks (labelme2voc, or CVAT's masks)"
    return (
        f"{folder_in_words(root)}; for segmentation expected {data.train_list} and "
        f"{data.val_list} (lines 'image mask'), or images/ and masks/ with files of the same names "
        f"(or train/images/, train/masks/, ...), or VOC's JPEGImages/ and SegmentationClass/{hint}"
    )


def _split_folders(root: Path, names: Sequence[str]) -> Pair | None:
    """Return images and masks of a split: train/images, images/train, train with trainannot."""
    for name in names:
        pair = _pair_in(root / name) or _pair_in(root, name) or _neighbours(root, name)
        if pair is not None:
            return pair
    return None


def _pair_in(root: Path, below: str = "") -> Pair | None:
    images = next((root / n / below for n in IMAGES if _holds_images(root / n / below)), None)
    masks = next((root / n / below for n in MASKS if _holds_images(root / n / below)), None)
    return (images, masks) if images is not None and masks is not None else None


def _neighbours(root: Path, name: str) -> Pair | None:
    for end in MASK_FOLDERS:
        if _holds_images(root / name) and _holds_images(root / f"{name}{end}"):
            return root / name, root / f"{name}{end}"
    return None


def _other_pair(root: Path) -> Pair | None:
    """Return a folder X with Xannot, as CVAT exports them for CamVid."""
    folders = list_class_folders(root) if root.is_dir() else []
    return next((pair for name in folders if (pair := _neighbours(root, name))), None)


def _voc_list(root: Path, names: Sequence[str]) -> Path | None:
    files = [root / VOC_LISTS / f"{name}.txt" for name in names]
    return next((file for file in files if file.is_file()), None)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and holds_images(folder)
