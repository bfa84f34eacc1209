"""The libraries' own data sets, loaders and training loops, driven by a config of ours.

- cls: the network is PaddleClas', but its wheel holds neither data sets nor a training loop, so
  the peer is Paddle's own: `paddle.Model.fit` on `paddle.vision` data sets and transforms.
- seg: PaddleSeg 2.7, `paddleseg.core.train`, with a cast in its loss that Paddle 3 wants.
- keypoint: PaddleDetection 2.6, its `Trainer`. The wheel is installed apart, without what it
  depends on: its loop for keypoints needs none of that which the project has not.

Only processes that measure a peer import this module's libraries.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import paddle
import yaml

from benchmarks.comparison import Job, Meter
from core.training.run import read_run

PADDLEDET = "paddledet==2.6.0"
NAMES = {
    "cls": "paddle.Model.fit, paddle.vision",
    "seg": "PaddleSeg 2.7",
    "keypoint": "PaddleDetection 2.6",
}


class Peer(Protocol):
    """A library at work on the data of a job."""

    def batches(self) -> Iterable[Any]:
        """Return the batches of one epoch, as the library's own training gets them."""
        ...

    def train(self, meter: Meter) -> None:
        """Train until the meter has had enough."""
        ...


def build_peer(job: Job) -> Peer:
    """Open the data of a job in the library that the task is compared with."""
    peers: dict[str, type[PaddleVision | PaddleSeg | PaddleDetection]] = {
        "cls": PaddleVision,
        "seg": PaddleSeg,
        "keypoint": PaddleDetection,
    }
    return peers[job.task](job)


def install_paddledet(work_dir: Path) -> None:
    """Install PaddleDetection into a folder of its own, unless it is there."""
    target = work_dir / "paddledet"
    if not (target / "ppdet").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(target), PADDLEDET], check=True)


class PaddleVision:
    """Paddle's high-level loop; pictures are read by OpenCV, as ours are."""

    def __init__(self, job: Job) -> None:
        from paddle.vision import datasets, set_image_backend, transforms

        set_image_backend("cv2")
        self._settings, self._workers = job.settings(), job.workers
        data = read_run(self._settings).task.build_dataset("train")
        items = data.items  # type: ignore[attr-defined]
        side = self._settings["data"]["image_size"]
        steps = [
            transforms.RandomResizedCrop(side),
            transforms.RandomHorizontalFlip(),
            transforms.Transpose(),
            transforms.Normalize([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ]
        self._data = datasets.DatasetFolder(
            os.path.commonpath([os.path.dirname(path) for path in items.paths]),
            transform=transforms.Compose(steps),
        )
        # a folder may hold more than the list of the training split
        self._data.samples = list(zip(items.paths, items.labels.tolist()))

    def batches(self) -> Iterable[Any]:
        return paddle.io.DataLoader(
            self._data,
            batch_size=self._settings["train"]["batch_size"],
            shuffle=True,
            drop_last=True,
            num_workers=self._workers,
        )

    def train(self, meter: Meter) -> None:
        class Step(paddle.callbacks.Callback):
            def on_train_batch_end(self, step: int, logs: Any = None) -> None:
                meter.step()

        train = self._settings["train"]
        network = read_run(self._settings).task.build_model()
        optimizer = paddle.optimizer.Momentum(
            train["learning_rate"], 0.9, network.parameters(), weight_decay=1e-4
        )
        model = paddle.Model(network)
        model.prepare(optimizer, paddle.nn.CrossEntropyLoss())
        model.fit(
            self._data,
            batch_size=train["batch_size"],
            epochs=train["epochs"],
            drop_last=True,
            num_workers=self._workers,
            callbacks=[Step()],
        )


class PaddleSeg:
    """`paddleseg.core.train` on `paddleseg.datasets.Dataset`."""

    def __init__(self, job: Job) -> None:
        from paddleseg import transforms
        from paddleseg.datasets import Dataset

        self._settings, self._workers = job.settings(), job.workers
        augment, root = self._settings["augment"], job.root
        steps = [
            transforms.ResizeStepScaling(
                augment["scale_min"], augment["scale_max"], augment["scale_step"]
            ),
            transforms.RandomPaddingCrop(augment["crop"]),
            transforms.RandomHorizontalFlip(augment["flip"]),
            transforms.RandomDistort(hue_range=augment["hue"]),  # the others as ours: 0.5
            transforms.Normalize(),
        ]
        self._classes = self._settings["model"]["num_classes"]
        lists = {"train_path": os.path.join(root, "train.txt")}
        self._data = Dataset("train", root, steps, self._classes, **lists)

    def batches(self) -> Iterable[Any]:
        from paddleseg.utils import worker_init_fn

        sampler = paddle.io.DistributedBatchSampler(
            self._data, self._settings["train"]["batch_size"], shuffle=True, drop_last=True
        )
        return paddle.io.DataLoader(
            self._data,
            batch_sampler=sampler,
            num_workers=self._workers,
            return_list=True,
            worker_init_fn=worker_init_fn,
        )

    def train(self, meter: Meter) -> None:
        from paddleseg import core, models

        train = self._settings["train"]
        network = models.BiSeNetV2(num_classes=self._classes)
        schedule = paddle.optimizer.lr.PolynomialDecay(train["learning_rate"], 1000, 0.0, 0.9)
        optimizer = paddle.optimizer.Momentum(
            schedule, 0.9, network.parameters(), weight_decay=5e-4
        )

        class CrossEntropyLoss(models.CrossEntropyLoss):
            """Says in words the cast of the labels that Paddle 2 did unasked, 3 refuses."""

            def _post_process_loss(self, logit: Any, label: Any, *rest: Any) -> Any:
                return super()._post_process_loss(logit, label.astype("float32"), *rest)

        _count_steps(optimizer, meter)
        core.train(
            network,
            self._data,
            optimizer=optimizer,
            iters=100000,
            batch_size=train["batch_size"],
            save_interval=100000,
            log_iters=100000,  # its log line fails on this Paddle: `loss[0]` of a 0-D tensor
            num_workers=self._workers,
            losses={"types": [CrossEntropyLoss() for _ in range(5)], "coef": [1] * 5},
        )


class PaddleDetection:
    """`ppdet.engine.Trainer`, with the settings of its Lite-HRNet-18 for COCO."""

    def __init__(self, job: Job) -> None:
        sys.path.append(os.path.join(job.work_dir, "paddledet"))
        from ppdet.core.workspace import load_config
        from ppdet.engine import Trainer

        config = Path("config.yml")
        config.write_text(yaml.safe_dump(_detection_config(job)), encoding="utf-8")
        self._trainer = Trainer(load_config(str(config)), mode="train")
        self._workers = job.workers

    def batches(self) -> Iterable[Any]:
        from ppdet.core.workspace import create

        reader = create("TrainReader")(self._trainer.dataset, self._workers)
        return iter(reader.loader)

    def train(self, meter: Meter) -> None:
        _count_steps(self._trainer.optimizer, meter)
        self._trainer.train()


def _count_steps(optimizer: Any, meter: Meter) -> None:
    original = optimizer.step

    def step() -> None:
        original()
        meter.step()

    optimizer.step = step


_LEFT_RIGHT = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
_IN_BATCHES = [
    {
        "NormalizeImage": {
            **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}
        }
    },
    {"Permute": {}},
]


def _detection_config(job: Job) -> dict[str, Any]:
    settings = job.settings()
    data, train = settings["data"], settings["train"]
    height, width = data["input_size"]
    size, joints = [width, height], settings["model"]["num_joints"]
    return {
        **{"architecture": "TopDownHRNet", "metric": "KeyPointTopDownCOCOEval"},
        **{"use_gpu": False, "log_iter": 10, "save_dir": "output", "num_classes": 1},
        **{"epoch": train["epochs"], "snapshot_epoch": 1000, "worker_num": job.workers},
        "TopDownHRNet": {
            **{"backbone": "LiteHRNet", "loss": "KeyPointMSELoss", "width": 40},
            **{"num_joints": joints, "flip_perm": _LEFT_RIGHT},
        },
        "LiteHRNet": {
            **{"network_type": "lite_18", "freeze_at": -1, "freeze_norm": False},
            "return_idx": [0],
        },
        "KeyPointMSELoss": {"use_target_weight": True, "loss_scale": 0.5},
        "LearningRate": {
            "base_lr": train["learning_rate"],
            "schedulers": [
                {"name": "PiecewiseDecay", "milestones": [800], "gamma": 0.1},
                {"name": "LinearWarmup", "start_factor": 0.001, "steps": 500},
            ],
        },
        "OptimizerBuilder": {"optimizer": {"type": "Adam"}, "regularizer": "None"},
        "TrainDataset": {
            "name": "KeypointTopDownCocoDataset",
            **{"dataset_dir": job.root, "image_dir": data["train_images"]},
            **{"anno_path": data["train_annotations"], "num_joints": joints, "trainsize": size},
        },
        "TrainReader": {
            "sample_transforms": _detection_transforms(settings),
            "batch_transforms": _IN_BATCHES,
            **{"batch_size": train["batch_size"], "shuffle": True, "drop_last": True},
            "use_shared_memory": True,  # faster than its default, and what the others do
        },
        "TestReader": {"sample_transforms": _IN_BATCHES},
    }


def _detection_transforms(settings: dict[str, Any]) -> list[dict[str, Any]]:
    augment = settings["augment"]
    height, width = settings["data"]["input_size"]
    change = {
        **{"trainsize": [width, height], "pixel_std": 200, "flip_pairs": _LEFT_RIGHT},
        **{"upper_body_ids": list(range(11)), "scale": augment["scale"], "rot": 30},
        "num_joints_half_body": augment["half_body_joints"],
        "prob_half_body": augment["half_body"],
    }
    return [
        {"RandomFlipHalfBodyTransform": change},
        {"TopDownAffine": {"trainsize": [width, height]}},
        {"ToHeatmapsTopDown": {"hmsize": [width // 4, height // 4], "sigma": 2}},
    ]
