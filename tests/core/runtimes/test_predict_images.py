"""Prediction on image files: pictures, label maps, names of files."""

from __future__ import annotations

import errno
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import ConfigError, DataError, ExportError, FileError
from core.runtimes.image_model import ImageModel, exported_model
from core.runtimes.predict_images import drawn_pictures, list_images, predict_files
from core.runtimes.predictor import load_predictor
from core.task import Box
from core.workflows.opening import exported_task


def load_model(folder) -> ImageModel:
    """Open an exported model with the task that it names."""
    predictor = load_predictor(folder)
    about = predictor.description
    return exported_model(exported_task(folder, about, about.inputs), predictor)


def test_prediction_on_a_folder(toy, tmp_path):
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for name, value in (("a.png", 20), ("below/b.jpg", 200)):
        cv2.imwrite(str(images / name), np.full((12, 10, 3), value, np.uint8))
    (images / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (images / "notes.txt").touch()
    for hidden in (".hidden.png", "below/._b.jpg"):
        (images / hidden).write_bytes(b"no image")
    latin = os.fsdecode(b"caf\xe9.png")  # no UTF-8
    shutil.copy(images / "a.png", images / latin)
    model = load_model(toy)
    told = []
    skipped = predict_files(model, images, tmp_path / "out", tell=told.append)
    assert [line.partition(": level ")[0] for line in told] == ["a.png", "below/b.jpg", latin]
    assert len(skipped) == 1
    assert "broken.jpg" in skipped[0]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(results) == ["a.png", "below/b.jpg", latin]
    assert isinstance(results["a.png"]["level"], float)
    assert cv2.imread(str(tmp_path / "out" / "below" / "b.png")).shape == (12, 10, 3)
    with pytest.raises(DataError, match=r"broken.jpg: the JPEG file is truncated"):
        predict_files(model, images / "broken.jpg", tmp_path / "out")
    with pytest.raises(DataError, match=r"notes.txt/x: cannot be written"):
        predict_files(model, images / "a.png", images / "notes.txt" / "x")


@pytest.mark.parametrize("error", [ExportError("paddle cannot run the model"), DataError("NaN")])
def test_an_image_without_an_answer_is_left_out_and_named(
    toy, tmp_path, monkeypatch, caplog, error
):
    images = tmp_path / "images"
    images.mkdir()
    for name, side in (("a.png", 8), ("b.png", 1), ("c.png", 8)):
        cv2.imwrite(str(images / name), np.zeros((side, side, 3), np.uint8))
    model, right = load_model(toy), ImageModel.predict

    def predict(self, image, *others):
        if len(image) == 1:
            raise error
        return right(self, image, *others)

    monkeypatch.setattr(ImageModel, "predict", predict)
    said = f"{images / 'b.png'}: {error}"
    assert predict_files(model, images, tmp_path / "out") == [said]
    assert f"left out: {said}" in caplog.text
    assert list(json.loads((tmp_path / "out" / "predictions.json").read_text())) == [
        *("a.png", "c.png")
    ]
    assert not (tmp_path / "out" / "b.png").exists()
    for place in (images / "b.png", tmp_path / "alone"):
        if place.name == "alone":
            place.mkdir()
            (images / "b.png").rename(place / "b.png")
        with pytest.raises(DataError, match=rf"b\.png: {error}$"):
            predict_files(model, place, tmp_path / "none")
        assert not (tmp_path / "none" / "predictions.json").exists()


def test_a_link_to_itself_is_left_out_and_named(toy, tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "images" / "loop.png").symlink_to("loop.png")
    [skipped] = predict_files(load_model(toy), tmp_path / "images", tmp_path / "out")
    assert "loop.png: " in skipped
    with pytest.raises((DataError, FileError), match=r"loop\.png"):
        predict_files(load_model(toy), tmp_path / "images", tmp_path / "images" / "loop.png")


def test_a_box_outside_does_not_end_the_run(toy, tmp_path, monkeypatch, caplog):
    def predict(self, image, boxes, leave_out):
        leave_out(DataError("the box lies outside"))
        return {"boxes": []}

    monkeypatch.setattr(ImageModel, "predict", predict)
    draw_levels(tmp_path / "images", {"a.png": 1, "b.png": 2})
    predict_files(
        load_model(toy), tmp_path / "images", tmp_path / "out", lambda name: [Box(9, 9, 1, 1)]
    )
    assert "b.png: a box is left out: the box lies outside" in caplog.text
    assert list(json.loads((tmp_path / "out" / "predictions.json").read_text())) == [
        "a.png",
        "b.png",
    ]


def test_an_output_that_nobody_reads_is_no_file(toy, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 10, 3), 9, np.uint8))

    def tell(text: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        predict_files(load_model(toy), tmp_path / "a.png", tmp_path / "out", tell=tell)


def test_pictures_that_were_drawn_are_read_back(toy, tmp_path):
    images = tmp_path / "images"
    for name, color in (("b.png", (0, 0, 200)), ("a.png", (90, 90, 90)), ("c.png", (9, 9, 9))):
        images.mkdir(exist_ok=True)
        cv2.imwrite(str(images / name), np.full((8, 10, 3), color, np.uint8))
    predict_files(load_model(toy), images, tmp_path / "out")
    first, second = drawn_pictures(tmp_path / "out", 2)
    assert (first.name, second.name) == ("a.png", "b.png")
    wanted = cv2.imread(str(tmp_path / "out" / "b.png"))[..., ::-1]  # OpenCV reads BGR
    np.testing.assert_array_equal(second.picture, wanted)


def test_label_maps_become_files(toy, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    model = load_model(toy)
    task = model.task
    mask = np.arange(16).reshape(4, 4)
    found = {"mask": mask, "points": np.float32([[1.5, 2]]), "level": np.float32(0.25)}
    monkeypatch.setattr(task, "postprocess", lambda outputs, info: found)
    predict_files(model, tmp_path / "a.png", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert results == {
        "a.png": {
            **{"picture": "a.png", "mask": "a_mask.png"},
            **{"points": [[1.5, 2.0]], "level": 0.25},
        }
    }
    read = cv2.imread(str(tmp_path / "out" / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, mask)


def test_label_maps_have_the_colours_of_the_task(toy, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    model = load_model(toy)
    colours = np.array([[70, 130, 180], [0, 128, 0], [200, 0, 0]], np.uint8)
    mask = np.array([[0, 1], [2, 1]])
    maps = {"level": 1.0, "mask": mask, "many": mask + 300}
    monkeypatch.setattr(model.task, "postprocess", lambda outputs, info: maps)
    monkeypatch.setattr(model.task, "palette", lambda: colours, raising=False)
    predict_files(model, tmp_path / "a.png", tmp_path / "out")
    with Image.open(tmp_path / "out" / "a_mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[mask])
    seen = cv2.imread(str(tmp_path / "out" / "a_mask.png"))
    np.testing.assert_array_equal(seen[..., ::-1], colours[mask])
    many = cv2.imread(str(tmp_path / "out" / "a_many.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(many, mask + 300)  # no palette has so many


def draw_levels(folder, levels):
    for name, level in levels.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((4, 4, 3), level, np.uint8))


def contents(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file: file.read_bytes() for file in files if not file.name.startswith(".")}


@pytest.mark.parametrize(
    ("image_path", "save_dir"),
    [
        ("pics", "pics"),
        ("pics", "pics/../pics/out"),
        ("pics", "link"),
        ("pics/pics", "pics"),  # pics/pics/pics/a.png would go to pics/pics/a.png
        ("pics/a.png", "pics"),
        ("links", "pics"),
    ],
)
def test_predictions_are_not_written_among_the_images(toy, tmp_path, image_path, save_dir):
    draw_levels(tmp_path, {f"{each}a.png": 9 for each in ("pics/", "pics/pics/", "pics/pics/b/")})
    draw_levels(tmp_path, {"pics/pics/pics/a.png": 9})
    (tmp_path / "link").symlink_to(tmp_path / "pics", target_is_directory=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "pics" / "a.png")
    before = contents(tmp_path)
    model = load_model(toy)
    with pytest.raises(DataError, match=r"^save_dir: expected a folder apart from the images"):
        predict_files(model, tmp_path / image_path, tmp_path / save_dir)
    assert contents(tmp_path) == before


def test_no_two_predictions_share_a_file(toy, tmp_path, monkeypatch):
    levels = {
        **{"a.png": 10, "a.bmp": 20, "A.jpg": 30, "a.bmp.png": 40, "a.png_mask.png": 50},
        **{"c.png/a.png": 60, "c.bmp": 70, "c_mask.png": 80},
    }
    draw_levels(tmp_path / "pics", levels)
    model = load_model(toy)
    task = model.task

    def prepare(image):
        return {"image": np.zeros((3, 8, 8), np.float32)}, int(image[0, 0, 0])

    def answer(outputs, level):
        mask = np.full((2, 2), level, np.uint8)
        return {"mask": mask, "parts": [mask + 1, mask + 2]}

    monkeypatch.setattr(task, "preprocess", prepare)
    monkeypatch.setattr(task, "postprocess", answer)
    monkeypatch.setattr(task, "draw", lambda image, prediction: image)
    for _ in range(2):
        predict_files(model, tmp_path / "pics", tmp_path / "out")
        results = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert results.keys() == levels.keys()
        for name, level in levels.items():
            found = results[name]
            for file, value in zip(
                (found["picture"], found["mask"], *found["parts"]),
                (level, level, level + 1, level + 2),
            ):
                read = cv2.imread(str(tmp_path / "out" / file), cv2.IMREAD_GRAYSCALE)
                assert abs(int(read[0, 0]) - value) <= 1, (name, file)
        written = [file.relative_to(tmp_path) for file in contents(tmp_path / "out")]
        assert len(written) == 4 * len(levels) + 1
        assert len({file.as_posix().casefold() for file in written}) == len(written)
    assert results["a.png"]["picture"] == "a.png.png"
    assert results["a.bmp"]["picture"] == "a.bmp.png"
    assert results["c_mask.png"]["picture"] == "c_mask.png"


def test_no_images_and_no_task(bare, tmp_path):
    with pytest.raises(DataError, match=r"absent: no such file or folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no images \(.jpg"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match=r"has no deploy\.yml; name its config"):
        load_model(bare)


def test_pictures_of_the_user_stay(toy, tmp_path):
    draw_levels(tmp_path / "pics", {"a.png": 10, "b.png": 20})
    model, out = load_model(toy), tmp_path / "out"
    for name in ("b.png", "predictions.json"):
        out.mkdir()
        (out / name).write_text("mine")
        with pytest.raises(FileError, match=rf"out/{name}: is there, and not written by this tool"):
            predict_files(model, tmp_path / "pics", out)
        assert {file.name: content for file, content in contents(out).items()} == {name: b"mine"}
        (out / name).unlink()
        out.rmdir()
    predict_files(model, tmp_path / "pics", out)
    before = contents(out)
    predict_files(model, tmp_path / "pics", out)
    assert contents(out) == before
