"""Folders of images and masks to look at, and what is found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.settings.config import merge, read
from tasks.seg import own_data
from tasks.seg.config import Config

SIZE = (40, 64)  # height, width
COLORS = {"ground": (0, 0, 0), "disc": (200, 0, 0), "box": (0, 0, 220)}
MAP = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in COLORS.items())


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)


def numbers(seed: int = 0, classes: int = 3) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, classes, SIZE).astype(np.uint8)
    mask[0, :classes] = range(classes)
    return mask


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask if mask.ndim == 2 else mask[..., ::-1])


def colored(mask: np.ndarray) -> np.ndarray:
    return np.array(list(COLORS.values()), np.uint8)[mask]


def pairs(root: Path, images: str, masks: str, count: int = 5, end: str = "") -> None:
    for index in range(count):
        picture(root / images / f"{index}.jpg", index)
        save_mask(root / masks / f"{index}{end}.png", numbers(index))


def found_in(root: Path, **data: Any) -> dict[str, Any]:
    return own_data.from_data({"data": {"root": str(root), **data}})


def config_of(root: Path, **data: Any) -> Config:
    given = {"data": {"root": str(root), "num_workers": 0, **data}}
    found = {k: v for k, v in own_data.from_data(given).items() if k != "train"}
    return read(Config, merge(found, given))
