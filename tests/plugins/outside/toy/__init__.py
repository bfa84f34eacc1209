"""A fourth task in one folder: estimate the brightness of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from core.errors import ConfigError, DataError
from core.task import (
    Arrays,
    Batch,
    DistillPoint,
    Forward,
    Losses,
    Outputs,
    QatBudget,
    Sample,
    SlimHints,
)
from core.training.images import read_image, stack


@dataclass(frozen=True)
class ModelConfig:
    name: str = "tiny"
    pretrained: bool | str | None = None
    reinit: tuple[str, ...] = ()
    width: int = 4
    dropout: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    root: str
    num_workers: int = 0
    on_error: str = "fail"


@dataclass(frozen=True)
class SyntheticConfig:
    train_images: int = 16
    val_images: int = 6


@dataclass(frozen=True)
class Config:
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    synthetic: SyntheticConfig | None = None
    noise: float = 0.1


class Brightness:
    """Reads SIZE x SIZE pictures whose mean is the target."""

    def __init__(self, folder: Path, noise: float) -> None:
        self.paths = sorted(folder.glob("*.png"))
        self.noise = noise

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        image = read_image(str(self.paths[index])).astype(np.float32).transpose(2, 0, 1) / 255
        target = np.float32(image.mean(keepdims=False))
        if self.noise:
            image = image + rng.normal(0, self.noise, image.shape).astype(np.float32)
        return {"image": image, "target": np.asarray([target], np.float32)}

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        return stack(samples)


class MeanError:
    primary = "mae"
    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, outputs: Arrays, batch: Arrays) -> None:
        self.sum += float(np.abs(outputs["level"] - batch["target"]).sum())
        self.count += len(batch["target"])

    def state(self) -> Any:
        return self.sum, self.count

    def merge(self, states: list[Any]) -> None:
        self.sum, self.count = sum(s[0] for s in states), sum(s[1] for s in states)

    def compute(self) -> dict[str, float]:
        return {"mae": self.sum / max(self.count, 1)}

    def report(self) -> str:
        return ""


class Tiny(nn.Layer):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, width, 3, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(width)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        y = self.act(self.norm(self.conv(image)))
        return self.head(self.drop(y.mean([2, 3])))


class Named(nn.Layer):
    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"level": self.model(image)}


class Task:
    name = "outside.toy"
    qat_budget = QatBudget()

    def __init__(self, config: Config) -> None:
        self.config = config

    def build_model(self) -> nn.Layer:
        return Tiny(self.config.model.width, self.config.model.dropout)

    def pretrained_url(self) -> str:
        raise ConfigError("model.pretrained: no weights of this network are published")

    def build_dataset(self, split: str) -> Brightness:
        name = "val" if split == "val" else "train"
        folder = Path(self.config.data.root) / name
        if self.config.synthetic and not folder.exists():
            count = getattr(self.config.synthetic, f"{name}_images")
            draw_images(folder, count, seed=1 if name == "train" else 2)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        return Brightness(folder, self.config.noise if split == "train" else 0.0)

    def name_outputs(self, raw: Any) -> Outputs:
        return {"level": raw}

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        return {"loss_square": ((outputs["level"] - batch["target"]) ** 2).mean()}

    def infer(self, run: Forward, batch: Arrays) -> Arrays:
        return run(batch["image"])

    def build_metric(self) -> MeanError:
        return MeanError()

    def input_spec(self) -> list[InputSpec]:
        return [InputSpec([None, 3, 8, 8], "float32", "image")]

    def slim_hints(self, model: nn.Layer) -> SlimHints:
        return SlimHints((DistillPoint("head", "feature"),), never_prune=("head",))

    def deploy_model(self, model: nn.Layer, ending: str) -> nn.Layer:
        if ending != "raw":
            raise ConfigError(f"ending: expected raw, got {ending[:80]!r}")
        return Named(model)

    def preprocess(self, image: np.ndarray) -> tuple[Sample, Any]:
        small = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA)
        return {"image": small.astype(np.float32).transpose(2, 0, 1) / 255}, None

    def postprocess(self, outputs: Arrays, info: Any) -> dict[str, Any]:
        return {"level": float(outputs["level"][0, 0])}

    def draw(self, image: np.ndarray, prediction: dict[str, Any]) -> np.ndarray:
        drawn = image.copy()
        cv2.putText(drawn, f"{prediction['level']:.2f}", (0, 8), 0, 0.3, (255, 0, 0))
        return drawn


def draw_images(folder: Path, count: int, seed: int) -> None:
    """Write plain pictures of random brightness."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        picture = np.clip(rng.normal(rng.uniform(40, 210), 20, (8, 8, 3)), 0, 255)
        cv2.imwrite(str(folder / f"{i:03d}.png"), picture.astype(np.uint8))
