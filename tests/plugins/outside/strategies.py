"""Small strategies, one of each phase, that prove the places where compression plugs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from core.network.layers import get, replace
from core.strategy import Context, Phase, Strategy, StrategyConfig


@dataclass(frozen=True)
class NarrowConfig(StrategyConfig):
    keep: int = 2


class Narrow(Strategy):
    """Keeps the first channels of the only convolution: an edit of shapes."""

    Config = NarrowConfig
    phase = Phase.SHAPE

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._record: dict[str, Any] | None = None

    def attach(self, model: nn.Layer, context: Context) -> None:
        self._record = {"keep": self.config.keep}
        if not context.resuming:
            self.replay(model, self._record)

    def record(self) -> dict[str, Any] | None:
        return self._record

    @staticmethod
    def replay(model: nn.Layer, record: dict[str, Any]) -> None:
        keep = record["keep"]
        conv, norm, head = model.conv, model.norm, model.head
        model.conv = nn.Conv2D(3, keep, 3, padding=1, bias_attr=False)
        model.norm = nn.BatchNorm2D(keep)
        model.head = nn.Linear(keep, 1)
        model.conv.weight.set_value(conv.weight[:keep])
        for name in ("weight", "bias", "_mean", "_variance"):
            getattr(model.norm, name).set_value(getattr(norm, name)[:keep])
        model.head.weight.set_value(head.weight[:keep])
        model.head.bias.set_value(head.bias)


class Rounded(nn.Layer):
    """A convolution whose weight is rounded, with a straight-through gradient."""

    def __init__(self, conv: nn.Conv2D) -> None:
        super().__init__()
        self.weight = conv.weight

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        rounded = self.weight + (paddle.round(self.weight * 64) / 64 - self.weight).detach()
        return paddle.nn.functional.conv2d(x, rounded, padding=1)


class Round(Strategy):
    """Replaces the convolution by a rounded one: an edit of the grid."""

    phase = Phase.GRID

    def attach(self, model: nn.Layer, context: Context) -> None:
        if not context.resuming:
            self.replay(model, {})

    def record(self) -> dict[str, Any] | None:
        return {"layers": ["conv"]}

    @staticmethod
    def replay(model: nn.Layer, record: dict[str, Any]) -> None:
        replace(model, "conv", Rounded(get(model, "conv")))


@dataclass(frozen=True)
class ListenConfig(StrategyConfig):
    layer: str | None = None  # None: the task's first distill point


class Listen(Strategy):
    """Pulls a tapped output to an own trained offset: loss, parameter, hook and state."""

    Config = ListenConfig
    phase = Phase.LOSS

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.offset = paddle.create_parameter([1], "float32")
        self.steps = 0

    def attach(self, model: nn.Layer, context: Context) -> None:
        if not context.resuming:
            self.offset.set_value(paddle.randn([1]))
        hints = context.task.slim_hints(model)
        layer = get(model, self.config.layer or hints.distill_points[0].layer)
        self.seen_type = type(layer).__name__
        self._handle = layer.register_forward_post_hook(self._catch)

    def _catch(self, layer: nn.Layer, inputs: Any, output: paddle.Tensor) -> None:
        self._caught = output

    def losses(self, batch: Any, outputs: Any) -> dict[str, paddle.Tensor]:
        return {"loss_listen": 0.01 * ((self._caught.mean() - self.offset) ** 2).mean()}

    def parameters(self) -> dict[str, paddle.Tensor]:
        return {"offset": self.offset}

    def after_step(self) -> None:
        self.steps += 1

    def detach(self, model: nn.Layer) -> None:
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"offset": self.offset.numpy(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.offset.set_value(state["offset"])
        self.steps = state["steps"]


class NeedsTeacher(Listen):
    needs_teacher = True


class Explode(Strategy):
    """Adds a term that is not a number from its first step on."""

    def losses(self, batch: Any, outputs: Any) -> dict[str, paddle.Tensor]:
        return {"loss_explode": outputs["level"].mean() * float("nan")}
