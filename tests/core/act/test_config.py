"""Settings of compressing exported models: sections, suggestions, learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import pytest

from core.act.config import ActScheduleConfig, GlobalConfig, StaticPtqConfig, read_act
from core.act.refused import REFUSED
from core.errors import ConfigError
from core.settings.config import merge, read
from core.settings.optimizer_config import Momentum

ROOT = Path(__file__).resolve().parents[3]
WHOLE: dict[str, Any] = {
    "Global": {"model_dir": "exported"},
    "Distillation": {"loss": "l2"},
    "QuantAware": {},
    "TrainConfig": {"epochs": 1},
}


def test_the_example_is_read() -> None:
    config = read_act(ROOT / "configs" / "act" / "qat_distill.yml")
    assert config.Distillation is not None
    assert config.Distillation.groups(["logits"]) == [("soft_label", 1.0, ("logits",))]
    builder = config.TrainConfig.optimizer_builder
    assert builder.config == Momentum(0.9, False, 2e-5)
    assert builder.grad_clip is not None
    assert builder.grad_clip.clip_norm == 1.0


def test_sections_may_be_empty_and_distillation_absent() -> None:
    config = read_act(
        {"Global": {"model_dir": "a"}, "QuantAware": None, "TrainConfig": {"epochs": 1}}
    )
    assert config.Distillation is None
    assert config.QuantAware.per_channel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Quantization": {}}, "Quantization: unknown section (did you mean 'QuantAware'?)"),
        ({"Distilation": {}}, "Distilation: unknown key (did you mean 'Distillation'?)"),
        (
            {"Global": {"batchsize": 3}},
            "Global.batchsize: unknown key (did you mean 'batch_",
        ),
        ({"QuantAware": {"weight_bits": 4}}, "QuantAware.weight_bits: expected 8, got 4"),
        ({"QuantAware": {"for_tensorrt": 0}}, "QuantAware.for_tensorrt: expected False, got 0"),
        ({"QuantAware": {"dtype": "int4"}}, "QuantAware.dtype: expected int8, got 'int4'"),
        (
            {"QuantAware": {"not_quant_pattern": ["other"]}},
            "QuantAware.not_quant_pattern: expected [] or ['skip_quant'], got ['other']",
        ),
        (
            {"QuantAware": {"activation_quantize_type": "abs_max"}},
            "QuantAware.activation_quantize_type: abs_max has a scale for each",
        ),
        ({"QuantAware": {"is_full_quantize": True}}, "is_full_quantize: True rounds operators"),
        ({"QuantAware": {"for_tensorrt": True}}, "files for TensorRT are written with --target"),
        (
            {"QuantAware": {"window_size": 0}},
            "QuantAware.window_size: expected 1 to 100,000, got 0",
        ),
        ({"QuantAware": {"quantize_op_types": ["conv"]}}, "did you mean 'conv2d'?"),
        ({"Distillation": {"loss": "soft"}}, "Distillation.loss: expected one of l2, soft_label"),
        ({"Distillation": {"alpha": [1.0, 2.0]}}, "Distillation.alpha: expected one, got 2"),
        ({"Distillation": {"node": [["a"], ["b"]], "loss": ["l2"]}}, "each of 2 groups of nodes"),
        ({"Distillation": {"node": [["a"], []]}}, "Distillation.node: group 1 names no variable"),
        ({"Global": {"calibration_batches": 10**6}}, "calibration_batches: expected 1 to 10,000"),
        ({"TrainConfig": {"epochs": None}}, "TrainConfig.epochs: required, or train_iter"),
        ({"TrainConfig": {"learning_rate": "aut"}}, "did you mean 'auto'?"),
        ({"TrainConfig": {"learning_rate": -1.0}}, "TrainConfig.learning_rate: expected > 0"),
        ({"TrainConfig": {"learning_rate": {"typ": 1}}}, "learning_rate.typ: unknown key"),
        (
            {"TrainConfig": {"learning_rate": {"type": "PiecewiseDecay", "values": []}}},
            "TrainConfig.learning_rate.values: expected 1, one more than boundaries, got 0",
        ),
        *(
            (
                {
                    "TrainConfig": {
                        "learning_rate": {
                            "type": "PiecewiseDecay",
                            "boundaries": steps,
                            "values": [0.3, 0.2, 0.1],
                        }
                    }
                },
                "learning_rate.boundaries: expected steps from 1 on, each after the one before",
            )
            for steps in ([20, 10], [5, 5], [-1, 3], [0, 3])
        ),
    ],
)
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_act(merge(WHOLE, change))
    assert message in str(caught.value)


def test_the_file_of_the_documents(caplog: pytest.LogCaptureFixture) -> None:
    """Full quantization of MobileNetV3_large, as its authors wrote it."""
    caplog.set_level("INFO")
    quant = {
        "use_pact": True,
        "activation_bits": 8,
        "activation_quantize_type": "moving_average_abs_max",
        "weight_quantize_type": "channel_wise_abs_max",
        "not_quant_pattern": ["skip_quant"],
        "quantize_op_types": ["conv2d", "depthwise_conv2d", "matmul"],
        "weight_bits": 8,
        "onnx_format": False,
    }
    config = read_act(
        {
            "Global": {"input_name": "inputs", "model_dir": "x", "batch_size": 128},
            "Distillation": {"alpha": 1.0, "loss": "soft_label"},
            "QuantAware": quant,
            "TrainConfig": {"epochs": 2, "eval_iter": 5000, "learning_rate": 0.001},
        }
    )
    assert config.QuantAware.use_pact
    assert config.QuantAware.operators == ["conv2d", "depthwise_conv2d", "matmul_v2"]
    assert "not used here: QuantAware.onnx_format" in caplog.text


def test_linear_layers_have_one_name() -> None:
    assert read(StaticPtqConfig, {"quantize_op_types": ["mul", "matmul_v2"]}).operators == [
        "matmul_v2"
    ]


def test_a_section_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"^QuantAware: required, but not given$"):
        read_act({key: value for key, value in WHOLE.items() if key != "QuantAware"})


def rate(given: Any, step: int = 0, images: int = 32) -> float:
    return read(ActScheduleConfig, {"epochs": 1, "learning_rate": given}).rate(step, 100, images)


def test_learning_rates() -> None:
    assert rate("auto") == 0.015
    assert rate("auto", images=8) == pytest.approx(0.015 / 4)
    assert rate("auto", images=128) == pytest.approx(0.015 * 4)
    assert rate(0.01, images=8) == 0.01
    cosine = {"type": "CosineAnnealingDecay", "learning_rate": "auto"}
    assert rate(cosine, 50, 64) == pytest.approx(0.015)
    assert rate({**cosine, "T_max": 25}, 25) == pytest.approx(0)
    theirs = paddle.optimizer.lr.CosineAnnealingDecay(0.01, T_max=30)
    for step in range(100):  # on to the fourth half of a cosine
        given = {"type": "CosineAnnealingDecay", "learning_rate": 0.01, "T_max": 30}
        assert rate(given, step) == pytest.approx(theirs(), abs=1e-9)
        theirs.step()
    steps = {"type": "PiecewiseDecay", "boundaries": [10, 20], "values": [0.3, 0.2, 0.1]}
    assert [rate(steps, step) for step in (9, 10, 19, 20)] == [0.3, 0.2, 0.2, 0.1]


def test_a_rate_that_is_not_in_proportion_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = read(ActScheduleConfig, {"epochs": 1, "learning_rate": 0.015})
    config.warn_of_rate(32)
    assert not caplog.records
    config.warn_of_rate(8)
    assert "0.015 for 8 images in a step" in caplog.text
    assert "it would be 0.00375" in caplog.text


def test_static_settings() -> None:
    assert [StaticPtqConfig(observer=name).algo for name in ("kl", "percentile", "mse")] == [
        *("KL", "hist", "mse"),
    ]
    with pytest.raises(ConfigError, match="percentile: expected above 0, up to 1, got 2"):
        read(StaticPtqConfig, {"percentile": 2.0})
    with pytest.raises(ConfigError, match=r"observer: expected one of abs_max, .*'output_mse'"):
        read(StaticPtqConfig, {"observer": "output_mse"})  # which needs the network's code


@pytest.mark.parametrize("path", sorted(REFUSED))
def test_a_key_that_cannot_act_is_refused_with_the_reason(path: str) -> None:
    section, _, key = path.partition(".")
    content: dict[str, Any] = {
        "Global": {"model_dir": "exported"},
        "QuantAware": {},
        "TrainConfig": {"epochs": 1},
        "Distillation": {},
    }
    content.setdefault(section, {})
    if key:
        content[section][key] = 1
    with pytest.raises(ConfigError) as caught:
        read_act(content)
    assert str(caught.value) == f"{path}: {REFUSED[path]}"


def test_files_that_are_named_are_those_that_are_opened(tmp_path: Path) -> None:
    for name in ("inference.pdmodel", "inference.pdiparams"):
        (tmp_path / name).write_bytes(b"")
    GlobalConfig(str(tmp_path), "inference.pdmodel", "inference.pdiparams").check_files()
    with pytest.raises(ConfigError, match=r"^Global.model_filename: .* has 'inference.pdmodel'"):
        GlobalConfig(str(tmp_path), "model.pdmodel").check_files()
