"""Predict on image files with an exported model: picture to array, through the model, to values."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.data import read_image
from core.deploy.predictor import Predictor
from core.errors import DataError, ExportError
from core.task import Task, build_task

PREDICTIONS = "predictions.json"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_log = logging.getLogger(__name__)

Steps = Callable[[Sequence[Path]], Iterable[Path]]  # wraps the images, to show progress


def load_task(predictor: Predictor, model_dir: Path) -> Task:
    """Build the task that `deploy.yml` names, for preparing and reading images.

    Raises:
        ExportError: There is no such file.
    """
    described = predictor.description.task
    if described is None:
        raise ExportError(f"{model_dir}: no deploy.yml, which says how images are prepared")
    return build_task(described.name, described.settings)


def list_images(path: Path) -> list[Path]:
    """Return the image, or the images in a folder and below it, in order of their names.

    Raises:
        DataError: There is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    images = sorted(each for each in path.rglob("*") if each.suffix.lower() in _SUFFIXES)
    if not images:
        raise DataError(f"{path}: holds no images ({', '.join(_SUFFIXES)})")
    return images


def predict_image(task: Task, predictor: Predictor, image: np.ndarray) -> dict[str, Any]:
    """Return what the model says of an RGB image [H, W, 3], as the task's plain values."""
    sample, info = task.preprocess(image)
    feeds = [sample[port.name][None] for port in predictor.description.inputs]
    return task.postprocess(predictor.run(*feeds), info)


def predict_files(
    task: Task, predictor: Predictor, image_path: Path, save_dir: Path, steps: Steps = iter
) -> list[str]:
    """Predict on an image or a folder; write a picture for each and `predictions.json`.

    A label map becomes a PNG beside the picture, named in the JSON.

    Args:
        task: Prepares images, reads outputs, draws.
        predictor: The model.
        image_path: File or folder; pictures keep their place below the folder.
        save_dir: Where everything goes.
        steps: Wraps the images, for instance in a progress bar.

    Returns:
        What was left out: a line for each file of a folder that is no image.

    Raises:
        DataError: The one image cannot be read, there is none, or nothing can be written.
    """
    images = list_images(image_path)
    root = image_path if image_path.is_dir() else image_path.parent
    results: dict[str, Any] = {}
    skipped = []
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        for file in steps(images):
            name = file.relative_to(root)
            try:
                image = read_image(str(file))
            except DataError as error:
                if image_path.is_file():
                    raise
                _log.warning("left out: %s", error)
                skipped.append(str(error))
                continue
            prediction = predict_image(task, predictor, image)
            picture = (save_dir / name).with_suffix(".png")
            _write_png(picture, task.draw(image, prediction)[..., ::-1])
            results[name.as_posix()] = _to_plain(prediction, picture, save_dir)
        text = json.dumps(results, indent=1, ensure_ascii=False)
        (save_dir / PREDICTIONS).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        where = error.filename or save_dir
        raise DataError(f"{where}: cannot be written: {error.strerror}") from error
    return skipped


def _to_plain(value: Any, picture: Path, save_dir: Path, key: str = "") -> Any:
    """Turn arrays into lists, and label maps into files beside the picture."""
    if isinstance(value, dict):
        return {k: _to_plain(each, picture, save_dir, str(k)) for k, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(each, picture, save_dir, key) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim != 2 or value.dtype.kind not in "iub":
        return value.tolist()
    file = picture.with_name(f"{picture.stem}_{key}.png")
    _write_png(file, value.astype(np.uint8 if value.max(initial=0) < 256 else np.uint16))
    return file.relative_to(save_dir).as_posix()


def _write_png(file: Path, image: np.ndarray) -> None:
    done, content = cv2.imencode(".png", np.ascontiguousarray(image))
    if not done:
        raise DataError(f"{file}: OpenCV cannot encode an image of {list(image.shape)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.tobytes())
