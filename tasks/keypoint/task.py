"""The keypoint task: top-down human pose as heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ConfigError
from core.settings.config import suggest
from core.settings.locks import Held
from core.targets.names import BACKENDS
from core.task import (
    Arrays,
    Batch,
    Box,
    BoxesOf,
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
from tasks.keypoint import review
from tasks.keypoint.boxes import clip, read_boxes
from tasks.keypoint.codec import Codec
from tasks.keypoint.config import Config
from tasks.keypoint.data import KeypointDataset, load_split
from tasks.keypoint.deploy import HeatmapEnding, PointsEnding
from tasks.keypoint.drawing import draw_box, draw_skeleton
from tasks.keypoint.losses import heatmap_loss
from tasks.keypoint.metrics import KeypointMetric
from tasks.keypoint.models import build_network, published_url
from tasks.keypoint.models.lite_hrnet import LiteHRNet
from tasks.keypoint.synthetic import ensure_data
from tasks.keypoint.transforms import Normaliser, affine, apply, crop, frame_box, invert

ENDINGS = ("raw", "points")
# layers of Lite-HRNet in which rounding costs the heatmaps most
IN_FLOAT = ("backbone.stem*", "backbone.transition*", "backbone.head_layer*", "final_conv")


def depthwise_layers(model: Layer) -> tuple[str, ...]:
    """Return the paths of the convolutions that have one channel in each group."""
    return tuple(
        path
        for path, layer in model.named_sublayers()
        if isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 1 < layer.weight.shape[0]
    )


class Task:
    """Data, network, loss and metric for keypoints."""

    name = "keypoint"
    hub_task = "keypoint-detection"
    qat_budget = QatBudget(learning_rate_scale=0.2, epochs_scale=0.25)

    def __init__(self, config: Config) -> None:
        self.config = config
        self._in_use: Held | None = None  # the data that were drawn
        self._codec = Codec(config.codec, config.data.input_size)

    def build_model(self) -> Layer:
        return build_network(self.config.model)

    def pretrained_url(self) -> str:
        return published_url(self.config.model, self.config.data.input_size[0])

    def build_dataset(self, split: Split) -> KeypointDataset:
        self._in_use = ensure_data(self.config)
        _, persons = load_split(self.config, split)
        return KeypointDataset(self.config, split, persons)

    def name_outputs(self, raw: Any) -> Outputs:
        return raw if isinstance(raw, dict) else {"heatmaps": raw}

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        predicted: Tensor = outputs["heatmaps"]
        target, weight = batch["target"], batch["target_weight"]
        return {"heatmap": heatmap_loss(self.config.loss, predicted, target, weight)}

    def infer(self, run: Forward, batch: Arrays) -> Arrays:
        image = batch["image"]
        outputs = run(image)
        if not self.config.evaluation.flip_test or "heatmaps" not in outputs:
            return outputs
        mirrored = run(np.ascontiguousarray(image[..., ::-1]))["heatmaps"]
        returned = self._mirror_heatmaps(mirrored)
        return {**outputs, "heatmaps": (outputs["heatmaps"] + returned) / 2}

    def build_metric(self) -> KeypointMetric:
        ensure_data(self.config)
        annotations, persons = load_split(self.config, "val")
        return KeypointMetric(self.config, annotations, persons)

    def input_spec(self) -> list[InputSpec]:
        height, width = self.config.data.input_size
        return [InputSpec([None, 3, height, width], "float32", "image")]

    def slim_hints(self, model: Layer) -> SlimHints:
        layers = dict(model.named_children())
        features = "decoder" if "decoder" in layers else "backbone"
        light = isinstance(layers.get("backbone"), LiteHRNet)
        # few pixels say where a joint is: what they depend on counts, not what is frequent
        quantization = QuantHints(
            "output_mse",
            zero_points=True,
            balance=True,
            reconstruct=True,
            # int8 makes these no faster there, so rounded outputs would cost accuracy for nothing
            quantize_outputs={"onnxruntime": "none"} if light else {},
        )
        return SlimHints(
            distill_points=(
                DistillPoint("final_conv", "heatmap"),
                DistillPoint(features, "feature"),
            ),
            # as `heatmap_stride` has it
            aligned_at="corners" if self.config.codec.udp else "origin",
            never_prune=("final_conv",),
            never_quantize=IN_FLOAT if light else (),
            # depthwise layers lose most, hold few weights, and are hardly faster in int8
            never_quantize_for=dict.fromkeys(BACKENDS, depthwise_layers(model)) if light else {},
            ptq=quantization,
            qat=quantization,
        )

    def deploy_model(self, model: Layer, ending: str) -> Layer:
        if ending == "raw":
            return HeatmapEnding(model)
        if ending == "points":
            return PointsEnding(model, self.config.codec.udp)
        raise ConfigError(f"ending: got {ending!r}{suggest(ending, ENDINGS)}")

    def read_boxes(self, path: Path, least_score: float) -> BoxesOf:
        return read_boxes(path, self.config.data.category, least_score)

    def preprocess(self, image: np.ndarray, box: Box | None = None) -> tuple[Sample, Any]:
        """Cut the person in a box out of an image [H, W, 3]; without one it fills the image.

        Raises:
            DataError: The box lies outside of the image.
        """
        data = self.config.data
        height, width = image.shape[:2]
        inside = clip(box or Box(0, 0, width, height), width, height)
        frame = frame_box(np.array(inside), data.input_size, data.padding)
        matrix = affine(frame, data.input_size, self.config.codec.udp)
        cut = crop(image, matrix, data.input_size)
        return {"image": Normaliser(data.mean, data.std)(cut)}, invert(matrix)

    def postprocess(self, outputs: Arrays, info: Any) -> dict[str, Any]:
        """Return `keypoints`: x, y in pixels of the image and the score of each joint."""
        points = (
            outputs["points"] if "points" in outputs else self._codec.decode(outputs["heatmaps"])
        )
        placed = apply(np.asarray(info), points[0, :, :2].astype(np.float64))
        return {"keypoints": np.column_stack([placed, points[0, :, 2]]).tolist()}

    @property
    def threshold(self) -> float:
        return self.config.evaluation.joint_score

    def describe(self, prediction: dict[str, Any], threshold: float | None = None) -> Finding:
        """Tell how many joints were found."""
        least = self.threshold if threshold is None else threshold
        scores = np.array(prediction["keypoints"])[:, 2]
        sure = scores[scores >= least]
        if not len(sure):
            highest = scores.max()
            return Finding(f"no joint scores {least:g} or more, the highest {highest:.2f}", True)
        mean = f"their mean score {sure.mean():.2f}"
        return Finding(f"{len(sure)} of {len(scores)} joints score {least:g} or more, {mean}")

    def draw(
        self, image: np.ndarray, prediction: dict[str, Any], threshold: float | None = None
    ) -> np.ndarray:
        """Draw a skeleton on an RGB image [H, W, 3], and the person's box, if one was given."""
        least = self.threshold if threshold is None else threshold
        box = prediction.get("box")
        if box is not None:  # it may reach far beyond
            box = clip(Box(*box[:4]), image.shape[1], image.shape[0])
        drawn = image if box is None else draw_box(image, box)
        points, side = prediction["keypoints"], max(box[2:] if box else image.shape[:2])
        return draw_skeleton(drawn, points, self.config.joint_set.skeleton, least, side)

    def sample_errors(self, outputs: Arrays, batch: Arrays) -> np.ndarray:
        return review.sample_errors(outputs, batch)

    def view_sample(self, outputs: Arrays, batch: Arrays, number: int) -> SampleView:
        return review.view_sample(outputs, batch, number, self.config, self._codec)

    def name_sample(self, dataset: KeypointDataset, index: int) -> str:
        return str(dataset.persons.files[index])

    def _mirror_heatmaps(self, heatmaps: np.ndarray) -> np.ndarray:
        returned = heatmaps[..., ::-1][:, self.config.joint_set.mirror()]
        shift = self.config.evaluation.shift_heatmap
        if shift is None:
            shift = not self.config.codec.udp
        if shift:
            returned[..., 1:] = returned[..., :-1].copy()
        return returned
