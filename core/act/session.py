"""A session of PaddleSlim with a float model, in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from core.act.child import Child, started
from core.act.programs import Grids
from core.act.source import Place, Source
from core.errors import DataError
from core.task import Arrays, Forward

SAMPLES = 4  # on which files are compared
InputArrays = Sequence[np.ndarray]  # an array for each input


@dataclass(frozen=True)
class Session:
    """PaddleSlim's process with the model that it works on.

    Attributes:
        source: The model.
        places: Its layers to quantize.
        child: The process.
    """

    source: Source
    places: Sequence[Place]
    child: Child

    def run(self, *batch: np.ndarray) -> Arrays:
        """Return the quantized model's answers to arrays [N, ...], on its current grids."""
        found: Arrays = self.child.call("run_quantized", self.feeds(batch))
        return found

    def on_grids(self, grids: Grids) -> Forward:
        """Return the quantized model on other grids than its own, which it keeps.

        Args:
            grids: Grids to use; weights and tensors that are not given keep their own.

        Raises:
            ExportError: A weight is not the model's own.
        """
        variant = self.child.call("add_variant", grids)

        def run(*batch: np.ndarray) -> Arrays:
            found: Arrays = self.child.call("run_quantized", self.feeds(batch), variant)
            return found

        return run

    def run_float(self, *batch: np.ndarray, names: Sequence[str] | None = None) -> Arrays:
        """Return the float model's answers to arrays [N, ...], or variables of it by name."""
        found: Arrays = self.child.call("run_float", self.feeds(batch), names)
        return found

    def feeds(self, batch: InputArrays) -> Arrays:
        """Name the arrays [N, ...] of a batch as the model's inputs."""
        return dict(zip(self.source.graph.inputs, batch))


@contextlib.contextmanager
def open_session(source: Source, places: Sequence[Place]) -> Iterator[Session]:
    """Start PaddleSlim on a model; when the block ends, nothing of it is left.

    Args:
        source: The model.
        places: Its layers to quantize.
    """
    with started(lambda folder: source.fill(folder, places)) as child:
        yield Session(source, places, child)


def fitting(source: Source, batches: Iterable[InputArrays], reader: str) -> Iterator[InputArrays]:
    """Yield batches that the model takes: cut, if its batch is fixed, and checked.

    Args:
        source: The model.
        batches: Arrays [N, ...] for each input, with batches of any size.
        reader: Named in messages.

    Raises:
        DataError: A batch is not what the model takes.
    """
    size = source.graph.shape(source.graph.inputs[0])[0]
    for batch in batches:
        for part in cut(batch, size):
            check_batch(source, part, reader)
            yield part


def samples_of(
    source: Source, batches: Iterable[InputArrays], reader: str, count: int = SAMPLES
) -> list[InputArrays]:
    """Return a few images to compare files on, one by one, or as the model fixes its batch.

    Args:
        source: The model.
        batches: Arrays [N, ...] for each input, with batches of any size.
        reader: Named in messages.
        count: How many.
    """
    found: list[InputArrays] = []
    size = max(source.graph.shape(source.graph.inputs[0])[0], 1)
    for batch in batches:
        found += fitting(source, cut(batch, size), reader)
        if len(found) >= count:
            break
    return found[:count]


def cut(batch: InputArrays, size: int) -> list[InputArrays]:
    """Cut arrays [N, ...] into batches of a size (-1: any); a smaller rest is left out."""
    if size < 1:
        return [batch]
    count = len(batch[0]) // size
    return [[array[i * size : (i + 1) * size] for array in batch] for i in range(count)]


def check_batch(source: Source, batch: Sequence[np.ndarray], reader: str) -> None:
    """Refuse a batch that is not what the model takes.

    Args:
        source: The model.
        batch: An array [N, ...] for each input.
        reader: Named in the message.

    Raises:
        DataError: The number of arrays, a shape or a type differs, or a value is not finite.
    """
    graph = source.graph
    if len(batch) != len(graph.inputs):
        raise DataError(
            f"{reader}: expected an array for each input of the model, {graph.inputs}, got "
            f"{len(batch)}"
        )
    for name, array in zip(graph.inputs, batch):
        shape, dtype = graph.shape(name), graph.dtype(name)
        fits = len(shape) == array.ndim and all(w in (-1, s) for w, s in zip(shape, array.shape))
        if not fits or array.dtype.kind != dtype.kind:
            raise DataError(
                f"{reader}: the model's input {name!r} takes {dtype} {list(shape)} (-1: any), got "
                f"{array.dtype} {list(array.shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{reader}: holds values that are not finite, for {name!r}")
