"""Feed a data set to the engine: reproducible order and randomness, errors with a name."""

from __future__ import annotations

import contextlib
import math
import multiprocessing.util
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import paddle
from paddle import Tensor

from core.errors import DataError
from core.settings.signals import WORDS, held_back
from core.task import Arrays, Dataset, Sample

OnError = Literal["fail", "skip"]
THREAD_SECONDS = 3.0  # at most, to come to rest
THREADS = Path("/proc/self/task")  # on Linux
PARENT_SECONDS = 0.25  # between two looks at whether it still is there
WORKER_SECONDS = 10.0  # at most, to end when told to
SHARED_MEMORY = Path("/dev/shm")  # on Linux; Paddle's files there are paddle_<process>_...
_WAITS = hasattr(signal, "sigtimedwait")


class Loader:
    """Batches of a data set, the same for the same seed whatever the number of workers.

    Position p of the endless training stream is an item of the k-th shuffled pass over the data
    and brings its own random generator, seeded with (seed, p). Process r of w takes every w-th
    position, so w processes with batches of b see the samples of one process with batches of w*b.
    An evaluation loader goes once through the data in order and keeps the last, smaller batch.

    Args:
        dataset: Data set to read.
        batch_size: Samples per batch and process.
        train: Shuffled endless stream, or one ordered pass.
        seed: Seed of order and augmentation.
        steps: Batches per epoch of training; None means one pass, less the incomplete batch.
        num_workers: Processes that read ahead; 0 reads in this one.
        on_error: Stop at the first broken item, or note it in `skipped` and go on: training takes
            the next item of the data set in its place, evaluation leaves it out.
        rank: Number of this process.
        world: How many processes there are.

    Raises:
        DataError: Empty data set, or fewer samples than one batch of training needs.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        train: bool,
        seed: int = 0,
        steps: int | None = None,
        num_workers: int = 0,
        on_error: OnError = "fail",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(dataset) == 0:
            raise DataError("data.root: the data set is empty")
        if train and steps is None and len(dataset) < batch_size * world:
            raise DataError(
                f"train.batch_size: the data set has {len(dataset)} samples, "
                f"fewer than one batch of {batch_size * world}"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.train = train
        self.seed = seed
        self.num_workers = num_workers
        self.on_error = on_error
        self.rank = rank
        self.world = world
        self.skipped: list[str] = []
        if train:
            self.steps = steps or len(dataset) // (batch_size * world)
            self._pass = len(dataset) if steps else self.steps * batch_size * world
        else:
            self.steps = math.ceil(len(range(rank, len(dataset), world)) / batch_size)
            self._pass = len(dataset)

    def __len__(self) -> int:
        return self.steps

    def epoch(
        self, number: int = 0, batches: int | None = None, first: int = 0
    ) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches [N, ...] of an epoch; close it if you stop early.

        Args:
            number: The epoch, from 0.
            batches: How many of its batches; None: all.
            first: Batches to begin behind; they are not read.

        Raises:
            DataError: An item is broken and `on_error` is `fail`.
        """
        plan = self._plan(number)[first:batches]
        loader = paddle.io.DataLoader(
            _Readable(self.dataset, substitute=self.train and self.on_error == "skip"),
            batch_sampler=plan,
            collate_fn=_Collate(self.dataset),
            num_workers=min(self.num_workers, len(plan)),
            worker_init_fn=partial(_start_worker, os.getpid()),
        )
        handler = signal.getsignal(signal.SIGCHLD)
        if self.num_workers:
            _wait_for_threads()
        with held_back(*WORDS):  # they are for the process that trains, so its readers get none
            stream = iter(loader)
        if self.num_workers:
            # Paddle leaves a handler behind that corrupts memory when other children end, and it
            # asks after its own processes anyway while it waits for them
            signal.signal(signal.SIGCHLD, handler)
        try:
            for batch in stream:
                if _DEFECT in batch:
                    raise RuntimeError(f"while reading the data:\n{batch[_DEFECT]}")
                broken = batch.pop(_BROKEN, "")
                batch.pop(_NOTHING, None)
                self._note(broken.splitlines())
                if batch:
                    yield batch
                elif self.train:
                    raise DataError("data.root: not one item of the data set can be read")
        finally:
            _shut_down(stream)

    def some(self, samples: int, number: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield about so many samples of an epoch in batches [N, ...], for calibration."""
        batches = -(-samples // (self.batch_size * self.world))
        with contextlib.closing(self.epoch(number, batches)) as stream:
            yield from stream

    def share(self, part: float, mixed: bool = False) -> Loader:
        """Return a loader of a random share of evaluation data, the same one every time.

        Args:
            part: How much of it; 1 or more: all.
            mixed: In random order, so that the first few are like all of them.
        """
        if part >= 1 and not mixed:
            return self
        count = max(1, round(min(part, 1) * len(self.dataset)))
        chosen = np.random.default_rng(0).permutation(len(self.dataset))[:count].tolist()
        return Loader(
            _Part(self.dataset, chosen if mixed else sorted(chosen)),
            batch_size=self.batch_size,
            train=False,
            seed=self.seed,
            num_workers=self.num_workers,
            on_error=self.on_error,
            rank=self.rank,
            world=self.world,
        )

    def _note(self, broken: list[str]) -> None:
        for message in broken:
            if self.on_error == "fail":
                raise DataError(message)
            if message not in self.skipped:
                self.skipped.append(message)

    def _plan(self, number: int) -> list[list[tuple[int, list[int]]]]:
        """List, per batch, the item and the seed of its generator."""
        if not self.train:
            mine = range(self.rank, len(self.dataset), self.world)
            entries = [(index, [self.seed, index]) for index in mine]
        else:
            per_epoch = self.steps * self.batch_size * self.world
            first = number * per_epoch + self.rank
            positions = range(first, (number + 1) * per_epoch, self.world)
            orders = {
                turn: np.random.default_rng([self.seed, turn]).permutation(len(self.dataset))
                for turn in {p // self._pass for p in positions}
            }
            entries = [
                (int(orders[p // self._pass][p % self._pass]), [self.seed, p]) for p in positions
            ]
        size = self.batch_size
        return [entries[start : start + size] for start in range(0, len(entries), size)]


_BROKEN = "broken items"
_DEFECT = "defect"
_NOTHING = "nothing"  # Paddle takes a batch without any array for the end of the data


@dataclass(frozen=True)
class _Part:
    """Some items of a data set."""

    whole: Dataset
    items: list[int]

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        return self.whole.sample(self.items[index], rng)

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        return self.whole.collate(samples, rng)


def _shut_down(stream: Any) -> None:
    """End what reads ahead: dropped half-way, Paddle's iterator would leave its processes behind.

    One that does not end when it is told to is killed, or this process would wait for ever.
    """
    workers = getattr(stream, "_workers", ())
    if workers:
        stream._try_shutdown_all(WORKER_SECONDS)
    else:
        stream._try_shutdown_all()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def _wait_for_threads() -> None:
    """Wait until all other threads of this process sleep; on Linux, elsewhere this does nothing.

    A process that is forked while one of Paddle's threads allocates or frees memory, as those of an
    earlier loader still do for a while, inherits a lock that nobody opens any more.
    """
    deadline = time.monotonic() + THREAD_SECONDS
    while not all(_sleeps(task) for task in THREADS.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.002)


def _sleeps(thread: Path) -> bool:
    """Tell whether a thread, a folder of `THREADS`, is this one, or sleeps, or has ended."""
    if thread.name == str(threading.get_native_id()):
        return True
    with contextlib.suppress(OSError):  # gone
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
        return state == "S"
    return True


class _Readable(paddle.io.Dataset):
    """Adapter to the loader of Paddle, in which every exception travels as a value.

    One that left `__getitem__` or the collate function would stop Paddle's reading thread or
    process without a word, and training would wait for ever.
    """

    def __init__(self, dataset: Dataset, substitute: bool) -> None:
        self.dataset = dataset
        self.substitute = substitute

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, entry: tuple[int, list[int]]) -> _Item:
        index, seed = entry
        broken: list[str] = []
        for place in range(index, index + len(self.dataset)):
            try:
                sample = self.dataset.sample(place % len(self.dataset), np.random.default_rng(seed))
                return _Item(seed, sample, broken)
            except DataError as error:
                broken.append(" ".join(str(error).split()))
            except Exception:  # noqa: BLE001 - raised again where it can be seen
                return _Item(seed, None, broken, defect=traceback.format_exc())
            if not self.substitute:
                break
        return _Item(seed, None, broken)


@dataclass(frozen=True)
class _Item:
    seed: list[int]
    sample: Sample | None
    broken: list[str]  # messages of the DataErrors
    defect: str = ""  # traceback of anything else


class _Collate:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, items: list[_Item]) -> dict[str, Any]:
        samples = [item.sample for item in items if item.sample is not None]
        broken = [message for item in items for message in item.broken]
        defects = [item.defect for item in items if item.defect]
        batch: dict[str, Any] = {_NOTHING: np.zeros(1)}
        if samples and not defects:
            rng = np.random.default_rng([*items[0].seed, 1])
            try:
                batch = dict(self.dataset.collate(samples, rng))
            except Exception:  # noqa: BLE001 - raised again where it can be seen
                defects = [traceback.format_exc()]
        if broken:
            batch[_BROKEN] = "\n".join(broken)
        if defects:
            batch[_DEFECT] = defects[0]
        return batch


def _start_worker(parent: int, _worker: int) -> None:
    cv2.setNumThreads(0)
    # who ends a job signals all its processes, and the one that trains goes on to its next save
    for number in WORDS:
        if number != signal.SIGTERM or not _WAITS:  # SIGTERM is held back, and waited for
            signal.signal(number, signal.SIG_IGN)
    stands = threading.Event()

    def stand_still(*_: object) -> None:
        stands.set()
        while True:
            time.sleep(PARENT_SECONDS)

    if _WAITS:
        signal.signal(signal.SIGUSR1, stand_still)
    threading.Thread(target=_end_with, args=(parent, stands), daemon=True).start()
    # behind the queues' own, which hand over what has been read
    multiprocessing.util.Finalize(None, _clear_if_left, args=(parent,), exitpriority=-100)


def _end_with(parent: int, stands: threading.Event) -> None:
    """End this process with the one that trains, or when that one says so by a signal.

    Paddle's reader would wait for ever for a process that was killed.

    Args:
        parent: The process that trains.
        stands: Set once the thread that reads has come to rest, which SIGUSR1 tells it to.
    """
    while os.getppid() == parent:
        if not _WAITS:
            time.sleep(PARENT_SECONDS)
            continue
        asked = signal.sigtimedwait((signal.SIGTERM,), PARENT_SECONDS)
        if asked is not None and asked.si_pid == parent:
            break
    paddle.base.core._cleanup_mmap_fds()
    if _WAITS and os.getppid() != parent:  # or else it goes on reading batches that nobody fetches
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        stands.wait(THREAD_SECONDS)
        time.sleep(PARENT_SECONDS)  # for the thread that hands over what has been read
    _clear_shared_memory()
    os._exit(1)


def _clear_if_left(parent: int) -> None:
    """Clear shared memory where Paddle's reader has noticed first that its parent is gone."""
    if os.getppid() != parent:
        _clear_shared_memory()


def _clear_shared_memory() -> None:
    """Remove what this process has handed over and nobody has fetched; it would stay there."""
    while left := [*SHARED_MEMORY.glob(f"paddle_{os.getpid()}_*")]:
        for file in left:
            file.unlink(missing_ok=True)
