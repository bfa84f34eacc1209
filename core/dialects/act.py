"""PaddleSlim's ACT: files that compress an exported model, which is no training of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.dialects.foreign import Translation
from core.errors import ConfigError

KEYS = ("Global", "Distillation", "QuantAware", "Quantization", "TrainConfig", "QuantPost", "Prune")


def is_act(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is one of ACT."""
    return bool({"TrainConfig", "QuantAware", "Quantization", "QuantPost"} & content.keys())


def translate(content: Mapping[str, Any]) -> Translation:
    """Say which tool the file is for.

    Raises:
        ConfigError: Always.
    """
    key = next(key for key in KEYS if key in content)
    raise ConfigError(
        f"{key}: a file of ACT compresses an exported model, whose network is not built here: "
        "tools/act.py --config_path FILE --save_dir FOLDER"
    )
