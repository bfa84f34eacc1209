"""Models that end in the outputs of some of their layers: features, or a part of a network."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError, ExportError
from core.network.layers import LayerReference, tap
from core.settings.config import suggest
from core.task import Task


class LayersAsOutputs(Layer):
    """A network that returns the outputs of some of its layers, by path.

    Args:
        network: Network to run.
        model: Part of the network that paths start from.
        paths: Paths of the layers.
    """

    def __init__(self, network: Layer, model: Layer, paths: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._model, self._paths = LayerReference(model), tuple(paths)  # `network` holds it

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the network on inputs [N, ...]; return the outputs of the layers by path.

        Raises:
            ExportError: A layer does not run exactly once.
        """
        with tap(self._model.layer, self._paths) as caught:
            self.network(*inputs)
        for path in self._paths:
            count = len(caught.get(path, []))
            if count != 1:
                raise ExportError(f"ending: {path} runs {count} times, once is wanted")
        return {path: caught[path][0] for path in self._paths}


def ending_in(task: Task, model: Layer, ending: str) -> tuple[Layer, bool]:
    """Return the layer to export, and whether it ends in inner layers.

    Endings of the task take precedence over layers of the same name.

    Args:
        task: Task that defines endings.
        model: The network.
        ending: An ending of the task, or paths of layers, separated by commas.

    Raises:
        ConfigError: It is neither.
    """
    paths = ending.split(",")
    known = [path for path, _ in model.named_sublayers()]
    try:
        return task.deploy_model(model, ending), False
    except ConfigError:
        if not set(paths) & set(known):
            raise
    for path in paths:
        if path not in known:
            raise ConfigError(f"ending: the model has no layer {path!r}{suggest(path, known)}")
    return LayersAsOutputs(task.deploy_model(model, "raw"), model, paths), True
