"""Draw a small segmentation data set: shapes on a textured ground, with some ignored pixels."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np

from core.errors import DataError
from core.settings.locks import Held
from core.training import synthetic
from tasks.seg.config import Config, DataConfig, SyntheticConfig

CLASSES = ("ground", "disc", "box", "triangle")
# RGB around which the ground and the shapes are coloured; shape and colour both tell the class
COLOURS = ((90, 120, 80), (200, 70, 60), (60, 90, 200), (220, 200, 70))


def ensure_drawn(config: Config) -> Held:
    """Draw the data set that the config wants; return the use of it.

    Raises:
        DataError: Another number of classes, or `data.root` holds other files.
        FileError: It cannot be written.
    """
    wanted = config.synthetic
    assert wanted is not None
    if config.model.num_classes != len(CLASSES):
        raise DataError(
            f"model.num_classes: the synthetic data has {len(CLASSES)} classes, "
            f"got {config.model.num_classes}"
        )
    data = config.data
    settings = {
        **dataclasses.asdict(wanted),
        "lists": [data.train_list, data.val_list],
        "separator": data.separator,
        "ignore_index": data.ignore_index,
    }
    return synthetic.ensure_drawn(
        Path(data.root), settings, lambda folder: _draw_all(folder, data, wanted)
    )


def draw_sample(
    size: tuple[int, int], ignore_index: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an RGB image [H, W, 3] and its label map [H, W]."""
    width, height = size
    label = np.zeros((height, width), np.uint8)
    image = _texture(height, width, COLOURS[0], rng)
    for _ in range(int(rng.integers(2, 5))):
        kind = int(rng.integers(1, len(CLASSES)))
        mask = _shape(kind, width, height, rng)
        image[mask] = _texture(height, width, COLOURS[kind], rng)[mask]
        outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
        label[mask] = kind
        label[outline > 0] = ignore_index
    return image, label


def _shape(kind: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    side = min(width, height)
    radius = int(rng.integers(side // 8, side // 4))
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    if kind == 1:
        cv2.circle(mask, (x, y), radius, 1, -1)
    else:
        corners = 4 if kind == 2 else 3
        turn = rng.uniform(0, 2 * np.pi)
        angles = turn + 2 * np.pi * np.arange(corners) / corners
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
    inside: np.ndarray = mask.astype(bool)
    return inside


def _texture(
    height: int, width: int, colour: tuple[int, int, int], rng: np.random.Generator
) -> np.ndarray:
    coarse = rng.normal(0, 30, (max(height // 8, 1), max(width // 8, 1), 1)).astype(np.float32)
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    values = np.array(colour) + rng.normal(0, 20, 3) + blotches
    values = values + rng.normal(0, 8, (height, width, 3))
    texture: np.ndarray = np.clip(values, 0, 255).astype(np.uint8)
    return texture


def _draw_all(folder: Path, data: DataConfig, wanted: SyntheticConfig) -> None:
    splits = ((data.train_list, wanted.train_images), (data.val_list, wanted.val_images))
    for number, (list_name, count) in enumerate(splits):
        split = ("train", "val")[number]
        lines = []
        for index in range(count):
            rng = np.random.default_rng([wanted.seed, number, index])
            image, label = draw_sample(wanted.size, data.ignore_index, rng)
            names = f"images/{split}/{index:04d}.png", f"labels/{split}/{index:04d}.png"
            _write_png(folder / names[0], cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            _write_png(folder / names[1], label)
            lines.append(data.separator.join(names))
        (folder / list_name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode(".png", image)
    if not done:
        raise OSError(os.EX_IOERR, f"{path.name} cannot be encoded")
    path.write_bytes(content.tobytes())
