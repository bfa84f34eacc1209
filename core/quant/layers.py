"""Convolutions and linear layers that round their inputs and weights.

A layer is changed in place: it remains the same object with the same parameters under the same
paths, so references, hooks and optimizers stay valid. Only its class changes, and it gains an
`ActivationQuantizer`. In a traced graph it appears as the float layer; `scales_of` returns how it
is quantized, and each file format writes that in its own way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn import Layer

from core.errors import CheckpointError
from core.network.batch_norms import is_batch_norm
from core.network.layers import LayerReference, get
from core.quant.fake_quant import fake_quantize_limited_weight, fake_quantize_weight
from core.quant.quantizers import ActivationQuantizer, Rounding
from core.targets.processors import MIDDLE, Limit

QUANTIZER = "input_quantizer"


class QuantizedLayer(Layer):
    """Base of the quantized kinds of layers.

    Attributes:
        bypassed: Whether the layer computes in float for now.
        channel_axis: Axis of the output channels in the weight.
        requantized_per_channel: Whether a weight with one grid is rounded again per channel, as
            Paddle Inference does when it loads a file.
        limit: Limit on the steps that the weight may take, see `core.quant.weight_grid`.
        largest: Value of step 127 of an even grid.
        norm: The batch norm that an export folds into the weight. Set where the weight has one
            grid, which must then be that of the folded weight.
        shared_quantizer: Output quantizer of another layer that already rounds the inputs of this
            one; None: the layer has a quantizer of its own.
        held: The rounded weight, once it was needed, while `weights_held`; otherwise None.
    """

    channel_axis: int
    weight: Tensor
    bypassed: bool = False
    requantized_per_channel: bool = False
    limit: Limit = "none"
    largest: float = MIDDLE
    norm: LayerReference[Layer] | None = None
    shared_quantizer: LayerReference[ActivationQuantizer] | None = None
    held: list[Tensor] | None = None

    @property
    def input_quantizer(self) -> ActivationQuantizer:
        """Return the quantizer of the layer's inputs."""
        if self.shared_quantizer is not None:
            return self.shared_quantizer.layer
        own: ActivationQuantizer = self._sub_layers[QUANTIZER]
        return own

    def rounded_input(self, x: Tensor) -> Tensor:
        """Return the input x, [N, C, H, W] or [..., features], on its grid."""
        if self.shares_quantizer and not self.input_quantizer.bypassed:
            return x  # it is rounded where it is made
        return self.input_quantizer(x)

    @property
    def shares_quantizer(self) -> bool:
        """Return whether the quantizer of the inputs is that of another layer's outputs."""
        return self.shared_quantizer is not None

    def share_quantizer(self, quantizer: ActivationQuantizer) -> None:
        """Use the output quantizer of another layer for the inputs of this one."""
        self._sub_layers.pop(QUANTIZER, None)
        self.shared_quantizer = LayerReference(quantizer)

    def own_quantizer(self) -> None:
        """Round the inputs with a copy of the shared quantizer."""
        shared, self.shared_quantizer = self.input_quantizer, None
        own = ActivationQuantizer(shared.rounding)
        own.set_state_dict(shared.state_dict())
        own.nonnegative, own.signed = shared.nonnegative, shared.signed
        own.training, own.tracking = shared.training, shared.tracking
        own.load_training_state(shared.training_state())
        self.add_sublayer(QUANTIZER, own)

    def rounded_weight(self) -> Tensor:
        """Return the weight on its grid: [O, I / groups, h, w], or [I, O] of a linear layer."""
        if self.held is None:
            return self._round_weight()
        if not self.held:
            self.held.append(self._round_weight())
        return self.held[0]

    def _round_weight(self) -> Tensor:
        rounding = self.input_quantizer.rounding
        if rounding.weight_type == "channel_wise_abs_max":
            return self._on_grid(self.weight, self.limit)
        if self.norm is None:
            rounded = self._on_grid(self.weight, self.limit, per_channel=False)
        else:
            factor = self._folded(self.norm.layer)
            rounded = self._on_grid(self.weight * factor, self.limit, per_channel=False) / factor
        # an even grid rounds by itself again
        again = self.requantized_per_channel and self.limit != "even"
        return self._on_grid(rounded, "none") if again else rounded

    def _on_grid(self, weight: Tensor, limit: Limit, per_channel: bool = True) -> Tensor:
        """Round a weight; those of fewer than 8 bits overflow nowhere."""
        bits = self.input_quantizer.rounding.weight_bits
        axis: int | None = self.channel_axis
        if limit == "none" or bits < 8:
            return fake_quantize_weight(weight, bits, axis if per_channel else None)
        if isinstance(self, nn.Conv2DTranspose) and self._groups > 1:
            axis = None
        return fake_quantize_limited_weight(weight, axis, limit, per_channel, self.largest)

    def _folded(self, norm: Layer) -> Tensor:
        """Return the factor of a folded norm on each output channel, broadcast to the weight."""
        with paddle.no_grad():
            factor = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
            # a channel that the norm silences may have any weight
            factor = paddle.where(factor == 0, paddle.ones_like(factor), factor)
            shape = [1] * self.weight.ndim
            shape[self.channel_axis] = -1
            return factor.reshape(shape)

    def _rounds(self) -> bool:
        return paddle.in_dynamic_mode() and not self.bypassed


class QuantizedConv2D(QuantizedLayer, nn.Conv2D):
    """Convolution of rounded inputs with rounded weights."""

    channel_axis = 0

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [N, C, H, W]."""
        if not self._rounds():
            return nn.Conv2D.forward(self, x)
        x = self.rounded_input(x)
        weight = self.weight if self.input_quantizer.observer else self.rounded_weight()
        padding = self._padding
        if self._padding_mode != "zeros":
            pads, padding = self._reversed_padding_repeated_twice, 0
            x = F.pad(x, pads, mode=self._padding_mode, data_format=self._data_format)
        y = F.conv2d(
            x,
            weight,
            stride=self._stride,
            padding=padding,
            dilation=self._dilation,
            groups=self._groups,
            data_format=self._data_format,
        )
        return _with_bias(y, self.bias)


class QuantizedConv2DTranspose(QuantizedLayer, nn.Conv2DTranspose):
    """Transposed convolution of rounded inputs with rounded weights."""

    channel_axis = 1

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Convolve x [N, C, H, W]."""
        if not self._rounds():
            return nn.Conv2DTranspose.forward(self, x, output_size)
        x = self.rounded_input(x)
        weight = self.weight if self.input_quantizer.observer else self.rounded_weight()
        y = F.conv2d_transpose(
            x,
            weight,
            stride=self._stride,
            padding=self._padding,
            output_padding=self.output_padding if output_size is None else 0,
            dilation=self._dilation,
            groups=self._groups,
            output_size=output_size,
            data_format=self._data_format,
        )
        return _with_bias(y, self.bias)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """Product of rounded inputs with rounded weights."""

    channel_axis = 1

    def forward(self, input: Tensor) -> Tensor:
        """Multiply input [..., in_features]."""
        if not self._rounds():
            return nn.Linear.forward(self, input)
        x = self.rounded_input(input)
        weight = self.weight if self.input_quantizer.observer else self.rounded_weight()
        return F.linear(x, weight, self.bias)


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """Return the outputs y of a convolution, [N, C, H, W], with its bias [C].

    The convolutions of Paddle 3.1 add it as [1, C, 1, 1], which takes a CPU up to twenty times as
    long as [C, 1, 1].
    """
    return y if bias is None else y + bias.reshape([-1, 1, 1])


KINDS: Mapping[type[Layer], type[QuantizedLayer]] = MappingProxyType(
    {
        nn.Conv2D: QuantizedConv2D,
        nn.Conv2DTranspose: QuantizedConv2DTranspose,
        nn.Linear: QuantizedLinear,
    }
)
# attributes that a layer gains with its class
_SETTINGS = frozenset(
    {"bypassed", "requantized_per_channel", "limit", "largest", "norm", "shared_quantizer"}
)
_FLOAT = MappingProxyType({quantized: plain for plain, quantized in KINDS.items()})


def why_not(layer: Layer, rounding: Rounding) -> str | None:
    """Return the reason why a layer with a weight cannot be quantized; None if it can be."""
    if isinstance(layer, QuantizedLayer):
        return "is quantized already"
    if type(layer) not in KINDS:
        return f"{type(layer).__name__} is not a plain {' or '.join(k.__name__ for k in KINDS)}"
    if not isinstance(layer, nn.Linear) and layer._data_format != "NCHW":
        return f"its data format is {layer._data_format}"
    by_channel = rounding.weight_type == "channel_wise_abs_max"
    if isinstance(layer, nn.Conv2DTranspose) and layer._groups > 1 and by_channel:
        return "a transposed convolution in groups has no axis of output channels"
    return None


def quantize(
    model: Layer,
    path: str,
    rounding: Rounding,
    norm: str | None = None,
    nonnegative: bool = False,
    unsigned: bool = False,
    limit: Limit = "none",
) -> QuantizedLayer:
    """Turn the layer at a path into a quantized one, in place.

    Args:
        model: Holds the layer.
        path: Path of the layer.
        rounding: How the layer is rounded.
        norm: Path of the batch norm that is folded into it in files; see `QuantizedLayer`.
        nonnegative: See `ActivationQuantizer`.
        unsigned: See `ActivationQuantizer`.
        limit: Limit on the steps that the weight may take.

    Raises:
        CheckpointError: There is no such layer, or none that can be quantized.
    """
    layer = get(model, path)
    reason = why_not(layer, rounding)
    if reason is not None:
        raise CheckpointError(f"{path}: cannot be quantized: {reason}")
    quantizer = ActivationQuantizer(rounding, nonnegative, unsigned)
    quantizer.training = layer.training
    folded = None
    if norm is not None:
        folded = LayerReference(get(model, norm))
        if not is_batch_norm(folded.layer):
            kind = type(folded.layer).__name__
            raise CheckpointError(f"{norm}: expected a batch norm, is {kind}")
    layer.__class__ = KINDS[type(layer)]
    layer.add_sublayer(QUANTIZER, quantizer)
    assert isinstance(layer, QuantizedLayer)
    layer.norm, layer.limit = folded, limit
    return layer


def restore_float(layer: QuantizedLayer) -> None:
    """Make a quantized layer the float one again."""
    layer._sub_layers.pop(QUANTIZER, None)
    for name in vars(layer).keys() & _SETTINGS:
        delattr(layer, name)
    layer.__class__ = _FLOAT[type(layer)]


def quantized_layers(model: Layer) -> dict[str, QuantizedLayer]:
    """Return the quantized layers by path, each once."""
    return {
        path: each for path, each in model.named_sublayers() if isinstance(each, QuantizedLayer)
    }


@contextlib.contextmanager
def weights_held(model: Layer) -> Iterator[None]:
    """Round each weight once while the context is open, in which no weight or grid may change."""
    layers = quantized_layers(model).values()
    for layer in layers:
        layer.held = []
    try:
        yield
    finally:
        for layer in layers:
            layer.held = None
