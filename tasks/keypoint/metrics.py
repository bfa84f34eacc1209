"""OKS average precision by pycocotools, and PCK."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.task import Arrays
from tasks.keypoint.annotations import Annotations, Persons
from tasks.keypoint.codec import Codec
from tasks.keypoint.config import Config
from tasks.keypoint.transforms import apply, frame_box

COCO_ENTRIES = ("AP", "AP50", "AP75", "APM", "APL", "AR")


class KeypointMetric:
    """Score the points of persons in the pixels of their images.

    With annotated boxes only images with an evaluated person count, so a part of the split can be
    scored; with detections all images count, since a person whom the detector missed is an error.
    APM and APL are left out where the split has no persons of that size, PCK with detections.

    Args:
        config: Settings of the task.
        annotations: The truth.
        persons: Who is evaluated, in the order of the data set.
    """

    primary = "AP"
    higher_is_better = True

    def __init__(self, config: Config, annotations: Annotations, persons: Persons) -> None:
        self.config = config.evaluation
        self.joints = config.joint_set
        self.annotations = annotations
        self.persons = persons
        self._codec = Codec(config.codec, config.data.input_size)
        frames = [
            frame_box(box, config.data.input_size, config.data.padding) for box in persons.boxes
        ]
        self._areas = np.array([frame.size[0] * frame.size[1] for frame in frames])
        self._found: dict[int, np.ndarray] = {}  # row in persons -> [K, 3] x, y, score

    def reset(self) -> None:
        self._found = {}

    def update(self, outputs: Arrays, batch: Arrays) -> None:
        if "points" in outputs:
            points = outputs["points"]
        else:
            points = self._codec.decode(outputs["heatmaps"])
        for person, to_image, found in zip(batch["person"], batch["to_image"], points):
            placed = apply(to_image, found[:, :2].astype(np.float64))
            self._found[int(person)] = np.column_stack([placed, found[:, 2]])

    def state(self) -> dict[int, np.ndarray]:
        """Return the points [K, 3] of each person: x, y and score."""
        return dict(self._found)

    def merge(self, states: list[Any]) -> None:
        # A person seen twice, as a sampler may pad, has one entry
        self._found = {person: found for state in states for person, found in state.items()}

    def compute(self) -> dict[str, float]:
        results = self.results()
        if self.persons.detected:
            image_ids = sorted(self.annotations.files)
        else:
            image_ids = sorted({int(self.persons.image_ids[person]) for person in self._found})
        scores = coco_scores(self._asked_for(), image_ids, results, self.joints.sigmas)
        shares = self.pck() if self._found and not self.persons.detected else np.array([])
        if not np.isnan(shares).all():
            scores["PCK"] = float(np.nanmean(shares))
        return scores

    def _asked_for(self) -> Annotations:
        """Return the annotations without persons that were not seen, where a part is scored."""
        if self.persons.detected or len(self._found) == len(self.persons):
            return self.annotations
        unseen = {
            (int(self.persons.image_ids[row]), self.persons.joints[row].tobytes())
            for row in range(len(self.persons))
            if row not in self._found
        }
        people = [
            person
            for person in self.annotations.people
            if (person["image_id"], np.array(person["keypoints"], np.float32).tobytes())
            not in unseen
        ]
        return replace(self.annotations, people=people)

    def report(self) -> str:
        if self.persons.detected or not self._found:
            return ""
        unit, threshold = self.config.pck_unit, self.config.pck_threshold
        lines = [f"{'joint':<16} PCK@{threshold:g} {unit}"]
        for name, share in zip(self.joints.names, self.pck()):
            lines.append(f"{name:<16} {'-' if np.isnan(share) else f'{share:.3f}'}")
        return "\n".join(lines)

    def results(self) -> list[dict[str, Any]]:
        """Return the persons as COCO results: rescored by their joints, duplicates removed."""
        by_image: dict[int, list[int]] = {}
        for person in sorted(self._found):
            by_image.setdefault(int(self.persons.image_ids[person]), []).append(person)
        results = []
        for image_id, rows in by_image.items():
            points = np.stack([self._found[row] for row in rows])
            scores = person_scores(points[..., 2], self.config.joint_score)
            scores = scores * self.persons.scores[rows]
            kept = list(range(len(rows)))
            if self.config.oks_nms is not None:
                areas = self._areas[rows]
                kept = suppress(points, scores, areas, self.joints.sigmas, self.config.oks_nms)
            results += [
                {
                    "image_id": image_id,
                    "category_id": self.annotations.category,
                    "keypoints": points[i].reshape(-1).tolist(),
                    "score": float(scores[i]),
                }
                for i in kept
            ]
        return results

    def pck(self) -> np.ndarray:
        """Return the share of correct points per joint, [K]; NaN where none is labelled."""
        rows = sorted(self._found)
        truth = self.persons.joints[rows]
        found = np.stack([self._found[row] for row in rows])
        labelled = truth[..., 2] > 0
        if self.config.pck_unit == "box":
            units = self.persons.boxes[rows, 2:].max(axis=1)
        else:
            units = _torso_lengths(truth, self.joints.torso or (0, 0))
        return pck(found, truth, labelled, units, self.config.pck_threshold)


def pck(
    found: np.ndarray, truth: np.ndarray, labelled: np.ndarray, units: np.ndarray, threshold: float
) -> np.ndarray:
    """Return the share per joint of points nearer to the truth than `threshold` units.

    Args:
        found: [P, K, 2 or more] x, y.
        truth: [P, K, 2 or more] x, y.
        labelled: [P, K] which to count.
        units: [P] length of the unit in pixels; persons with 0 do not count.
        threshold: In units.

    Returns:
        [K]; NaN where no point counts.
    """
    counted = labelled & (units > 0)[:, None]
    distances = np.linalg.norm(found[..., :2] - truth[..., :2], axis=-1)
    right = (distances <= threshold * units[:, None]) & counted
    total = counted.sum(axis=0)
    return np.divide(right.sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0)


def person_scores(joint_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return the mean of each person's joint scores [P, K] above the threshold; 0 if none is."""
    sure = joint_scores > threshold
    mean: np.ndarray = np.where(sure, joint_scores, 0).sum(axis=1) / np.maximum(sure.sum(axis=1), 1)
    return mean


def oks(
    person: np.ndarray,
    others: np.ndarray,
    area: float,
    areas: np.ndarray,
    sigmas: Sequence[float],
) -> np.ndarray:
    """Return the object keypoint similarity of a person [K, 2+] with others [M, K, 2+].

    Two predictions have no true size: the mean of their areas stands for it.
    """
    squared = ((others[..., :2] - person[..., :2]) ** 2).sum(axis=-1)
    size = (area + areas)[:, None] / 2 + np.spacing(1)
    exponents = squared / (2 * size * (2 * np.asarray(sigmas)) ** 2)
    similarity: np.ndarray = np.exp(-exponents).mean(axis=1)
    return similarity


def suppress(
    points: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    threshold: float,
) -> list[int]:
    """Keep, from the best score down, persons not too similar to a kept one (OKS-NMS).

    Points are [persons, K, 2], scores and areas [persons].
    """
    order = list(np.argsort(-scores, kind="stable"))
    kept: list[int] = []
    while order:
        best = int(order.pop(0))
        kept.append(best)
        if order:
            similarity = oks(points[best], points[order], areas[best], areas[order], sigmas)
            order = [other for other, same in zip(order, similarity) if same <= threshold]
    return kept


def coco_scores(
    annotations: Annotations,
    image_ids: Sequence[int],
    results: list[dict[str, Any]],
    sigmas: Sequence[float],
) -> dict[str, float]:
    """Return COCO's AP and AR over some images; entries COCO leaves undefined are left out."""
    if not results:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0, "AR": 0.0}
    # COCOeval takes the id 0 for "no match"
    people = [{**person, "id": number} for number, person in enumerate(annotations.people, 1)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": identity} for identity in annotations.files],
        "annotations": people,
        "categories": [{"id": annotations.category, "name": "person"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
        evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = dict(zip(COCO_ENTRIES, evaluation.stats[:6]))
    return {name: float(score) for name, score in scores.items() if score >= 0}


def _torso_lengths(truth: np.ndarray, torso: tuple[int, int]) -> np.ndarray:
    first, second = truth[:, torso[0]], truth[:, torso[1]]
    lengths: np.ndarray = np.linalg.norm(first[:, :2] - second[:, :2], axis=1)
    return lengths * ((first[:, 2] > 0) & (second[:, 2] > 0))
