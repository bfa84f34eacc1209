"""Compare our loader with the library's own and with the bare cost of decoding the same files.

    python -m benchmarks.measure.loader                               # generated data, all tasks
    python -m benchmarks.measure.loader --task seg --data ../camvid   # data of your own

Writes docs/benchmarks/loader.json and docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks.comparison import Job, Meter
from benchmarks.measure.command import main


def measure(job: Job) -> dict[str, float]:
    """Go over the training data, starts of the workers included, and return what that costs."""
    batch_size = job.settings()["train"]["batch_size"]
    epochs = {"ours": _ours, "peer": _peer, "decode": _decode}[job.side](job)
    images = 0
    meter = Meter(job, batch_size)
    meter.start()
    for batches in epochs:
        for _ in batches:
            images += 1 if job.side == "decode" else batch_size
    meter.stop(images)
    return meter.result


def _ours(job: Job) -> Iterator[Iterable[Any]]:
    from core.training.loader import Loader
    from core.training.run import read_run

    run = read_run(job.settings())
    loader = Loader(
        run.task.build_dataset("train"),
        batch_size=run.train.batch_size,
        train=True,
        num_workers=job.workers,
    )
    return (loader.epoch(number) for number in range(job.passes))


def _peer(job: Job) -> Iterator[Iterable[Any]]:
    from benchmarks.peers.training_loops import build_peer

    peer = build_peer(job)
    return (peer.batches() for _ in range(job.passes))


def _decode(job: Job) -> Iterator[Iterable[Any]]:
    from core.training.run import read_run

    cv2.setNumThreads(0)
    data: Any = read_run(job.settings()).task.build_dataset("train")
    files: list[tuple[str, ...]]
    if job.task == "cls":
        files = [(path,) for path in data.items.paths]
    elif job.task == "seg":
        files = [(str(image), str(label)) for image, label in data.pairs]
    else:
        folder = job.settings()["data"]["train_images"]
        files = [(f"{job.root}/{folder}/{name}",) for name in data.persons.files]
    return (map(_decode_files, files) for _ in range(job.passes))


def _decode_files(paths: tuple[str, ...]) -> list[object]:
    """Decode the picture, and its label map where there is one."""
    return [
        cv2.imdecode(
            np.fromfile(path, np.uint8),
            cv2.IMREAD_UNCHANGED if path.endswith(".png") else cv2.IMREAD_COLOR,
        )
        for path in paths
    ]


if __name__ == "__main__":
    main(__file__, __doc__, "loader", ("ours", "peer", "decode"), measure)
