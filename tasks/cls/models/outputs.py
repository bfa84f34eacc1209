"""Name what networks return, and end them for deployment."""

from __future__ import annotations

from typing import Any, Literal, get_args

import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import Layer

from core.config import suggest
from core.errors import ConfigError
from core.task import Outputs

Ending = Literal["raw", "softmax", "argmax"]


def name_outputs(raw: Any, main: str = "logits") -> Outputs:
    """Name the outputs of a PaddleClas network, the main one first.

    Further outputs are `auxiliary_1`, ... (GoogLeNet) or the names of stages.
    """
    if isinstance(raw, dict):
        named = name_outputs(raw["logits"], main)
        for name, value in raw.items():
            if isinstance(value, (list, tuple)) and name != "logits":  # a stage of branches, HRNet
                named.update({f"{name}[{index}]": item for index, item in enumerate(value)})
            elif name != "logits":
                named[name] = value
        return named
    if isinstance(raw, (list, tuple)):
        further = {f"auxiliary_{index}": value for index, value in enumerate(raw[1:], start=1)}
        return {main: raw[0], **further}
    return {main: raw}


class Deployed(Layer):  # type: ignore[misc]
    """A network that returns named tensors, without auxiliary outputs, ended as asked.

    `raw` gives `logits` (and stages), `softmax` gives `probabilities` [N, C], `argmax` gives
    `label` [N] int64 and `score` [N], its probability.
    """

    def __init__(self, model: Layer, ending: str, main: str = "logits") -> None:
        super().__init__()
        endings = get_args(Ending) if main == "logits" else ("raw",)
        if ending not in endings:
            hint = suggest(ending, list(endings))
            raise ConfigError(f"ending: classification has no ending {ending!r}{hint}")
        self.model = model
        self.ending = ending
        self.main = main

    def forward(self, image: Tensor) -> Outputs:
        outputs = name_outputs(self.model(image), self.main)
        if self.ending == "raw":
            kept = {k: v for k, v in outputs.items() if not k.startswith("auxiliary")}
            return kept
        probabilities = F.softmax(outputs["logits"], axis=-1)
        if self.ending == "softmax":
            return {"probabilities": probabilities}
        return {"label": probabilities.argmax(axis=-1), "score": probabilities.max(axis=-1)}
