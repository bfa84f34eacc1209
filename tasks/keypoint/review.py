"""Pictures of a validation: the labelled joints on the left, the predicted ones on the right."""

from __future__ import annotations

import numpy as np

from core.task import Arrays, SampleView
from core.training.images import restore_image
from tasks.keypoint.codec import Codec, find_peaks
from tasks.keypoint.config import Config
from tasks.keypoint.drawing import draw_skeleton


def sample_errors(outputs: Arrays, batch: Arrays) -> np.ndarray:
    """Return the mean distance of the labelled joints, in lengths of the heatmap's diagonal [N]."""
    found, truth = find_peaks(outputs["heatmaps"])[0], find_peaks(batch["target"])[0]
    weight = batch["target_weight"] > 0
    diagonal = float(np.linalg.norm(outputs["heatmaps"].shape[2:]))
    apart = np.linalg.norm(found - truth, axis=-1) / diagonal
    errors: np.ndarray = (apart * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
    return errors


def view_sample(
    outputs: Arrays, batch: Arrays, number: int, config: Config, codec: Codec
) -> SampleView:
    """Return truth and prediction of a person of a batch [N, ...] side by side."""
    data, skeleton = config.data, config.joint_set.skeleton
    part = slice(number, number + 1)
    image = restore_image(batch["image"][number], data.mean, data.std)
    truth = codec.decode(batch["target"][part])[0]
    truth[:, 2] = batch["target_weight"][number] > 0
    found = codec.decode(outputs["heatmaps"][part])[0]
    least, side = config.evaluation.joint_score, max(data.input_size)
    drawn = [
        draw_skeleton(image, points.tolist(), skeleton, score, side)
        for points, score in ((truth, 0.5), (found, least))
    ]
    error = sample_errors(*({k: v[part] for k, v in each.items()} for each in (outputs, batch)))[0]
    labelled = int((batch["target_weight"][number] > 0).sum())
    text = f"{labelled} joints, off by {100 * error:.1f} % (truth, prediction)"
    return SampleView(np.hstack(drawn), text)
