"""Videos in, videos out: frames, boxes by number, what ends early and what cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import DataError, FileError
from core.runtimes import predict_video as module
from core.runtimes.image_model import eager_model
from core.runtimes.predict_video import Frames, is_video, predict_video
from core.task import Box, build_task

SIDES = (50, 34)


@pytest.fixture
def model(tmp_path):
    task = build_task("outside.toy", {"data": {"root": str(tmp_path)}})
    return eager_model(task, task.build_model())


@pytest.fixture
def clip(tmp_path):
    """Eight frames, each brighter than the one before, 4 a second."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, SIDES)
    for number in range(8):
        writer.write(np.full((*SIDES[::-1], 3), 30 * number, np.uint8))
    writer.release()
    return path


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def shown(folder):
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def values_of(folder):
    (found,) = json.loads((folder / "predictions.json").read_text()).values()
    return found["frames"]


def test_every_frame_is_predicted_and_drawn(model, clip, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(model.task, "draw", lambda image, prediction: 255 - image)
    video = predict_video(model, Frames(clip), tmp_path / "out", tell=told.append)
    assert video == tmp_path / "out" / "clip.mp4"
    frames, rate = read_video(video)
    assert rate == 4
    levels = [float(frame.mean()) for frame in frames]
    np.testing.assert_allclose(levels, [255 - 30 * number for number in range(8)], atol=6)
    assert frames[0].shape == (*SIDES[::-1], 3)
    assert len({value["level"] for value in values_of(tmp_path / "out")}) == 8
    assert [line.partition(":")[0] for line in told] == ["frame 0", "frame 4"]
    assert shown(tmp_path / "out") == ["clip.mp4", "predictions.json"]


def test_some_frames_are_enough(model, clip, tmp_path):
    frames = Frames(clip, most=3)
    assert frames.count == 3
    seen = []
    predict_video(
        model,
        frames,
        tmp_path / "out",
        steps=lambda given, count: (seen.append(count) or frame for frame in given),
    )
    assert seen == [3, 3, 3]
    assert len(values_of(tmp_path / "out")) == 3


def test_what_was_seen_until_ctrl_c_is_written(model, clip, tmp_path):
    def interrupted(frames, count):
        for number, frame in enumerate(frames):
            if number == 5:
                raise KeyboardInterrupt
            yield frame

    with pytest.raises(KeyboardInterrupt):
        predict_video(model, Frames(clip), tmp_path / "out", steps=interrupted)
    assert len(read_video(tmp_path / "out" / "clip.mp4")[0]) == 5
    assert len(values_of(tmp_path / "out")) == 5


def test_boxes_belong_to_frames_by_number(model, clip, tmp_path, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(
        type(model), "predict", lambda self, image, boxes, leave_out: asked.append(boxes) or {}
    )
    monkeypatch.setattr(type(model), "draw", lambda self, image, prediction: image)
    box = Box(1, 2, 3, 4)
    boxes = {Path("2"): [box]}
    predict_video(model, Frames(clip, 4), tmp_path / "out", lambda name: boxes.get(name, []))
    assert asked == [[], [], [box], []]
    assert "--boxes" not in caplog.text
    predict_video(model, Frames(clip, 4), tmp_path / "out", lambda name: [])
    assert "--boxes: none of them is in a frame" in caplog.text


def test_a_box_outside_does_not_end_the_video(model, clip, tmp_path, monkeypatch, caplog):
    def predict(self, image, boxes, leave_out):
        for _ in boxes:
            leave_out(DataError("the box lies outside"))
        return {"boxes": []}

    monkeypatch.setattr(type(model), "predict", predict)
    boxes = {Path("2"): [Box(1, 2, 3, 4)]}
    predict_video(model, Frames(clip, 4), tmp_path / "out", lambda name: boxes.get(name, []))
    assert "frame 2: a box is left out: the box lies outside" in caplog.text
    assert len(values_of(tmp_path / "out")) == 4


def test_a_full_disk_is_noticed(model, clip, tmp_path, monkeypatch):
    written = cv2.VideoWriter

    class Full:
        """Drops frames without a word, as OpenCV's does."""

        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *given):
            self.inner, self.frames = written(*given), 0

        def write(self, frame):
            self.frames += 1
            if self.frames < 5:
                self.inner.write(frame)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(module.cv2, "VideoWriter", Full)
    message = r"out/clip.mp4: cannot be written: 4 of 8 frames arrived; is the disk full\?"
    with pytest.raises(FileError, match=message):
        predict_video(model, Frames(clip), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_a_file_in_the_way_is_one_line(model, clip, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError, match=rf"out/clip.mp4: cannot .*{os.strerror(errno.EEXIST)}"):
        predict_video(model, Frames(clip), tmp_path / "out")


def test_the_video_itself_is_not_replaced(model, clip, tmp_path):
    with pytest.raises(DataError, match=r"^save_dir: expected a folder apart"):
        predict_video(model, Frames(clip), tmp_path)


def test_what_is_no_video(tmp_path, clip):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a.mp4: not a video that OpenCV can read"):
        Frames(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=r"b.mp4: no such file"):
        Frames(tmp_path / "b.mp4")
    assert is_video(clip)
    assert is_video(Path("absent.MP4"))
    assert not is_video(tmp_path / "a.png")
    (tmp_path / "folder.mp4").mkdir()
    assert not is_video(tmp_path / "folder.mp4")


class Camera:
    """Twelve frames, then nothing."""

    def __init__(self, number):
        self.left, self.released = 12 if number == 0 else -1, False

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.left >= 0

    def get(self, key):
        return -1.0 if key == cv2.CAP_PROP_FRAME_COUNT else 30.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.zeros((*SIDES[::-1], 3), np.uint8)

    def release(self):
        self.released = True


@pytest.mark.parametrize("most", [None, 3])
def test_a_camera_is_written_as_fast_as_the_model_follows(model, tmp_path, monkeypatch, most):
    opened = cv2.VideoCapture
    monkeypatch.setattr(
        module.cv2, "VideoCapture", lambda what: (opened if isinstance(what, str) else Camera)(what)
    )
    frames = Frames(0, most)
    assert (frames.count, frames.name) == (most, "camera 0")
    video = predict_video(model, frames, tmp_path / "out")
    assert video.name == "camera_0.mp4"
    seen, rate = read_video(video)
    assert len(seen) == (most or 12)
    assert 1 <= rate <= 240
    assert frames._capture.released
    with pytest.raises(DataError, match=r"^camera 7: OpenCV cannot open it"):
        Frames(7)


def test_names_that_end_opencv_are_refused(model, clip, tmp_path):
    name = os.fsdecode(b"\xff.avi")
    try:
        clip.rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(DataError, match=r"xff\.avi': the name is no UTF-8"):
        Frames(tmp_path / name)
    (tmp_path / name).rename(clip)
    with pytest.raises(DataError, match=r"the name is no UTF-8"):
        predict_video(model, Frames(clip), tmp_path / os.fsdecode(b"out\xff"))
    assert {each.name for each in tmp_path.iterdir()} == {"clip.avi"}
    with pytest.raises(DataError, match=r"^camera 99999999999: OpenCV cannot open it"):
        Frames(99999999999)


@pytest.mark.parametrize("rate", [1.0013, 29.97003, 123.4567, 239.9876])
def test_any_rate_can_be_written(model, clip, tmp_path, rate):
    frames = Frames(clip)
    frames.rate = rate
    _, found = read_video(predict_video(model, frames, tmp_path / "out"))
    assert found == pytest.approx(rate, abs=0.006)


def test_frames_that_change_their_size_get_that_of_the_first(model, clip, tmp_path):
    class Growing:
        source, rate, name, count = clip, 4.0, "clip", 3

        def __iter__(self):
            for number in range(3):
                yield np.full((SIDES[1] + 8 * number, SIDES[0] + 6 * number, 3), 90, np.uint8)

        def close(self): ...

    video = predict_video(model, Growing(), tmp_path / "out")
    frames, _ = read_video(video)
    assert [frame.shape for frame in frames] == [(*SIDES[::-1], 3)] * 3


def test_videos_and_predictions_of_the_user_stay(model, clip, tmp_path):
    for name in ("clip.mp4", "predictions.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(FileError, match=rf"{name}/{name}: is there, and not written by this"):
            predict_video(model, Frames(clip), tmp_path / name)
        assert (tmp_path / name / name).read_text() == "mine"
        assert shown(tmp_path / name) == [name]
    for _ in range(2):
        predict_video(model, Frames(clip), tmp_path / "out")
