"""Images for calibration: a model's inputs without labels, read anew as often as needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer
from paddle.utils import flatten

from core.errors import ConfigError, DataError
from core.network.modes import evaluation_mode
from core.runtimes.predict_images import list_images
from core.settings.progress import progress as shown
from core.task import Arrays, Dataset, Sample, Task
from core.training.images import image_channels, read_image, stack
from core.training.loader import Loader

CalibrationBatches = Callable[[], Iterable[Sequence[Tensor]]]

BATCH = 8
SIZES = 4  # of which images wait for others
IMAGES = 256  # where nobody says how many
FEW, FEWEST = 48, 24  # of small images, and of large ones; see `few_of`
SMALL = 128 * 96  # pixels
VALUES_BACK = 2**21  # of inputs, whose activations are held for gradients at once
IN_MEMORY = 2**24  # values of images that are read once; 64 MB


class Calibration:
    """Inputs of a model from images, without labels, as often as they are asked for.

    Images of one size make batches of `BATCH`, smaller ones where there are more than `SIZES`.

    Args:
        task: Names the inputs of its model.
        dataset: Source of the samples.
        count: Images to use, chosen at random, the same ones every time; all if there are fewer.
            They come in random order, as some steps see the first few alone.
        skip_broken: Leave out images that cannot be read.
        progress: Show how far each pass is.

    Raises:
        DataError: The data set is empty.
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        count: int,
        skip_broken: bool = False,
        progress: bool = False,
    ) -> None:
        self._names = [spec.name for spec in task.input_spec()]
        self._progress = progress
        data = task.config.data
        whole = Loader(
            UnlabelledImages(dataset, self._names),
            batch_size=1,
            train=False,
            num_workers=data.num_workers,
            on_error="skip" if skip_broken else data.on_error,
        )
        self._loader = whole.share(count / len(dataset), mixed=True)

    @property
    def skipped(self) -> list[str]:
        """Return a line for each image that was left out so far."""
        return self._loader.skipped

    def __call__(self) -> Iterator[list[Tensor]]:
        """Go through the images.

        Raises:
            DataError: One of them cannot be read and is not to be skipped, or none can.
        """
        begun: dict[str, list[list[Tensor]]] = {}  # batches that are not full, by size
        empty = True
        for row in self._rows():
            empty, size = False, str([tensor.shape for tensor in row])
            begun.setdefault(size, []).append(row)
            if len(begun[size]) == BATCH:
                yield _as_batch(begun.pop(size))
            elif len(begun) > SIZES:
                yield _as_batch(begun.pop(next(iter(begun))))
        if empty:
            raise DataError(
                f"calibration: none of {len(self._loader)} images can be read: {self.skipped[0]}"
            )
        yield from map(_as_batch, begun.values())

    def _rows(self) -> Iterator[list[Tensor]]:
        with contextlib.closing(self._loader.epoch()) as samples:
            total, hidden = len(self._loader), not self._progress
            for each in shown(samples, "calibrate", total, "image", hidden):
                yield [each[name] for name in self._names]


def _as_batch(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [paddle.concat(list(column)) for column in zip(*rows)]


def calibration_images(
    task: Task, folder: Path | None, count: int | None, progress: bool = False
) -> Calibration:
    """Calibrate on a folder of images, or, without one, on the training split.

    Args:
        task: Prepares the images.
        folder: The folder; None: the training split.
        count: Number of images; None: `IMAGES`.
        progress: Whether to show how far it is.

    Raises:
        DataError: They cannot be read.
    """
    count = IMAGES if count is None else count
    if folder is not None:
        return folder_images(task, folder, count, progress)
    return training_images(task, count, progress)


def folder_images(task: Task, folder: Path, count: int, progress: bool = False) -> Calibration:
    """Calibrate on image files, prepared as for prediction; broken ones are left out.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    files = ImageFiles(task, list_images(folder))
    return Calibration(task, files, count, skip_broken=True, progress=progress)


def training_images(task: Task, count: int, progress: bool = False) -> Calibration:
    """Calibrate on the images of the training split, prepared as for validation.

    Raises:
        DataError: It cannot be read.
    """
    try:
        dataset = task.build_dataset("calibration")
    except DataError as error:
        raise DataError(f"{error}; a folder of images will do: --images FOLDER") from error
    return Calibration(task, dataset, count, progress=progress)


@dataclass(frozen=True)
class UnlabelledImages:
    """A data set without its labels, and without what its batches do to images."""

    whole: Dataset
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.whole)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample = self.whole.sample(index, rng)
        return {name: sample[name] for name in self.names}

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        return stack(samples)


@dataclass(frozen=True)
class ImageFiles:
    """Image files as a data set."""

    task: Task
    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        image = read_image(str(self.paths[index]), image_channels(self.task))
        return self.task.preprocess(image)[0]

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        return stack(samples)


def few_of(inputs: Sequence[Tensor]) -> int:
    """Return how many images [N, C, H, W] do where gradients are computed, which takes long.

    More than 48 of 128x96 pixels hardly help, and of larger ones fewer tell nearly as much.
    """
    pixels = int(np.prod(inputs[0].shape[2:]))
    return max(FEWEST, min(FEW, FEW * SMALL // max(pixels, 1)))


def first_batches(batches: CalibrationBatches) -> CalibrationBatches:
    """Return the first batches [N, C, H, W] alone, of `few_of` images and up to a batch more.

    They are read once and stay in memory, unless they hold more than `IN_MEMORY` values.
    """
    kept, values = [], 0
    for inputs in _first(batches()):
        kept.append(inputs)
        values += sum(int(tensor.size) for tensor in inputs)
        if values > IN_MEMORY:
            return lambda: _first(batches())
    return lambda: kept


def _first(batches: Iterable[Sequence[Tensor]]) -> Iterator[Sequence[Tensor]]:
    images = 0
    for inputs in batches:
        yield inputs
        images += int(inputs[0].shape[0])
        if images >= few_of(inputs):
            return


def run_through(model: Layer, batches: Iterable[Sequence[Tensor]]) -> None:
    """Run calibration batches [N, C, H, W] through a model in evaluation mode, for its hooks.

    Raises:
        DataError: There are no batches.
    """
    empty = True
    with evaluation_mode(model), paddle.no_grad():
        for inputs in batches:
            model(*inputs)
            empty = False
    if empty:
        raise DataError("calibration: no data")


def run_back(model: Layer, batches: Iterable[Sequence[Tensor]]) -> None:
    """Run calibration batches [N, C, H, W] as `run_through`, and mixtures of the outputs back.

    Hooks on activations see gradients of sums of all outputs, each with a random sign: the mean of
    their squares is the sum of the squared gradients of all outputs. Parameters get none.

    Raises:
        ConfigError: The outputs have no gradients.
        DataError: There are no batches.
    """
    frozen = [(each, each.stop_gradient) for each in model.parameters()]
    signs = np.random.default_rng(0)
    empty = True
    try:
        for parameter, _ in frozen:
            parameter.stop_gradient = True
        with evaluation_mode(model), paddle.enable_grad():
            for inputs in batches:
                for few in _parts(inputs):
                    _back_once(model, few, signs)
                empty = False
    finally:
        for parameter, stopped in frozen:
            parameter.stop_gradient = stopped
    if empty:
        raise DataError("calibration: no data")


def _parts(inputs: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield a batch in parts that are small enough, without gradients of what made them."""
    count = int(inputs[0].shape[0])
    each = max(1, VALUES_BACK * count // sum(int(tensor.size) for tensor in inputs))
    for first in range(0, count, each):
        part = [tensor[first : first + each].detach() for tensor in inputs]
        for tensor in part:
            tensor.stop_gradient = not tensor.is_floating_point()
        yield part


def _back_once(model: Layer, inputs: Sequence[Tensor], signs: np.random.Generator) -> None:
    made = [each for each in flatten(model(*inputs)) if isinstance(each, Tensor)]
    outputs = [each for each in made if not each.stop_gradient]
    if not outputs:
        raise ConfigError("observer: output_mse wants gradients, and the outputs have none")
    chosen = [signs.choice(np.array([-1, 1], "float32"), each.shape) for each in outputs]
    mixture = [paddle.to_tensor(sign).astype(each.dtype) for sign, each in zip(chosen, outputs)]
    paddle.autograd.backward(outputs, mixture)
