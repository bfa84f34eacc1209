"""What training.py and loader.py share: data, settings, measuring in processes, the page.

Every measurement runs in a process of its own, so that no library leaves anything behind in
another's. The machine may be shared: the headline is processor time, of the process and of all
that it started, and the sides take turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

TASKS = ("cls", "seg", "keypoint")
DOCS = Path(__file__).resolve().parent.parent / "docs"
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PAUSE_SECONDS = 180  # a longer silence in the log is an interruption, not training
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
WIDTH, HEIGHT, CLASSES, IGNORED, FOLDERS = 640, 480, 11, 255, 5  # of the drawn pictures
QUALITY = 90  # of their JPEG files, which then have about the size of those of COCO


class Finished(Exception):  # noqa: N818 - no error: it ends a loop that has no other end
    """The meter has seen enough."""


@dataclass(frozen=True)
class Job:
    """One measurement, as it travels to its process."""

    task: str
    side: str
    root: str
    work_dir: str
    workers: int
    warmup: int = 3  # steps
    steps: int = 15
    passes: int = 2  # of the loader over the data

    def settings(self) -> dict[str, Any]:
        """Return the config of the task; the peers take their numbers from it, too."""
        task = {"cls": _classification, "seg": _segmentation, "keypoint": _keypoints}[self.task]
        settings = task(self.root)
        settings["data"]["num_workers"] = self.workers
        settings["train"] |= {"epochs": 1000, "eval_every": 1000}  # the meter ends it long before
        return {"task": {"name": self.task}, "device": "cpu", **settings}


def _classification(root: str) -> dict[str, Any]:
    return {
        "model": {"name": "MobileNetV3_small_x1_0", "num_classes": FOLDERS},
        "data": {"root": root, "val_list": "train_list.txt", "image_size": 224},
        "train": {
            "batch_size": 16,
            "learning_rate": 0.01,
            "optimizer": {"kind": "momentum", "momentum": 0.9, "weight_decay": 1e-4},
        },
    }


def _segmentation(root: str) -> dict[str, Any]:
    return {
        "model": {"name": "BiSeNetV2", "num_classes": CLASSES},
        "data": {"root": root, "val_list": "train.txt"},
        "augment": {
            **{"scale_min": 0.5, "scale_max": 2.0, "scale_step": 0.25, "crop": [256, 256]},
            **{"flip": 0.5, "distort": 0.5, "hue": 18.0},
        },
        "train": {
            "batch_size": 4,
            "learning_rate": 0.01,
            "optimizer": {"kind": "momentum", "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"kind": "poly", "power": 0.9},
        },
    }


def _keypoints(root: str) -> dict[str, Any]:
    annotations, images = "annotations/person_keypoints_train.json", "images/train"
    return {
        "model": {"name": "lite_hrnet_18", "num_joints": 17},
        "data": {
            **{"root": root, "train_annotations": annotations, "val_annotations": annotations},
            **{"train_images": images, "val_images": images, "input_size": [256, 192]},
        },
        "codec": {"udp": False, "target": "rounded", "sigma": 2.0, "decoding": "quarter"},
        "augment": {"half_body": 0.3, "half_body_joints": 8, "scale": 0.25, "rotation": 30},
        "train": {
            "batch_size": 8,
            "learning_rate": 0.002,
            "optimizer": {"kind": "adamw", "weight_decay": 0.0},
        },
    }


def draw_pictures(root: Path, count: int) -> None:
    """Draw one set of pictures that all three tasks can read, unless it is there."""
    if (root / "train.txt").is_file():
        return
    rng = np.random.default_rng(0)
    listed, pairs, images, people = [], [], [], []
    for index in range(count):
        name, folder = f"{index:04d}", str(index % FOLDERS)
        picture, label = _draw(rng)
        for path, array in (
            (root / f"images/train/{folder}/{name}.jpg", picture),
            (root / f"labels/train/{name}.png", label),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), array, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        listed.append(f"images/train/{folder}/{name}.jpg {folder}")
        pairs.append(f"images/train/{folder}/{name}.jpg labels/train/{name}.png")
        file = f"{folder}/{name}.jpg"
        images.append({"id": index, "file_name": file, "width": WIDTH, "height": HEIGHT})
        people.append(_person(index, rng))
    (root / "annotations").mkdir(exist_ok=True)
    categories = [{"id": 1, "name": "person"}]
    content = {"images": images, "annotations": people, "categories": categories}
    path = root / "annotations/person_keypoints_train.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    (root / "train_list.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
    (root / "train.txt").write_text("\n".join(pairs) + "\n", encoding="utf-8")


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw clouds, polygons and grain, and the label map of the polygons."""
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(25):
        centre, extent = rng.integers(0, [WIDTH, HEIGHT]), rng.integers(20, 160)
        corners = (centre + rng.integers(-extent, extent, (6, 2))).astype(np.int32)
        cv2.fillPoly(picture, [corners], rng.integers(0, 256, 3).tolist(), cv2.LINE_AA)
        cv2.fillPoly(label, [corners], int(rng.choice([*range(CLASSES), IGNORED])))
    grain = rng.normal(0, 9, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8), label


def _person(index: int, rng: np.random.Generator) -> dict[str, Any]:
    width, height = rng.integers(80, 300), rng.integers(150, 440)
    x, y = rng.integers(0, WIDTH - width), rng.integers(0, HEIGHT - height)
    points = rng.integers([x, y], [x + width, y + height], (17, 2))
    return {
        **{"id": index, "image_id": index, "category_id": 1, "iscrowd": 0, "num_keypoints": 17},
        "bbox": [int(value) for value in (x, y, width, height)],
        "area": float(width * height),
        "keypoints": [int(value) for point in points for value in (*point, 2)],
    }


class Meter:
    """Counts steps; measures those after the warm-up, then raises `Finished`."""

    def __init__(self, job: Job, batch_size: int) -> None:
        self._job, self._images = job, batch_size * job.steps
        self._count = 0
        self.result: dict[str, float] = {}

    def step(self) -> None:
        """Say that a step of training has ended.

        Raises:
            Finished: That was the last.
        """
        self._count += 1
        if self._count == self._job.warmup:
            self.start()
        elif self._count == self._job.warmup + self._job.steps:
            self.stop(self._images)
            raise Finished

    def start(self) -> None:
        """Take the time of the beginning."""
        self._cpu, self._wall = cpu_seconds(), time.monotonic()

    def stop(self, images: int) -> None:
        """Take the time of the end and the largest memory so far."""
        cpu, wall = cpu_seconds() - self._cpu, time.monotonic() - self._wall
        self.result = {
            "cpu_ms": 1000 * cpu / images,  # per image
            "images_per_second": images / wall,
            "peak_mb": peak_memory_mb(),
        }


def cpu_seconds() -> float:
    """Return the processor time of this process and of all that it started."""
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return float(total)


def peak_memory_mb() -> float:
    """Return the most memory that this process, without its workers, has held (Linux)."""
    # not getrusage: there a process starts with the peak of the one that started it
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def run_child(script: str, job: Job) -> dict[str, float]:
    """Measure a job in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, script, "--job", json.dumps(dataclasses.asdict(job))]
        done = subprocess.run(
            [*command, "--result", str(result)],
            env={**os.environ, **THREADS, "PYTHONPATH": str(DOCS.parent)},
            cwd=folder,  # the peers write logs and checkpoints where they stand
            capture_output=True,
            text=True,
        )
        if not result.is_file():
            raise RuntimeError(f"{job.side} of {job.task} failed:\n{done.stderr[-3000:]}")
        measured: dict[str, float] = json.loads(result.read_text())
        return measured


def take_turns(script: str, jobs: list[Job], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Measure all jobs, then all again, so that a slow hour of the machine hits every side."""
    found: dict[str, list[dict[str, float]]] = {job.side: [] for job in jobs}
    for turn in range(repeats):
        for job in jobs:
            found[job.side].append(run_child(script, job))
            figures = ", ".join(f"{k} {v:.1f}" for k, v in found[job.side][-1].items())
            print(f"{job.task} {job.side} {turn + 1}/{repeats}: {figures}", flush=True)
    return found


def median(measured: list[dict[str, float]], key: str) -> float:
    """Return the median over the repeats."""
    return statistics.median(entry[key] for entry in measured)


def ratio(above: list[dict[str, float]], below: list[dict[str, float]], key: str = "cpu_ms") -> str:
    """Return the median of the ratios of time, turn by turn, with the smallest and the largest."""
    values = [a[key] / b[key] for a, b in zip(above, below)]
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def record(
    name: str,
    entries: dict[str, Any],
    page: Callable[[], Iterator[str]],
    document: str = "benchmarks.md",
) -> None:
    """Merge entries into docs/benchmarks/<name>.json and write the page in docs anew."""
    path = DOCS / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(load(name) | entries, indent=1) + "\n", encoding="utf-8")
    write_page(document, page)


def write_page(document: str, page: Callable[[], Iterator[str]]) -> None:
    """Write a page of docs anew, of what its JSON files hold."""
    (DOCS / document).write_text("\n".join(page()) + "\n", encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """Return what docs/benchmarks/<name>.json holds, nothing if it is not there."""
    path = DOCS / "benchmarks" / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def training_seconds(log: Path) -> float:
    """Add up the time between the lines of a log, without interruptions."""
    found = (STAMP.match(line) for line in log.read_text(encoding="utf-8").splitlines())
    stamps = [datetime.datetime.fromisoformat(match[1]) for match in found if match]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(stamps)]
    return sum(gap for gap in gaps if 0 <= gap <= PAUSE_SECONDS)


def command(log: Path) -> str:
    """Return how the run was started, with folders of this machine cut to their names."""
    lines = log.read_text(encoding="utf-8").splitlines()
    called = [line.partition("command: ")[2] for line in lines if "command: " in line]
    # the last one: it went on from the others, or began anew
    words = [word for word in shlex.split(called[-1]) if word != "--resume"] if called else []
    return shlex.join(word if "/" not in word else shortened(word) for word in words)


def shortened(word: str) -> str:
    key, equals, value = word.rpartition("=")
    path = Path(value)
    kept = value if not value.startswith(("/", "..")) else path.name
    if path.parent.name == "tools":  # those of the project, from wherever they were started
        kept = f"tools/{path.name}"
    return f"{key}{equals}{kept}"
