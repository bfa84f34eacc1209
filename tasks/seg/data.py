"""Images with label maps from PaddleSeg's list files."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.errors import DataError
from core.task import Arrays, Sample, Split
from core.training.images import read_image, stack
from tasks.seg import transforms
from tasks.seg.config import Config, DataConfig

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY = 0  # colour type of PNG


class SegDataset:
    """One split. A training sample is `image` and `label` of the crop's size.

    Another sample keeps the label's own size and says both sizes as (height, width) in
    `image_size` and `label_size`, since a batch fills smaller maps up to the largest.
    """

    def __init__(self, config: Config, split: Split) -> None:
        self.config = config
        self.training = split == "train"
        data = config.data
        self.pairs = read_list(data, data.val_list if split == "val" else data.train_list)
        augment = config.augment
        self.only_shape: tuple[int, ...] | None = None  # that a training image may have
        if self.training and augment.crop is None and augment.resize is None:
            self.only_shape = self._first_shape()

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        image_path, label_path = self.pairs[index]
        data = self.config.data
        image = read_image(str(image_path))
        label = read_label(str(label_path))
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{label_path}: the label map is {label.shape[1]}x{label.shape[0]}, "
                f"the image {image_path.name} {image.shape[1]}x{image.shape[0]}"
            )
        check_values(label, label_path, self.config.model.num_classes, data.ignore_index)
        if not self.training:
            return evaluation_sample(image, data) | {
                "label": label,
                "label_size": np.array(label.shape, np.int64),
            }
        if self.only_shape is not None and image.shape != self.only_shape:
            raise DataError(
                f"{image_path}: the image is {image.shape[1]}x{image.shape[0]}, the first of the "
                f"list {self.only_shape[1]}x{self.only_shape[0]}; batches have one size: set "
                "augment.crop or augment.resize"
            )
        augment = self.config.augment
        image, label, mirrored = transforms.augment(image, label, augment, rng)
        size = augment.crop or (image.shape[1], image.shape[0])
        planes = transforms.normalize(image, data.mean, data.std)
        return {
            "image": transforms.pad(planes, size, 0.0, mirrored),
            "label": transforms.pad(label, size, data.ignore_index, mirrored),
        }

    def _first_shape(self) -> tuple[int, ...] | None:
        """Return the first image's shape; where broken ones are skipped, the first whole one's."""
        for image_path, _ in self.pairs:
            try:
                return read_image(str(image_path)).shape
            except DataError:
                if self.config.data.on_error == "fail":
                    raise
        return None  # the loader says that none can be read

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        if not self.training:
            samples = [dict(sample) for sample in samples]
            _fill_up(samples, "image", 0.0)
            _fill_up(samples, "label", self.config.data.ignore_index)
        return stack(samples)


def evaluation_sample(image: np.ndarray, data: DataConfig) -> Sample:
    """Prepare an image [H, W, 3] as evaluation, prediction and calibration see it."""
    if data.size is not None:
        image = transforms.resize(image, data.size)
    return {
        "image": transforms.normalize(image, data.mean, data.std),
        "image_size": np.array(image.shape[:2], np.int64),
    }


def read_list(data: DataConfig, name: str) -> list[tuple[Path, Path]]:
    """Read the pairs of image and label paths from a list file.

    Raises:
        DataError: The list is absent or empty, or a line (named) has not two paths.
    """
    root = Path(data.root)
    path = root / name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list of images cannot be read: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.strip().split(data.separator)]
        if len(parts) != 2 or not all(parts):
            raise DataError(
                f"{path}:{number}: expected an image and a label map separated by "
                f"{data.separator!r} (data.separator), got {line.strip()!r}"
            )
        pairs.append((root / parts[0], root / parts[1]))
    if not pairs:
        raise DataError(f"{path}: the list of images is empty")
    return pairs


def read_label(path: str) -> np.ndarray:
    """Read a label map [H, W], exactly the stored indices: uint8, or int32 for 16-bit files.

    Raises:
        DataError: Missing or broken, or an image with colours in place of indices.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    is_png = content[:8] == PNG_SIGNATURE
    if is_png and content[25:26] == bytes([GREY]):
        label = _decode_grey(content)
    else:
        label = _decode_indices(content, path)
    if label is None or (is_png and b"IEND" not in content[-64:]):
        raise DataError(f"{path}: the label map is broken or truncated")
    if label.ndim != 2:
        raise DataError(
            f"{path}: expected a label map with one channel, got {label.shape[2]} (colours?)"
        )
    return label if label.dtype == np.uint8 else label.astype(np.int32)


def check_values(label: np.ndarray, path: Path, num_classes: int, ignore_index: int) -> None:
    """Refuse a label value, in a map [H, W], that is neither a class nor the ignored one.

    Raises:
        DataError: Names the file and the value.
    """
    if int(label.max()) < num_classes:
        return
    wrong = (label >= num_classes) & (label != ignore_index)
    if wrong.any():
        raise DataError(
            f"{path}: label value {int(label[wrong][0])}: expected 0..{num_classes - 1} "
            f"(model.num_classes) or {ignore_index} (data.ignore_index)"
        )


def _decode_grey(content: bytes) -> np.ndarray | None:
    label: np.ndarray | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    bits = content[24]
    if label is not None and bits < 8:
        label = label // np.uint8(255 // (2**bits - 1))  # OpenCV stretches to 0..255
    return label


def _decode_indices(content: bytes, path: str) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            array = np.asarray(image)
    except (OSError, ValueError, SyntaxError):
        return None
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return array


def _fill_up(samples: list[Sample], key: str, value: float) -> None:
    height = max(sample[key].shape[-2] for sample in samples)
    width = max(sample[key].shape[-1] for sample in samples)
    for sample in samples:
        sample[key] = transforms.pad(sample[key], (width, height), value)
