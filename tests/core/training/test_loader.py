"""The loader: order, seeds, shares of several processes, broken items."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.training import loader as loader_module
from core.training.images import read_image, stack
from core.training.loader import Loader


class Numbers:
    """Items that say who they are and what their generator drew."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if index in self.broken:
            raise DataError(f"item {index}: is\nbroken")
        return {"index": np.asarray(index), "draw": rng.random(2)}

    def collate(self, samples: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**stack(samples), "mix": rng.random(1)}


def collect(loader: Loader, epoch: int = 0) -> dict[str, list]:
    batches = list(loader.epoch(epoch))
    return {key: [b[key].numpy().tolist() for b in batches] for key in ("index", "draw", "mix")}


def test_workers_change_nothing() -> None:
    data = Numbers(11)
    alone = Loader(data, batch_size=3, train=True, seed=5)
    helped = Loader(data, batch_size=3, train=True, seed=5, num_workers=2)
    for epoch in (0, 1):
        assert collect(alone, epoch) == collect(helped, epoch)
    assert collect(alone, 0)["index"] != collect(alone, 1)["index"]
    assert len(alone) == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(12, 40), st.none() | st.integers(1, 9))
def test_processes_share_the_global_batch(
    world: int, batch: int, count: int, steps: int | None
) -> None:
    data = Numbers(count)
    one = Loader(data, batch_size=batch * world, train=True, seed=1, steps=steps)
    shares = [
        Loader(data, batch_size=batch, train=True, seed=1, steps=steps, rank=r, world=world)
        for r in range(world)
    ]
    assert {len(share) for share in shares} == {len(one)}
    whole = collect(one, 2)
    parts = [collect(share, 2) for share in shares]
    for i in range(len(one)):
        merged = sorted(x for part in parts for x in zip(part["index"][i], part["draw"][i]))
        assert merged == sorted(zip(whole["index"][i], whole["draw"][i]))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(1, 5), st.integers(1, 12))
def test_a_stream_of_steps_visits_everything_equally(count: int, batch: int, steps: int) -> None:
    loader = Loader(Numbers(count), batch_size=batch, train=True, seed=2, steps=steps)
    epochs = -(-2 * count // (batch * steps))
    seen = [x for e in range(epochs) for b in collect(loader, e)["index"] for x in b]
    assert sorted(seen[:count]) == list(range(count))
    assert sorted(seen[count : 2 * count]) == list(range(count))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 3))
def test_evaluation_sees_each_item_once_in_order(count: int, batch: int, world: int) -> None:
    seen = []
    for rank in range(world):
        if rank >= count:
            continue
        loader = Loader(Numbers(count), batch_size=batch, train=False, rank=rank, world=world)
        mine = [x for b in collect(loader)["index"] for x in b]
        assert mine == list(range(rank, count, world))
        seen += mine
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_item_fails_with_its_name(workers: int) -> None:
    loader = Loader(Numbers(6, broken=(4,)), batch_size=2, train=False, num_workers=workers)
    with pytest.raises(DataError, match=r"^item 4: is broken$"):
        collect(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_takes_the_next_item_for_a_broken_one(workers: int) -> None:
    data = Numbers(6, broken=(2, 3))
    loader = Loader(data, batch_size=2, train=True, on_error="skip", num_workers=workers)
    seen = collect(loader)["index"]
    assert [len(batch) for batch in seen] == [2, 2, 2]
    assert sorted(x for batch in seen for x in batch) == [0, 1, 4, 4, 4, 5]
    assert sorted(loader.skipped) == ["item 2: is broken", "item 3: is broken"]
    hopeless = Loader(
        Numbers(2, broken=(0, 1)), batch_size=2, train=True, on_error="skip", num_workers=workers
    )
    with pytest.raises(DataError, match="not one item of the data set can be read"):
        collect(hopeless)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("where", ["sample", "collate"])
def test_a_defect_of_a_data_set_is_raised_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, workers: int, where: str
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("here")

    data = Numbers(6)
    monkeypatch.setattr(data, where, fail)
    loader = Loader(data, batch_size=2, train=True, num_workers=workers)
    with pytest.raises(RuntimeError, match=r"while reading the data:\n(.|\n)*ZeroDivisionError"):
        collect(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_items_are_left_out_and_counted_once(workers: int) -> None:
    loader = Loader(
        Numbers(6, broken=(2, 3, 4)),
        batch_size=2,
        train=False,
        on_error="skip",
        num_workers=workers,
    )
    assert collect(loader)["index"] == [[0, 1], [5]]
    collect(loader)
    assert loader.skipped == ["item 2: is broken", "item 3: is broken", "item 4: is broken"]


@pytest.mark.parametrize("taken", [2, 10])
def test_no_worker_stays_behind(taken: int) -> None:
    loader = Loader(Numbers(20), batch_size=2, train=True, num_workers=2)
    before = set(psutil.Process().children(recursive=True))
    stream = loader.epoch()
    for _ in range(taken):
        next(stream)
    mine = set(psutil.Process().children(recursive=True)) - before
    assert mine or taken == 10
    stream.close()
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert not alive


def test_no_signal_handler_stays_behind() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    collect(Loader(Numbers(6), batch_size=2, train=True, num_workers=1))
    assert signal.getsignal(signal.SIGCHLD) is before


def test_some_samples_for_calibration() -> None:
    loader = Loader(Numbers(20), batch_size=3, train=True, seed=4)
    seen = [batch["index"].numpy().tolist() for batch in loader.some(7, 1)]
    assert seen == collect(loader, 1)["index"][:3]


def test_calibration_reads_no_more_than_it_takes() -> None:
    read: list[int] = []

    class Noted(Numbers):
        def sample(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
            read.append(index)
            return super().sample(index, rng)

    loader = Loader(Noted(20), batch_size=3, train=True)
    assert len(list(loader.some(6))) == 2
    assert len(read) == 6


def test_too_little_data_is_refused() -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        Loader(Numbers(0), batch_size=2, train=False)
    with pytest.raises(DataError, match=r"^train.batch_size: the data set has 3 samples, fewer"):
        Loader(Numbers(3), batch_size=2, train=True, world=2)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp"])
def test_read_image_refuses_broken_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    cv2.imwrite(str(path), picture)
    image = read_image(str(path))
    assert image.shape == (40, 40, 3)
    if ending != "jpg":
        np.testing.assert_array_equal(image, picture[..., ::-1])
    content = path.read_bytes()
    path.write_bytes(content + bytes(200))  # cameras write such trailers
    np.testing.assert_array_equal(read_image(str(path)), image)
    for size in (0, 1, 20, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=rf"x\.{ending}: "):
            read_image(str(path))
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read: No such file"):
        read_image(str(tmp_path / "gone.jpg"))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_image(str(tmp_path))


def test_readers_are_started_when_no_other_thread_is_at_work() -> None:
    """A process forked before may inherit a lock of Paddle that nobody opens any more."""
    begun, product = threading.Event(), []
    matrix = np.random.default_rng(0).random((1200, 1200))

    def work() -> None:
        begun.set()
        product.append(matrix @ matrix @ matrix)  # without Python's own lock
        done.wait()

    done, thread = threading.Event(), threading.Thread(target=work, daemon=True)
    thread.start()
    begun.wait()
    place = loader_module.THREADS / str(thread.native_id)
    while loader_module._sleeps(place) and not product:  # it waits for Python's lock
        time.sleep(0.001)
    assert not product
    loader_module._wait_for_threads()
    assert product
    loader_module._wait_for_threads()  # it may wake up for a moment to get Python's lock
    asleep = 0
    for _ in range(100):
        time.sleep(0.001)
        asleep += loader_module._sleeps(place)
    assert asleep > 50
    done.set()
    thread.join()
    loader_module._wait_for_threads()  # the system may need a moment to remove it
    assert loader_module._sleeps(place)  # or rather is gone


@pytest.mark.parametrize("part", [0.5, 1, 3])
def test_a_share_is_in_order_or_mixed(part: float) -> None:
    loader = Loader(Numbers(20), batch_size=1, train=False)
    kept, mixed = (
        [int(batch["index"]) for batch in loader.share(part, each).epoch()]
        for each in (False, True)
    )
    assert len(kept) == 20 * min(part, 1)
    assert kept == sorted(mixed)
    assert mixed != kept
