"""Measuring on validation data of which items are broken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.errors import DataError
from core.training.evaluation import evaluate
from core.training.loader import Loader


class Broken:
    """A data set in which only some items can be read."""

    def __init__(self, whole: tuple[int, ...]) -> None:
        self._whole = whole

    def __len__(self) -> int:
        return 4

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if index not in self._whole:
            raise DataError(f"item {index}: is broken")
        return {"value": np.float32(index)}

    def collate(self, samples: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
        return {"value": np.stack([sample["value"] for sample in samples])}


class Mean:
    def reset(self) -> None:
        self.values: list[float] = []

    def update(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        self.values += outputs["value"].tolist()

    def state(self) -> dict[str, Any]:
        return {}


def measured(whole: tuple[int, ...], batch_size: int) -> list[float]:
    task: Any = SimpleNamespace(build_metric=Mean, infer=lambda run, arrays: run(arrays))
    loader = Loader(Broken(whole), batch_size=batch_size, train=False, on_error="skip")
    metric: Any = evaluate(task, lambda arrays: arrays, loader)
    return metric.values


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_no_metric_of_nothing(batch_size: int) -> None:
    assert measured((1, 2), batch_size) == [1, 2]
    message = "^data.root: not one item of the validation split can be read: item 0: is broken$"
    with pytest.raises(DataError, match=message):
        measured((), batch_size)
