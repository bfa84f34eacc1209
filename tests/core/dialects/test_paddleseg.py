"""Training files of PaddleSeg in our own words, with the flags of its tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from core.dialects.files import translated
from core.dialects.foreign import Settings, Translation
from core.errors import ConfigError
from core.training.run import read_run
from core.training.schedules import learning_rate

FILES = Path(__file__).parent / "files"
FILE = (FILES / "paddleseg.yml").read_text(encoding="utf-8")
LISTS = (
    "train_dataset={type: Dataset, dataset_root: d, train_path: d/lists/a.txt, num_classes: 3, "
    "separator: ';', mode: train, transforms: [{type: Normalize, mean: [0.4], std: [0.2]}, "
    "{type: ResizeStepScaling, min_scale_factor: 0.5, max_scale_factor: 2.0}, "
    "{type: RandomPaddingCrop, crop_size: [64, 32]}, {type: RandomDistort, hue_range: 10}]}",
    "val_dataset={type: Dataset, dataset_root: d, val_path: d/b.txt, num_classes: 3, "
    "transforms: [{type: Resize, target_size: [64, 32]}, {type: Normalize, mean: [0.4], "
    "std: [0.2]}]}",
)
OPS = "train_dataset.transforms"


def read(*overrides: str, without: tuple[str, ...] = ()) -> Translation:
    content = {key: value for key, value in yaml.safe_load(FILE).items() if key not in without}
    found, left = translated(content, overrides)
    assert found is not None
    assert not left
    return found


def test_the_file_of_the_guide_with_its_flags() -> None:
    found = read(
        "flags.model_path=output_fp32/best_model/model.pdparams",
        "flags.learning_rate=0.001",
        "flags.do_eval=true",
        "flags.save_interval=250",
    )
    assert found.settings == {
        "task": {"name": "seg"},
        "seed": 0,
        "model": {
            "name": "BiSeNetV2",
            "num_classes": 2,
            "pretrained": "output_fp32/best_model/model.pdparams",
        },
        "data": {
            "root": "data/optic_disc_seg",
            "train_list": "train_list.txt",
            "val_list": "val_list.txt",
            "download": "https://paddleseg.bj.bcebos.com/dataset/optic_disc_seg.zip",
            "classes": ["background", "optic disc"],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "size": None,
            "num_workers": 0,
        },
        "augment": {"flip": 0.5, "resize": [512, 256]},
        "loss": {"function": {"kind": "cross_entropy"}, "coef": [1.0] * 5},
        "evaluation": {},
        "train": {
            "epochs": 4,
            "steps_per_epoch": 250,
            "batch_size": 4,
            "eval_batch_size": 1,
            "eval_every": 1,
            "optimizer": {
                "kind": "momentum",
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 4e-5,
            },
            "learning_rate": 0.001,
            "schedule": {"kind": "poly", "power": 0.9, "end_factor": 0.0},
        },
    }
    assert found.unused == ("to_static_training",)
    assert found.recipe == {}
    assert read_run(found.settings).train.steps_per_epoch == 250


def test_cityscapes_as_most_of_its_files_have_it() -> None:
    found = read("train_dataset.type=Cityscapes", "val_dataset.type=Cityscapes").settings
    assert found["model"]["num_classes"] == 19
    lists = found["data"]["train_list"], found["data"]["val_list"]
    assert lists == ("train.list", "val.list")  # as tasks/seg/README.md makes them
    assert "download" not in found["data"]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("{type: SGD}", {"kind": "sgd", "weight_decay": 0.0}),
        ("{type: sgd}", {"kind": "momentum", "momentum": 0.9}),
        ("{type: SGD, momentum: 0.8}", {"kind": "momentum", "momentum": 0.8}),
        ("{type: Momentum, use_nesterov: true}", {"kind": "momentum", "nesterov": True}),
        ("{type: AdamW}", {"kind": "adamw", "weight_decay": 0.01}),
        ("{type: Adam, beta1: 0.8}", {"kind": "adamw", "weight_decay": 0.0, "beta1": 0.8}),
    ],
)
def test_optimizers_with_the_defaults_of_paddleseg(optimizer: str, expected: Settings) -> None:
    train = read(f"optimizer={optimizer}", without=("optimizer",)).settings["train"]
    assert {key: train["optimizer"][key] for key in expected} == expected


def test_the_lists_of_a_mode() -> None:
    lists = ("dataset_root=d", "train_path=d/a.txt", "val_path=d/b.txt", "test_path=d/c.txt")
    both = [f"{part}_dataset.{each}" for part in ("train", "val") for each in lists]
    both += [f"{part}_dataset.{each}" for part in ("train", "val") for each in KIND]
    found = read(*both, "val_dataset.mode=test", "model.num_classes=2").settings["data"]
    assert (found["train_list"], found["val_list"]) == ("a.txt", "c.txt")
    found = read("val_dataset.mode=test").settings["data"]
    assert (found["train_list"], found["val_list"]) == ("train_list.txt", "test_list.txt")
    cities = ("train_dataset.type=Cityscapes", "val_dataset.type=Cityscapes")
    with pytest.raises(ConfigError, match=r"^val_dataset\.mode: Cityscapes has no labels for test"):
        read(*cities, "val_dataset.mode=test")


KIND = ("type=Dataset", "num_classes=2")


def test_a_number_of_iterations_without_divisors() -> None:
    train = read("iters=1009", "flags.save_interval=250").settings["train"]
    assert (train["epochs"], train["steps_per_epoch"], train["eval_every"]) == (1009, 1, 250)


@pytest.mark.parametrize("warmup", [0, 30])
def test_steps_of_the_rate_are_counted_after_the_warm_up(warmup: int) -> None:
    """As in PaddleSeg: `LinearWarmup` around `PiecewiseDecay`."""
    text = "type: PiecewiseDecay, learning_rate: 0.1, values: [0.1, 0.05, 0.002]"
    text += f", boundaries: [40, 70], warmup_iters: {warmup}, warmup_start_lr: 0.01"
    found = read("iters=200", f"lr_scheduler={{{text}}}", without=("lr_scheduler",))
    train = read_run(found.settings).train
    lr = paddle.optimizer.lr
    theirs = lr.PiecewiseDecay([40, 70], [0.1, 0.05, 0.002])
    theirs = lr.LinearWarmup(theirs, warmup, 0.01, 0.1) if warmup else theirs
    steps = train.steps_per_epoch
    assert steps is not None
    for step in range(200):
        ours = learning_rate(train.learning_rate, train.schedule, step, 200, steps)
        assert ours == pytest.approx(theirs()), step
        theirs.step()


def test_lists_and_other_settings() -> None:
    found = read(
        *LISTS,
        "model.num_classes=3",
        "model.align_corners=true",
        "lr_scheduler={type: CosineAnnealingDecay, learning_rate: 0.1, eta_min: 0.01, "
        "warmup_iters: 50, warmup_start_lr: 0.001}",
        "optimizer={type: AdamW, weight_decay: 0.01}",
        "loss.types=[{type: MixedLoss, losses: [{type: OhemCrossEntropyLoss, min_kept: 5}, "
        "{type: DiceLoss}], coef: [0.8, 0.2]}]",
        "test_config={is_slide: true, crop_size: [32, 32], stride: [16, 16], aug_eval: true, "
        "scales: [0.5, 1.0], flip_horizontal: true}",
        without=("optimizer", "lr_scheduler"),
    ).settings
    assert found["data"] == {
        "root": "d",
        "train_list": "lists/a.txt",
        "val_list": "b.txt",
        "separator": ";",
        "ignore_index": 255,
        "mean": [0.4] * 3,
        "std": [0.2] * 3,
        "size": [64, 32],
        "num_workers": 0,
    }
    assert found["augment"] == {
        "flip": 0.0,
        "scale_min": 0.5,
        "scale_max": 2.0,
        "scale_step": 0.25,
        "crop": [64, 32],
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 10.0,
        "distort": 0.5,
    }
    assert found["model"]["arguments"] == {"align_corners": True}
    train = found["train"]
    assert (train["epochs"], train["steps_per_epoch"]) == (1, 1000)
    assert train["schedule"] == {
        "kind": "cosine",
        "end_factor": pytest.approx(0.1),
        "warmup_epochs": 0.05,
        "warmup_start": pytest.approx(0.01),
    }
    assert found["loss"]["function"]["losses"][0] == {
        "kind": "ohem",
        "threshold": 0.7,
        "min_kept": 5,
    }
    assert found["evaluation"] == {
        "sliding_window": {"crop": [32, 32], "stride": [16, 16]},
        "scales": [0.5, 1.0],
        "flip": True,
    }
    read_run({**found, "loss": {**found["loss"], "coef": [1.0]}})


@pytest.mark.parametrize(
    ("iters", "interval", "expected"),
    [(1000, 250, (4, 250)), (1000, 300, (4, 250)), (7, 3, (7, 1)), (10, 100, (1, 10))],
)
def test_iterations_become_epochs(iters: int, interval: int, expected: tuple[int, int]) -> None:
    train = read(f"iters={iters}", f"flags.save_interval={interval}").settings["train"]
    assert (train["epochs"], train["steps_per_epoch"]) == expected
    assert (
        read("flags.do_eval=false", "flags.save_interval=250").settings["train"]["eval_every"] == 4
    )


def test_the_older_learning_rate_and_a_backbone() -> None:
    content: Any = yaml.safe_load(FILE)
    del content["lr_scheduler"]
    content["learning_rate"] = {"value": 0.02, "decay": {"type": "poly", "power": 0.8}}
    content["model"] = {
        "type": "DeepLabV3",
        "num_classes": 2,
        "backbone": {"type": "ResNet50_vd", "output_stride": 8, "pretrained": "http://x/b.tar"},
    }
    content["loss"]["coef"] = [1]
    found, _ = translated(content)
    assert found is not None
    assert found.settings["train"]["learning_rate"] == 0.02
    assert found.settings["train"]["schedule"] == {"kind": "poly", "power": 0.8, "end_factor": 0.0}
    assert found.settings["model"] == {
        "name": "DeepLabV3",
        "num_classes": 2,
        "backbone": {"name": "ResNet50_vd", "arguments": {"output_stride": 8}},
        "pretrained": "http://x/b.tar",
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iters=null", "iters: required, but not given"),
        ("iters=x", "iters: expected int, got str"),
        ("iters=0", "iters: expected 1 or more"),
        ("batchsize=3", "batchsize"),
        ("flags.learning_rat=1", "--learning_rat: unknown key"),
        ("train_dataset.type=ADE20K", "train_dataset.type: expected Dataset with lists"),
        ("train_dataset.type=Dataset", "train_dataset.train_path: required"),
        ("val_dataset.dataset_root=x", "val_dataset.dataset_root: expected data/optic_disc_seg"),
        ("val_dataset.mode=valid", "val_dataset.mode: expected one of train, val"),
        (f"{OPS}.0.type=Rotate", f"{OPS}.0.type: 'Rotate' does not exist for training"),
        (f"{OPS}.0.keep_ratio=true", f"{OPS}.0.keep_ratio: pictures are resized to the very size"),
        (f"{OPS}.0.size=3", f"{OPS}.0.size: unknown key"),
        (f"{OPS}.2.mean=[1, 2]", f"{OPS}.2.mean: expected 1 or 3 values"),
        (f"{OPS}.2.mean=[0.1]", "val_dataset.transforms: Normalize with"),
        (f"{OPS}=[]", f"{OPS}: Normalize: required"),
        (f"{OPS}.1=" + "{type: RandomPaddingCrop, label_padding_value: 0}", f"{OPS}.1.label_padd"),
        (
            f"{OPS}=[{{type: Normalize}}, {{type: RandomPaddingCrop}}, {{type: Resize}}]",
            f"{OPS}: expected Resize, then ResizeStepScaling, then",
        ),
        (
            f"{OPS}.1=" + "{type: RandomDistort, hue_prob: 0.1}",
            f"{OPS}.1.brightness_prob: expected one probability",
        ),
        ("val_dataset.transforms.0.type=Flip", "val_dataset.transforms.0.type: 'Flip' does not"),
        ("optimizer.type=RMSProp", "optimizer.type: expected SGD, Momentum, Adam or AdamW"),
        ("optimizer.backbone_lr_mult=10", "optimizer.backbone_lr_mult: all weights have one"),
        ("optimizer.type=adam", "optimizer.weight_decay: expected 0 with adam"),
        ("lr_scheduler.decay_steps=500", "lr_scheduler.decay_steps: expected 1000, the rate falls"),
        ("lr_scheduler.type=OneCycle", "lr_scheduler.type: expected PolynomialDecay"),
        ("learning_rate={value: 1}", "learning_rate: lr_scheduler says the same"),
        ("loss.types=[]", "loss.types: expected one, or one for each of 5 coef, got 0"),
        ("loss.types.0.type=FocalLoss", "loss.types.0.type: expected CrossEntropyLoss"),
        ("loss.types.0.ignore_index=0", "loss.types.0.ignore_index: data.ignore_index is one"),
        ("model.num_classes=5", "model.num_classes: expected 2, as of the data, got 5"),
        ("model.type=null", "model.type: required"),
        # a data set that is unknown here is told before how it is divided
        ("train_dataset={type: PascalVOC, mode: trainaug}", "train_dataset.type: expected"),
        ("flags.learning_rate=0", "--learning_rate: expected > 0"),
        ("global={device: tpu}", "global.device: expected one of cpu, gpu"),
        ("train={precision: fp8}", "train.precision: expected one of fp32, fp16"),
        ("test_config.flip_vertical=true", "test_config.flip_vertical"),
    ],
)
def test_refused_with_the_path_in_the_file(override: str, message: str) -> None:
    content = yaml.safe_load(FILE)
    if override.startswith("batchsize"):
        content["batchsize"], override = 3, "iters=10"
    with pytest.raises(ConfigError) as caught:
        translated(content, [override])
    assert str(caught.value).startswith(message)


def test_the_sections_of_newer_files() -> None:
    """They come out of a file that PaddleSeg's configs are based on; flags go before them."""
    newer = (
        "global={data_format: NCHW, device: gpu, num_workers: 3}",
        "train={save_dir: ./output, do_eval: false, resume_model: null, save_interval: 500, "
        "log_iters: 10, keep_checkpoint_max: 5, seed: null, precision: fp32, amp_level: O1}",
        "test={aug_eval: false, scales: 1.0, flip_horizontal: false, flip_vertical: false, "
        "is_slide: false, crop_size: null, stride: null, auc_roc: false}",
    )
    found = read(*newer)
    train = found.settings["train"]
    assert (train["epochs"], train["steps_per_epoch"], train["eval_every"]) == (2, 500, 2)
    assert found.settings["data"]["num_workers"] == 3
    assert "device" not in found.settings  # as in PaddleSeg, a CPU where there is no GPU
    assert found.save_dir is None
    assert {"train.log_iters", "test.auc_roc"} <= set(found.unused)
    flags = ("flags.do_eval=true", "flags.save_interval=250", "flags.device=cpu")
    changed = read(*newer, *flags, "train.precision=fp16", "train.save_dir=elsewhere")
    train = changed.settings["train"]
    assert (train["steps_per_epoch"], train["eval_every"], train["amp"]) == (250, 1, "float16")
    assert (changed.settings["device"], changed.save_dir) == ("cpu", "elsewhere")
    for override, message in (
        ("global.data_format=NHWC", "global.data_format: maps are"),
        ("train.resume_model=x", "train.resume_model: to go on with a run"),
        ("train.save_intervall=3", "train.save_intervall: unknown key"),
        ("test_config={aug_eval: true}", "test_config: test says the same"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(*newer, override)
        assert str(caught.value).startswith(message)
