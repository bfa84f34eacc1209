"""Grids that stay as an observer found them while training goes on, and what they are found on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.network.weights import load_arrays
from core.quant import strategy
from core.quant.calibration import Calibration, training_images
from core.settings.config import merge
from core.task import Task
from core.training import checkpoint
from tests.toy_runs import StopAfter, train


@pytest.fixture
def settings(toy_settings: Any) -> dict[str, Any]:
    return merge(toy_settings(epochs=4), {"train": {"batch_size": 4, "learning_rate": 0.02}})


def qat(**options: Any) -> dict[str, Any]:
    return {"kind": "qat", "start_epoch": 1, "calibration_samples": 8, **options}


@pytest.mark.parametrize(
    ("options", "moves", "norms_move"),
    [
        ({"observer": "avg"}, True, True),
        ({"observer": "percentile"}, False, False),
        ({"observer": "kl"}, False, False),
        ({"observer": "mse"}, False, False),
        ({"observer": "emd"}, False, False),
        ({"observer": "output_mse"}, False, False),
        ({"observer": "mse", "target": "openvino", "zero_points": True}, False, False),
        ({"observer": "mse", "observer_off_after": 9}, True, True),
        ({"observer": "mse", "activation_quantize_type": "range_abs_max"}, True, True),
        ({"observer": "mse", "activation_preprocess_type": "PACT"}, True, True),
        ({"observer": "mse", "freeze_bn_after": 9}, False, True),
        ({"observer": "avg", "observer_off_after": 0}, False, True),
    ],
)
def test_a_moving_average_does_not_undo_what_an_observer_clips(
    settings: Any, tmp_path: Path, options: dict[str, Any], moves: bool, norms_move: bool
) -> None:
    folder = tmp_path / "run"
    ends = []
    for epochs in (2, 4):
        train(settings, folder, qat(**options), hooks=[StopAfter(epochs)], resume=epochs > 2)
        arrays = load_arrays(folder / "latest" / checkpoint.WEIGHTS)
        ends.append(arrays)
    for what, moved in (("absmax", moves), ("_mean", norms_move)):
        names = [name for name in ends[0] if name.endswith(what)]
        assert names
        assert any((ends[0][name] != ends[1][name]).any() for name in names) == moved


@pytest.mark.parametrize(
    ("options", "prepared"),
    [
        ({"observer": "avg"}, "training"),
        ({"observer": "mse"}, "validation"),
        ({"observer": "avg", "reconstruct": True}, "validation"),
        ({"observer": "mse", "activation_preprocess_type": "PACT"}, "training"),
    ],
)
def test_what_stays_is_found_on_images_as_they_come_in_use(
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    prepared: str,
) -> None:
    counts: list[int] = []

    def noted(task: Task, count: int) -> Calibration:
        counts.append(count)
        return training_images(task, count)

    monkeypatch.setattr(strategy, "training_images", noted)
    train(settings, tmp_path / "run", qat(**options), hooks=[StopAfter(2)])
    assert counts == {"training": [], "validation": [8]}[prepared]
