"""Record outputs of layers of a network, and the shapes that its layers return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.batch_norms import statistics_kept
from core.network.layers import get
from core.task import Alignment, Batch, DistillPoint, Outputs, Task

OUTPUT = "@"  # begins the name of a named output of the task, where others are layer paths


@dataclass(frozen=True)
class Side:
    """A network as terms see it: its task's points and the shapes that its layers return."""

    title: str  # for messages: "student", "teacher hrnet_w32"
    points: tuple[DistillPoint, ...]
    shapes: Mapping[str, list[int]]  # by layer path or @output
    aligned_at: Alignment = "corners"

    @property
    def main_output(self) -> str:
        """Return the name of the task's main output."""
        return next(name for name in self.shapes if name.startswith(OUTPUT))


def look_at(title: str, task: Task, model: Layer, inputs: list[Tensor]) -> Side:
    """Run the network once, in the mode it is in, on inputs [N, ...]; its statistics are kept."""
    shapes: dict[str, list[int]] = {}

    def note(path: str, layer: Layer) -> Any:
        def hook(_layer: Layer, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                shapes[path] = list(output.shape)

        return layer.register_forward_post_hook(hook)

    handles = [note(path, layer) for path, layer in model.named_sublayers()]
    try:
        with paddle.no_grad(), statistics_kept(model):
            outputs = task.name_outputs(model(*inputs))
    finally:
        for handle in handles:
            handle.remove()
    named = {OUTPUT + name: list(value.shape) for name, value in outputs.items()}
    hints = task.slim_hints(model)
    return Side(title, hints.distill_points, {**shapes, **named}, hints.aligned_at)


class Taps:
    """Keeps what layers of a network returned last.

    Args:
        model: The network; the student is only listened to in training.
        paths: Layer paths; names of outputs among them are taken from `collect`.
    """

    def __init__(self, model: Layer, paths: Iterable[str]) -> None:
        self._model = model
        self._paths = list(dict.fromkeys(paths))
        self._caught: dict[str, Tensor] = {}
        self._train_only = model.training
        self._handles = [self._listen(p) for p in self._paths if not p.startswith(OUTPUT)]

    def collect(self, outputs: Outputs) -> Batch:
        """Return what was caught since the last call, as float32, and the named outputs.

        Raises:
            ConfigError: A layer was not run.
        """
        caught, self._caught = self._caught, {}
        for path in self._paths:
            if path.startswith(OUTPUT):
                caught[path] = outputs[path[len(OUTPUT) :]]
            elif path not in caught:
                raise ConfigError(f"{path}: this layer was not run in a training step")
        return {path: in_full_precision(caught[path]) for path in self._paths}

    def remove(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._caught = {}

    def _listen(self, path: str) -> Any:
        def hook(_layer: Layer, _inputs: object, output: Tensor) -> None:
            if self._model.training or not self._train_only:
                self._caught[path] = output

        return get(self._model, path).register_forward_post_hook(hook)


def in_full_precision(values: Tensor) -> Tensor:
    """Return half-precision values of any shape, as mixed precision makes them, as float32."""
    if values.dtype in (paddle.float16, paddle.bfloat16):
        return values.astype("float32")
    return values
