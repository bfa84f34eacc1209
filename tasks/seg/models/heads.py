"""Find the layers of a network that speak in classes, without knowing the network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn
from paddle.nn import Layer
from paddle.utils import unique_name

from tasks.seg.config import ModelConfig
from tasks.seg.models.build import build_network

PROBE = 128  # side of the image that is sent through; every network of PaddleSeg takes it


@dataclass(frozen=True)
class Heads:
    """Dotted paths in a network."""

    class_layers: tuple[str, ...]  # one output channel per class, main and auxiliary
    logits: str  # the class layer that the main output comes from
    feature: str  # layer that feeds it


def find_heads(config: ModelConfig) -> Heads:
    """Look at two fresh networks that differ in the number of classes, and run one of them.

    The random state of Paddle is left as it was.
    """
    state = paddle.get_rng_state()
    try:
        with unique_name.guard():
            network = build_network(config)
        more = dataclasses.replace(config, num_classes=config.num_classes + 1)
        with unique_name.guard():  # some layers name their weights, which must not meet
            widths = _output_widths(build_network(more))
    finally:
        paddle.set_rng_state(state)
    class_layers = tuple(
        path
        for path, width in _output_widths(network).items()
        if width == config.num_classes and widths[path] == width + 1
    )
    logits, feature = _follow(network, class_layers)
    return Heads(class_layers, logits, feature)


def _output_widths(network: Layer) -> dict[str, int]:
    widths = {}
    for path, layer in network.named_sublayers():
        if isinstance(layer, (nn.Conv2D, nn.Linear)):
            last = isinstance(layer, nn.Linear)
            widths[path] = int(layer.weight.shape[1 if last else 0])
        elif isinstance(layer, nn.Conv2DTranspose):
            widths[path] = int(layer.weight.shape[1]) * layer._groups
    return widths


def _follow(network: Layer, class_layers: tuple[str, ...]) -> tuple[str, str]:
    """Return the class layer nearest to the main output, and the layer whose output it takes.

    In evaluation some networks compute auxiliary heads too, even last; only layers that the first
    output depends on get a gradient from it.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []

    def hook(path: str, layer: Layer) -> None:
        def note(_layer: Layer, inputs: tuple[Tensor, ...], output: object) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append((path, inputs[0], output))

        layer.register_forward_post_hook(note)

    layers = dict(network.named_sublayers())
    for path, layer in layers.items():
        hook(path, layer)
    network.eval()
    raw = network(paddle.zeros([1, 3, PROBE, PROBE]))
    main = raw[0] if isinstance(raw, (list, tuple)) else raw
    main.sum().backward()
    last = max(
        index
        for index, (path, _, _) in enumerate(calls)
        if path in class_layers and layers[path].weight.grad is not None
    )
    logits, taken, _ = calls[last]
    return logits, _maker(calls[:last], taken, layers, class_layers)


def _maker(
    calls: list[tuple[str, Tensor, Tensor]],
    wanted: Tensor,
    layers: dict[str, Layer],
    class_layers: tuple[str, ...],
) -> str:
    """Return the outermost layer that made a feature map, or the layer called just before."""
    for index, (path, taken, output) in reversed(list(enumerate(calls))):
        if output is wanted and isinstance(layers[path], (nn.Dropout, nn.Dropout2D)):
            return _maker(calls[:index], taken, layers, class_layers)
        if output is wanted and path not in class_layers:
            return path
    maps = [path for path, _, out in calls if out.ndim == 4 and path not in class_layers]
    return maps[-1]
