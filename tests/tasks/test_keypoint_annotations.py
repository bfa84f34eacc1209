"""COCO files of keypoints, broken and whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.errors import DataError
from tasks.keypoint.annotations import annotated_persons, detected_persons, load_annotations
from tasks.keypoint.data import KeypointDataset, load_split
from tests.tasks.keypoint_data import (
    build_config,
    build_dataset,
    coco,
    person,
    write_two_persons,
)

CATEGORIES = [
    {"id": 7, "name": "dog"},
    {"id": 1, "name": "person", "keypoints": ["nose"]},
    {"id": 2, "name": "cat", "keypoints": ["nose"]},
]


@pytest.fixture
def root(tmp_path):
    return write_two_persons(tmp_path)


def test_crowds_and_silent_persons_are_left_out(root, caplog):
    silent = person(3, keypoints=[0] * 51)
    without = person(4)
    del without["keypoints"]
    outside = person(5, bbox=[500.0, 500.0, 20.0, 20.0])
    people = coco(person(1, iscrowd=1), person(2), silent, without, outside)
    (root / "val.json").write_text(json.dumps(people))
    annotations = load_annotations(root / "val.json", 17)
    assert len(annotations.people) == 5
    assert len(annotated_persons(annotations)) == 1
    assert "val.json: 1 of 2 persons with labelled keypoints are left out, as their" in caplog.text


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
    with pytest.raises(DataError, match=r"val\.json: no such file; .* \(train\.json\)"):
        load_split(build_config(root), "val")


def test_bytes_that_are_no_text_are_named(root):
    (root / "val.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val.json: not a UTF-8 text file"):
        load_split(build_config(root), "val")


def test_detections_replace_the_boxes(root, caplog):
    caplog.set_level("INFO")
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 60], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 60], "score": 0.1},
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 60], "score": 0.9},
    ]
    (root / "detections.json").write_text(json.dumps(found))
    data = {"detections": "detections.json", "detection_score": 0.5}
    dataset = build_dataset(root, "val", data=data)
    assert len(dataset) == 1
    assert "detections.json: 1 boxes are used; left out: 1 of other categories" in caplog.text
    assert "1 outside of their images or scored below 0.5" in caplog.text
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
    assert f"the {kept} annotations of category" in caplog.text
    assert f"{4 - kept} of other categories are left out" in caplog.text


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


def test_repeated_ids_are_told_of(root, caplog):
    (root / "val.json").write_text(json.dumps(coco(person(1), person(2))))
    assert len(load_annotations(root / "val.json", 17).people) == 2
    assert caplog.text == ""
    (root / "val.json").write_text(json.dumps(coco(person(2), person(1), person(2), person(2))))
    assert len(load_annotations(root / "val.json", 17).people) == 4
    assert "val.json: 2 annotations have an id that another has, first 2" in caplog.text


FEW = [[0.3, 0.4, 2], [0.5, 0.6, 2], *[[0, 0, 0]] * 15]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keypoints": [v for joint in FEW for v in joint]}, "of 2 of 3 persons no labelled"),
        ({"keypoints": [1e9, 1e9, 2] + [0] * 48}, "of 2 of 3 persons no labelled keypoint is near"),
        ({"bbox": [0.1, 0.2, 0.5, 0.7]}, "of 2 of 3 persons no labelled keypoint is near"),
        ({"bbox": [20.0, 30.0, 110.0, 95.0]}, "2 of 3 boxes reach beyond their images and are cut"),
    ],
)
def test_what_does_not_fit_the_boxes_is_told_of(root, changes, said, caplog):
    content = coco(person(1), person(2, **changes), person(3, **changes))
    (root / "val.json").write_text(json.dumps(content))
    annotated_persons(load_annotations(root / "val.json", 17))
    assert said in caplog.text
    caplog.clear()
    content["annotations"][1] = person(2)
    (root / "val.json").write_text(json.dumps(content))
    annotated_persons(load_annotations(root / "val.json", 17))
    others = [each for each in caplog.messages if "lie outside of their images" not in each]
    assert others == []  # one of three may be any way


def test_keypoints_outside_of_the_image_are_told_of(root, caplog):
    inside, outside = [10, 10, 2] + [0] * 48, [10, 10, 2, -5, 4, 1, 7, 2000, 2] + [0] * 42
    (root / "val.json").write_text(json.dumps(coco(person(1, keypoints=inside))))
    annotated_persons(load_annotations(root / "val.json", 17))
    assert "lie outside" not in caplog.text
    both = coco(person(1, keypoints=inside), person(2, keypoints=outside))
    (root / "val.json").write_text(json.dumps(both))
    annotated_persons(load_annotations(root / "val.json", 17))
    assert "2 of 4 labelled keypoints lie outside of their images, as [-5, 4] in " in caplog.text


@pytest.mark.parametrize("odd", [3, 1.5, -1])
def test_keypoints_are_labelled_or_not(root, odd):
    (root / "val.json").write_text(json.dumps(coco(person(1, keypoints=[10, 10, odd] + [0] * 48))))
    with pytest.raises(DataError, match=rf"third number of each, got {odd}"):
        load_annotations(root / "val.json", 17)
