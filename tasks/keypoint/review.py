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
    """Return truth and prediction of a person of a batch [N, ...] side by side.

    The model may end in heatmaps or in points.
    """
    data, skeleton = config.data, config.joint_set.skeleton
    part = slice(number, number + 1)
    image = restore_image(batch["image"][number], data.mean, data.std)
    truth = codec.decode(batch["target"][part])[0]
    truth[:, 2] = batch["target_weight"][number] > 0
    ends_in_points = "points" in outputs
    found = (
        outputs["points"][number] if ends_in_points else codec.decode(outputs["heatmaps"][part])[0]
    )
    least, side = config.evaluation.joint_score, max(data.input_size)
    drawn = [
        draw_skeleton(image, points.tolist(), skeleton, score, side)
        for points, score in ((truth, 0.5), (found, least))
    ]
    labelled = int((batch["target_weight"][number] > 0).sum())
    if ends_in_points:
        apart = np.linalg.norm(found[:, :2] - truth[:, :2], axis=1) / np.linalg.norm(
            data.input_size
        )
        error = float((apart * truth[:, 2]).sum()) / max(labelled, 1)
    else:
        one = [{key: value[part] for key, value in each.items()} for each in (outputs, batch)]
        error = float(sample_errors(*one)[0])
    text = f"{labelled} joints, off by {100 * error:.1f} % (truth, prediction)"
    return SampleView(np.hstack(drawn), text)
