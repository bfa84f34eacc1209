"""Predict on image files with an exported model: picture to array, through the model, to values."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.errors import DataError, ExportError
from core.runtimes.description import DESCRIPTION
from core.runtimes.predictor import Predictor
from core.settings.files import write_bytes
from core.task import Task, build_recorded_task
from core.training.image_files import SUFFIXES, list_image_files
from core.training.images import as_rgb, image_channels, read_image

PREDICTIONS = "predictions.json"
_log = logging.getLogger(__name__)

ImageSteps = Callable[[Sequence[Path]], Iterable[Path]]  # wraps the images, to show progress


def load_task(predictor: Predictor, model_dir: Path) -> Task:
    """Build the task that `deploy.yml` names, for preparing and reading images.

    Raises:
        ExportError: There is no such file.
        ConfigError: The model ends in layers.
    """
    predictor.description.check_whole(model_dir)
    described = predictor.description.task
    if described is None:
        raise ExportError(f"{model_dir}: no deploy.yml, which says how images are prepared")
    where = str(model_dir / DESCRIPTION)
    return build_recorded_task(described.name, described.settings, where)


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


def predict_image(task: Task, predictor: Predictor, image: np.ndarray) -> dict[str, Any]:
    """Return what the model says of an image [H, W, C], as the task's plain values."""
    sample, info = task.preprocess(image)
    # models that other projects exported have names of their own
    ports = zip(predictor.description.inputs, task.input_spec())
    feeds = [sample[p.name if p.name in sample else spec.name][None] for p, spec in ports]
    return task.postprocess(predictor.run(*feeds), info)


def predict_files(
    task: Task, predictor: Predictor, image_path: Path, save_dir: Path, steps: ImageSteps = iter
) -> list[str]:
    """Predict on an image or a folder; write a picture for each and `predictions.json`.

    The JSON lists for each image the task's values, with `picture`, the file that was drawn. A
    label map becomes a PNG beside the picture. No two files get the same name: pictures of `a.jpg`
    and `a.png` are `a.jpg.png` and `a.png.png`, other namesakes are numbered.

    Args:
        task: Prepares images, reads outputs, draws.
        predictor: The model.
        image_path: File or folder; pictures keep their place below the folder.
        save_dir: Where everything goes; not among the images.
        steps: Wraps the images, for instance in a progress bar.

    Returns:
        What was left out: a line for each file of a folder that is no image.

    Raises:
        DataError: The one image cannot be read, there is none, nothing can be written, or files in
            `save_dir` would replace images or be taken for some next time.
    """
    images = list_images(image_path)
    root = image_path if image_path.is_dir() else image_path.parent
    names = [file.relative_to(root) for file in images]
    _check_apart(images, names, image_path, save_dir)
    outputs = _Outputs(save_dir, names)
    pictures = dict(zip(images, outputs.name_pictures(names)))
    results: dict[str, Any] = {}
    channels = image_channels(task)
    skipped: list[str] = []
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        for file in steps(images):
            image = _read(file, channels, skipped if image_path.is_dir() else None)
            if image is None:
                continue
            prediction = predict_image(task, predictor, image)
            picture = pictures[file]
            outputs.write(picture, task.draw(as_rgb(image), prediction)[..., ::-1])
            values = _to_plain(prediction, picture, outputs)
            results[file.relative_to(root).as_posix()] = {"picture": picture.as_posix(), **values}
        text = json.dumps(results, indent=1, ensure_ascii=False)
        # bytes of a file's name that are no UTF-8 become escapes, which JSON has too
        write_bytes(save_dir / PREDICTIONS, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError as error:
        where = error.filename or save_dir
        raise DataError(f"{where}: cannot be written: {error.strerror}") from error
    return skipped


def _read(file: Path, channels: int, skipped: list[str] | None) -> np.ndarray | None:
    """Read an image [H, W, C]; None, and a line in `skipped`, if it is broken.

    Raises:
        DataError: It is broken, and there is no list of those.
    """
    try:
        return read_image(str(file), channels)
    except DataError as error:
        if skipped is None:
            raise
        _log.warning("left out: %s", error)
        skipped.append(str(error))
        return None


def _check_apart(
    images: Sequence[Path], names: Sequence[Path], image_path: Path, save_dir: Path
) -> None:
    """Refuse to write among the images: of a folder anywhere below it, of a file beside it."""
    folders = {file.parent.resolve() for file in images}
    folders |= {file.resolve().parent for file in images}  # where links lead
    for target in {(save_dir / name).parent.resolve() for name in names}:
        inside = image_path.is_dir() and target.is_relative_to(image_path.resolve())
        if inside or target in folders:
            raise DataError(
                f"save_dir: expected a folder apart from the images, got {save_dir}, which would "
                f"put files into {target} among them; name another folder"
            )


class _Outputs:
    """Files below `save_dir`, each named once, also where upper and lower case are the same."""

    def __init__(self, save_dir: Path, names: Sequence[Path]) -> None:
        self.save_dir = save_dir
        self._taken = {_fold(folder) for name in names for folder in name.parents}

    def name_pictures(self, names: Sequence[Path]) -> list[Path]:
        """Name the picture of each image after it; images of one stem keep their suffix."""
        stems = Counter(_fold(name.with_suffix("")) for name in names)
        return [
            self.take(name if stems[_fold(name.with_suffix(""))] > 1 else name.with_suffix(""))
            for name in names
        ]

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
        write_bytes(self.save_dir / name, content.tobytes())


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
    outputs.write(name, value.astype(np.uint8 if value.max(initial=0) < 256 else np.uint16))
    return name.as_posix()


COLUMNS, SIDE = 4, 180  # pictures in each row of a montage, pixels of each


def montage(predicted: Path, file: Path) -> None:
    """Put the first pictures that were drawn side by side in one.

    Args:
        predicted: Folder with `predictions.json` and the pictures it names.
        file: Picture to write.
    """
    entries = json.loads((predicted / "predictions.json").read_text(encoding="utf-8"))
    tiles = []
    for entry in list(entries.values())[: 2 * COLUMNS]:
        image = cv2.imread(str(predicted / entry["picture"]))
        scale = SIDE / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile = np.full((SIDE, SIDE, 3), 255, np.uint8)
        tile[: image.shape[0], : image.shape[1]] = image
        tiles.append(tile)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    cv2.imwrite(str(file), np.vstack([row for row in rows if row.shape == rows[0].shape]))
