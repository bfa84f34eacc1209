"""Stick figures in random poses as a small COCO keypoint data set."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.settings.locks import Held
from core.task import Split
from core.training.synthetic import ensure_drawn
from tasks.keypoint.config import Config, SyntheticConfig
from tasks.keypoint.data import annotation_file, image_folder
from tasks.keypoint.joints import COCO_NAMES, COCO_SKELETON

SPLITS: tuple[Split, Split] = ("train", "val")
# lengths in units of the body
TORSO, NECK, HEAD = 0.30, 0.13, 0.075
SHOULDER, HIP = 0.12, 0.07  # half widths
UPPER_ARM, FOREARM, THIGH, SHIN = 0.17, 0.16, 0.23, 0.22
UNLABELLED = 0.03  # share of joints without a label
SIDES, MIDDLE = ((225, 90, 40), (50, 110, 230)), (235, 205, 70)
LEFT_LIMBS = ((5, 7), (7, 9), (11, 13), (13, 15))
RIGHT_LIMBS = ((6, 8), (8, 10), (12, 14), (14, 16))


def ensure_data(config: Config) -> Held | None:
    """Draw the data set if the config wants one; return the use of it.

    Raises:
        DataError: `data.root` holds other files.
        FileError: It cannot be written.
    """
    synthetic, data = config.synthetic, config.data
    if synthetic is None:
        return None
    names = (data.train_annotations, data.val_annotations, data.train_images, data.val_images)
    settings = {**dataclasses.asdict(synthetic), "names": names}

    def draw(folder: Path) -> None:
        for number, split in enumerate(SPLITS):
            rng = np.random.default_rng([synthetic.seed, number])
            _draw_split(config, synthetic, split, folder, rng)

    return ensure_drawn(Path(data.root), settings, draw)


def _draw_split(
    config: Config, synthetic: SyntheticConfig, split: Split, folder: Path, rng: np.random.Generator
) -> None:
    root = config.data.root
    height, width = synthetic.size
    images = folder / os.path.relpath(image_folder(config, split), root)
    images.mkdir(parents=True, exist_ok=True)
    count = synthetic.train_images if split == "train" else synthetic.val_images
    listed, people = [], []
    for number in range(1, count + 1):
        canvas = draw_background((height, width), rng)
        joints = place(random_pose(rng), (height, width), rng)
        draw_figure(canvas, joints, rng)
        name = f"{number:05d}.png"
        content = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))[1]
        (images / name).write_bytes(content.tobytes())
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        people.append({"id": number, "image_id": number, **describe(joints, rng)})
    annotations = folder / os.path.relpath(annotation_file(config, split), root)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    skeleton = [[start + 1, end + 1] for start, end in COCO_SKELETON]
    person = {"id": 1, "name": "person", "keypoints": list(COCO_NAMES), "skeleton": skeleton}
    whole = {"images": listed, "annotations": people, "categories": [person]}
    annotations.write_text(json.dumps(whole), encoding="utf-8")


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """Return the 17 COCO joints of a figure seen from the front, [17, 2] x, y; y points down."""
    joints = np.zeros((17, 2))
    lean = rng.normal() * 0.15
    up = np.array([np.sin(lean), -np.cos(lean)])
    side = np.array([-up[1], up[0]])  # towards the figure's left, our right
    shoulders = TORSO * up
    head = shoulders + NECK * _turn(up, rng.normal() * 0.2)
    joints[0] = head + 0.015 * side * rng.normal()
    for joint, across, above in ((1, 0.35, 0.35), (3, 1.0, 0.1)):
        joints[joint] = head + HEAD * (across * side + above * up)
        joints[joint + 1] = head + HEAD * (-across * side + above * up)
    for left, sign in ((0, 1.0), (1, -1.0)):
        shoulder, hip = shoulders + sign * SHOULDER * side, sign * HIP * side
        arm = _turn(-up, -sign * rng.uniform(-0.1, 2.4))
        elbow = shoulder + UPPER_ARM * arm
        wrist = elbow + FOREARM * _turn(arm, -sign * rng.uniform(-0.2, 1.6))
        thigh = _turn(-up, -sign * rng.uniform(-0.05, 0.7))
        knee = hip + THIGH * thigh
        ankle = knee + SHIN * _turn(thigh, sign * rng.uniform(0.0, 0.9))
        joints[5 + left], joints[7 + left], joints[9 + left] = shoulder, elbow, wrist
        joints[11 + left], joints[13 + left], joints[15 + left] = hip, knee, ankle
    return joints


def place(joints: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Scale a figure to much of an image [height, width] and put it somewhere inside."""
    height, width = size
    margin = 0.08
    low, high = joints.min(axis=0) - margin, joints.max(axis=0) + margin
    largest = min(width / (high - low)[0], height / (high - low)[1])
    scale = largest * rng.uniform(0.7, 1.0)
    free = np.array([width, height]) - scale * (high - low)
    placed: np.ndarray = (joints - low) * scale + free * rng.random(2)
    return placed


def draw_background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return coarse and fine noise in dull colours, with a few grey strokes, [H, W, 3] uint8."""
    height, width = size
    coarse = rng.uniform(60, 170, (5, 5, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = smooth + rng.normal(0, 12, (height, width, 1))
    canvas: np.ndarray = np.clip(noisy, 0, 255).astype(np.uint8)
    for _ in range(4):
        start, end = rng.integers(0, [[width, height]] * 2)
        grey = int(rng.integers(40, 210))
        cv2.line(canvas, _pixel(start), _pixel(end), (grey,) * 3, 2, cv2.LINE_AA)
    return canvas


def draw_figure(canvas: np.ndarray, joints: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a figure with joints [K, 2] on a canvas [H, W, 3]: one side is warm, one cold."""
    unit = float(np.linalg.norm(joints[5] - joints[6])) / (2 * SHOULDER)
    thickness = max(2, round(0.045 * unit))
    first = int(rng.integers(2))
    colors = (SIDES[first], SIDES[1 - first], MIDDLE)
    left, right, middle = (_vary(color, rng) for color in colors)
    trunk = joints[[5, 6, 12, 11]].round().astype(np.int32)
    cv2.fillConvexPoly(canvas, trunk, middle, cv2.LINE_AA)
    for limbs, color in ((RIGHT_LIMBS, right), (LEFT_LIMBS, left)):
        for start, end in limbs:
            ends = _pixel(joints[start]), _pixel(joints[end])
            cv2.line(canvas, *ends, color, thickness, cv2.LINE_AA)
        for joint in {joint for limb in limbs for joint in limb}:
            shade = _vary(color, rng)
            cv2.circle(canvas, _pixel(joints[joint]), thickness // 2 + 1, shade, -1, cv2.LINE_AA)
    center = (joints[3] + joints[4]) / 2
    radius = max(3, round(HEAD * unit))
    cv2.circle(canvas, _pixel(center), radius, middle, -1, cv2.LINE_AA)
    dot = max(1, radius // 4)
    for joint, color in ((0, (60, 40, 40)), (1, left), (2, right), (3, left), (4, right)):
        cv2.circle(canvas, _pixel(joints[joint]), dot, color, -1, cv2.LINE_AA)


def describe(joints: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Return the COCO annotation of joints [K, 2]; a few lose their label."""
    low, high = joints.min(axis=0), joints.max(axis=0)
    grow = 0.05 * (high - low).max()
    width, height = high - low + 2 * grow
    labelled = rng.random(len(joints)) >= UNLABELLED
    marked = np.column_stack([joints.round(2), np.full(len(joints), 2)]) * labelled[:, None]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [round(float(v), 2) for v in (*(low - grow), width, height)],
        "area": round(float(0.6 * width * height), 2),
        "num_keypoints": int(labelled.sum()),
        "keypoints": marked.reshape(-1).tolist(),
    }


def _turn(direction: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    turned: np.ndarray = np.array([[cos, -sin], [sin, cos]]) @ direction
    return turned


def _vary(color: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(np.clip(value + rng.normal() * 12, 0, 255)) for value in color)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
