"""Semantic segmentation as a task."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ConfigError
from core.network.input_channels import PROBE, take_channels
from core.settings.config import suggest
from core.settings.locks import Held
from core.task import (
    Arrays,
    Batch,
    DistillPoint,
    Finding,
    Forward,
    Losses,
    Outputs,
    QatBudget,
    Sample,
    SampleView,
    SlimHints,
    Split,
)
from tasks.seg import drawing, inference, review
from tasks.seg.config import Config
from tasks.seg.data import SegDataset, evaluation_sample
from tasks.seg.download import ensure_downloaded
from tasks.seg.losses import head_losses
from tasks.seg.metrics import SegMetric
from tasks.seg.models import Heads, build_network, find_heads, published_url
from tasks.seg.synthetic import ensure_drawn

ENDINGS = ("raw", "softmax", "argmax")


class Task:
    """Label every pixel; the first output of the network is `logits`, the others `aux_1` ..."""

    name = "seg"
    hub_task = "image-segmentation"
    qat_budget = QatBudget(learning_rate_scale=0.1, epochs_scale=0.2)

    def __init__(self, config: Config) -> None:
        self.config = config
        self._in_use: Held | None = None  # the data that were drawn

    def build_model(self) -> Layer:
        data, model = self.config.data, self.config.model
        size = (data.size[1], data.size[0]) if data.size else (PROBE, PROBE)
        return take_channels(build_network(model), data.channels, model.name, size)

    def pretrained_url(self) -> str:
        return published_url(self.config.model)

    def build_dataset(self, split: Split) -> SegDataset:
        if self.config.synthetic is not None:
            self._in_use = ensure_drawn(self.config)
        elif self.config.data.download is not None:
            ensure_downloaded(self.config.data)
        return SegDataset(self.config, split)

    def name_outputs(self, raw: Any) -> Outputs:
        if isinstance(raw, dict):
            return raw
        tensors = list(raw) if isinstance(raw, (list, tuple)) else [raw]
        return {f"aux_{i}" if i else "logits": tensor for i, tensor in enumerate(tensors)}

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        config = self.config
        return head_losses(
            outputs,
            batch["label"],
            config.loss,
            config.data.ignore_index,
            config.model.num_classes,
        )

    def infer(self, run: Forward, batch: Arrays) -> Arrays:
        return inference.infer(run, batch, self.config.evaluation)

    def build_metric(self) -> SegMetric:
        return SegMetric(self.config.class_names, self.config.data.ignore_index)

    def input_spec(self) -> list[InputSpec]:
        """Describe the image: of the size `data.size`, or of any where that is null."""
        width, height = self.config.data.size or (None, None)
        channels = self.config.data.channels
        return [InputSpec([None, channels, height, width], "float32", "image")]

    def slim_hints(self, model: Layer) -> SlimHints:
        return SlimHints(
            distill_points=(
                DistillPoint(self._heads.logits, "class_logits"),
                DistillPoint(self._heads.feature, "feature"),
            ),
            never_prune=self._heads.class_layers,
        )

    @cached_property
    def _heads(self) -> Heads:
        """Say which layers speak in classes: of the config alone, and two networks to find out."""
        return find_heads(self.config.model)

    def deploy_model(self, model: Layer, ending: str) -> Layer:
        if ending not in ENDINGS:
            raise ConfigError(f"ending: segmentation has no {ending!r}{suggest(ending, ENDINGS)}")
        return Deployed(model, ending)

    def preprocess(self, image: np.ndarray) -> tuple[Sample, Any]:
        sample = evaluation_sample(image, self.config.data)
        return {"image": sample["image"]}, image.shape[:2]

    def postprocess(self, outputs: Arrays, info: Any) -> dict[str, Any]:
        """Return `mask` [H, W] of the image's size and the share of each class that occurs."""
        mask = inference.label_map(outputs, tuple(info))
        names = self.config.class_names
        labels, counts = np.unique(mask, return_counts=True)
        shares = {names[label]: float(n) / mask.size for label, n in zip(labels, counts)}
        return {"mask": mask, "classes": shares}

    @property
    def threshold(self) -> None:
        return None

    def describe(self, prediction: dict[str, Any], threshold: float | None = None) -> Finding:
        """Tell the share of each class, the largest first."""
        shares = sorted(prediction["classes"].items(), key=lambda entry: -entry[1])
        return Finding(", ".join(f"{name} {100 * share:.1f} %" for name, share in shares))

    def draw(
        self, image: np.ndarray, prediction: dict[str, Any], threshold: float | None = None
    ) -> np.ndarray:
        """Tint an RGB image [H, W, 3] by the classes of its pixels."""
        config = self.config
        return drawing.draw_mask(image, prediction["mask"], config.class_names, config.data.colors)

    def palette(self) -> np.ndarray:
        return drawing.palette(self.config.class_names, self.config.data.colors)

    def sample_errors(self, outputs: Arrays, batch: Arrays) -> np.ndarray:
        return review.sample_errors(outputs, batch, self.config)

    def view_sample(self, outputs: Arrays, batch: Arrays, number: int) -> SampleView:
        return review.view_sample(outputs, batch, number, self.config)

    def name_sample(self, dataset: SegDataset, index: int) -> str:
        return str(dataset.pairs[index][0])


class Deployed(Layer):
    """A network with one named output: logits, probabilities or labels."""

    def __init__(self, network: Layer, ending: str) -> None:
        super().__init__()
        self.network = network
        self.ending = ending

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        raw = self.network(image)
        logits = raw[0] if isinstance(raw, (list, tuple)) else raw
        if self.ending == "softmax":
            return {"probabilities": F.softmax(logits, axis=1)}
        if self.ending == "argmax":
            return {"labels": paddle.argmax(logits, axis=1, dtype="int32")}
        return {"logits": logits}
