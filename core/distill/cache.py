"""Cache of a teacher's answers on disk, by the content of its inputs."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from core.errors import ConfigError, FileError
from core.settings.files import write_bytes
from core.task import Arrays, Batch, Dataset

log = logging.getLogger(__name__)

_DIGEST = "sha256"  # name of the digest of a file beside its answers
PROBES, DRAWS = 3, 8  # samples, and how often each is drawn to find out whether it varies


class AnswerCache:
    """Keeps the answers to single samples, one file each.

    The name of a file is a digest of the sample, so an answer can never belong to another picture.
    Files are written aside and renamed, and hold a digest; one that cannot be read, or whose digest
    is of other answers, is made anew.

    Args:
        folder: Folder of the files of one teacher and set of layers.

    Raises:
        FileError: The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{folder}: cannot be written: {error.strerror}") from error

    def answer(self, inputs: Sequence[Tensor], ask: Callable[[], Batch]) -> Batch:
        """Return the answers to a batch, asking only if one of its samples is new.

        Args:
            inputs: Inputs of the network, each [N, ...].
            ask: Runs it on the whole batch.
        """
        files = [self._file(inputs, index) for index in range(inputs[0].shape[0])]
        known = [self._read(file) for file in files]
        found = [arrays for arrays in known if arrays is not None]
        if len(found) == len(files):
            stacked = {key: np.stack([arrays[key] for arrays in found]) for key in found[0]}
            return {key: paddle.to_tensor(value) for key, value in stacked.items()}
        answers = ask()
        arrays = {key: value.numpy() for key, value in answers.items()}
        for index, (file, old) in enumerate(zip(files, known)):
            if old is None:
                self._write(file, {key: value[index] for key, value in arrays.items()})
        return answers

    def _file(self, inputs: Sequence[Tensor], index: int) -> Path:
        digest = hashlib.sha256()
        for values in inputs:
            digest.update(str(values.shape[1:]).encode() + values[index].numpy().tobytes())
        return self._folder / f"{digest.hexdigest()[:32]}.npz"

    def _read(self, file: Path) -> Arrays | None:
        try:
            with np.load(file, allow_pickle=False) as content:
                arrays = {key: content[key] for key in content.files}
            if arrays.pop(_DIGEST).tobytes() != _digest(arrays):
                raise ValueError("its digest is of other answers")
            return arrays
        except FileNotFoundError:
            return None
        except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
            log.warning("%s: broken, made anew: %s", file, error)
            return None

    def _write(self, file: Path, arrays: Arrays) -> None:
        packed = io.BytesIO()
        # numpy 2 types the keywords of savez as flags too
        named: dict[str, Any] = {**arrays, _DIGEST: np.frombuffer(_digest(arrays), np.uint8)}
        np.savez(packed, **named)
        write_bytes(file, packed.getvalue())


def _digest(arrays: Arrays) -> bytes:
    digest = hashlib.sha256()
    for key, value in arrays.items():
        digest.update(f"{key} {value.dtype.str} {value.shape} ".encode() + value.tobytes())
    return digest.digest()


def check_not_random(dataset: Dataset) -> None:
    """Refuse a cache where the training pictures are never the same twice.

    Samples are drawn and put together with several generators each and compared.

    Raises:
        ConfigError: They differ.
    """
    for index in range(min(PROBES, len(dataset))):
        first, *others = (_draw(dataset, index, seed) for seed in range(DRAWS))
        for name, value in first.items():
            floating = value.dtype.kind == "f"
            if not all(np.array_equal(value, other[name], floating) for other in others):
                raise ConfigError(
                    f"distill.cache: the training data are augmented at random ({name} differs "
                    "from draw to draw), so answers would never be used again; turn the "
                    "augmentation or the cache off"
                )


def _draw(dataset: Dataset, index: int, seed: int) -> Arrays:
    generator = np.random.default_rng([index, seed])
    return dataset.collate([dataset.sample(index, generator)] * 2, generator)
