"""Which samples of a validation are shown, and what becomes of the pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigError, DataError, FileError
from core.task import SampleView
from core.training import review as module
from core.training.review import CONFUSION, SAMPLES, WORST, Review, SamplePictures


class Shown:
    """A task whose samples are numbers; the views it was asked for are kept."""

    def __init__(self) -> None:
        self.viewed: list[float] = []

    def sample_errors(self, outputs: Any, batch: Any) -> np.ndarray:
        return np.asarray(outputs["error"])

    def view_sample(self, outputs: Any, batch: Any, number: int) -> SampleView:
        error = float(outputs["error"][number])
        self.viewed.append(error)
        return SampleView(np.full((8, 12, 3), error, np.uint8), f"error {error:g}")

    def name_sample(self, dataset: Any, index: int) -> str:
        return f"data/{index}.png"

    config = SimpleNamespace(data=SimpleNamespace(root="data"))


class Counts:
    confusion, names = np.eye(2, dtype=int), ("a", "b")


def make_engine(folder: Path, count: int = 100, task: Any = None, **changes: Any) -> Any:
    loader = SimpleNamespace(dataset=range(count), rank=0, world=1, skipped=[])
    values = {"epoch": 0, "best_epoch": 1, "evaluated": True, "metric": Counts(), **changes}
    return SimpleNamespace(save_dir=folder, task=task or Shown(), val_loader=loader, **values)


def evaluate(review: Review, errors: Any) -> None:
    for start in range(0, len(errors), 7):
        review.after_batch({"error": np.array(errors[start : start + 7], float)}, {})


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of the tiles of each page that is drawn."""
    drawn: list[list[str]] = []
    monkeypatch.setattr(module, "tile", lambda picture, title, name: f"{name} {title}")
    monkeypatch.setattr(module, "page", lambda tiles: drawn.append(list(tiles)) or b"page")
    return drawn


def test_samples_are_spread_and_the_worst_are_found(tmp_path: Path, pages: Any) -> None:
    engine, review = make_engine(tmp_path), Review()
    review.before_training(engine)
    errors = np.random.default_rng(0).permutation(100)
    evaluate(review, errors)
    engine.epoch = 1
    review.after_epoch(engine)
    assert not list(tmp_path.iterdir())  # it is drawn later
    review.after_training(engine)
    spread = [0, 14, 28, 42, 57, 71, 85, 99]
    assert pages[0] == [f"{index}.png error {errors[index]}" for index in spread]
    worst = [f"{int(np.flatnonzero(errors == e)[0])}.png error {e}" for e in range(99, 91, -1)]
    assert pages[1] == worst
    assert len(engine.task.viewed) < 60  # not every sample is drawn
    assert {path.name for path in tmp_path.iterdir()} == {SAMPLES, WORST, CONFUSION}


def test_of_equally_bad_samples_the_first_are_shown(tmp_path: Path, pages: Any) -> None:
    engine, review = make_engine(tmp_path, 20), Review()
    review.before_training(engine)
    evaluate(review, [0.5] * 20)
    engine.epoch = 1
    review.after_epoch(engine)
    review.after_training(engine)
    assert pages[1] == [f"{index}.png error 0.5" for index in range(8)]


def test_pictures_are_those_of_the_best_epoch(tmp_path: Path, pages: Any) -> None:
    engine, review = make_engine(tmp_path, 2), Review()
    review.before_training(engine)
    for epoch, best in ((1, 1), (2, 2), (3, 2)):
        evaluate(review, [epoch, 0])
        engine.epoch, engine.best_epoch = epoch, best
        review.after_epoch(engine)
    review.after_training(engine)
    assert pages == [["0.png error 2", "1.png error 0"]] * 2


def test_not_a_number_is_worst(tmp_path: Path, pages: Any) -> None:
    engine, review = make_engine(tmp_path, 3), Review()
    review.before_training(engine)
    evaluate(review, [3, np.nan, 5])
    engine.epoch = 1
    review.after_epoch(engine)
    review.after_training(engine)
    assert [text.split()[0] for text in pages[1]] == ["1.png", "2.png", "0.png"]


def test_where_samples_were_left_out_there_are_no_names(tmp_path: Path, pages: Any) -> None:
    engine, review = make_engine(tmp_path, 3), Review()
    engine.val_loader.skipped.append("1.png is broken")
    review.before_training(engine)
    evaluate(review, [1, 2])
    engine.epoch = 1
    review.after_epoch(engine)
    review.after_training(engine)
    assert pages[0] == [" error 1", " error 2"]


def test_the_first_of_several_processes_knows_its_samples(tmp_path: Path, pages: Any) -> None:
    engine, review = make_engine(tmp_path, 5), Review()
    engine.val_loader.world = 2
    review.before_training(engine)
    evaluate(review, [1, 2, 3])
    engine.epoch = 1
    review.after_epoch(engine)
    review.after_training(engine)
    assert [text.split()[0] for text in pages[0]] == ["0.png", "2.png", "4.png"]


def test_a_task_without_pictures_may_have_a_matrix(tmp_path: Path) -> None:
    engine, review = make_engine(tmp_path, task=SimpleNamespace(config=Shown.config)), Review()
    review.before_training(engine)
    evaluate(review, [1])
    engine.epoch = 1
    review.after_epoch(engine)
    review.after_training(engine)
    assert [path.name for path in tmp_path.iterdir()] == [CONFUSION]


def test_old_pictures_go_and_a_resumed_run_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / WORST).write_bytes(b"old")
    Review().before_training(make_engine(tmp_path, epoch=3))
    assert (tmp_path / WORST).exists()
    Review().before_training(make_engine(tmp_path))
    assert not (tmp_path / WORST).exists()


def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, pages: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise FileError(f"{path}: cannot be written: No space left on device")

    engine, review = make_engine(tmp_path), Review()
    review.before_training(engine)
    monkeypatch.setattr(module, "write_bytes", full)
    monkeypatch.setattr(module, "DRAW_SECONDS", 0)
    for epoch in (1, 2):
        evaluate(review, [1])
        engine.epoch = engine.best_epoch = epoch
        review.after_epoch(engine)
    review.after_training(engine)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/{SAMPLES}: cannot be written: No space left on device; "
        "no more pictures are written"
    ]
    (tmp_path / CONFUSION).mkdir()
    with pytest.raises(FileError, match=rf"{CONFUSION}: expected a file, it is a folder"):
        Review().before_training(engine)


def test_pictures_of_an_evaluation_are_spread_over_it(tmp_path: Path, pages: Any) -> None:
    loader = make_engine(tmp_path, 20).val_loader
    task: Any = Shown()
    pictures = SamplePictures(task, loader)
    for start in range(0, 20, 6):
        errors = np.arange(start, min(start + 6, 20), dtype=float)
        pictures.after_batch({"error": errors}, {"image": errors})
    pictures.write(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"page"
    assert pages == [[f"{i}.png error {i}" for i in (0, 3, 5, 8, 11, 14, 16, 19)]]


def test_an_evaluation_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    loader = make_engine(tmp_path, 20).val_loader
    tasks: list[Any] = [Shown(), SimpleNamespace(name="depth")]
    with pytest.raises(DataError, match=r"a\.png: no sample was evaluated that could be drawn"):
        SamplePictures(tasks[0], loader).write(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"^pictures: the task depth cannot draw its samples"):
        SamplePictures(tasks[1], loader)
