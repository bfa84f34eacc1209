"""Data of one's own, drawn: class folders, masks in colours, figures with joints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

SIDE = 64
MAP = {"ground": (0, 0, 0), "disc": (200, 30, 30), "box": (30, 30, 220)}
NAMES = ["head", "left_arm", "right_arm", "hip", "left_leg", "right_leg"]


def ground(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(50, 110, (SIDE, SIDE, 3), dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def draw_folders(root: Path) -> Path:
    """Four classes in flat folders."""
    for number, name in enumerate(("red ball", "red box", "blue ball", "blue box")):
        color = (220, 40, 40) if number < 2 else (40, 40, 220)
        for index in range(5):
            image, at = ground(10 * number + index), 24 + 4 * index
            if number % 2:
                cv2.rectangle(image, (at - 12, at - 12), (at + 12, at + 12), color, -1)
            else:
                cv2.circle(image, (at, at), 14, color, -1)
            write(root / name / f"{index}.jpg", image)
    return root


def draw_masks(root: Path, images: str = "JPEGImages", masks: str = "SegmentationClass") -> Path:
    """Colour masks with a label map; by default in the folders that CVAT exports."""
    for index in range(6):
        image, mask = ground(index), np.zeros((SIDE, SIDE, 3), np.uint8)
        for canvas, colors in ((image, ((230, 190, 40), (40, 220, 200))), (mask, (*MAP.values(),))):
            disc, box = colors[-2:]
            cv2.circle(canvas, (18, 20 + 3 * index), 12, disc, -1)
            cv2.rectangle(canvas, (38, 8), (58, 30 + 4 * index), box, -1)
        write(root / images / f"{index}.jpg", image)
        write(root / masks / f"{index}.png", mask)
    lines = [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in MAP.items()]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
    return root


def draw_polygons(root: Path) -> Path:
    """Polygons as labelme saves them, beside their images."""
    draw_masks(root)
    for index in range(6):
        (root / "JPEGImages" / f"{index}.jpg").rename(root / f"{index}.jpg")
        box = [[38, 8], [59, 8], [59, 31 + 4 * index], [38, 31 + 4 * index]]
        disc = [[18.5, 20.5 + 3 * index], [18.5, 33 + 3 * index]]
        shapes = [
            {"label": "box", "points": box, "shape_type": "polygon"},
            {"label": "disc", "points": disc, "shape_type": "circle"},
        ]
        content = {"shapes": shapes, "imageWidth": SIDE, "imageHeight": SIDE, "imageData": None}
        (root / f"{index}.json").write_text(json.dumps(content))
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.rmtree(root / folder)
    (root / "labelmap.txt").unlink()
    return root


def draw_export(root: Path) -> Path:
    """The same in an export of CVAT."""
    draw_polygons(root)
    images = []
    for index in range(6):
        write(root / "images" / f"{index}.jpg", cv2.imread(str(root / f"{index}.jpg"))[..., ::-1])
        box = f'<box label="box" xtl="38" ytl="8" xbr="59" ybr="{31 + 4 * index}"/>'
        disc = f'<ellipse label="disc" cx="18.5" cy="{20.5 + 3 * index}" rx="12.5" ry="12.5"/>'
        name = f'name="{index}.jpg" width="{SIDE}" height="{SIDE}"'
        images.append(f'<image id="{index}" {name}>{box}{disc}</image>')
        (root / f"{index}.jpg").unlink()
        (root / f"{index}.json").unlink()
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("disc", "box"))
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    (root / "annotations.xml").write_text(f"<annotations>{meta}{''.join(images)}</annotations>")
    return root


def draw_figures(root: Path) -> Path:
    """Six joints under category 3, all in one COCO file."""
    images, annotations = [], []
    for index in range(6):
        x, y = 26 + 2 * index, 10 + index
        points = [(0, 0), (12, 10), (-12, 10), (0, 22), (8, 40), (-8, 40)]
        points = [(x + right, y + down) for right, down in points]
        image = ground(index)
        for start, end in ((0, 3), (1, 3), (2, 3), (3, 4), (3, 5)):
            cv2.line(image, points[start], points[end], (230, 210, 40), 2)
        write(root / "pictures" / f"{index}.png", image)
        images.append({"id": index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
        keypoints = [value for point in points for value in (*point, 2)]
        box = {"bbox": [x - 16, y - 6, 32, 52], "area": 1000, "keypoints": keypoints}
        annotations.append({"id": 2 * index, "image_id": index, "category_id": 3, **box})
        other = {"id": 2 * index + 1, "image_id": index, "category_id": 1, "bbox": [0, 0, 4, 4]}
        annotations.append(other)
    robot = {"id": 3, "name": "robot", "keypoints": NAMES, "skeleton": [[1, 4], [4, 5], [4, 6]]}
    categories = [{"id": 1, "name": "box"}, robot]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "export.json").write_text(json.dumps(content))
    return root
