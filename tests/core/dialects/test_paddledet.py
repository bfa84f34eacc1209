"""Keypoint files of PaddleDetection in our own words: a run with QAT, and a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.dialects.files import translated
from core.dialects.foreign import Translation
from core.errors import ConfigError
from core.settings.config import load_yaml
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.training.schedules import learning_rate
from core.workflows.run_plan import RunFiles, read_plan

FILES = Path(__file__).parent / "files"
FILE = (FILES / "paddledet.yml").read_text(encoding="utf-8")
TEACHER = (FILES / "paddledet_teacher.yml").read_text(encoding="utf-8")


@pytest.fixture
def pact(tmp_path: Path) -> Path:
    path = tmp_path / "pact.yml"
    path.write_text(FILE)
    return path


def read(path: Path, *overrides: str) -> Translation:
    found, left = translated(load_yaml(path), overrides)
    assert found is not None
    assert not left
    return found


def test_the_whole_file(pact: Path) -> None:
    found = read(pact)
    run = read_run(found.settings)
    config = run.task.config
    assert config.model.name == "lite_hrnet_30"
    assert config.model.pretrained == "https://example.org/lite_hrnet_30.pdparams"
    assert found.settings["data"] == {
        "root": "dataset/coco",
        "train_annotations": "annotations/train.json",
        "train_images": "train2017",
        "val_annotations": "annotations/val.json",
        "val_images": "val2017",
        "input_size": [128, 96],
        "padding": 1.25,
        "box_ends": "last_pixel",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_workers": 4,
        "detections": "boxes.json",
        "detection_score": 0.5,
    }
    assert found.settings["augment"] == {
        "flip": 0.5,
        "half_body": 0.3,
        "half_body_joints": 8,
        "scale": 0.25,
        "rotation": 30.0,
        "rotate": 0.6,
    }
    assert found.settings["codec"] == {
        "udp": False,
        "target": "rounded",
        "sigma": 2.0,
        "decoding": "quarter",
    }
    assert (config.loss.kind, config.loss.loss_scale) == ("mse", 1.0)
    assert config.joints.flip_pairs[0] == (1, 2)
    train = run.train
    assert (train.epochs, train.eval_every, train.batch_size, train.eval_batch_size) == (
        50,
        10,
        64,
        16,
    )
    assert train.optimizer.kind == "adamw"
    assert train.optimizer.weight_decay == 0
    assert (train.schedule.kind, train.schedule.warmup_steps) == ("piecewise", 500)
    assert found.recipe == {
        "epochs": 50,
        "strategies": [
            {
                "kind": "qat",
                "activation_preprocess_type": "PACT",
                "weight_quantize_type": "channel_wise_abs_max",
                "activation_quantize_type": "moving_average_abs_max",
                "weight_bits": 8,
                "activation_bits": 8,
                "dtype": "int8",
                "window_size": 10000,
                "moving_rate": 0.9,
                "quantizable_layer_type": ["Conv2D", "Linear"],
                "learning_rate_scale": 1.0,
                "warmup_epochs": 0,
            }
        ],
    }
    read_recipe(found.recipe, 50, False)
    assert {"weights", "log_iter", "QAT.print_model", "TestDataset"} <= set(found.unused)
    assert found.save_dir is None


def test_a_teacher_beside_a_file_without_slim(pact: Path, tmp_path: Path) -> None:
    """The command of the guide: -c STUDENT --distill_config TEACHER."""
    teacher = tmp_path / "teacher.yml"
    teacher.write_text(TEACHER)
    root = Path(__file__).resolve().parents[3]
    overrides = ["slim=null", "QAT=null", "epoch=3", "teacher.weights=hrnet.pdparams"]
    files = RunFiles(str(pact), None, [str(teacher)], overrides, root / "configs" / "slim")
    plan = read_plan(files)
    assert plan.recipe == {"strategies": [{"kind": "distill"}]}
    assert plan.settings["train"]["epochs"] == 3
    [found] = plan.teachers
    assert found["source"] == str(teacher)
    assert found["weights"] == "hrnet.pdparams"
    assert found["model"] == {"name": "hrnet_w32", "freeze_norm": False, "num_joints": 17}
    assert found["data"]["input_size"] == [128, 96]
    assert found["distill"] == {
        "losses": [
            {"kind": "dist_mse", "weight": 1.0, "loss_scale": 0.5, "use_target_weight": True}
        ]
    }


def test_both_at_once(pact: Path, tmp_path: Path) -> None:
    """slim: QAT and a teacher: the combination that the guide's table ends with."""
    teacher = tmp_path / "teacher.yml"
    teacher.write_text(TEACHER)
    root = Path(__file__).resolve().parents[3] / "configs" / "slim"
    plan = read_plan(RunFiles(str(pact), "distill", [str(teacher)], (), root))
    assert [step["kind"] for step in plan.recipe["strategies"]] == ["qat", "distill"]
    read_recipe(plan.recipe, 50, True)


def test_tinypose(pact: Path) -> None:
    """Another network, other heatmaps, folders of their own for training and validation."""
    heatmaps = "{ToHeatmapsTopDown_DARK: {hmsize: [24, 32], sigma: 1}}"
    dropping = "{AugmentationbyInformantionDropping: {prob_cutout: 0.4, offset_factor: 0.05}}"
    found = read(
        pact,
        "LiteHRNet.network_type=wider_naive",
        "TopDownHRNet.use_dark=true",
        "TopDownHRNet.flip=false",
        "init_loss_scaling=32752",
        "EvalReader.drop_empty=false",
        f"TrainReader.sample_transforms.2={heatmaps}",
        f"TrainReader.sample_transforms.0={dropping}",
        "TrainReader.sample_transforms.1.TopDownAffine.use_udp=true",
        "TrainDataset={'!': KeypointTopDownCocoDataset, dataset_dir: dataset, image_dir: '', "
        "anno_path: aic_coco.json}",
    )
    config = read_run(found.settings).task.config
    assert config.model.name == "lite_hrnet_wider_naive"
    codec, data = config.codec, config.data
    assert (codec.target, codec.sigma, codec.decoding, codec.udp) == ("subpixel", 1, "dark", False)
    assert config.augment.erase == 0.4
    assert config.evaluation.flip_test is False
    assert (data.root, data.train_annotations, data.train_images) == (
        "dataset",
        "aic_coco.json",
        "",
    )
    assert (data.val_annotations, data.val_images, data.detections) == (
        "coco/annotations/val.json",
        "coco/val2017",
        "coco/boxes.json",
    )
    assert "init_loss_scaling" in found.unused


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        ("gamma: 0.1, milestones: [10, 20]", [1, 0.1, 0.01]),
        ("gamma: 0.5, milestones: [10, 20]", [1, 0.5, 0.05]),  # a tenth of it for each after it
        ("gamma: [0.3, 0.2], milestones: [10, 20]", [1, 0.3, 0.2]),
        ("milestones: [10, 20]", [1, 0.1, 0.01]),
    ],
)
@pytest.mark.parametrize("warms", [True, False])
def test_steps_of_the_rate(pact: Path, decay: str, factors: list[float], warms: bool) -> None:
    found = read(
        pact,
        f"LearningRate.schedulers.0={{name: PiecewiseDecay, {decay}, use_warmup: {warms}}}",
        "LearningRate.schedulers.1={name: LinearWarmup, steps: 4}",
    )
    train = read_run(found.settings).train
    for step, factor in zip((4, 1010, 2010), factors):
        rate = learning_rate(train.learning_rate, train.schedule, step, 5000, 100)
        assert rate == pytest.approx(train.learning_rate * factor)
    first = learning_rate(train.learning_rate, train.schedule, 0, 5000, 100)
    assert first == pytest.approx(train.learning_rate * (1 / 3 if warms else 1))


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        ("{optimizer: {type: AdamW}}", {"kind": "adamw", "weight_decay": 0.01}),
        ("{optimizer: {type: AdamW, weight_decay: 0.05, beta1: 0.8}}", {"beta1": 0.8}),
        ("{optimizer: {type: SGD}}", {"kind": "sgd", "weight_decay": 1e-4}),  # where it says none
        (
            "{optimizer: {type: Momentum, use_nesterov: true}, regularizer: null}",
            {"kind": "momentum", "nesterov": True, "weight_decay": 0.0},
        ),
    ],
)
def test_optimizers_with_the_defaults_of_paddledetection(
    pact: Path, builder: str, expected: dict[str, Any]
) -> None:
    content = load_yaml(pact)
    content.pop("OptimizerBuilder")
    pact.write_text(yaml.safe_dump(content))
    train = read(pact, f"OptimizerBuilder={builder}").settings["train"]
    assert {key: train["optimizer"][key] for key in expected} == expected
    clipped = read(pact, f"OptimizerBuilder={builder}", "OptimizerBuilder.clip_grad_by_norm=0.1")
    assert clipped.settings["train"]["clip_norm"] == 0.1


def test_a_cosine_to_the_end_of_training(pact: Path) -> None:
    cosine = "{name: CosineDecay, max_epochs: 50, min_lr_ratio: 0.1}"
    schedule = read(pact, f"LearningRate.schedulers.0={cosine}").settings["train"]["schedule"]
    assert (schedule["kind"], schedule["end_factor"]) == ("cosine", 0.1)


def test_heatmaps_of_udp(pact: Path) -> None:
    heatmaps = "{ToHeatmapsTopDown_UDP: {hmsize: [24, 32], sigma: 2}}"
    found = read(pact, f"TrainReader.sample_transforms.2={heatmaps}")
    codec = read_run(found.settings).task.config.codec
    assert (codec.target, codec.udp) == ("subpixel", True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=null", "epoch: required"),
        ("metric=COCO", "metric: keypoints are measured as COCO does"),
        ("architecture=YOLOv3", "architecture: expected one of TopDownHRNet"),
        ("TopDownHRNet.backbone=ResNet", "TopDownHRNet.backbone: expected one of LiteHRNet"),
        ("TopDownHRNet.width=30", "TopDownHRNet.width: expected 40, got 30"),
        ("HRNet={width: 32}", "HRNet: TopDownHRNet.backbone is LiteHRNet"),
        ("LiteHRNet.network_type=lite_50", "LiteHRNet.network_type: expected one of lite_18"),
        ("LiteHRNet.return_idx=[1]", "LiteHRNet.return_idx: the finest maps"),
        ("trainsize=[10, 10]", "trainsize: expected [96, 128]"),
        ("hmsize=[10, 10]", "hmsize: expected [24, 32]"),
        ("slim=Pruner", "slim: expected QAT, got 'Pruner'"),
        ("slim=null", "QAT: acts only with slim: QAT"),
        ("QAT.quant_config.weight_bit=8", "QAT.quant_config.weight_bit: unknown key"),
        ("QAT.quant_config.weight_preprocess_type=PACT", "QAT.quant_config.weight_preprocess_ty"),
        (
            "LearningRate.schedulers.0={name: CosineDecay}",
            "LearningRate.schedulers.0.max_epochs: ex",
        ),
        ("LearningRate.base_lr=0", "LearningRate.base_lr: expected > 0"),
        ("LearningRate.schedulers.0={name: StepDecay}", "LearningRate.schedulers.0: expected Pie"),
        ("OptimizerBuilder.optimizer.type=RMSProp", "OptimizerBuilder.optimizer.type: expected"),
        ("OptimizerBuilder.regularizer.factor=0.1", "OptimizerBuilder.regularizer.factor: expect"),
        ("EvalDataset.dataset_dir=''", "EvalDataset.dataset_dir: expected a path"),
        ("EvalDataset.bbox_file=null", "EvalDataset.bbox_file: required without use_gt_bbox"),
        ("TrainDataset.image_dirs=x", "TrainDataset.image_dirs: unknown key"),
        ("TrainReader.shuffle=false", "TrainReader.shuffle: training pictures are shuffled"),
        ("TrainReader.sample_transforms=[]", "TrainReader.sample_transforms: ToHeatmapsTopDown"),
        ("TrainReader.sample_transforms.0={Mixup: {}}", "TrainReader.sample_transforms.0.Mixup"),
        ("TrainReader.sample_transforms.1.TopDownAffine.udp=true", "TrainReader.sample_transforms"),
        ("TrainReader.batch_transforms=[]", "TrainReader.batch_transforms: NormalizeImage: req"),
        ("EvalReader.batch_transforms.0.NormalizeImage.mean=[0, 0, 0]", "EvalReader.batch_transf"),
        ("freeze_parameters=true", "freeze_parameters: only a teacher is frozen"),
    ],
)
def test_refused_with_the_path_in_the_file(pact: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(pact, override)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distill_loss.name=DMLLoss", "distill_loss.name: expected one of DistMSELoss"),
        ("distill_loss.key=feature", "distill_loss.key: the heatmaps are compared"),
        ("freeze_parameters=false", "freeze_parameters: a teacher is frozen"),
        ("weights=null", "weights: required"),
        ("HRNet.width=18", "TopDownHRNet.width: expected 32 or 48, got 18"),
    ],
)
def test_teachers_that_are_refused(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "teacher.yml"
    path.write_text(TEACHER)
    with pytest.raises(ConfigError) as caught:
        read(path, override)
    assert str(caught.value).startswith(message)


def test_a_tag_means_nothing_in_a_config_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "ours.yml"
    path.write_text("task: {name: cls}\nmodel: !Fast {name: x}\n")
    with pytest.raises(ConfigError, match=r"^(train|model\.!): "):
        read_run(load_yaml(path))
    path.write_text("task: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load_yaml(path)
