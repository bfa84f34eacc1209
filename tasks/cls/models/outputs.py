"""Name the outputs of networks, and add endings for deployment."""

from __future__ import annotations

from typing import Any, Literal, get_args

import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.settings.config import suggest
from core.task import Outputs
from tasks.cls.models.stages import run_up_to

Ending = Literal["raw", "softmax", "argmax"]


def name_outputs(raw: Any) -> Outputs:
    """Name the outputs of a PaddleClas network, `logits` first.

    Further outputs are `auxiliary_1`, ... (GoogLeNet) or the names of stages.
    """
    if isinstance(raw, dict):
        named = name_outputs(raw["logits"])
        for name, value in raw.items():
            if isinstance(value, (list, tuple)) and name != "logits":  # a stage of branches, HRNet
                named.update({f"{name}[{index}]": item for index, item in enumerate(value)})
            elif name != "logits":
                named[name] = value
        return named
    if isinstance(raw, (list, tuple)):
        further = {f"auxiliary_{index}": value for index, value in enumerate(raw[1:], start=1)}
        return {"logits": raw[0], **further}
    return {"logits": raw}


class Deployed(Layer):
    """A network that returns named tensors, without auxiliary outputs, ended as asked.

    `raw` gives `logits` (and stages), `softmax` gives `probabilities` [N, C], `argmax` gives
    `label` [N] int64 and `score` [N], its probability. Cut off behind a layer, it gives `features`.
    """

    def __init__(self, model: Layer, ending: str, stop_after: str | None = None) -> None:
        super().__init__()
        endings = get_args(Ending) if stop_after is None else ("raw",)
        if ending not in endings:
            where = "" if stop_after is None else f" behind {stop_after!r} (model.stop_after)"
            raise ConfigError(f"ending: {ending!r} is unknown{where}{suggest(ending, endings)}")
        self.model = model
        self.ending = ending
        self.stop_after = stop_after

    def forward(self, image: Tensor) -> Outputs:
        if self.stop_after is not None:
            return {"features": run_up_to(self.model, self.stop_after, image)}
        outputs = name_outputs(self.model(image))
        if self.ending == "raw":
            return {k: v for k, v in outputs.items() if not k.startswith("auxiliary")}
        probabilities = F.softmax(outputs["logits"], axis=-1)
        if self.ending == "softmax":
            return {"probabilities": probabilities}
        return {"label": probabilities.argmax(axis=-1), "score": probabilities.max(axis=-1)}
