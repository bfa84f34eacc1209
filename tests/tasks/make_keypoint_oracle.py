"""Write the facts about keypoint networks that the tests check, as PaddleDetection has them.

PaddleDetection is no dependency of the project. To make the file anew, install it apart:

    pip install --no-deps --target /tmp/paddledet paddledet==2.6.0
    python tests/tasks/make_keypoint_oracle.py /tmp/paddledet

For each network the file holds the number and the digest of its weights' names and shapes, part by
part, and heatmaps at a few places for weights and an image that follow from a formula (`numbers`),
in evaluation and in training mode.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import paddle

FIXTURE = Path(__file__).with_name("keypoint_oracle.json")
NETWORKS = {
    "lite_hrnet_18": ("lite_hrnet", "LiteHRNet", {"network_type": "lite_18"}, 40),
    "lite_hrnet_30": ("lite_hrnet", "LiteHRNet", {"network_type": "lite_30"}, 40),
    "lite_hrnet_naive": ("lite_hrnet", "LiteHRNet", {"network_type": "naive"}, 30),
    "lite_hrnet_wider_naive": ("lite_hrnet", "LiteHRNet", {"network_type": "wider_naive"}, 40),
    "hrnet_w32": ("hrnet", "HRNet", {"width": 32}, 32),
    "hrnet_w48": ("hrnet", "HRNet", {"width": 48}, 48),
}
IMAGE_SHAPE = (2, 3, 64, 96)
JOINTS = 17
PLACES = [(n, k, y, x) for n in (0, 1) for k in (0, 8, 16) for y in (0, 7, 15) for x in (0, 23)]


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw float32 numbers from N(0, 1) that depend on a name only."""
    return np.random.RandomState(zlib.crc32(name.encode())).randn(*shape).astype("float32")


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Make up a weight for which activations neither vanish nor explode."""
    drawn = numbers(name, shape)
    if name.endswith("_variance"):
        return (1 + 0.1 * np.abs(drawn)).astype("float32")
    if len(shape) == 1:
        centre = 1.0 if name.endswith("weight") else 0.0
        return (centre + 0.1 * drawn).astype("float32")
    return (drawn / np.sqrt(np.prod(shape[1:]))).astype("float32")


def fill(network: paddle.nn.Layer) -> None:
    """Set every weight of a network as `weight` says."""
    for name, value in network.state_dict().items():
        value.set_value(weight(name, tuple(value.shape)))


def heatmaps(network: Any, *, train: bool) -> np.ndarray:
    """Return the heatmaps of the made-up image."""
    network.train() if train else network.eval()
    with paddle.no_grad():
        return network(paddle.to_tensor(numbers("image", IMAGE_SHAPE))).numpy()


def digests(shapes: dict[str, tuple[int, ...]]) -> dict[str, list[Any]]:
    """Return number and digest of the weights in each part (`backbone.stage0`, `final_conv`)."""
    parts: dict[str, list[str]] = {}
    for name, shape in sorted(shapes.items()):
        line = f"{name} {'x'.join(map(str, shape))}"
        parts.setdefault(".".join(name.split(".")[:2]), []).append(line)
    return {
        part: [len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]]
        for part, lines in parts.items()
    }


class Reference(paddle.nn.Layer):
    """PaddleDetection's TopDownHRNet without its loss and decoding."""

    def __init__(self, name: str) -> None:
        super().__init__()
        module, cls, settings, width = NETWORKS[name]
        backbones = importlib.import_module(f"ppdet.modeling.backbones.{module}")
        layers = importlib.import_module("ppdet.modeling.layers")
        self.backbone = getattr(backbones, cls)(
            **settings, freeze_at=-1, freeze_norm=False, return_idx=[0]
        )
        self.final_conv = layers.Conv2d(width, JOINTS, 1, 1, 0, bias=True)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return self.final_conv(self.backbone({"image": image})[0])


def open_ppdet(folder: Path) -> None:
    """Make ppdet's modules importable one by one, past packages that need everything."""
    for package in ("ppdet", "ppdet.core", "ppdet.modeling", "ppdet.modeling.backbones"):
        module = types.ModuleType(package)
        module.__path__ = [str(folder.joinpath(*package.split(".")))]
        sys.modules[package] = module


def main(folder: Path) -> None:
    """Write the fixture."""
    open_ppdet(folder)
    facts: dict[str, Any] = {"made by": "tests/tasks/make_keypoint_oracle.py, paddledet 2.6.0"}
    for name in NETWORKS:
        network = Reference(name)
        fill(network)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        at = tuple(zip(*PLACES))
        facts[name] = {
            "weights": digests(shapes),
            "eval": [float(f"{v:.7g}") for v in heatmaps(network, train=False)[at]],
            "train": [float(f"{v:.7g}") for v in heatmaps(network, train=True)[at]],
        }
    FIXTURE.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
