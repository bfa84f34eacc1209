"""OKS AP against COCOeval called directly and against a definition in numpy; PCK; merging."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from core.settings.config import read
from tasks.keypoint.annotations import annotated_persons, detected_persons, load_annotations
from tasks.keypoint.config import Config
from tasks.keypoint.joints import COCO_SIGMAS
from tasks.keypoint.metrics import KeypointMetric, oks, pck, person_scores, suppress

SIZE = (600, 800)


def random_people(rng: np.random.Generator, images: int = 6, per_image: int = 3) -> dict:
    """Persons far apart, with unlabelled joints, a crowd and a person without any joint."""
    annotations = []
    for image in range(1, images + 1):
        for number in range(per_image):
            corner = np.array([20 + 250 * number, 30 + 50 * (image % 3)])
            extent = rng.uniform(60, 220, 2)
            joints = corner + rng.random((17, 2)) * extent
            visible = rng.choice([0, 1, 2], 17, p=[0.2, 0.2, 0.6])
            visible[0] = 2
            keypoints = np.column_stack([joints, visible]) * (visible > 0)[:, None]
            annotations.append(
                {
                    "id": len(annotations) + 100,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [*corner.tolist(), *extent.tolist()],
                    "area": float(0.6 * extent.prod()),
                    "iscrowd": 0,
                    "num_keypoints": int((visible > 0).sum()),
                    "keypoints": keypoints.round(3).reshape(-1).tolist(),
                }
            )
    crowd, silent = copy.deepcopy(annotations[0]), copy.deepcopy(annotations[1])
    crowd |= {"id": 9000, "iscrowd": 1, "bbox": [400.0, 400.0, 300.0, 150.0]}
    silent |= {"id": 9001, "num_keypoints": 0, "keypoints": [0] * 51}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": SIZE[1], "height": SIZE[0]}
            for i in range(1, images + 1)
        ],
        "annotations": [*annotations, crowd, silent],
        "categories": [{"id": 1, "name": "person"}],
    }


def build_config(**evaluation) -> Config:
    settings = {
        "model": {"name": "lite_hrnet_18"},
        "data": {"root": "nowhere", "input_size": [128, 96]},
        "evaluation": evaluation,
    }
    return read(Config, settings)


def build_metric(path, **evaluation) -> KeypointMetric:
    annotations = load_annotations(path, 17)
    return KeypointMetric(build_config(**evaluation), annotations, annotated_persons(annotations))


@pytest.fixture
def truth_file(tmp_path):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(random_people(np.random.default_rng(0))))
    return path


def feed(metric: KeypointMetric, points: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Give points of the image [P, K, 3] to the metric as an exported model would."""
    rows = np.arange(len(points)) if rows is None else rows
    to_image = np.tile(np.array([[2.0, 0.0, 10.0], [0.0, 2.0, -5.0]]), (len(points), 1, 1))
    in_input = points.copy()
    in_input[..., :2] = (points[..., :2] - [10, -5]) / 2
    metric.update({"points": in_input}, {"person": rows, "to_image": to_image})


def noisy_truth(metric: KeypointMetric, noise: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = metric.persons.joints.astype(np.float64)
    points[..., :2] += rng.normal(0, noise, points[..., :2].shape)
    points[..., 2] = rng.uniform(0.3, 1.0, points.shape[:2])
    return points


def test_the_truth_as_answer_scores_one(truth_file, capsys):
    metric = build_metric(truth_file)
    feed(metric, noisy_truth(metric, 0.0))
    scores = metric.compute()
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR", "PCK")
    assert scores == pytest.approx(dict.fromkeys(names, 1.0))
    assert capsys.readouterr().out == ""
    assert "left_knee        1.000" in metric.report()


def test_a_part_of_the_persons_is_scored_by_itself(truth_file):
    """Others in the same images, who were not asked for, are not missed."""
    metric = build_metric(truth_file)
    rows = np.arange(0, len(metric.persons), 3)
    images = [metric.persons.image_ids[some] for some in (rows, np.arange(len(metric.persons)))]
    assert any((images[1] == image).sum() > (images[0] == image).sum() for image in images[0])
    feed(metric, noisy_truth(metric, 0.0)[rows], rows)
    assert metric.compute() == pytest.approx(dict.fromkeys(metric.compute(), 1.0))
    feed(metric, noisy_truth(metric, 0.0))
    whole = metric.compute()
    metric.reset()
    feed(metric, noisy_truth(metric, 0.0))
    assert metric.compute() == whole


@pytest.mark.parametrize("noise", [2.0, 6.0, 15.0])
def test_scores_are_those_of_cocoeval(truth_file, noise):
    metric = build_metric(truth_file, oks_nms=None)
    points = noisy_truth(metric, noise)
    feed(metric, points)
    truth = COCO(str(truth_file))
    answers = [
        {
            "image_id": int(image),
            "category_id": 1,
            "keypoints": p.reshape(-1).tolist(),
            "score": float(p[:, 2].mean()),
        }
        for image, p in zip(metric.persons.image_ids, points)
    ]
    evaluation = COCOeval(truth, truth.loadRes(answers), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    scores = metric.compute()
    for name, expected in zip(("AP", "AP50", "AP75", "APM", "APL", "AR"), evaluation.stats):
        assert scores[name] == pytest.approx(expected, abs=1e-6), name


def test_average_precision_by_its_definition(truth_file):
    """With one person per image there is no matching: precision over recall, 101 points."""
    content = random_people(np.random.default_rng(3), images=12, per_image=1)
    content["annotations"] = content["annotations"][:-2]
    truth_file.write_text(json.dumps(content))
    metric = build_metric(truth_file)
    points = noisy_truth(metric, 7.0)
    feed(metric, points)
    similarities = []
    for person, found in zip(content["annotations"], points):
        joints = np.array(person["keypoints"]).reshape(17, 3)
        seen = joints[:, 2] > 0
        squared = ((joints - found)[seen, :2] ** 2).sum(axis=1)
        variance = (2 * np.array(COCO_SIGMAS)[seen]) ** 2
        similarities.append(np.mean(np.exp(-squared / (2 * person["area"] * variance))))
    order = np.argsort(-points[..., 2].mean(axis=1))
    averages = []
    for threshold in np.linspace(0.5, 0.95, 10):
        right = np.array(similarities)[order] >= threshold
        recall = right.cumsum() / len(right)
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        best = [
            precision[recall >= r].max() if (recall >= r).any() else 0.0
            for r in np.linspace(0, 1, 101)
        ]
        averages.append(np.mean(best))
    assert metric.compute()["AP"] == pytest.approx(np.mean(averages), abs=1e-4)


def test_two_processes_count_as_one(truth_file):
    whole = build_metric(truth_file)
    points = noisy_truth(whole, 6.0)
    feed(whole, points)
    states = []
    rows = np.arange(len(points))
    for mine in (rows[0::2], np.append(rows[1::2], 0)):  # one person is seen by both
        part = build_metric(truth_file)
        feed(part, points[mine], mine)
        states.append(part.state())
    merged = build_metric(truth_file)
    merged.merge(states)
    assert merged.compute() == whole.compute()
    merged.reset()
    assert merged.compute()["AP"] == 0


def test_heatmaps_are_decoded_like_points(truth_file):
    metric = build_metric(truth_file)
    heatmaps = np.zeros((1, 17, 32, 24), np.float32)
    heatmaps[0, :, 10, 7] = 1
    heatmaps[0, 3, 10, 7], heatmaps[0, 3, 20, 11] = 0, 0.5
    to_image = np.array([[[1.0, 0, 100], [0, 1.0, 200]]])
    metric.update({"heatmaps": heatmaps}, {"person": np.array([4]), "to_image": to_image})
    found = metric.state()[4]
    expected = [100 + 7 * 95 / 23, 200 + 10 * 127 / 31, 1.0]
    np.testing.assert_allclose(found[0], expected, atol=0.05)
    assert found[3, 2] == pytest.approx(0.5)


def test_duplicates_are_suppressed(truth_file, tmp_path):
    annotations = load_annotations(truth_file, 17)
    people = annotated_persons(annotations)
    boxes = [
        {"image_id": int(i), "category_id": 1, "bbox": b.tolist(), "score": s}
        for i, b in zip(people.image_ids, people.boxes)
        for s in (0.9, 0.5)
    ]
    detections = tmp_path / "detections.json"
    detections.write_text(json.dumps(boxes))
    found = detected_persons(detections, annotations, 17, 0.0)
    points = np.repeat(people.joints.astype(np.float64), 2, axis=0)
    points[..., 2] = 0.8
    results = {}
    for name, threshold in (("all", None), ("best", 0.9)):
        metric = KeypointMetric(build_config(oks_nms=threshold), annotations, found)
        feed(metric, points)
        results[name] = metric.results()
        assert set(metric.compute()) <= {"AP", "AP50", "AP75", "APM", "APL", "AR"}
        assert metric.report() == ""
    assert len(results["all"]) == 2 * len(results["best"]) == 2 * len(people)
    assert {round(r["score"], 4) for r in results["best"]} == {0.72}  # box 0.9 x joints 0.8


def test_a_missed_person_counts_with_detections(truth_file, tmp_path):
    annotations = load_annotations(truth_file, 17)
    people = annotated_persons(annotations)
    first = {"image_id": 1, "category_id": 1, "bbox": people.boxes[0].tolist(), "score": 0.9}
    detections = tmp_path / "detections.json"
    detections.write_text(json.dumps([first]))
    found = detected_persons(detections, annotations, 17, 0.0)
    metric = KeypointMetric(build_config(), annotations, found)
    feed(metric, people.joints[:1].astype(np.float64))
    assert 0 < metric.compute()["AR"] < 0.1


def test_only_seen_images_count_with_annotated_boxes(truth_file):
    metric = build_metric(truth_file)
    rows = np.flatnonzero(metric.persons.image_ids == 2)
    feed(metric, noisy_truth(metric, 0.0)[rows], rows)
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_other_joints_have_their_own_sigmas(tmp_path):
    content = random_people(np.random.default_rng(0))
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][:6]
    path = tmp_path / "two.json"
    path.write_text(json.dumps(content))
    scores = {}
    for sigma in (0.02, 0.2):
        settings = {
            "model": {"name": "lite_hrnet_18", "num_joints": 2},
            "data": {"root": "nowhere"},
            "joints": {"sigmas": [sigma, sigma], "flip_pairs": []},
            "augment": {"half_body": 0.0},
        }
        annotations = load_annotations(path, 2)
        persons = annotated_persons(annotations)
        metric = KeypointMetric(read(Config, settings), annotations, persons)
        feed(metric, noisy_truth(metric, 8.0))
        scores[sigma] = metric.compute()["AP"]
    assert scores[0.02] < 0.5 < scores[0.2]


def test_oks_is_its_formula():
    rng = np.random.default_rng(0)
    person, others = rng.uniform(0, 50, (17, 3)), rng.uniform(0, 50, (4, 17, 3))
    areas = rng.uniform(500, 3000, 4)
    got = oks(person, others, 1000.0, areas, COCO_SIGMAS)
    for i in range(4):
        terms = []
        for k in range(17):
            squared = (person[k, 0] - others[i, k, 0]) ** 2 + (person[k, 1] - others[i, k, 1]) ** 2
            size = (1000 + areas[i]) / 2
            terms.append(np.exp(-squared / (2 * size * (2 * COCO_SIGMAS[k]) ** 2)))
        assert got[i] == pytest.approx(np.mean(terms))
    assert oks(person, person[None], 10.0, np.array([10.0]), COCO_SIGMAS)[0] == 1


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_suppression_keeps_the_best_of_each_cluster(seed, threshold):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 60, (6, 17, 3))
    scores, areas = rng.random(6), np.full(6, 4000.0)
    kept = suppress(points, scores, areas, COCO_SIGMAS, threshold)
    assert kept[0] == scores.argmax()
    assert [scores[i] for i in kept] == sorted((scores[i] for i in kept), reverse=True)
    for i in range(6):
        better = [j for j in kept if scores[j] > scores[i]]
        similar = [
            oks(points[j], points[i : i + 1], 4e3, areas[:1], COCO_SIGMAS)[0] for j in better
        ]
        assert (i in kept) == all(value <= threshold for value in similar)


def test_person_scores_leave_unsure_joints_out():
    scores = person_scores(np.array([[0.9, 0.5, 0.1], [0.1, 0.0, 0.2]]), 0.2)
    np.testing.assert_allclose(scores, [0.7, 0.0])


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_pck_is_the_share_within_the_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    found, truth = rng.uniform(0, 20, (2, 7, 5, 2))
    labelled, units = rng.random((7, 5)) > 0.3, rng.uniform(0, 30, 7)
    units[0] = 0
    got = pck(found, truth, labelled, units, threshold)
    for k in range(5):
        hits = [
            np.hypot(*(found[p, k] - truth[p, k])) <= threshold * units[p]
            for p in range(1, 7)
            if labelled[p, k]
        ]
        np.testing.assert_equal(got[k], np.mean(hits) if hits else np.nan)


def test_pck_by_torso(truth_file):
    metric = build_metric(truth_file, pck_unit="torso", pck_threshold=0.5)
    points = noisy_truth(metric, 0.0)
    truth = metric.persons.joints
    torso = np.linalg.norm(truth[:, 6, :2] - truth[:, 11, :2], axis=1)
    usable = (truth[:, 6, 2] > 0) & (truth[:, 11, 2] > 0)
    points[:, 0, 0] += np.where(np.arange(len(points)) % 2, 0.6, 0.4) * torso
    feed(metric, points)
    expected = (np.arange(len(points)) % 2 == 0)[usable].mean()
    assert metric.pck()[0] == pytest.approx(expected)
    assert metric.pck()[1] == pytest.approx(1.0)


def test_pck_without_any_torso_is_left_out(truth_file):
    content = json.loads(truth_file.read_text())
    for person in content["annotations"]:
        person["keypoints"][3 * 6 + 2] = 0
    truth_file.write_text(json.dumps(content))
    metric = build_metric(truth_file, pck_unit="torso")
    feed(metric, noisy_truth(metric, 0.0))
    assert "PCK" not in metric.compute()
    assert "nose             -" in metric.report()
