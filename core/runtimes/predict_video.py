"""Predict on the frames of a video or a camera; write a video with the predictions drawn."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.errors import DataError, FileError
from core.runtimes.image_model import ImageModel
from core.runtimes.predict_images import (
    PREDICTIONS,
    Tell,
    check_apart,
    tell_of_unsure,
    warn_of_box,
    write_predictions,
)
from core.settings.files import drafting
from core.settings.written import WrittenFiles
from core.task import BoxesOf
from core.training.image_files import VIDEO_SUFFIXES

CODEC, CONTAINER = "mp4v", ".mp4"  # which OpenCV's wheels can write everywhere
TIMED_FRAMES = 10  # frames of a camera that tell how many the model can follow each second
LAST_CAMERA = 2**31 - 1
SLOWEST, FASTEST = 1.0, 240.0  # frames each second of a video that is written
_log = logging.getLogger(__name__)

FrameSteps = Callable[[Iterable[np.ndarray], "int | None"], Iterable[np.ndarray]]


def is_video(path: Path) -> bool:
    """Tell by its name whether a file is a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


@dataclass
class Frames:
    """Frames of a video file or a camera.

    Args:
        source: The file, or the number of the camera.
        most: Frames to read; None reads a file to its end, and a camera until Ctrl-C.

    Raises:
        DataError: It cannot be opened.
    """

    source: Path | int
    most: int | None = None
    read: int = field(default=0, init=False)  # so far

    def __post_init__(self) -> None:
        if isinstance(self.source, Path) and not self.source.is_file():
            raise DataError(f"{self.source}: no such file")
        if isinstance(self.source, Path):
            _check_name(self.source)
        elif self.source > LAST_CAMERA:
            raise DataError(f"{self.name}: OpenCV cannot open it")
        given = str(self.source) if isinstance(self.source, Path) else self.source
        self._capture = cv2.VideoCapture(given)
        if not self._capture.isOpened():
            video = isinstance(self.source, Path)
            what = "not a video that OpenCV can read" if video else "OpenCV cannot open it"
            raise DataError(f"{self.name}: {what}")
        told = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.told = told if isinstance(self.source, Path) and told > 0 else None
        self.rate: float | None = None  # frames each second; None: those of a camera
        if isinstance(self.source, Path):
            self.rate = float(np.clip(self._capture.get(cv2.CAP_PROP_FPS), SLOWEST, FASTEST))

    @property
    def name(self) -> str:
        """The file, or the camera."""
        return str(self.source) if isinstance(self.source, Path) else f"camera {self.source}"

    @property
    def count(self) -> int | None:
        """How many there will be, if that is known."""
        known = [number for number in (self.told, self.most) if number is not None]
        return min(known, default=None)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames as RGB [H, W, 3] uint8."""
        while self.most is None or self.read < self.most:
            there, frame = self._capture.read()
            if not there:
                break
            self.read += 1
            yield np.ascontiguousarray(frame[..., ::-1])

    def close(self) -> None:
        """Let others have the camera."""
        self._capture.release()


def _check_name(path: Path) -> None:
    """Refuse a name that is no UTF-8: OpenCV ends the process over it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(path)
        raise DataError(f"{name!r}: the name is no UTF-8, as OpenCV expects; rename it") from error


class _VideoFile:
    """A video that grows frame by frame; without a rate it takes that of its first frames.

    All frames get the size of the first.

    Args:
        path: Path of the file.
        rate: Frames each second; None: as fast as they come.
    """

    def __init__(self, path: Path, rate: float | None) -> None:
        self._path, self._rate = path, rate
        self._writer: Any = None
        self._size: tuple[int, int] | None = None
        self._waiting: list[np.ndarray] = []
        self._begin = time.monotonic()
        self.frames = 0

    def add(self, frame: np.ndarray) -> None:
        if self._size is None:
            self._size = frame.shape[1], frame.shape[0]
        if frame.shape[1::-1] != self._size:  # videos may change their size on the way
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._waiting.append(np.ascontiguousarray(frame[..., ::-1]))
        self.frames += 1
        if self._rate is not None or len(self._waiting) >= TIMED_FRAMES:
            self._write()

    def close(self) -> None:
        if self._waiting:
            self._write()
        if self._writer is not None:
            self._writer.release()

    def _write(self) -> None:
        if self._writer is None:
            seconds = max(time.monotonic() - self._begin, 1e-3)
            rate = self._rate or float(np.clip(self.frames / seconds, SLOWEST, FASTEST))
            rate = round(rate, 2)  # MPEG-4 has no finer fractions of large numbers
            code = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._path), code, rate, self._size)
            if not self._writer.isOpened():
                raise OSError(None, f"OpenCV cannot write a {CODEC} video", str(self._path))
        for frame in self._waiting:
            self._writer.write(frame)
        self._waiting = []

    def check(self) -> None:
        """Raise if frames are missing: OpenCV does not say that a disk is full."""
        capture = cv2.VideoCapture(str(self._path))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if count != self.frames:
            raise OSError(None, f"{count} of {self.frames} frames arrived; is the disk full?")


def predict_video(
    model: ImageModel,
    frames: Frames,
    save_dir: Path,
    boxes_of: BoxesOf | None = None,
    steps: FrameSteps = lambda frames, count: frames,
    tell: Tell = _log.info,
) -> Path:
    """Predict on each frame; write a video and `predictions.json`, and return the video.

    The JSON has the values of each frame in a list, but no label maps. Ctrl-C ends a camera: what
    was seen until then is written.

    Args:
        model: Answers for an image, and draws.
        frames: Frames of a video or a camera; they are closed.
        save_dir: Where everything goes; not where the video is.
        boxes_of: Boxes in a frame; its name is its number, from 0 on.
        steps: Wraps the frames, for instance in a progress bar; gets their number, if it is known.
        tell: Gets what was found, once for each second, in words.

    Raises:
        DataError: The video has no frames, or lies in `save_dir`.
        FileError: The video cannot be written.
    """
    name = frames.source.stem if isinstance(frames.source, Path) else f"camera_{frames.source}"
    target = save_dir / f"{name}{CONTAINER}"
    _check_name(target.absolute())
    if isinstance(frames.source, Path):
        check_apart([frames.source], [Path(frames.source.name)], frames.source, save_dir)
    files = WrittenFiles(save_dir)
    files.check([target.name, PREDICTIONS])
    model.tell_of_boxes(boxes_of is not None)
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        with drafting(target) as draft:
            values, ended = _predict_frames(model, frames, draft, boxes_of, steps, tell)
            files.expect(target.name, draft)
    except BrokenPipeError:  # of the output, which is no file of ours
        raise
    except OSError as error:
        raise FileError(f"{target}: cannot be written: {error.strerror or error}") from error
    found = {"video": target.name, "frames_per_second": frames.rate, "frames": values}
    write_predictions(files, {frames.name: found})
    if ended is not None:
        raise ended
    return target


def _predict_frames(
    model: ImageModel,
    frames: Frames,
    draft: Path,
    boxes_of: BoxesOf | None,
    steps: FrameSteps,
    tell: Tell,
) -> tuple[list[dict[str, Any]], KeyboardInterrupt | None]:
    """Return the values of each frame, and the interruption, if there was one."""
    values: list[dict[str, Any]] = []
    unsure = boxed = 0
    video = _VideoFile(draft, frames.rate)
    ended: KeyboardInterrupt | None = None
    every = round(frames.rate or TIMED_FRAMES)
    try:
        for number, frame in enumerate(steps(frames, frames.count)):
            boxes = None if boxes_of is None else boxes_of(Path(str(number)))
            boxed += bool(boxes)
            prediction = model.predict(frame, boxes, warn_of_box(f"frame {number}"))
            video.add(model.draw(frame, prediction))
            finding = model.describe(prediction)
            unsure += finding.unsure
            if number % every == 0:
                tell(f"frame {number}: {finding.text}")
            values.append(_without_label_maps(prediction))
    except KeyboardInterrupt as error:
        ended = error
    finally:
        frames.close()
        video.close()
    if not values:
        raise ended or DataError(f"{frames.name}: has no frames that OpenCV can read")
    video.check()
    expected = frames.count
    if ended is None and expected is not None and len(values) < expected:
        _log.warning("%s: ends after %d of %d frames", frames.name, len(values), expected)
    if boxes_of is not None and not boxed:
        _log.warning("--boxes: none of them is in a frame; image_id must be its number, from 0 on")
    tell_of_unsure(unsure, len(values), "frames")
    return values, ended


def _without_label_maps(prediction: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a frame for JSON; label maps are in the video, drawn."""
    return {key: value for key, value in prediction.items() if not isinstance(value, np.ndarray)}
