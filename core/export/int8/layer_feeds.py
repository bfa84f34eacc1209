"""Inputs and outputs of quantized layers in eager mode: a few pixels of a few images each.

No rounding is left in a layer whose input is on its grid already, so there is nothing that could
fall to either side; and what it makes of a part of its input tells as much as the whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn import Layer

from core.errors import ExportError
from core.export.int8.isolated import IsolatedLayer, Shapes, Stored
from core.graph.program import Graph
from core.quant.layers import QuantizedLayer
from core.targets.processors import HIGHEST, PAIR

IMAGES = 2  # images whose activations are fed; more samples are drawn
PLACES = 16  # at least, at which outputs of drawn samples are seen: a single one may cancel out
SIDE = 16  # pixels of a map, tokens of a sequence; more where a kernel spans more
BEYOND = 1.1  # share of a grid that samples reach, so that its ends are met
# What the last bits of a float may be worth, in steps of a grid, where a batch norm was folded in
# other arithmetic: a weight as near to the middle between two steps falls to either.
TIE = 1e-3


@dataclass(frozen=True)
class Feed:
    """Input of one layer.

    Attributes:
        values: On its grid, [images + drawn, ...]. The last samples are drawn from all of the grid,
            for images may leave channels at zero, behind which no weight is seen.
        drawn: How many they are.
        rest: Other arguments of the layer.
    """

    values: np.ndarray
    drawn: int = 0
    rest: tuple[Any, ...] = ()


@dataclass
class EagerLayers:
    """The quantized layers of a model, each with what the model feeds it.

    All that is said here of grids holds while the model rounds as the files of a format do.

    Attributes:
        model: They are in it.
        graph: Float graph of the model with folded batch norms.
        layers: By path.
        requantized_per_channel: Layers whose weight is on one grid, and is rounded by the runtime
            once more, channel by channel.
        feeds: By path.
    """

    model: Layer
    graph: Graph
    layers: Mapping[str, QuantizedLayer]
    requantized_per_channel: Container[str] = ()
    feeds: dict[str, Feed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sublayers = dict(self.model.named_sublayers())
        self._tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what the layers read while the context is open: the middle of the first images."""
        seen: dict[str, list[Feed]] = {path: [] for path in self.layers}
        hooks = []
        for path, layer in self.layers.items():

            def note(
                layer: QuantizedLayer,
                inputs: Sequence[Any],
                options: Mapping[str, Any],
                path: str = path,
            ) -> None:
                x, *rest = (*inputs, *options.values())
                x = x.unsqueeze(0) if x.ndim == 1 else x  # a vector of a linear layer
                known = seen[path]
                missing = IMAGES - sum(len(each.values) for each in known)
                if missing > 0:
                    x = x[:missing] if rest else _middle(layer, x[:missing])
                    known.append(Feed(layer.rounded_input(x).numpy(), rest=tuple(rest)))

            hooks.append(layer.register_forward_pre_hook(note, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for path, found in seen.items():
            if not found:
                raise ExportError(f"{path}: is in the graph, but the model does not run it")
            alike = [f.values for f in found if f.values.shape[1:] == found[0].values.shape[1:]]
            drawn = _drawn(self.layers[path], found[0].values)
            values = np.concatenate([*alike, drawn])
            self.feeds[path] = Feed(values, len(drawn), found[0].rest)

    def shapes(self) -> Shapes:
        """Return the shapes of the inputs of the layers' operators."""
        return {path: self.fed(path).shape for path in self.layers}

    def fed(self, path: str) -> np.ndarray:
        """Return the input of a layer's operator, [N, ...]; padded unless it pads with zeros."""
        layer, x = self.layers[path], self.feeds[path].values
        if not isinstance(layer, nn.Conv2D) or layer._padding_mode == "zeros":
            return x
        pads, mode = layer._reversed_padding_repeated_twice, layer._padding_mode
        padded: np.ndarray = F.pad(paddle.to_tensor(x), pads, mode=mode).numpy()
        return padded

    def answer(self, isolated: IsolatedLayer) -> np.ndarray:
        """Return the output [N, ...] of a layer for its feed, behind a batch norm that is folded.

        Ties are no errors: where the last bits of a float decide how a weight is rounded, or its
        bias is stored in int32, both are as in the file.
        """
        feed, layer = self.feeds[isolated.path], self.layers[isolated.path]
        weight, factor = None, self._factor(isolated)
        rounded, ties = self._with_ties_of_the_file(isolated, factor)
        if isolated.path in self.requantized_per_channel:
            weight = _rounded_again(rounded, isolated.stored, layer.channel_axis) / factor
        elif ties:
            weight = rounded / factor
        with _with_weight(layer, weight):
            made = self._run(isolated, feed.values, feed.rest)
        if isolated.bias is None or isolated.bias_step is None:
            return made
        bias = self._run(isolated, np.zeros_like(feed.values[:1]), feed.rest)
        rounding = isolated.bias - bias.reshape(-1, isolated.bias.size)[0].astype(np.float64)
        within = np.abs(rounding) <= (0.5 + TIE) * isolated.bias_step
        moved: np.ndarray = made + np.where(within, rounding, 0.0)
        return moved

    def _run(self, isolated: IsolatedLayer, x: np.ndarray, rest: Sequence[Any]) -> np.ndarray:
        """Run a layer and the norm behind it without its hooks, which may round the output."""
        layer = self.layers[isolated.path]
        norm, before = self.graph.folded.get(isolated.weight, ("", ""))
        added = None
        if layer.bias is None and before:
            added = self._tensors[before]
        elif layer.bias is None and not norm and isolated.bias is not None:
            # not the layer's own, but something that the model adds to what it makes
            added = paddle.to_tensor(isolated.bias.astype(np.float32))
        with paddle.no_grad():
            y = layer.forward(paddle.to_tensor(x), *rest)
            if added is not None:
                y = y + (added if isinstance(layer, nn.Linear) else added.reshape([1, -1, 1, 1]))
            made: np.ndarray = (_normed(self._sublayers[norm], y) if norm else y).numpy()
        return made

    def _rounded_weight(self, path: str) -> np.ndarray:
        with paddle.no_grad():
            rounded: np.ndarray = self.layers[path].rounded_weight().numpy()
        return rounded

    def _factor(self, isolated: IsolatedLayer) -> np.ndarray:
        """Return by what a folded norm multiplies each weight; 1 where that is nothing."""
        weight, order = self.layers[isolated.path].weight.numpy(), self.graph.permuted
        folded, some = self.graph.weights[isolated.weight], weight != 0
        if isolated.weight in order:
            folded = order[isolated.weight].undo(folded)
        factor: np.ndarray = np.where(some, folded / np.where(some, weight, 1), 1)
        factor[factor == 0] = 1
        return factor

    def _with_ties_of_the_file(
        self, isolated: IsolatedLayer, factor: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """Return the rounded, folded weight with ties as in the file, and whether any differed."""
        weight = self.layers[isolated.path].weight.numpy()
        ours, folded = self._rounded_weight(isolated.path) * factor, weight * factor
        steps, step = (
            _shaped(array, folded.shape) for array in (isolated.stored.steps, isolated.stored.step)
        )
        theirs = steps * step
        top = np.abs(steps) == HIGHEST
        if top.any():  # on even grids, the highest step in the file may be one more in the model
            largest = np.rint((np.abs(ours) / step)[top].max())
            theirs = np.where(top, np.sign(steps) * largest * step, theirs)
        differ = np.abs(ours - theirs) > 0.5 * step
        middle = (ours + theirs) / 2
        if self.layers[isolated.path].limit == "even":  # its highest step is that of PAIR
            middle = (_even_steps(ours, step) + _even_steps(theirs, step)) / 2
        ties = differ & (np.abs(folded - middle) < TIE * step)
        ties |= differ & self._ties_before(isolated.path, folded, theirs, step)
        return np.where(ties, theirs, ours), bool(ties.any())

    def _ties_before(
        self, path: str, folded: np.ndarray, theirs: np.ndarray, step: np.ndarray
    ) -> np.ndarray:
        """Tell which weights are ties of the one grid that they are rounded to before the even one.

        Two steps of the first grid may be rounded to different even steps, whose middle is nowhere
        near the weight.
        """
        layer = self.layers[path]
        one_grid = layer.input_quantizer.rounding.weight_type != "channel_wise_abs_max"
        if layer.limit != "even" or not one_grid:
            return np.zeros(folded.shape, bool)
        first = np.abs(folded).max() / HIGHEST or 1.0
        below = np.floor(folded / first)
        tie = np.abs(folded / first - below - 0.5) < TIE
        off = np.minimum(np.abs(theirs - below * first), np.abs(theirs - (below + 1) * first))
        result: np.ndarray = tie & (off <= (1 + TIE) * step)  # half of the distance of even steps
        return result


def _normed(norm: Any, y: Tensor) -> Tensor:
    """Return what a batch norm makes of [N, C, ...], without an activation that it may have."""
    return F.batch_norm(
        y,
        norm._mean,
        norm._variance,
        norm.weight,
        norm.bias,
        epsilon=norm._epsilon,
        data_format="NC" if y.ndim == 2 else "NCHW",
    )


def _even_steps(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return values of an even grid, the highest at PAIR steps, which may stand for 127 here."""
    highest = np.abs(values) > (HIGHEST - 0.5) * step
    even: np.ndarray = np.where(highest, np.sign(values) * PAIR * step, values)
    return even


def _rounded_again(weight: np.ndarray, stored: Stored, axis: int) -> np.ndarray:
    """Return a weight with one grid as Paddle Inference has it, rounded by channel once more.

    In its own arithmetic: half of an even largest step is a tie, which the last bits decide.

    Args:
        weight: Weight as the model rounds it.
        stored: Weight in the file; where both are equal, the bits of the file count.
        axis: Axis of the channels.
    """
    steps, step = (_shaped(array, weight.shape) for array in (stored.steps, stored.step))
    loaded = (steps / HIGHEST).astype(np.float32) * (step * HIGHEST).astype(np.float32)
    weight = np.where(np.abs(weight - loaded) < TIE * step, loaded, weight)
    others = tuple(other for other in range(weight.ndim) if other != axis)
    absmax = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.float32(HIGHEST) * (np.float32(1) / np.where(absmax > 0, absmax, 1))
    rounded: np.ndarray = np.rint(weight * scale) / scale
    return rounded


@contextlib.contextmanager
def _with_weight(layer: QuantizedLayer, weight: np.ndarray | None) -> Iterator[None]:
    """Give a layer a rounded weight while the context is open, in which it rounds nothing itself.

    Its feed is on the grid already.
    """
    if weight is None:
        yield
        return
    before = layer.weight.numpy(), layer.bypassed
    try:
        layer.bypassed = True
        layer.weight.set_value(weight.astype(before[0].dtype))
        yield
    finally:
        layer.bypassed = before[1]
        layer.weight.set_value(before[0])


def _shaped(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bring back the weight of a linear layer from that of a convolution of one pixel."""
    if array.ndim == 4 and len(shape) == 2:
        return np.transpose(array[:, :, 0, 0])
    return array


def _middle(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """Cut pixels or tokens from the middle of a batch."""
    for axis in range(1, x.ndim - 1) if isinstance(layer, nn.Linear) else range(2, x.ndim):
        size = min(x.shape[axis], _span(layer, axis - x.ndim))
        start = (x.shape[axis] - size) // 2
        x = paddle.slice(x, [axis], [start], [start + size])
    return x


def _span(layer: QuantizedLayer, axis: int) -> int:
    """Return how much of an axis, counted from the end, lets each weight have a say."""
    if not isinstance(layer, nn.Conv2D):
        return SIDE
    reach = (layer.weight.shape[axis] - 1) * layer._dilation[axis] + 1
    return max(SIDE, int(reach + layer._stride[axis]))


def _drawn(layer: QuantizedLayer, images: np.ndarray) -> np.ndarray:
    """Draw samples from all of a layer's grid: one of a map, several where there are few places."""
    places = images[0].size // images.shape[-1 if isinstance(layer, nn.Linear) else 1]
    count = -(-PLACES // places)
    quantizer, grid = layer.input_quantizer, layer.input_quantizer.grid()
    low, high = (BEYOND * grid.step * end for end in (grid.lowest, grid.highest))
    values = np.random.default_rng(0).uniform(low, high, (count, *images.shape[1:]))
    with paddle.no_grad():
        drawn: np.ndarray = quantizer(paddle.to_tensor(values.astype(np.float32))).numpy()
    return drawn
