"""Find the layers of a network that speak in classes, without knowing the network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import paddle
from paddle import Tensor
from paddle.nn import Layer

from tasks.seg.config import ModelConfig
from tasks.seg.models.build import build_network

PROBE = 128  # side of the image that is sent through; every network of PaddleSeg takes it


@dataclass(frozen=True)
class Heads:
    """Dotted paths in a network."""

    class_layers: tuple[str, ...]  # one output channel per class, main and auxiliary
    logits: str  # the class layer that the main output comes from
    feature: str  # what feeds it


def find_heads(config: ModelConfig) -> Heads:
    """Look at two fresh networks that differ in the number of classes, and run one of them.

    The random state of Paddle is left as it was.
    """
    state = paddle.get_rng_state()
    try:
        network = build_network(config)
        more = dataclasses.replace(config, num_classes=config.num_classes + 1)
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
        if isinstance(layer, (paddle.nn.Conv2D, paddle.nn.Linear)):
            last = isinstance(layer, paddle.nn.Linear)
            widths[path] = int(layer.weight.shape[1 if last else 0])
        elif isinstance(layer, paddle.nn.Conv2DTranspose):
            widths[path] = int(layer.weight.shape[1]) * layer._groups
    return widths


def _follow(network: Layer, class_layers: tuple[str, ...]) -> tuple[str, str]:
    """Return the class layer called last in evaluation, and the layer whose output it takes."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def hook(path: str, layer: Layer) -> None:
        def note(_layer: Layer, inputs: tuple[Tensor, ...], output: object) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append((path, inputs[0], output))

        layer.register_forward_post_hook(note)

    for path, layer in network.named_sublayers():
        hook(path, layer)
    network.eval()
    with paddle.no_grad():
        network(paddle.zeros([1, 3, PROBE, PROBE]))
    last = max(index for index, call in enumerate(calls) if call[0] in class_layers)
    logits, taken, _ = calls[last]
    earlier = [call for call in calls[:last] if not logits.startswith(f"{call[0]}.")]
    makers = [path for path, _, output in earlier if output is taken]
    feature = makers[-1] if makers else earlier[-1][0]
    return logits, feature
