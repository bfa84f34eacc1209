"""Draw a small segmentation data set: shapes on a textured ground, with some ignored pixels."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from core.errors import DataError
from tasks.seg.config import Config, SyntheticConfig

log = logging.getLogger(__name__)

CLASSES = ("ground", "disc", "box", "triangle")
# RGB around which the ground and the shapes are coloured; shape and colour both tell the class
COLOURS = ((90, 120, 80), (200, 70, 60), (60, 90, 200), (220, 200, 70))
DESCRIPTION = "synthetic.json"


def ensure_drawn(config: Config) -> None:
    """Draw the data set unless it is there; one that was drawn with other settings is replaced.

    Raises:
        DataError: `data.root` holds something else, or cannot be written.
    """
    wanted = config.synthetic
    assert wanted is not None
    if config.model.num_classes != len(CLASSES):
        raise DataError(
            f"model.num_classes: the synthetic data has {len(CLASSES)} classes, "
            f"got {config.model.num_classes}"
        )
    root = Path(config.data.root)
    settings = {
        **dataclasses.asdict(wanted),
        "size": list(wanted.size),
        "lists": [config.data.train_list, config.data.val_list],
        "separator": config.data.separator,
        "ignore_index": config.data.ignore_index,
    }
    if _description(root) == settings:
        return
    if _description(root) is None and root.exists() and any(root.iterdir()):
        if (root / config.data.train_list).exists():
            return  # data of the user's own
        raise DataError(
            f"data.root: {root} is not empty, but has no {config.data.train_list}; "
            "the synthetic data needs a folder of its own"
        )
    log.info("drawing %d images into %s", wanted.train_images + wanted.val_images, root)
    try:
        _publish(root, config, settings)
    except OSError as error:
        raise DataError(f"data.root: {root} cannot be written: {error.strerror}") from error


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


def _description(root: Path) -> object:
    try:
        return json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _publish(root: Path, config: Config, settings: dict[str, object]) -> None:
    """Draw into a folder beside `root` and rename it, so that `root` is never half drawn."""
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _draw_all(partial, config, settings)
        if _description(root) == settings:  # another process was faster
            return
        if root.exists():
            root.rename(partial / "replaced")
        partial.chmod(0o755)
        partial.rename(root)
        shutil.rmtree(root / "replaced", ignore_errors=True)
    except OSError:
        if _description(root) != settings:
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _draw_all(folder: Path, config: Config, settings: dict[str, object]) -> None:
    assert config.synthetic is not None
    synthetic: SyntheticConfig = config.synthetic
    data = config.data
    splits = ((data.train_list, synthetic.train_images), (data.val_list, synthetic.val_images))
    for number, (list_name, count) in enumerate(splits):
        split = ("train", "val")[number]
        lines = []
        for index in range(count):
            rng = np.random.default_rng([synthetic.seed, number, index])
            image, label = draw_sample(synthetic.size, data.ignore_index, rng)
            names = f"images/{split}/{index:04d}.png", f"labels/{split}/{index:04d}.png"
            _write_png(folder / names[0], cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            _write_png(folder / names[1], label)
            lines.append(data.separator.join(names))
        (folder / list_name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / DESCRIPTION).write_text(json.dumps(settings), encoding="utf-8")


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode(".png", image)
    if not done:
        raise OSError(os.EX_IOERR, f"{path.name} cannot be encoded")
    path.write_bytes(content.tobytes())
