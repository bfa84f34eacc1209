"""A classification backbone of PaddleClas with a light decoder.

The decoder follows the pattern of feature pyramids (Lin et al.: "Feature Pyramid Networks for
Object Detection", CVPR 2017) with depthwise separable convolutions, and thins out towards the
fine maps as the head of Lite-HRNet does.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.nn import Layer, LayerList, Sequential

from core.errors import ConfigError
from core.network.modes import evaluation_mode
from core.settings.config import suggest
from core.settings.other_names import suggest_family
from core.settings.versions import require
from tasks.keypoint.models.conv_norm import ConvNorm, SeparableConv

STRIDES = (4, 8, 16, 32)
PROBE_SIZE = 64


def imagenet_url(name: str) -> str:
    """Return where PaddleClas publishes the ImageNet weights of a backbone.

    Raises:
        ConfigError: Unknown name, or PaddleClas knows of no weights.
    """
    urls = getattr(sys.modules[_factory(name).__module__], "MODEL_URLS", {})
    if not urls.get(name):
        raise ConfigError(f"model.pretrained: PaddleClas publishes no weights of {name}")
    return str(urls[name])


class Pyramid(Layer):
    """The layers of a backbone down to stride 32, under PaddleClas' names.

    What comes after them, above all the classifier, is left out; how many channels there are and
    where the strides change is found by sending an image through.

    Args:
        name: A network of PaddleClas that is a chain of layers (each takes what the one before
            it returned).

    Raises:
        ConfigError: PaddleClas has no such network, or its maps at all four strides cannot be
            found.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        factory = _factory(name)
        try:
            network = factory()
            chain = _follow(network)
        except (AssertionError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(f"model.backbone: {name} cannot be used: {reason}") from error
        ends = _stage_ends(name, chain)
        used = [path for path, _ in chain]
        del used[used.index(ends[-1][0]) + 1 :]
        _keep_only(network, used)
        for child, layer in network.named_children():
            self.add_sublayer(child, layer)
        self.channels = tuple(channels for _, channels in ends)
        self._steps = _merge_steps(self, used, {path for path, _ in ends})
        self._ends = frozenset(
            step for step in self._steps if any(_leaves(self, step)[-1] == path for path, _ in ends)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for step in self._steps:
            x = _at(self, step)(x)
            if step in self._ends:
                maps.append(x)
        return maps

    def stages(self) -> list[list[Layer]]:
        """Return the layers in groups that may be frozen: down to stride 4, 8, 16 and 32."""
        groups: list[list[Layer]] = [[]]
        for step in self._steps:
            groups[-1].append(_at(self, step))
            if step in self._ends:
                groups.append([])
        return groups[:-1]


class Decoder(Layer):
    """From maps at strides 4 to 32 to one at stride 4, coarse to fine.

    Args:
        channels: Channels of the maps, fine to coarse.
        widths: Channels inside the decoder, coarse to fine.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.laterals = LayerList(
            [ConvNorm(c, width, std=None) for c, width in zip(reversed(channels), widths)]
        )
        self.merges = LayerList(
            [SeparableConv(a, b, 5, std=None) for a, b in pairwise([*widths, widths[-1]])]
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        coarse_to_fine = maps[::-1]
        x = F.relu(self.laterals[0](coarse_to_fine[0]))
        for index in range(1, len(maps)):
            lateral = self.laterals[index](coarse_to_fine[index])
            x = self.merges[index - 1](x)
            x = F.interpolate(x, lateral.shape[-2:], mode="bilinear")
            x = F.relu(paddle.add(x, lateral))
        return self.merges[len(maps) - 1](x)


def _factory(name: str) -> Callable[[], Layer]:
    require("paddleclas", "model.backbone")
    # deferred: importing PaddleClas takes a second, and most keypoint networks need none of it
    from paddleclas.ppcls.arch import backbone

    functions = {each: getattr(backbone, each) for each in backbone.__all__}
    known = [each for each in functions if inspect.isfunction(functions[each])]
    if name not in known:
        near = suggest_family(name, known) or suggest(name, known)
        near = near if "did you mean" in near else ", for instance PPLCNet_x1_0"
        raise ConfigError(f"model.backbone: PaddleClas has no network {name!r}{near}")
    factory: Callable[[], Layer] = functions[name]
    return factory


class _ChainEndsError(Exception):
    """Stops the walk through a network."""


def _follow(network: Layer) -> list[tuple[str, Tensor]]:
    """Send an image through: the path of each layer that was called and what it returned.

    The list ends where a layer takes anything but what the one before it returned, or the image
    has shrunk to a point: classifiers may not like the size of this one.
    """
    pixels = np.random.default_rng(0).standard_normal((1, 3, PROBE_SIZE, PROBE_SIZE))
    image = paddle.to_tensor(pixels.astype(np.float32))
    chain: list[tuple[str, Tensor]] = []

    def note(path: str) -> Callable[[Layer, tuple[Any, ...], Any], None]:
        def hook(_layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
            is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1
            if not is_map or inputs[0] is not (chain[-1][1] if chain else image):
                raise _ChainEndsError
            chain.append((path, output))

        return hook

    handles = [
        _at(network, path).register_forward_post_hook(note(path)) for path in _leaves(network, "")
    ]
    with evaluation_mode(network), paddle.no_grad(), contextlib.suppress(_ChainEndsError):
        network(image)
    for handle in handles:
        handle.remove()
    return chain


def _stage_ends(name: str, chain: list[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    """Return path and channels of the last layer at each of the strides."""
    ends: dict[int, tuple[str, int]] = {}
    for path, output in chain:
        ends[PROBE_SIZE // output.shape[-1]] = (path, output.shape[1])
    lacking = [str(stride) for stride in STRIDES if stride not in ends]
    if lacking:
        raise ConfigError(
            f"model.backbone: {name} cannot be followed layer by layer to maps at stride "
            f"{', '.join(lacking)}; choose a plain chain of layers, such as PPLCNet, MobileNetV3 "
            "or ResNet"
        )
    return [ends[stride] for stride in STRIDES]


def _at(layer: Layer, path: str) -> Layer:
    for name in path.split(".") if path else ():
        layer = layer._sub_layers[name]
    return layer


def _leaves(network: Layer, path: str) -> list[str]:
    """Return the paths of the layers under `path`, looking into plain containers only."""
    layer = _at(network, path)
    if path and (type(layer) not in (Sequential, LayerList) or not len(layer)):
        return [path]
    return [
        leaf
        for name, _ in layer.named_children()
        for leaf in _leaves(network, f"{path}.{name}" if path else name)
    ]


def _keep_only(network: Layer, used: Sequence[str]) -> None:
    """Remove all layers but the used ones, and containers that are empty then."""
    for leaf in set(_leaves(network, "")).difference(used):
        path = leaf
        while path:
            parent, _, name = path.rpartition(".")
            del _at(network, parent)._sub_layers[name]
            path = "" if _at(network, parent)._sub_layers else parent


def _merge_steps(network: Layer, used: Sequence[str], ends: set[str]) -> tuple[str, ...]:
    """Return the layers to call one after another: whole containers, unless a stage ends inside."""
    steps: list[str] = []
    position = 0
    while position < len(used):
        step, count = used[position], 1
        parent = step.rpartition(".")[0]
        while parent and type(_at(network, parent)) is Sequential:
            leaves = _leaves(network, parent)
            following = used[position : position + len(leaves)]
            if list(following) != leaves or not ends.isdisjoint(leaves[:-1]):
                break
            step, count = parent, len(leaves)
            parent = parent.rpartition(".")[0]
        steps.append(step)
        position += count
    return tuple(steps)


__all__ = ["Decoder", "Pyramid", "imagenet_url"]
