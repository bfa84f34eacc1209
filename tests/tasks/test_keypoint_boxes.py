"""Boxes of persons from files of detectors and annotators."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from core.errors import DataError
from core.task import Box
from tasks.keypoint.boxes import clip, read_boxes

SIDES = [1, 2, 30, 40]
BOX, SURE = Box(1, 2, 30, 40), Box(1, 2, 30, 40, 0.9)


def found(tmp_path, content, picture, category=None, least=0.5):
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return read_boxes(tmp_path / "boxes.json", category, least)(Path(picture))


@pytest.mark.parametrize(
    ("key", "picture", "there"),
    [
        ({"image_id": 139}, "000000000139.jpg", True),
        ({"image_id": 139}, "below/000000000139.png", True),
        ({"image_id": 139}, "0139x.jpg", False),
        ({"image_id": 139}, "140.jpg", False),
        ({"image_id": "a"}, "a.jpg", True),
        ({"image_id": "below/a.jpg"}, "below/a.jpg", True),
        ({"image_id": "elsewhere/a.jpg"}, "a.jpg", True),
        ({"image_id": 5, "file_name": "a.jpg"}, "a.jpg", True),
        ({"image_id": 5, "file_name": "a.jpg"}, "5.jpg", False),
        ({}, "any.jpg", True),
    ],
)
def test_detections_are_found_by_number_or_name(tmp_path, key, picture, there):
    content = [{**key, "bbox": SIDES, "score": 0.9, "category_id": 1}]
    assert found(tmp_path, content, picture) == ([SURE] if there else [])


def test_names_that_two_pictures_share_stay_apart(tmp_path):
    content = [
        {"image_id": f"{folder}/a.jpg", "bbox": [number, 2, 3, 4]}
        for number, folder in enumerate("xy")
    ]
    assert found(tmp_path, content, "y/a.jpg") == [Box(1, 2, 3, 4)]
    assert found(tmp_path, content, "a.jpg") == []


def test_a_picture_does_not_get_the_boxes_of_a_namesake_elsewhere(tmp_path):
    content = [{"image_id": "x/a.jpg", "bbox": SIDES}]
    assert found(tmp_path, content, "x/a.jpg") == [BOX]
    assert found(tmp_path, content, "more/x/a.jpg") == [BOX]
    assert found(tmp_path, content, "y/a.jpg") == []
    listed = {
        "images": [
            {"id": 1, "file_name": "x/a.png"},
            {"id": 2, "file_name": "y/a.png"},
            {"id": 3, "file_name": "3.png"},
        ],
        "annotations": [{"image_id": 1, "bbox": SIDES}],
    }
    assert found(tmp_path, listed, "x/a.png") == [BOX]
    for without in ("y/a.png", "a.png", "z/a.png", "3.png", "1.png"):
        assert found(tmp_path, listed, without) == []


def test_annotations_name_their_images(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "one.png"}, {"id": 8, "file_name": "8.png"}],
        "annotations": [
            {"image_id": 7, "bbox": SIDES},
            {"image_id": 7, "bbox": SIDES, "iscrowd": 1},
            {"image_id": 8, "bbox": [0, 0, 5, 5]},
        ],
    }
    assert found(tmp_path, content, "one.png") == [BOX]
    assert found(tmp_path, content, "7.png") == []


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}],
            r"the id 1 is of 'a' and of 'b'",
        ),
        ([{"id": 1, "file_name": 3}], r"images\[0\]: file_name: expected a name, got 3"),
    ],
)
def test_pictures_that_are_named_wrongly(tmp_path, images, said):
    content = {"images": images, "annotations": [{"image_id": 1, "bbox": SIDES}]}
    with pytest.raises(DataError, match=said):
        found(tmp_path, content, "a")


def test_others_and_low_scores_are_left_out_and_counted(tmp_path, caplog):
    scored = [(1, 0.9), (1, 0.0), (1, 0.49), (18, 0.9)]
    content = [
        {"image_id": 1, "bbox": SIDES, "category_id": category, "score": score}
        for category, score in scored
    ]
    content.append({"image_id": 1, "bbox": [0, 0, 0, 5], "score": 0.9})
    with caplog.at_level(logging.INFO):
        assert found(tmp_path, content, "1.jpg") == [SURE]
    assert "persons are category 1; 1 boxes of others left out" in caplog.text
    assert "left out 3 boxes" in caplog.text
    assert len(found(tmp_path, content, "1.jpg", least=0)) == 3
    assert found(tmp_path, content, "1.jpg", category=18) == [SURE]


@pytest.mark.parametrize("content", [[], [{"bbox": SIDES, "score": 0.4}], {"annotations": []}])
def test_a_file_without_boxes_is_named(tmp_path, content):
    with pytest.raises(DataError, match=r"boxes.json: holds no boxes of persons, or all were left"):
        found(tmp_path, content, "1.jpg")
    (tmp_path / "folder").mkdir()
    (tmp_path / "boxes.json").rename(tmp_path / "folder" / "1.json")
    assert read_boxes(tmp_path / "folder", None, 0.5)(Path("1.jpg")) == []


@pytest.mark.parametrize(
    ("categories", "wanted", "count"),
    [
        ([{"id": 3, "name": "person"}, {"id": 1, "name": "dog"}], None, 2),
        ([{"id": 3, "name": "worker"}], None, 2),
        ([{"id": 3, "name": "worker"}, {"id": 1, "name": "dog"}], None, 1),
        ([{"id": 3, "name": "worker"}, {"id": 1, "name": "dog"}], "worker", 2),
    ],
)
def test_persons_are_a_category(tmp_path, categories, wanted, count):
    marks = [{"image_id": 1, "bbox": SIDES, "category_id": identity} for identity in (3, 3, 1)]
    content = {"images": [], "annotations": marks, "categories": categories}
    assert len(found(tmp_path, content, "1.jpg", wanted)) == count


def test_a_folder_has_a_file_for_each_picture(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.json").write_text(json.dumps([SIDES, [0, 0, 5, 5]]))
    (tmp_path / "below" / "b.jpg.json").write_text(json.dumps([{"bbox": SIDES, "score": 0.9}]))
    boxes = read_boxes(tmp_path, None, 0.5)
    assert boxes(Path("a.jpg")) == [BOX, Box(0, 0, 5, 5)]
    assert boxes(Path("below/b.jpg")) == [SURE]
    assert boxes(Path("c.jpg")) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no JSON files"):
        read_boxes(tmp_path / "empty", None, 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"boxes": []}, r"expected a list of boxes, or a COCO file with 'annotations'"),
        ([3], r"detection\[0\]: expected a box \[x, y, width, height\]"),
        ([[1, 2, 3]], r"detection\[0\]: bbox: expected x, y, width, height"),
        ([[1, 2, 3, 1e300]], r"detection\[0\]: bbox: expected"),
        ([{"bbox": SIDES, "score": "high"}], r"detection\[0\]: score: expected a number"),
        ([{"bbox": SIDES, "image_id": 1.5}], r"image_id: expected a number or a name"),
        ({"annotations": [], "images": [{"id": 1}]}, r"images\[0\]: expected 'id' and 'file_name'"),
    ],
)
def test_wrong_files_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"boxes.json: .*{message}"):
        found(tmp_path, content, "1.jpg")


def test_an_unknown_category_is_refused(tmp_path):
    content = {"annotations": [], "categories": [{"id": 1, "name": "person"}]}
    with pytest.raises(DataError, match=r"no category 'persn' .* mean 'person'"):
        found(tmp_path, content, "1.jpg", "persn")


def test_the_part_inside_is_kept():
    assert clip(Box(-5, 10, 20, 200), 100, 50) == (0, 10, 15, 40)
    with pytest.raises(DataError, match=r"100x50, and the box \[-9, 0, 5, 5\] lies outside of it"):
        clip(Box(-9, 0, 5, 5), 100, 50)
