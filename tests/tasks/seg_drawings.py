"""Files of labelme and CVAT with shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from tasks.seg.config import DataConfig

WIDTH, HEIGHT = 12, 9
DATA = DataConfig("x", classes=("background", "disc", "box"))


def labelme(path: Path, *entries: object, **others: Any) -> str:
    content = {"imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": list(entries), **others}
    path.write_text(json.dumps(content))
    return str(path)


def drawn(label: str, points: Any, kind: Any = "polygon", **others: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, **others}


def cvat(path: Path, *elements: str, size: str = f'width="{WIDTH}" height="{HEIGHT}"') -> str:
    """Write an export with one image, `a.png`; return the path of its label."""
    body = f'<image id="0" name="a.png" {size}>{"".join(elements)}</image>'
    path.write_text(f"<annotations><version>1.1</version>{body}</annotations>")
    return str(path / "a.png")


def element(tag: str, label: str = "disc", **attributes: object) -> str:
    values = "".join(f" {k}={quoteattr(str(v))}" for k, v in attributes.items())
    return f"<{tag} label={quoteattr(label)}{values}></{tag}>"


def polygon_of(points: Any, **others: object) -> str:
    return element("polygon", points=";".join(f"{x},{y}" for x, y in points), **others)


SQUARE = [[0, 0], [4, 0], [4, 4]]
