"""Predict on image files: picture to array, through the model, to a picture drawn and values."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from core.errors import DataError, ExportError
from core.runtimes.image_model import ImageModel
from core.settings.written import WrittenFiles
from core.task import Box, BoxesOf
from core.training.image_files import SUFFIXES, list_image_files
from core.training.images import as_rgb, image_channels, read_image
from core.training.inspection import Labelled

PREDICTIONS = "predictions.json"
_log = logging.getLogger(__name__)

ImageSteps = Callable[[Sequence[Path]], Iterable[Path]]  # wraps the images, to show progress
Tell = Callable[[str], object]  # gets a line for people


def list_images(path: Path) -> list[Path]:
    """Return the image, or the images in a folder and below it, in order of their names.

    Hidden files and folders are left out.

    Raises:
        DataError: There is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    images = list_image_files(path)
    if not images:
        raise DataError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
    return images


def predict_files(
    model: ImageModel,
    image_path: Path,
    save_dir: Path,
    boxes_of: BoxesOf | None = None,
    steps: ImageSteps = iter,
    tell: Tell = _log.info,
) -> list[str]:
    """Predict on an image or a folder; write a picture for each and `predictions.json`.

    The JSON has the task's values for each image, and `picture`, the file that was drawn.

    Args:
        model: Answers for an image, and draws.
        image_path: File or folder; pictures keep their place below the folder.
        save_dir: Where everything goes; not among the images.
        boxes_of: Parts of each image to predict on; None takes the images as they are.
        steps: Wraps the images, for instance in a progress bar.
        tell: Gets what was found in each image, in words.

    Returns:
        A line for each file of a folder that is left out.

    Raises:
        DataError: No image can be read or has an answer, no box is in one, nothing can be written,
            or files in `save_dir` would replace or resemble images.
        FileError: Names that are needed in `save_dir` are those of files that are not ours.
    """
    images = list_images(image_path)
    root = image_path if image_path.is_dir() else image_path.parent
    names = [file.relative_to(root) for file in images]
    check_apart(images, names, image_path, save_dir)
    boxes = [None if boxes_of is None else boxes_of(name) for name in names]
    check_boxes(boxes, names)
    model.tell_of_boxes(boxes_of is not None)
    outputs = _Outputs(save_dir, names, model.palette())
    plan = dict(zip(images, map(_Planned, names, outputs.name_pictures(names), boxes)))
    channels, skipped = image_channels(model.task), list[str]()
    left_out = skipped if image_path.is_dir() else None
    pictures = _read_images(steps(images), channels, left_out)
    seen = ((plan[file], image) for file, image in pictures)
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        write_predictions(outputs.files, _predict_all(model, seen, outputs, root, tell, left_out))
    except BrokenPipeError:  # of the output, which is no file of ours
        raise
    except OSError as error:
        where = error.filename or save_dir
        raise DataError(f"{where}: cannot be written: {error.strerror}") from error
    return skipped


@dataclass(frozen=True)
class _Planned:
    """An image: its name, that of its picture, and the boxes in it."""

    name: Path
    picture: Path
    boxes: Sequence[Box] | None


def _predict_all(
    model: ImageModel,
    seen: Iterable[tuple[_Planned, np.ndarray]],
    outputs: _Outputs,
    root: Path,
    tell: Tell,
    left_out: list[str] | None,
) -> dict[str, Any]:
    """Predict on images, write a picture of each and return its values, by name.

    Raises:
        DataError: The model has no answer to an image, and there is no list of those or it has none
            to any.
    """
    results: dict[str, Any] = {}
    failures: list[DataError] = []
    unsure = 0
    for plan, image in seen:
        try:
            prediction = model.predict(image, plan.boxes, warn_of_box(plan.name.as_posix()))
        except (DataError, ExportError) as error:  # as of an image that is too small for a runtime
            failures.append(DataError(f"{root / plan.name}: {error}"))
            if left_out is None:
                raise failures[0] from error
            _log.warning("left out: %s", failures[-1])
            continue
        outputs.write(plan.picture, model.draw(as_rgb(image), prediction)[..., ::-1])
        finding = model.describe(prediction)
        unsure += finding.unsure
        tell(f"{plan.name.as_posix()}: {finding.text}")
        values = _to_plain(prediction, plan.picture, outputs)
        results[plan.name.as_posix()] = {"picture": plan.picture.as_posix(), **values}
    if failures and not results:
        raise failures[0]
    if left_out is not None:
        left_out += map(str, failures)
    tell_of_unsure(unsure, len(results), "pictures")
    return results


def write_predictions(files: WrittenFiles, results: dict[str, Any]) -> None:
    """Write `predictions.json`."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    # bytes of a file's name that are no UTF-8 become escapes, which JSON has too
    files.write(PREDICTIONS, f"{text}\n".encode("utf-8", "backslashreplace"))


def tell_of_unsure(unsure: int, count: int, what: str) -> None:
    """Say in the log how many pictures have nothing that reaches the threshold."""
    if unsure:
        _log.warning(
            "%d of %d %s: all scores are below the threshold (--threshold)", unsure, count, what
        )


def warn_of_box(where: str) -> Callable[[DataError], None]:
    """Return what says in the log that a box is left out.

    Args:
        where: Picture or frame that the box is in.
    """
    return lambda error: _log.warning("%s: a box is left out: %s", where, error)


def check_boxes(boxes: Sequence[Sequence[Box] | None], names: Sequence[Path]) -> None:
    """Refuse boxes that all belong to other pictures.

    Raises:
        DataError: There are boxes, but none in the pictures.
    """
    if any(boxes) or None in boxes:
        return
    raise DataError(
        f"--boxes: none of them belongs to a picture, of {len(names)} like {names[0].as_posix()}; "
        "image_id must be its name or the number in it, or the file have COCO's 'images', "
        "or in a folder a JSON file have the picture's name"
    )


def _read_images(
    files: Iterable[Path], channels: int, skipped: list[str] | None
) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield files with their images [H, W, C]; a broken one is left out, with a line in `skipped`.

    Raises:
        DataError: One is broken, and there is no list of those.
    """
    for file in files:
        try:
            image = read_image(str(file), channels)
        except DataError as error:
            if skipped is None:
                raise
            _log.warning("left out: %s", error)
            skipped.append(str(error))
        else:
            yield file, image


def _real(path: Path) -> Path:
    """Return a path without links; one that leads to itself stays."""
    return Path(os.path.realpath(path))


def check_apart(
    images: Sequence[Path], names: Sequence[Path], image_path: Path, save_dir: Path
) -> None:
    """Refuse to write among the images: of a folder anywhere below it, of a file beside it."""
    folders = {_real(file.parent) for file in images}
    folders |= {_real(file).parent for file in images}  # where links lead
    for target in {_real((save_dir / name).parent) for name in names}:
        inside = image_path.is_dir() and target.is_relative_to(_real(image_path))
        if inside or target in folders:
            raise DataError(
                f"save_dir: expected a folder apart from the images, got {save_dir}, which would "
                f"put files into {target} among them; name another folder"
            )


class _Outputs:
    """Files below `save_dir`, each named once, also where upper and lower case are the same.

    Args:
        save_dir: The folder.
        names: Names of the images.
        palette: Colours of label maps [C, 3] uint8; None writes them in grey.
    """

    def __init__(
        self, save_dir: Path, names: Sequence[Path], palette: np.ndarray | None = None
    ) -> None:
        self.files = WrittenFiles(save_dir)
        self._palette = palette
        self._taken = {_fold(folder) for name in names for folder in name.parents}

    def name_pictures(self, names: Sequence[Path]) -> list[Path]:
        """Name the picture of each image after it; images of one stem keep their suffix.

        Raises:
            FileError: A file of such a name is there, and is not ours.
        """
        stems = Counter(_fold(name.with_suffix("")) for name in names)
        pictures = [
            self.take(name if stems[_fold(name.with_suffix(""))] > 1 else name.with_suffix(""))
            for name in names
        ]
        self.files.check([PREDICTIONS, *(picture.as_posix() for picture in pictures)])
        return pictures

    def take(self, wanted: Path) -> Path:
        """Return a free name for a PNG, relative to `save_dir`: the wanted or a numbered one."""
        for number in itertools.count(1):
            ending = ".png" if number == 1 else f"_{number}.png"
            name = wanted.with_name(wanted.name + ending)
            if _fold(name) not in self._taken:
                break
        self._taken.add(_fold(name))
        return name

    def write(self, name: Path, image: np.ndarray) -> None:
        """Write a PNG, and the folders it needs."""
        done, content = cv2.imencode(".png", np.ascontiguousarray(image))
        if not done:
            raise DataError(f"{name}: OpenCV cannot encode an image of {list(image.shape)}")
        self.files.write(name.as_posix(), content.tobytes())

    def write_label_map(self, name: Path, labels: np.ndarray) -> None:
        """Write labels [H, W] as a PNG: with the colours that there are for them, else in grey."""
        if labels.max(initial=0) > 255:
            self.write(name, labels.astype(np.uint16))
        elif self._palette is None:
            self.write(name, labels.astype(np.uint8))
        else:
            picture, content = Image.fromarray(labels.astype(np.uint8)), io.BytesIO()
            picture.putpalette(self._palette[:256].tobytes())
            picture.save(content, "png")
            self.files.write(name.as_posix(), content.getvalue())


def _fold(name: Path) -> str:
    return name.as_posix().casefold()


def _to_plain(value: Any, picture: Path, outputs: _Outputs, key: str = "") -> Any:
    """Turn arrays into lists, and label maps into files beside the picture."""
    if isinstance(value, dict):
        return {k: _to_plain(each, picture, outputs, str(k)) for k, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(each, picture, outputs, key) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim != 2 or value.dtype.kind not in "iub":
        return value.tolist()
    name = outputs.take(picture.with_name(f"{picture.stem}_{key}"))
    outputs.write_label_map(name, value)
    return name.as_posix()


def drawn_pictures(predicted: Path, most: int) -> list[Labelled]:
    """Read the first pictures that `predict_files` drew.

    Args:
        predicted: Folder with `predictions.json` and the pictures it names.
        most: Number of pictures at most.
    """
    entries = json.loads((predicted / PREDICTIONS).read_text(encoding="utf-8"))
    return [
        Labelled(name, read_image(str(predicted / entry["picture"])))
        for name, entry in itertools.islice(entries.items(), most)
    ]
