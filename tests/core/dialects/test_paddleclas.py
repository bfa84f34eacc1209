"""Training files of PaddleClas in our own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from core.dialects.files import translated
from core.dialects.foreign import Translation
from core.errors import ConfigError
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.training.schedules import learning_rate

FILES = Path(__file__).parent / "files"
FILE = (FILES / "paddleclas.yml").read_text(encoding="utf-8")
OPS = "DataLoader.Train.dataset.transform_ops"


def read(*overrides: str, without: str | None = None) -> Translation:
    content = yaml.safe_load(FILE)
    content.pop(without, None)
    found, left = translated(content, overrides)
    assert found is not None
    assert not left
    return found


def test_the_whole_file() -> None:
    found = read()
    assert found.settings == {
        "task": {"name": "cls"},
        "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 10, "pretrained": True},
        "data": {
            "root": "./data/pictures/",
            "train_list": "lists/train.txt",
            "val_list": "val.txt",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.2, 0.1],
            "resize_short": 72,
            "image_size": 64,
            "num_workers": 4,
        },
        "augment": {"flip": 0.5, "scale": [0.2, 1.0], "ratio": [0.75, 4 / 3], "mixup": 0.2},
        "loss": {"label_smoothing": 0.1},
        "evaluation": {"topk": [1, 3]},
        "train": {
            "batch_size": 64,
            "eval_batch_size": 32,
            "epochs": 30,
            "eval_every": 2,
            "accumulate": 1,
            "optimizer": {
                "kind": "momentum",
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 7e-5,
            },
            "learning_rate": 0.01,
            "schedule": {
                "kind": "cosine",
                "end_factor": 0.0,
                "warmup_epochs": 5.0,
                "warmup_start": pytest.approx(0.1),
            },
        },
        "seed": 0,
        "device": "cpu",
    }
    assert found.recipe == {
        "epochs": 30,
        "strategies": [
            {
                "kind": "qat",
                "activation_preprocess_type": "PACT",
                "quantizable_layer_type": ["Conv2D", "Linear"],
                "learning_rate_scale": 1.0,
                "warmup_epochs": 0,
            }
        ],
    }
    assert found.save_dir == "./output/MobileNetV3_small_x0_35"
    assert found.export_dir == "./inference"
    assert found.use_vdl
    assert {"Infer", "Global.print_batch_step", "Loss.Eval"} <= set(found.unused)
    assert "Global.eval_during_train" not in found.unused  # it acts
    run = read_run(found.settings)
    assert run.task.config.augment.mixup == 0.2
    read_recipe(found.recipe, 30, False)


def test_what_build_model_takes_out_of_arch_is_no_argument_of_the_network() -> None:
    found = read("Arch.use_sync_bn=true")
    assert "Arch.use_sync_bn" in found.unused
    assert "use_sync_bn" not in found.settings["model"].get("options", {})
    with pytest.raises(ConfigError, match=r"^Arch\.use_ml_decoder: one label per image"):
        read("Arch.use_ml_decoder=true")


def test_the_section_of_mixed_precision_in_files_of_today() -> None:
    """Most files of PaddleClas 2.6 have it, the one of the guide's quantization as well."""
    section = "{use_amp: false, use_fp16_test: false, scale_loss: 128.0, use_promote: false, "
    found = read(f"AMP={section}use_dynamic_loss_scaling: true, level: O1}}")
    assert "amp" not in found.settings["train"]
    assert "AMP.use_promote" in found.unused


def test_pruning_and_a_path_of_weights() -> None:
    found = read("Slim={prune: {name: fpgm, pruned_ratio: 0.3}, quant: null}")
    assert found.recipe["strategies"] == [
        {"kind": "prune", "criterion": "fpgm", "pruned_ratio": 0.3}
    ]
    found = read("Global.pretrained_model=./output/best_model", "Slim=null")
    assert found.settings["model"]["pretrained"] == "./output/best_model"
    assert found.recipe == {}
    assert found.settings["train"]["epochs"] == 30


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        ("{name: Constant, learning_rate: 0.1}", [0.1, 0.1, 0.1]),
        ("{name: Linear, learning_rate: 0.1, end_lr: 0.01}", [0.1, 0.055, 0.01]),
        (
            "{name: Piecewise, decay_epochs: [10, 20], values: [0.1, 0.01, 0.001]}",
            [0.1, 0.01, 0.001],
        ),
        ("{name: Step, step_size: 10, gamma: 0.5, learning_rate: 0.4}", [0.4, 0.2, 0.1]),
        (
            "{name: MultiStepDecay, milestones: [10, 20], gamma: 0.5, learning_rate: 0.4}",
            [0.4, 0.2, 0.1],
        ),
        ("{name: Cosine, learning_rate: 0.2, eta_min: 0.1}", [0.2, 0.15, 0.1]),
    ],
)
def test_learning_rates(lr: str, expected: list[float]) -> None:
    content: Any = yaml.safe_load(FILE)
    content["Optimizer"]["lr"] = yaml.safe_load(lr)
    found, _ = translated(content)
    assert found is not None
    train = read_run(found.settings).train
    steps = 1000
    rates = [
        learning_rate(train.learning_rate, train.schedule, step, 30 * steps, steps)
        for step in (0, 15 * steps, 30 * steps)
    ]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    "lr",
    [
        "{name: Piecewise, decay_epochs: [10, 20], values: [0.1, 0.05, 0.001]}",
        "{name: Step, step_size: 10, gamma: 0.5, learning_rate: 0.1}",
        "{name: MultiStepDecay, milestones: [10, 20], gamma: 0.5, learning_rate: 0.1}",
        "{name: Cosine, learning_rate: 0.1, eta_min: 0.01}",
        "{name: Linear, learning_rate: 0.1, end_lr: 0.01}",
    ],
)
def test_rates_with_a_warm_up_are_those_of_paddleclas(lr: str) -> None:
    """Its schedules begin where the warm-up ends: `LinearWarmup` steps what it holds so."""
    content: Any = yaml.safe_load(FILE)
    content["Optimizer"]["lr"] = yaml.safe_load(lr) | {"warmup_epoch": 5, "warmup_start_lr": 0.01}
    found, _ = translated(content)
    assert found is not None
    train, steps = read_run(found.settings).train, 7
    scheduler = paddle.optimizer.lr
    inner = {
        "Piecewise": lambda: scheduler.PiecewiseDecay([70, 140], [0.1, 0.05, 0.001]),
        "Step": lambda: scheduler.StepDecay(0.1, step_size=70, gamma=0.5),
        "MultiStepDecay": lambda: scheduler.MultiStepDecay(0.1, [70, 140], gamma=0.5),
        "Cosine": lambda: scheduler.CosineAnnealingDecay(0.1, T_max=25 * steps, eta_min=0.01),
        "Linear": lambda: scheduler.PolynomialDecay(0.1, 25 * steps, end_lr=0.01, power=1.0),
    }[content["Optimizer"]["lr"]["name"]]()
    theirs = scheduler.LinearWarmup(inner, 5 * steps, 0.01, 0.1)
    for step in range(30 * steps):
        ours = learning_rate(train.learning_rate, train.schedule, step, 30 * steps, steps)
        assert ours == pytest.approx(theirs()), step
        theirs.step()


def test_a_learning_rate_stands_above_the_values_of_piecewise() -> None:
    words = ("Global.epochs=70", "Optimizer.lr.warmup_epoch=0")
    lr = "{name: Piecewise, learning_rate: 0.1, decay_epochs: [30, 60], values: [0.1, 0.01, 0.001]}"
    train = read(*words, f"Optimizer.lr={lr}").settings["train"]
    assert train["learning_rate"] == 0.1
    assert train["schedule"]["milestones"] == [30.0, 60.0]
    assert train["schedule"]["gamma"] == pytest.approx([0.1, 0.1])
    alone = "{name: Piecewise, learning_rate: 0.1}"
    assert read(*words, f"Optimizer.lr={alone}").settings["train"] == train
    for part in ("decay_epochs: [20, 60]", "values: [0.1, 0.05, 0.001]"):
        other = f"{{name: Piecewise, learning_rate: 0.1, {part}}}"
        with pytest.raises(ConfigError, match=r"PaddleClas takes .* where learning_rate is given"):
            read(*words, f"Optimizer.lr={other}")


def test_defaults_of_mixing_are_those_of_paddleclas() -> None:
    path = "DataLoader.Train.dataset.batch_transform_ops"
    assert read(f"{path}=[{{MixupOperator: {{}}}}]").settings["augment"]["mixup"] == 1.0
    assert read(f"{path}=[{{CutmixOperator: {{}}}}]").settings["augment"]["cutmix"] == 0.2
    with pytest.raises(ConfigError, match=r"OpSampler\.MixupOperator\.prob: required"):
        read(f"{path}=[{{OpSampler: {{MixupOperator: {{}}}}}}]")


def test_a_regularizer_goes_before_weight_decay() -> None:
    found = read("Optimizer.weight_decay=0.5", "Optimizer.regularizer={name: L2, coeff: 0.25}")
    assert found.settings["train"]["optimizer"]["weight_decay"] == 0.25


def test_other_settings_that_act() -> None:
    changed = read(
        "Global.eval_during_train=false",
        "Optimizer={name: AdamW, weight_decay: 0.05, no_weight_decay_name: norm bias}",
        "Optimizer.clip_norm=5",
        "Optimizer.lr={name: Constant, learning_rate: 0.001}",
        f"{OPS}.2=" + "{RandAugment: {num_layers: 3, magnitude: 7}}",
        "EMA={decay: 0.99}",
        "Arch.dropout_prob=0.3",
        "Metric.Eval.0.TopkAcc.topk=1",
        "DataLoader.Train.dataset.batch_transform_ops=[{OpSampler: {MixupOperator: {alpha: 0.8, "
        "prob: 0.5}, CutmixOperator: {alpha: 1.0, prob: 0.5}}}]",
        without="Optimizer",
    ).settings
    train = changed["train"]
    assert train["eval_every"] == 30
    assert train["optimizer"]["kind"] == "adamw"
    assert train["optimizer"]["no_weight_decay"] == ["*norm*", "*bias*"]
    assert (train["clip_norm"], train["clip_each"], train["ema_decay"]) == (5.0, True, 0.99)
    assert changed["model"]["options"] == {"dropout_prob": 0.3}
    assert changed["evaluation"] == {"topk": [1]}
    augment = changed["augment"]
    assert (augment["flip"], augment["policy"], augment["policy_layers"]) == (0.0, "randaugment", 3)
    assert (augment["mixup"], augment["cutmix"], augment["mix_probability"]) == (0.8, 1.0, 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.epoch=3", "Global.epoch: unknown key (did you mean 'epochs'?)"),
        ("Global.epochs=null", "Global.epochs: required"),
        ("Global.device=xpu", "Global.device: expected cpu or gpu, got 'xpu'"),
        ("Global.checkpoints=x", "Global.checkpoints: to go on with a run: --save_dir"),
        ("Global.image_shape=[3, 32, 32]", "Global.image_shape: expected [3, 64, 64]"),
        ("Global.eval_mode=retrieval", "Global.eval_mode: retrieval is no task here"),
        ("Slim.quant.name=dsq", "Slim.quant.name: expected pact, got 'dsq'"),
        ("Slim.quant.nmae=pact", "Slim.quant.nmae: unknown key"),
        ("Slim.prune={name: fpgm, pruned_ratio: 0.3}", "Slim.quant: pruned channels need epochs"),
        ("Slim.prune={name: l3, pruned_ratio: 0.3}", "Slim.prune.name: expected one of fpgm, l1_n"),
        ("Arch.name=RecModel", "Arch.name: RecModel is a network around others"),
        ("Arch.use_ssld=true", "Arch.use_ssld: only the plain published weights"),
        ("Arch.dropout_prob=[1]", "Arch.dropout_prob: expected bool or int"),
        ("Loss.Train=[]", "Loss.Train: expected one loss, got 0"),
        ("Loss.Train=[{DMLLoss: {}}]", "Loss.Train.0.DMLLoss: expected CELoss or MixCELoss"),
        ("Loss.Train.0.MixCELoss.weight=2", "Loss.Train.0.MixCELoss.weight: one loss has the wei"),
        ("Optimizer.name=RMSProp", "Optimizer.name: expected one of Momentum, SGD, Adam, AdamW"),
        ("Optimizer.name=Adam", "Optimizer.regularizer.coeff: expected 0 with Adam"),
        ("Optimizer.one_dim_param_no_weight_decay=true", "Optimizer.one_dim_param_no_weight_decay"),
        ("Optimizer.lr.name=Cyclic", "Optimizer.lr.name: expected one of Cosine, Linear"),
        ("Optimizer.lr.learning_rate=0", "Optimizer.lr.learning_rate: expected > 0"),
        ("Optimizer.lr.by_epoch=true", "Optimizer.lr.by_epoch: the rate falls from step to step"),
        (f"{OPS}.1.RandCropImage.size=[64, 32]", f"{OPS}.1.RandCropImage.size: expected a square"),
        (f"{OPS}.2.RandFlipImage.flip_code=0", f"{OPS}.2.RandFlipImage.flip_code: pictures are"),
        (f"{OPS}.1=" + "{Rotate: {}}", f"{OPS}.1.Rotate: does not exist for training pictures"),
        (f"{OPS}.1=" + "{ToCHWImage: null}", f"{OPS}: RandCropImage: required"),
        (f"{OPS}.3.NormalizeImage.scale=1/2", f"{OPS}.3.NormalizeImage.scale: expected 1.0/255.0"),
        (f"{OPS}.3.NormalizeImage.scale=__x__", f"{OPS}.3.NormalizeImage.scale: expected a number"),
        (f"{OPS}.3.NormalizeImage.mean=[1, 1, 1]", "DataLoader.Eval.dataset.transform_ops: mean"),
        (
            "DataLoader.Eval.dataset.transform_ops.2.CropImage.size=32",
            "DataLoader.Eval.dataset.tra",
        ),
        (
            "DataLoader.Eval.dataset.image_root=x",
            "DataLoader.Eval.dataset.image_root: expected ./d",
        ),
        ("DataLoader.Train.sampler.shuffle=false", "DataLoader.Train.sampler.shuffle: training pi"),
        ("DataLoader.Train.sampler.name=PKSampler", "DataLoader.Train.sampler.name: expected one"),
        ("DataLoader.Train.dataset.delimiter=;", "DataLoader.Train.dataset.delimiter: a list has"),
        ("DataLoader.Train.loader.workers=1", "DataLoader.Train.loader.workers: unknown key"),
        ("Metric.Eval.0={MRR: {}, A: {}}", "Metric.Eval.0: expected one name"),
        ("Metric.Eval=[{MRR: {}}]", "Metric.Eval.0.MRR: expected TopkAcc"),
        ("AMP={level: O2}", "AMP.level: expected O1"),
    ],
)
def test_refused_with_the_path_in_the_file(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(override)
    assert str(caught.value).startswith(message)
