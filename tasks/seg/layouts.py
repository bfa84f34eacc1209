"""How images and masks lie in a folder: in lists, or in folders with matching names.

In place of masks there may be shapes: labelme's JSON files, or an `annotations.xml` of CVAT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.training.image_files import list_class_folders
from core.training.looking import files_in, find_folder, folder_in_words, holds_images
from tasks.seg import cvat
from tasks.seg.annotations import Pair
from tasks.seg.config import DataConfig
from tasks.seg.pairs import holds_labelme, holds_masks

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "inputs", "input")
MASKS = (
    *("masks", "mask", "SegmentationClassPNG", "SegmentationClass", "labels", "label"),
    *("annotations", "annotation", "gt", "segmentations", "json", "jsons"),
)
MASK_FOLDERS = ("annot", "_labels", "_masks", "_mask")  # behind the name of the images' folder
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
VOC_LISTS = Path("ImageSets", "Segmentation")
Kind = Literal["lists", "voc", "splits", "one", "none"]


@dataclass(frozen=True)
class Layout:
    """Where images and masks are.

    Attributes:
        kind: `lists` of PaddleSeg, `voc` with its lists, folders of `splits`, `one` pair of
            folders for all, or `none`.
        train: Folders of images and of masks; of all images where there is no `val`. Both are the
            same folder where masks or labelme's files lie beside their images, and the second is
            CVAT's `annotations.xml` where there is one.
        val: Likewise; None: a part of the others is drawn.
        lists: List of each split, for `voc`; without one for `val`, a part is drawn.
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
    """Look for images and masks; list files take precedence over folders.

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
        both = _other_pair(root) or _with_shapes(root)
    if both is None:
        return Layout("none")
    lists = [_voc_list(root, names) for names in (*SPLITS.values(), ("trainval", "default"))]
    if lists[0] or lists[2]:
        return Layout("voc", both, None, (lists[0] or lists[2], lists[1] if lists[0] else None))
    return Layout("one", both)


def what_lies_there(data: DataConfig) -> str:
    """Describe the content found in place of images and masks, and the one expected."""
    root = Path(data.root)
    hint = ""
    if root.is_dir():
        inside = [root / name for name in list_class_folders(root)]
        fitting = [e for e in inside if find_layout(DataConfig(str(e))).kind != "none"]
        hint = f"; {fitting[0]} has: make that data.root" if len(fitting) == 1 else ""
        if any(files_in(place, (".json",)) for place in (root, *inside[:20])):
            hint += (
                "; the JSON files there are not labelme's, or not named like images (polygons of "
            )
            hint += "COCO are not read: export those of labelme or CVAT, or masks)"
    return (
        f"{folder_in_words(root)}; for segmentation expected {data.train_list} and "
        f"{data.val_list} (lines 'image mask'), or images/ and masks/ with files of the same names "
        "(or train/images/, train/masks/, ...), or VOC's JPEGImages/ and SegmentationClass/, or "
        "images with masks (1.jpg, 1_mask.png) or labelme's JSON files beside them, or CVAT's "
        f"{cvat.FILE} and images/{hint}"
    )


def _split_folders(root: Path, names: Sequence[str]) -> Pair | None:
    """Return images and masks of a split: train/images, images/train, train with trainannot."""
    for name in names:
        split = find_folder(root, (name,))
        pair = _pair_in(split) if split is not None else None
        pair = pair or _pair_in(root, name)
        if pair is None and split is not None:
            pair = _neighbours(root, split.name) or _with_shapes(split)
        pair = pair or _subset(root, name)
        if pair is not None:
            return pair
    return None


def _pair_in(root: Path, below: str = "") -> Pair | None:
    """Return the folders of images and of masks in a folder, or the folders `below` in both."""
    images = next((each for name in IMAGES if (each := _images_in(root, name, below))), None)
    if images is None:
        return None
    folders = [each for name in MASKS if (each := _folder(root, name, below)) is not None]
    masks = next((each for each in folders if holds_images(each)), None)
    masks = masks or next((each for each in folders if holds_labelme(images, each)), None)
    return (images, masks) if masks is not None else None


def _images_in(root: Path, name: str, below: str) -> Path | None:
    folder = _folder(root, name, below)
    return folder if folder is not None and holds_images(folder) else None


def _folder(root: Path, name: str, below: str) -> Path | None:
    folder = find_folder(root, (name,))
    return find_folder(folder, (below,)) if folder is not None and below else folder


def _subset(root: Path, name: str) -> Pair | None:
    """Return the images of a subset in CVAT, `images/Train`, in the export of a project."""
    images, file = _folder(root, "images", name), root / cvat.FILE
    return (images, file) if images is not None and file.is_file() else None


def _with_shapes(root: Path) -> Pair | None:
    """Return a folder of images with shapes, in an export of CVAT or beside them, or with masks."""
    if (root / cvat.FILE).is_file():
        return find_folder(root, IMAGES) or root, root / cvat.FILE
    return (root, root) if holds_labelme(root, root) or holds_masks(root) else None


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
