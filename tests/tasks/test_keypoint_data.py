"""COCO files, broken and whole, the cut-outs, and the stick figures."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import DataError
from core.settings.config import read
from core.training.loader import Loader
from tasks.keypoint.annotations import annotated_persons, detected_persons, load_annotations
from tasks.keypoint.config import Config
from tasks.keypoint.data import KeypointDataset, load_split
from tasks.keypoint.metrics import KeypointMetric
from tasks.keypoint.synthetic import ensure_data
from tasks.keypoint.transforms import apply

VISIBLE = [[30.0 + 3 * i, 40.0 + 2 * i, 2] for i in range(17)]


def person(number: int = 1, **changes) -> dict:
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [20.0, 30.0, 60.0, 70.0],
        "area": 2500.0,
        "iscrowd": 0,
        "keypoints": [value for joint in VISIBLE for value in joint],
        **changes,
    }


def coco(*people: dict) -> dict:
    images = [{"id": 1, "file_name": "one.png", "width": 120, "height": 100}]
    return {"images": images, "annotations": list(people)}


@pytest.fixture
def root(tmp_path):
    """A data set of two persons in one image."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        image = np.random.default_rng(0).integers(0, 255, (100, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / split / "one.png"), image)
        (tmp_path / f"{split}.json").write_text(json.dumps(coco(person(1), person(2))))
    return tmp_path


def build_config(root, **sections) -> Config:
    data = {
        "root": str(root),
        "train_annotations": "train.json",
        "val_annotations": "val.json",
        "train_images": "train",
        "val_images": "val",
        "input_size": [128, 96],
        "num_workers": 0,
        **sections.pop("data", {}),
    }
    return read(Config, {"model": {"name": "lite_hrnet_18"}, "data": data, **sections})


def build_dataset(root, split, **sections) -> KeypointDataset:
    config = build_config(root, **sections)
    return KeypointDataset(config, split, load_split(config, split)[1])


def test_validation_sample_is_the_person_cut_out(root):
    dataset = build_dataset(root, "val")
    sample = dataset.sample(1, np.random.default_rng(0))
    assert sample["image"].shape == (3, 128, 96)
    assert sample["target"].shape == (17, 32, 24)
    assert sample["person"] == 1
    decoded = dataset.codec.decode(sample["target"][None])[0, :, :2]
    placed = apply(sample["to_image"], decoded.astype(np.float64))
    np.testing.assert_allclose(placed, np.array(VISIBLE)[:, :2], atol=0.3)


def test_training_samples_depend_on_the_generator_alone(root):
    dataset = build_dataset(root, "train", augment={"erase": 1.0})
    first, again, other = (dataset.sample(0, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()
    assert set(first) == {"image", "target", "target_weight"}


def test_a_mirror_swaps_the_sides(root):
    still = {"half_body": 0, "scale": 0, "rotate": 0}
    plain = build_dataset(root, "train", augment={"flip": 0, **still})
    mirrored = build_dataset(root, "train", augment={"flip": 1, **still})
    rng = np.random.default_rng(0)
    one, two = plain.sample(0, rng), mirrored.sample(0, rng)
    order = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    np.testing.assert_allclose(two["target"], one["target"][order][..., ::-1], atol=1e-5)
    assert np.abs(two["image"] - one["image"][..., ::-1]).mean() < 0.05


def test_batches_come_out_of_the_loader(root):
    loader = Loader(build_dataset(root, "val"), batch_size=2, train=False)
    (batch,) = loader.epoch()
    assert batch["image"].shape == [2, 3, 128, 96]
    assert batch["person"].numpy().tolist() == [0, 1]


def test_crowds_and_silent_persons_are_left_out(root):
    silent = person(3, keypoints=[0] * 51)
    without = person(4)
    del without["keypoints"]
    outside = person(5, bbox=[500.0, 500.0, 20.0, 20.0])
    people = coco(person(1, iscrowd=1), person(2), silent, without, outside)
    (root / "val.json").write_text(json.dumps(people))
    annotations = load_annotations(root / "val.json", 17)
    assert len(annotations.people) == 5
    assert len(annotated_persons(annotations)) == 1


def test_boxes_are_clipped_to_the_image(root):
    (root / "val.json").write_text(json.dumps(coco(person(bbox=[-10.0, 50.0, 200.0, 100.0]))))
    persons = annotated_persons(load_annotations(root / "val.json", 17))
    assert persons.boxes.tolist() == [[0.0, 50.0, 120.0, 50.0]]


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ([20.0, 30.0, 60.0, 70.0], [20, 30, 59, 69]),
        ([-10.0, 50.0, 200.0, 100.0], [0, 50, 119, 49]),  # the image is 120x100
        ([-10.0, 50.0, 60.0, 20.0], [0, 50, 59, 19]),
        ([20.0, 30.0, 1.0, 9.0], [20, 30, 0, 8]),
        ([20.0, 30.0, 1.0, 1.0], None),
        ([120.0, 30.0, 50.0, 50.0], None),
    ],
)
def test_boxes_that_end_at_the_last_pixel_are_those_of_paddledetection(root, box, wanted):
    everyone = coco(person(1, bbox=box), person(2))
    (root / "val.json").write_text(json.dumps(everyone))
    config = build_config(root, data={"box_ends": "last_pixel"})
    _, persons = load_split(config, "val")
    other = [20, 30, 59, 69]
    assert persons.boxes.tolist() == ([wanted, other] if wanted else [other])
    assert len(KeypointDataset(config, "val", persons).sample(0, np.random.default_rng(0))) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"val.json: not JSON: .* line 1"),
        ("[1, 2]", r"val.json: expected a COCO file with 'images' and 'annotations'"),
        (json.dumps({"images": []}), r"val.json: expected a COCO file"),
        (
            json.dumps({"images": None, "annotations": []}),
            r"val.json: images: expected a list, got NoneType",
        ),
        (
            json.dumps({"images": [], "annotations": None}),
            r"val.json: annotations: expected a list, got NoneType",
        ),
        *(
            (
                json.dumps(
                    {
                        "images": [
                            {"id": 1, "file_name": "a", "width": 9, "height": 9, side: value}
                        ],
                        "annotations": [person()],
                    }
                ),
                rf"images\[0\]: {side}: expected a positive number, got {shown}$",
            )
            for side, value, shown in (
                *(("width", None, "None"), ("height", "9", "'9'"), ("width", 0, "0")),
                *(("height", float("nan"), "nan"), ("width", float("inf"), "inf")),
            )
        ),
        (json.dumps({"images": [{"id": 1}], "annotations": []}), r"images\[0\] has no 'id' and"),
        (
            json.dumps({"images": [{"id": "a", "file_name": "b"}], "annotations": []}),
            r"images\[0\]: expected a number as id, got 'a'",
        ),
        (json.dumps(coco()), r"val.json: no annotation has 'keypoints'"),
        (
            json.dumps(coco({"image_id": 1, "bbox": [1, 2, 3, 4]})),
            r"val.json: no annotation has 'keypoints'",
        ),
        (
            json.dumps(coco(person(7, image_id=99))),
            r"val.json: annotations\[0\] \(id 7\): no image has the id 99",
        ),
        (
            json.dumps(coco(person(7, image_id=[1]))),
            r"annotations\[0\] \(id 7\): no image has the id \[1\]",
        ),
        (
            json.dumps(coco(person(7, keypoints=[0] * 42))),
            r"\(id 7\): has 14 joints, but model.num_joints is 17",
        ),
        (json.dumps(coco(person(keypoints=[0] * 50))), r"keypoints: expected 51 numbers, got 50"),
        (json.dumps(coco(person(keypoints="x"))), r"keypoints: expected 51 numbers, got str"),
        (json.dumps(coco(person(bbox=[1, 2, 3]))), r"bbox: expected 4 numbers, got 3"),
        (json.dumps(coco(person(bbox=[1, 2, None, 4]))), r"bbox: expected finite numbers only"),
        (json.dumps(coco(person(bbox=[1, 2, float("nan"), 4]))), r"bbox: expected finite numbers"),
        (json.dumps(coco(person(area="large"))), r"area: expected finite numbers only"),
        (
            json.dumps(coco({"keypoints": [0] * 51})),
            r"annotations\[0\]: expected image_id and bbox",
        ),
        (json.dumps(coco(person(keypoints=[0] * 51))), r"no person with a labelled keypoint"),
    ],
)
def test_broken_annotations_are_named(root, content, message):
    (root / "val.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_split(build_config(root), "val")
    assert str(caught.value).startswith(str(root / "val.json"))


def test_a_missing_annotation_file_is_named(root):
    (root / "val.json").unlink()
    with pytest.raises(DataError, match=r"val.json: cannot be read: No such file"):
        load_split(build_config(root), "val")


def test_bytes_that_are_no_text_are_named(root):
    (root / "val.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val.json: not a UTF-8 text file"):
        load_split(build_config(root), "val")


def test_a_missing_image_is_named(root):
    (root / "val" / "one.png").unlink()
    loader = Loader(build_dataset(root, "val"), batch_size=2, train=False)
    with pytest.raises(DataError, match=r"val/one.png: cannot be read"):
        list(loader.epoch())


def test_detections_replace_the_boxes(root):
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 60], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 60], "score": 0.1},
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 60], "score": 0.9},
    ]
    (root / "detections.json").write_text(json.dumps(found))
    data = {"detections": "detections.json", "detection_score": 0.5}
    dataset = build_dataset(root, "val", data=data)
    assert len(dataset) == 1
    assert dataset.persons.detected
    assert not dataset.sample(0, np.random.default_rng(0))["target_weight"].any()
    assert len(build_dataset(root, "train", data=data)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"expected a list of detections, got dict"),
        ([{"image_id": 1}], r"detection 0: expected image_id, bbox and score"),
        (
            [{"image_id": 5, "bbox": [1, 2, 3, 4], "score": 1}],
            r"detection 0: .*val.json has no image with the id 5",
        ),
        ([{"image_id": 1, "bbox": [1, 2], "score": 1}], r"detection 0: bbox: expected 4 numbers"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "x"}], r"detection 0: score: expected"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.1}], r"no person detected with a score"),
    ],
)
def test_broken_detections_are_named(root, content, message):
    path = root / "detections.json"
    path.write_text(json.dumps(content))
    annotations = load_annotations(root / "val.json", 17)
    with pytest.raises(DataError, match=message) as caught:
        detected_persons(path, annotations, 17, 0.5)
    assert str(caught.value).startswith(str(path))


def synthetic_config(root, **changes) -> Config:
    synthetic = {"train_images": 6, "val_images": 3, "size": [96, 80], **changes}
    return build_config(root, synthetic=synthetic)


def test_figures_are_drawn_once_and_alike(tmp_path):
    for name in ("a", "b"):
        ensure_data(synthetic_config(tmp_path / name))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6 + 3 + 2 + 1  # images, annotations, how they were drawn
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    before = os.stat(tmp_path / "a" / "train.json").st_mtime_ns
    ensure_data(synthetic_config(tmp_path / "a"))
    assert os.stat(tmp_path / "a" / "train.json").st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_figures_are_coco_persons_inside_their_images(tmp_path):
    config = synthetic_config(tmp_path / "new" / "data", val_images=20)
    ensure_data(config)
    annotations, persons = load_split(config, "val")
    assert len(persons) == 20
    labelled = persons.joints[..., 2] > 0
    assert 0.9 < labelled.mean() < 1
    places = persons.joints[labelled][:, :2]
    assert (places >= 0).all()
    assert (places < [80, 96]).all()
    for entry in annotations.people:
        x, y, width, height = entry["bbox"]
        joints = np.array(entry["keypoints"]).reshape(-1, 3)
        joints = joints[joints[:, 2] > 0, :2]
        assert ((joints >= [x, y]) & (joints <= [x + width, y + height])).all()


def test_another_seed_draws_other_figures(tmp_path):
    ensure_data(synthetic_config(tmp_path / "a"))
    ensure_data(synthetic_config(tmp_path / "b", seed=1))
    first, second = ((tmp_path / name / "val.json").read_text() for name in ("a", "b"))
    assert first != second


CATEGORIES = [
    {"id": 7, "name": "dog"},
    {"id": 1, "name": "person", "keypoints": ["nose"]},
    {"id": 2, "name": "cat", "keypoints": ["nose"]},
]


@pytest.mark.parametrize(
    ("wanted", "boxes"),
    [(None, [60.0]), ("person", [60.0]), (1, [60.0]), ("cat", [9.0, 8.0]), (2, [9.0, 8.0])],
)
def test_persons_are_of_one_category(root, wanted, boxes, caplog):
    caplog.set_level("INFO")
    cats = [person(3, category_id=2, bbox=[1, 1, side, side]) for side in (9, 8)]
    dog = person(5, category_id=7, keypoints=[1, 1, 2])  # of another number of joints
    content = {**coco(person(1), *cats, dog), "categories": CATEGORIES}
    (root / "val.json").write_text(json.dumps(content))
    dataset = build_dataset(root, "val", data={"category": wanted})
    assert dataset.persons.boxes[:, 2].tolist() == boxes
    kept = len(boxes)
    assert f"persons are the {kept} annotations of category" in caplog.text
    assert f"{4 - kept} of others are left out" in caplog.text


def test_detections_are_of_the_same_category(root):
    content = {**coco(person(1, category_id=2)), "categories": CATEGORIES[2:]}
    (root / "val.json").write_text(json.dumps(content))
    found = [
        {"image_id": 1, "category_id": n, "bbox": [1, 1, n, n], "score": 1.0} for n in (1, 2, 3)
    ]
    (root / "found.json").write_text(json.dumps(found))
    dataset = build_dataset(root, "val", data={"detections": "found.json"})
    assert dataset.persons.boxes[:, 2].tolist() == [2.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": True}, r"no image has the id True"),
        ({"image_id": "1"}, r"no image has the id '1'"),
        ({"image_id": 1.0}, r"no image has the id 1\.0"),
        ({"category_id": "1"}, r"category_id: expected a number, got '1'"),
        ({"category_id": True}, r"category_id: expected a number, got True"),
        ({"iscrowd": "0"}, r"iscrowd: expected 0 or 1, got '0'"),
        ({"iscrowd": 0.0}, r"iscrowd: expected 0 or 1, got 0\.0"),
        ({"iscrowd": None}, r"iscrowd: expected 0 or 1, got None"),
        ({"area": True}, r"area: expected finite numbers only, got True"),
        ({"area": "2500"}, r"area: expected finite numbers only, got '2500'"),
        ({"area": 10**400}, r"area: expected finite numbers only, got a whole number of 1329"),
        ({"bbox": [True, 1, 1, 1]}, r"bbox: expected finite numbers only, got True"),
        ({"bbox": ["1", 1, 1, 1]}, r"bbox: expected finite numbers only, got '1'"),
        ({"bbox": [1e300, 1, 1, 1]}, r"bbox: expected finite numbers only, got 1e\+300"),
        ({"keypoints": ["1", 1, 2] * 17}, r"keypoints: expected finite numbers only, got '1'"),
        ({"keypoints": [True, 1, 2] * 17}, r"keypoints: expected finite numbers only, got True"),
    ],
)
def test_values_of_neighbouring_types_are_not_turned_around(root, changes, message):
    (root / "val.json").write_text(json.dumps(coco(person(1), person(2, **changes))))
    with pytest.raises(DataError, match=rf"annotations\[1\]( \(id 2\))?: {message}"):
        load_annotations(root / "val.json", 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": True}, r"images\[1\]: expected a number as id, got True"),
        ({"id": 1}, r"images\[1\]: id 1 is repeated"),
        ({"id": 2**64}, r"images\[1\]: expected a number as id"),
        ({"file_name": 3}, r"images\[1\]: file_name: expected the name of a file, got 3"),
        ({"file_name": "a.png\0"}, r"images\[1\]: file_name: expected the name of a file"),
        ({"width": True, "height": 1}, r"images\[1\]: width: expected a positive number, got True"),
        ({"width": 2.5, "height": 1}, r"images\[1\]: width: expected a positive number, got 2\.5"),
    ],
)
def test_images_of_neighbouring_types_are_refused(root, changes, message):
    content = coco(person(1))
    content["images"].append({"id": 2, "file_name": "b.png", **changes})
    (root / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_annotations(root / "val.json", 17)


@pytest.mark.parametrize(
    ("categories", "wanted", "message"),
    [
        (CATEGORIES, "persn", r"no category 'persn' \(data\.category\) \(did you mean 'person'"),
        (CATEGORIES, 9, r"no category 9 \(data\.category\)"),
        ([], "person", r"no category 'person' \(data\.category\); it has no categories"),
        ([], None, r"have the categories 1, 2; set data\.category"),
        ({}, None, r"categories: expected a list, got \{\}"),
        ([{"id": "1"}], None, r"categories\[0\]: expected a number as id"),
        ([{"id": 1}, {"id": 1}], None, r"categories\[1\]: id 1 is repeated"),
    ],
)
def test_categories_that_are_not_clear(root, categories, wanted, message):
    content = {**coco(person(1), person(2, category_id=2)), "categories": categories}
    (root / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_annotations(root / "val.json", 17, wanted)


@pytest.mark.parametrize("area", [0, -1, -1e9, 1e11])
def test_an_area_that_cannot_be_is_that_of_the_box(root, area, caplog):
    nobody = person(9, area=0, keypoints=[0] * 51)
    (root / "val.json").write_text(json.dumps(coco(person(1), person(2, area=area), nobody)))
    annotations = load_annotations(root / "val.json", 17)
    assert [each["area"] for each in annotations.people] == [2500, 4200, 4200]
    assert f"annotations[1] (id 2): area: {area:g} cannot be" in caplog.text
    assert "in 1 annotations" in caplog.text


@pytest.mark.parametrize("area", [0, -1])
def test_perfect_points_score_whatever_the_area(root, area):
    flat = person(3, area=area, bbox=[1.0, 1.0, 0.0, 5.0])  # without a scale, nobody can be scored
    (root / "val.json").write_text(json.dumps(coco(person(1, area=area), flat)))
    config = build_config(root)
    annotations, persons = load_split(config, "val")
    metric = KeypointMetric(config, annotations, persons)
    points = np.array([[*joint[:2], 1.0] for joint in VISIBLE])
    placed = {"person": np.array([0]), "to_image": np.eye(2, 3)[None]}
    metric.update({"points": points[None]}, placed)
    assert metric.compute()["AP"] == pytest.approx(1.0)
    assert metric.compute()["PCK"] == 1.0


def test_an_image_of_another_size_than_annotated_is_named(root):
    content = coco(person(1))
    content["images"][0] |= {"width": 240, "height": 200}
    (root / "val.json").write_text(json.dumps(content))
    message = r"one\.png: the image is 120x100, its annotation says 240x200"
    with pytest.raises(DataError, match=message):
        build_dataset(root, "val").sample(0, np.random.default_rng(0))
    loader = Loader(build_dataset(root, "val"), batch_size=1, train=False, on_error="skip")
    assert list(loader.epoch()) == []
    assert "120x100" in loader.skipped[0]


def test_a_box_outside_of_an_image_of_unknown_size_is_named(root):
    content = coco(person(1, bbox=[500.0, 20.0, 60.0, 70.0]))
    content["images"] = [{"id": 1, "file_name": "one.png"}]
    (root / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"120x100, and the box \[500, 20, 60, 70\] of a person"):
        build_dataset(root, "val").sample(0, np.random.default_rng(0))


def test_points_stay_on_an_image_that_exif_turns(root):
    """The picture is bright where the first joint is, as it is stored."""
    image = np.zeros((100, 120, 3), np.uint8)
    image[38:43, 28:33] = 255
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(image).save(root / "val" / "one.png", exif=exif)
    still = {"flip": 0, "half_body": 0, "scale": 0, "rotate": 0}
    sample = build_dataset(root, "val", augment=still).sample(1, np.random.default_rng(0))
    brightest = np.unravel_index(sample["image"][0].argmax(), sample["image"].shape[1:])
    peak = np.unravel_index(sample["target"][0].argmax(), sample["target"].shape[1:])
    assert np.abs(np.array(brightest) / 4 - np.array(peak)).max() < 2
