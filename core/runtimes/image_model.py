"""A model that answers for an image, exported or from a checkpoint: picture in, values out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from core.errors import ConfigError, DataError
from core.runtimes.predictor import Predictor
from core.task import Arrays, Box, BoxTask, Finding, Forward, PaletteTask, Task, TellingTask

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageModel:
    """A model with the task that prepares images for it and reads its outputs.

    Attributes:
        task: Task of the model.
        run: The model.
        inputs: Names of its inputs, in the order that `run` takes them.
        threshold: Scores below do not count; None leaves it to the task.
    """

    task: Task
    run: Forward
    inputs: tuple[str, ...]
    threshold: float | None = None

    def __post_init__(self) -> None:
        known = self.task.threshold if isinstance(self.task, TellingTask) else None
        if self.threshold is not None and known is None:
            raise ConfigError(
                f"--threshold: what the task {self.task.name} predicts has no scores; leave it out"
            )

    def predict(
        self,
        image: np.ndarray,
        boxes: Sequence[Box] | None = None,
        leave_out: Callable[[DataError], object] | None = None,
    ) -> dict[str, Any]:
        """Return what the model says of an RGB image [H, W, 3], as the task's plain values.

        Args:
            image: The whole image.
            boxes: Parts of it. The answer then has `boxes`, a list with `box` and the values of
                each; None asks for the image as a whole.
            leave_out: Is told of each box outside of the image, which then has no answer; None
                raises.

        Raises:
            DataError: A box lies outside of the image, the image is too small, or the model answers
                with NaN.
        """
        if boxes is None:
            return self._answer(image, None)
        found = []
        for box in boxes:
            try:
                answer = self._answer(image, box)
            except DataError as error:
                if leave_out is None:
                    raise
                leave_out(error)
                continue
            values = asdict(box)
            score = values.pop("score")
            found.append({"box": list(values.values()), "box_score": score, **answer})
        return {"boxes": found}

    def _answer(self, image: np.ndarray, box: Box | None) -> dict[str, Any]:
        if box is None:
            sample, info = self.task.preprocess(image)
        elif isinstance(self.task, BoxTask):
            sample, info = self.task.preprocess(image, box)
        else:
            raise ConfigError(f"--boxes: the task {self.task.name} answers for whole images only")
        outputs = self.run(*[sample[name][None] for name in self.inputs])
        if any(np.isnan(v).any() for v in outputs.values() if v.dtype.kind == "f"):
            raise DataError("the model answers with NaN")
        return self.task.postprocess(outputs, info)

    def draw(self, image: np.ndarray, prediction: dict[str, Any]) -> np.ndarray:
        """Return the RGB image [H, W, 3] with the prediction drawn on it, box by box."""
        drawn = image
        for each in prediction.get("boxes", [prediction]):
            if isinstance(self.task, TellingTask):
                drawn = self.task.draw(drawn, each, self.threshold)
            else:
                drawn = self.task.draw(drawn, each)
        return drawn

    def palette(self) -> np.ndarray | None:
        """Return an RGB colour for each class of label maps [C, 3] uint8; None if there is none."""
        return self.task.palette() if isinstance(self.task, PaletteTask) else None

    def describe(self, prediction: dict[str, Any]) -> Finding:
        """Return the prediction in words: a line, and another for each box."""
        if "boxes" not in prediction:
            return self._describe(prediction)
        found = [self._describe(each) for each in prediction["boxes"]]
        if not found:
            return Finding("no boxes")
        lines = [f"{len(found)} boxes" if len(found) > 1 else "1 box"]
        for each, finding in zip(prediction["boxes"], found):
            sides = ", ".join(f"{side:.0f}" for side in each["box"])
            lines.append(f"  [{sides}]: {finding.text}")
        return Finding("\n".join(lines), all(finding.unsure for finding in found))

    def _describe(self, prediction: dict[str, Any]) -> Finding:
        if isinstance(self.task, TellingTask):
            return self.task.describe(prediction, self.threshold)
        said = (
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in prediction.items()
            if isinstance(value, (bool, int, float, str))
        )
        return Finding(", ".join(said))

    def tell_of_boxes(self, given: bool) -> None:
        """Say in the log that the whole picture is taken for a box, where none are given."""
        if isinstance(self.task, BoxTask) and not given:
            _log.info("no --boxes: the whole picture is taken for the box of one person")


def exported_model(task: Task, predictor: Predictor, threshold: float | None = None) -> ImageModel:
    """Return an exported model as one for images."""
    names = [spec.name for spec in task.input_spec()]
    # models that other projects exported have names of their own
    ports = zip(predictor.description.inputs, names)
    inputs = tuple(port.name if port.name in names else name for port, name in ports)
    return ImageModel(task, predictor.run, inputs, threshold)


def eager_model(task: Task, model: Layer, threshold: float | None = None) -> ImageModel:
    """Return the network of a checkpoint as one for images: it answers as its export would.

    The network stays in evaluation mode.
    """
    whole = task.deploy_model(model, "raw")
    whole.eval()

    def run(*inputs: np.ndarray) -> Arrays:
        with paddle.no_grad():
            outputs = whole(*[paddle.to_tensor(value) for value in inputs])
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return ImageModel(task, run, tuple(spec.name for spec in task.input_spec()), threshold)
