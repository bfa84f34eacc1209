"""Keys of PaddleSlim's ACT files that cannot act on exported models, or change nothing there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from core.errors import ConfigError

_log = logging.getLogger(__name__)

# keys of PaddleSlim's that cannot act here, with what to do
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "Quantization": "unknown section (did you mean 'QuantAware'?); PaddleSlim ignores it and "
        "distils without quantizing",
        "QuantPost": "quantization without training is tools/ptq.py --model_dir",
        "HyperParameterOptimization": "tools/ptq.py --model_dir DIR --observer all compares",
        "Prune": "channels are pruned with the network's code: tools/train.py --slim prune",
        "ChannelPrune": "channels are pruned with the network's code: tools/train.py --slim prune",
        "ASPPrune": "no runtime here gains from 2:4 sparsity; --slim prune removes channels",
        "UnstructurePrune": "no runtime here gains from single zeros; --slim prune cuts channels",
        "TransformerPrune": "heads are pruned with the network's code; see docs/prune.md",
        "MultiTeacherDistillation": "several teachers need the network's code: --distill_config",
        "Global.reader_config": "pictures are read as the task's config says, -c CONFIG (one of "
        "PaddleClas, PaddleSeg or PaddleDetection too), or from Global.images or Global.data_dir",
        "Global.img_size": "pictures get the size that the model takes",
        "Global.resize_size": "the task's config says it: -c CONFIG -o data.resize_short=N",
        "Distillation.teacher_model_dir": "the float model itself teaches; another one does with "
        "the network's code: --distill_config",
        "Distillation.merge_feed": "the float model is fed what the quantized one is",
        "TrainConfig.amp_config": "exported models are trained in float32",
        "TrainConfig.recompute_config": "activations are kept",
        "TrainConfig.sharding_config": "each process holds the whole model",
        "TrainConfig.sparse_model": "see UnstructurePrune",
        "TrainConfig.optim_args": "write optimizer_builder",
    }
)

# values that cannot act here, with what to do
REFUSED_VALUES: Mapping[tuple[str, str, str | bool], str] = MappingProxyType(
    {
        ("QuantAware", "activation_quantize_type", "abs_max"): "has a scale for each batch, which "
        "a file cannot compute; write moving_average_abs_max or range_abs_max",
        ("QuantAware", "is_full_quantize", True): "rounds operators that are no layers, which run "
        "in float in these files; outputs of layers get grids with the network's code: "
        "quantize_outputs of --slim qat",
        ("QuantAware", "for_tensorrt", True): "selects operators of PaddleSlim's own files; files "
        "for TensorRT are written with --target tensorrt",
    }
)


# keys of `QuantAware` that change nothing here: the values that they may have
IDLE: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "weight_bits": (8,),
        "activation_bits": (8,),
        "dtype": ("int8",),
        "is_full_quantize": (False,),
        "for_tensorrt": (False,),
        "onnx_format": (True, False),
        "not_quant_pattern": ([], ["skip_quant"]),
    }
)


def without_idle(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's content without the keys that change nothing here.

    Raises:
        ConfigError: One has a value that would.
    """
    section = content.get("QuantAware")
    if not isinstance(section, Mapping):
        return dict(content)
    for key in section.keys() & IDLE.keys():
        value, known = section[key], IDLE[key]
        if not any(type(value) is type(each) and value == each for each in known):
            wanted = " or ".join(map(str, known))
            raise ConfigError(f"QuantAware.{key}: expected {wanted}, got {value!r}")
    if section.get("onnx_format") is False:
        _log.info("not used here: QuantAware.onnx_format; files round by separate operators")
    acting = {key: value for key, value in section.items() if key not in IDLE}
    return {**content, "QuantAware": acting}


def refuse(content: Mapping[str, Any]) -> None:
    """Refuse a file that asks for what cannot act, with what to do.

    Raises:
        ConfigError: Begins with the key.
    """
    for path, reason in REFUSED.items():
        section, _, key = path.partition(".")
        inside = content.get(section, {}) if key else content
        if isinstance(inside, Mapping) and (key or section) in inside:
            raise ConfigError(f"{path}: {reason}")
    for (section, key, value), reason in REFUSED_VALUES.items():
        inside = content.get(section)
        if isinstance(inside, Mapping) and inside.get(key) == value:
            raise ConfigError(f"{section}.{key}: {value} {reason}")
