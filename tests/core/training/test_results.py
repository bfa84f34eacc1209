"""One row for each epoch, whatever happens to the run; and curves of them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core.errors import FileError
from core.training import results as module
from core.training.charts import draw_confusion, draw_curves
from core.training.hooks import Hook
from core.training.results import CURVES, RESULTS, Results, read_results, to_csv
from tests.toy_runs import STOP_NAMES, STOPS, StopAfter, train

ROW = {"epoch": 1, "step": 4, "seconds": 2.5, "learning_rate": 0.1}


def shown(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def rows_of(folder: Path) -> list[dict[str, float]]:
    """Return the rows without their times, which no two runs share."""
    rows = read_results(folder / RESULTS)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_columns_come_and_go(tmp_path: Path) -> None:
    rows = [
        ROW | {"train/loss": 1.5, "val/mae": 0.25},
        ROW | {"epoch": 2, "train/loss": 1.0},
        ROW | {"epoch": 3, "train/loss": 0.1 + 0.2, "train/distill": 2.0, "val/mae": 1e-9},
    ]
    (tmp_path / RESULTS).write_text(to_csv(rows))
    head = (tmp_path / RESULTS).read_text().splitlines()[0]
    assert head == "epoch,step,seconds,learning_rate,train/loss,train/distill,val/mae"
    assert read_results(tmp_path / RESULTS) == rows


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "epoch,step,seconds,learning_rate\none,4,1,0.1\n",
        "epoch,step,seconds,learning_rate\n1,4,1\n",
        "epoch,step,seconds,learning_rate\n1,4,1,0.1,7\n",
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RESULTS).write_text(text)
    with pytest.raises(FileError, match=r"results.csv: line 2 is not as a training wrote it; move"):
        read_results(tmp_path / RESULTS)


@pytest.mark.parametrize("stop", STOPS, ids=STOP_NAMES)
def test_a_run_that_goes_on_has_the_rows_of_a_straight_one(
    toy_settings: Any, tmp_path: Path, stop: Hook
) -> None:
    settings, whole, parts = toy_settings(epochs=4), tmp_path / "whole", tmp_path / "parts"
    train(settings, whole, hooks=[Results()])
    train(settings, parts, hooks=[Results(), stop])
    train(settings, parts, hooks=[Results()], resume=True)
    assert rows_of(parts) == rows_of(whole)


def test_an_interrupted_run_has_the_rows_of_a_straight_one(
    toy_settings: Any, tmp_path: Path
) -> None:
    settings, whole, parts = toy_settings(epochs=4), tmp_path / "whole", tmp_path / "parts"
    train(settings, whole, hooks=[Results()])
    train(settings, parts, hooks=[Results(), StopAfter(2)])
    assert [row["epoch"] for row in rows_of(parts)] == [1, 2]
    with (parts / RESULTS).open("a") as file:  # killed before the checkpoint of epoch 3
        file.write((whole / RESULTS).read_text().splitlines()[3] + "\n")  # its times are others
    assert [row["epoch"] for row in read_results(parts / RESULTS)] == [1, 2, 3]
    train(settings, parts, hooks=[Results()], resume=True)
    assert rows_of(parts) == rows_of(whole)
    assert [row["epoch"] for row in rows_of(whole)] == [1, 2, 3, 4]
    assert all("train/loss_square" in row and "val/mae" in row for row in rows_of(whole))
    assert shown((parts / CURVES).read_bytes()) is not None


def test_a_fresh_run_begins_a_fresh_file(toy_settings: Any, tmp_path: Path) -> None:
    for _ in range(2):
        train(toy_settings(epochs=1), tmp_path / "out", hooks=[Results()], overwrite=True)
    assert [row["epoch"] for row in rows_of(tmp_path / "out")] == [1]


def test_rows_that_are_gone_are_told(toy_settings: Any, tmp_path: Path, caplog: Any) -> None:
    train(toy_settings(epochs=1), tmp_path / "out")
    train(toy_settings(epochs=2), tmp_path / "out", hooks=[Results()], resume=True)
    assert [row["epoch"] for row in rows_of(tmp_path / "out")] == [2]
    assert "results.csv: is gone; it begins anew behind epoch 1" in caplog.text


def test_a_full_disk_is_one_line_and_ends_no_training(
    toy_settings: Any, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = module.write_text, []

    def full(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) > 2:  # those at the start and of the first epoch
            raise FileError(f"{path}: cannot be written: No space left on device")
        real(path, text)

    monkeypatch.setattr(module, "write_text", full)
    engine = train(toy_settings(epochs=4), tmp_path / "out", hooks=[Results()])
    assert engine.epoch == 4
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == [
        f"{tmp_path}/out/results.csv: cannot be written: No space left on device; "
        "no more results are written"
    ]
    assert [row["epoch"] for row in rows_of(tmp_path / "out")] == [1]


@pytest.mark.parametrize("name", [RESULTS, CURVES])
def test_a_folder_in_the_way_is_one_line(toy_settings: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(FileError, match=rf"{name}: expected a file, it is a folder; move it away"):
        train(toy_settings(epochs=1), tmp_path / "out", hooks=[Results()])


def test_curves_are_drawn_of_what_there_is() -> None:
    rows = [ROW | {"epoch": 1, "train/a": 1.0, "train/b": 2.0}]
    small = shown(draw_curves(rows, None))
    rows += [ROW | {"epoch": n, "train/a": 1 / n, "val/$\\x": n, "val/精度": n} for n in (2, 3)]
    large = shown(draw_curves(rows, 3))
    assert (small.shape, large.shape) == ((300, 800, 3), (600, 1200, 3))


def test_a_confusion_matrix_is_drawn() -> None:
    def darkest(matrix: np.ndarray, names: list[str]) -> tuple[int, int]:
        picture = shown(draw_confusion(matrix, names)).astype(int)
        blue = picture[..., 0] - picture[..., 2]  # the field of the largest share
        rows, columns = np.nonzero(blue > 80)
        return int(np.median(rows)), int(np.median(columns))

    names = ["a", "$\\frac$", "薔薇"]
    upper = darkest(np.array([[0, 0, 9], [0, 0, 0], [1, 1, 1]]), names)
    lower = darkest(np.array([[1, 1, 1], [0, 0, 0], [9, 0, 0]]), names)
    assert upper[0] < lower[0]
    assert upper[1] > lower[1]
    many = shown(draw_confusion(np.eye(60, dtype=int), [str(n) for n in range(60)]))
    assert many.shape == (1400, 1500, 3)
    assert not math.isnan(many.mean())
