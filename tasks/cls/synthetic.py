"""Generated pictures of coloured shapes, for demos and tests."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from core.errors import DataError
from core.settings.locks import Held
from core.training.synthetic import ensure_drawn
from tasks.cls.config import SyntheticConfig

_SHAPES = ("disc", "cross", "ring", "triangle", "square")
_COLORS = ("red", "green", "blue", "yellow")
_RGB = {
    "red": (210, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 220),
    "yellow": (220, 200, 50),
}


def draw_data(root: str, num_classes: int, config: SyntheticConfig) -> Held:
    """Draw pictures, list files and labels into `root`, unless it is there already.

    The classes are pairs of shape and colour, such that neither alone tells them apart.

    Returns:
        The use of the data, see `ensure_drawn`.

    Raises:
        DataError: More classes than there are pairs, or `root` holds other files.
        FileError: It cannot be written.
    """
    pairs = list_classes()
    if num_classes > len(pairs):
        raise DataError(
            f"synthetic: there are {len(pairs)} kinds of shapes, model.num_classes is {num_classes}"
        )
    settings = {"num_classes": num_classes, **asdict(config)}
    return ensure_drawn(
        Path(root), settings, lambda folder: _draw_into(folder, pairs[:num_classes], config)
    )


def list_classes() -> list[tuple[str, str]]:
    """Return (colour, shape) of all classes, so that any first few share colours and shapes."""
    pairs = list(itertools.product(range(len(_COLORS)), range(len(_SHAPES))))
    pairs.sort(key=lambda pair: (max(pair), pair))
    return [(_COLORS[color], _SHAPES[shape]) for color, shape in pairs]


def draw_picture(color: str, shape: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one shape somewhere on a noisy background; RGB [side, side, 3] uint8."""
    background = rng.integers(20, 110, size=3)
    canvas = np.full((side, side, 3), background, np.float32)
    radius = side * rng.uniform(0.28, 0.38)
    center = rng.uniform(radius, side - radius, size=2)
    mask = _shape_mask(shape, side, center, radius, rng.uniform(-20, 20))
    paint = np.array(_RGB[color]) + rng.uniform(-25, 25, size=3)
    canvas += mask[..., None] * (paint - canvas)
    canvas += rng.normal(0, 8, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _shape_mask(
    shape: str, side: int, center: np.ndarray, radius: float, degrees: float
) -> np.ndarray:
    """Return the coverage [side, side] in 0..1; edges are smooth."""
    factor = 4
    size = side * factor
    mask = np.zeros((size, size), np.uint8)
    middle, reach = center * factor, radius * factor
    if shape in ("disc", "ring"):
        point = (round(middle[0]), round(middle[1]))
        cv2.circle(mask, point, round(reach), 255, cv2.FILLED)
        if shape == "ring":
            cv2.circle(mask, point, round(reach * 0.55), 0, cv2.FILLED)
    else:
        for corners in _polygons(shape):
            angle = np.radians(degrees)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            points = np.rint(corners @ turn.T * reach + middle).astype(np.int32)
            cv2.fillPoly(mask, [points], 255)
    coverage: np.ndarray = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    return coverage / np.float32(255)


def _polygons(shape: str) -> list[np.ndarray]:
    """Return the corners of a shape in the unit circle."""
    if shape == "square":
        return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.8]
    if shape == "triangle":
        return [np.array([(0, -1), (0.87, 0.6), (-0.87, 0.6)])]
    bar = np.array([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)])
    return [bar, bar[:, ::-1][::-1]]


def _draw_into(folder: Path, classes: list[tuple[str, str]], config: SyntheticConfig) -> None:
    names = [f"{color} {shape}" for color, shape in classes]
    labels = "".join(f"{index} {name}\n" for index, name in enumerate(names))
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    counts = {"train": config.train_images, "val": config.val_images}
    for part, (split, count) in enumerate(counts.items()):
        (folder / split).mkdir()
        lines = []
        for number in range(count):
            label = number % len(classes)
            rng = np.random.default_rng([config.seed, part, number])
            picture = draw_picture(*classes[label], config.side, rng)
            name = f"{split}/{number:05d}.png"
            if not cv2.imwrite(str(folder / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
                raise DataError(f"{folder / name}: cannot be written")
            lines.append(f"{name} {label}\n")
        (folder / f"{split}_list.txt").write_text("".join(lines), encoding="utf-8")
