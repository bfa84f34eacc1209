"""The classification task: what the core needs to train, evaluate, compress and deploy it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ConfigError
from core.network.input_channels import take_channels
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
    QuantHints,
    Sample,
    SampleView,
    SlimHints,
    Split,
)
from core.training import lettering
from tasks.cls import review
from tasks.cls.class_names import class_names
from tasks.cls.config import Config
from tasks.cls.data import ImageDataset, build_dataset
from tasks.cls.losses import classification_losses
from tasks.cls.metrics import ClassificationMetric
from tasks.cls.models.anatomy import dissect
from tasks.cls.models.backbones import build_backbone, pretrained_url, resolve_stage, stage_names
from tasks.cls.models.outputs import Deployed, name_outputs
from tasks.cls.models.stages import freeze_norms, freeze_up_to, resolve_layer
from tasks.cls.synthetic import draw_data
from tasks.cls.transforms import EvalTransform


class Task:
    """Image classification."""

    name = "cls"
    hub_task = "image-classification"
    qat_budget = QatBudget(learning_rate_scale=0.1, epochs_scale=0.2)

    def __init__(self, config: Config) -> None:
        self.config = config
        self._in_use: Held | None = None  # the data that were drawn

    def build_model(self) -> Layer:
        settings = self.config.model
        model = build_backbone(
            settings.name, settings.num_classes, settings.return_stages, settings.options
        )
        data = self.config.data
        take_channels(model, data.channels, settings.name, data.input_size)
        if settings.freeze_at is not None:
            known = stage_names(settings.name)
            _, path = resolve_stage(model, known, settings.freeze_at, "model.freeze_at")
            freeze_up_to(model, path)
        if settings.freeze_norm:
            freeze_norms(model)
        self._stop_path(model)  # a wrong name should not wait for the export
        return model

    def pretrained_url(self) -> str:
        return pretrained_url(self.config.model.name)

    def build_dataset(self, split: Split) -> ImageDataset:
        """Open a split; `config` then knows the names of the classes, wherever it goes."""
        config = self.config
        if config.synthetic is not None:
            self._in_use = draw_data(config.data.root, config.model.num_classes, config.synthetic)
        dataset = build_dataset(config, split)
        data = replace(config.data, class_names=class_names(config.data))
        self.config = replace(config, data=data)
        return dataset

    def name_outputs(self, raw: Any) -> Outputs:
        return name_outputs(raw)

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        model, found = self.config.model, outputs["logits"].shape[-1]
        if found != model.num_classes:
            raise ConfigError(
                f"model.num_classes: {model.name} tells {found} classes apart, whatever is asked "
                f"for; got {model.num_classes}"
            )
        return classification_losses(outputs, batch["label"], self.config.loss)

    def infer(self, run: Forward, batch: Arrays) -> Arrays:
        return run(batch["image"])

    def build_metric(self) -> ClassificationMetric:
        config = self.config
        names = class_names(config.data)
        return ClassificationMetric(config.model.num_classes, config.evaluation.topk, names)

    def input_spec(self) -> list[InputSpec]:
        data = self.config.data
        return [InputSpec([None, data.channels, *data.input_size], "float32", "image")]

    def slim_hints(self, model: Layer) -> SlimHints:
        data = self.config.data
        shape = (data.channels, *data.input_size)
        anatomy = dissect(model, self.config.model.num_classes, shape)
        points = []
        if anatomy.logits is not None:
            points.append(DistillPoint(anatomy.logits, "class_logits"))
        if anatomy.feature is not None:
            points.append(DistillPoint(anatomy.feature, "feature"))
        return SlimHints(
            distill_points=tuple(points),
            never_prune=anatomy.classifiers,
            ptq=QuantHints(zero_points=True, reconstruct=True),
        )

    def deploy_model(self, model: Layer, ending: str) -> Layer:
        return Deployed(model, ending, self._stop_path(model))

    def preprocess(self, image: np.ndarray) -> tuple[Sample, Any]:
        return {"image": EvalTransform(self.config.data)(image)}, None

    def postprocess(self, outputs: Arrays, info: Any) -> dict[str, Any]:
        """Return `label`, `name` and `score`; and `top`, the best five, if all scores are known.

        Raises:
            ConfigError: The network was cut off in front of its classifier.
        """
        if "features" in outputs:
            raise ConfigError("model.stop_after: the network has no classes to predict")
        names = self.config.data.class_names
        if "label" in outputs:
            label, score = int(outputs["label"][0]), float(outputs["score"][0])
            return {"label": label, "name": _name(names, label), "score": score}
        scores = _probabilities(outputs)
        top = [
            {"label": int(label), "name": _name(names, label), "score": float(scores[label])}
            for label in np.argsort(-scores, kind="stable")[:5]
        ]
        return {**top[0], "top": top}

    @property
    def threshold(self) -> float:
        return 0.0  # one class is always the most likely

    def describe(self, prediction: dict[str, Any], threshold: float | None = None) -> Finding:
        """Tell the class and its score."""
        text = f"{prediction['name']} {prediction['score']:.2f}"
        if prediction["score"] >= (threshold or 0.0):
            return Finding(text)
        return Finding(f"no class scores {threshold:g} or more, the most likely is {text}", True)

    def draw(
        self, image: np.ndarray, prediction: dict[str, Any], threshold: float | None = None
    ) -> np.ndarray:
        """Write name and score on a dark bar at the top of the picture [H, W, 3]."""
        unsure = self.describe(prediction, threshold).unsure
        name = lettering.drawable(prediction["name"], f"class {prediction['label']}")
        text = f"{name} {prediction['score']:.2f}{' ?' if unsure else ''}"
        height, width = image.shape[:2]
        wide, high = lettering.text_size(text, 100)
        size = min(94 * width / wide, max(0.1 * height, 14))
        bar = round(1.1 * high * size / 100)
        drawn = image.copy()
        drawn[:bar] = drawn[:bar] // 4
        return lettering.write(drawn, text, (0.03 * width, 0.05 * bar), size)

    def sample_errors(self, outputs: Arrays, batch: Arrays) -> np.ndarray:
        return review.sample_errors(outputs, batch)

    def view_sample(self, outputs: Arrays, batch: Arrays, number: int) -> SampleView:
        data = self.config.data
        return review.view_sample(outputs, batch, number, data, data.class_names)

    def name_sample(self, dataset: ImageDataset, index: int) -> str:
        return dataset.items.paths[index]

    def _stop_path(self, model: Layer) -> str | None:
        name = self.config.model.stop_after
        return None if name is None else resolve_layer(model, name, "model.stop_after")


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _probabilities(outputs: Arrays) -> np.ndarray:
    """Return the probabilities [C] of the first image."""
    if "probabilities" in outputs:
        given: np.ndarray = outputs["probabilities"][0]
        return given
    logits = outputs["logits"][0].astype(np.float64)
    powers = np.exp(logits - logits.max())
    scores: np.ndarray = powers / powers.sum()
    return scores
