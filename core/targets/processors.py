"""Rules for int8 files that compute the same numbers on processors with and without VNNI.

x86 processors with VNNI, and ARM processors, multiply bytes and add the products in 32 bits. Other
x86 processors add them in pairs in 16 bits; `core.quant.weight_grid` gives the consequences, and
which steps of weights are right on both kinds. Which limit a layer needs depends on the kernels of
a runtime, and so does whether int8 is of use there at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from core.graph.batch_norm_folding import COPY
from core.graph.linear_layers import layers_of
from core.graph.operators import attribute, only, operator
from core.graph.program import Graph
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import Format, Processors
from core.targets.paddle_inference import computed_in_int8
from core.targets.tensor_copies import UNSIGNED, clipped_tensors

BY_ONEDNN = ("paddle", "openvino")  # targets whose kernels for int8 are those of oneDNN
Limit = Literal["none", "pair_sum", "even"]
HIGHEST = 127  # highest step of weights, whose grid is symmetric: -128 is not used
PAIR = 128  # largest sum of two steps
# Steps that the highest of an even grid stands for, between the 127 and 128 of processors.
# 7 x 4663 / 256: no step of a grid of 127 is a tie between two even ones.
MIDDLE = 127.50390625
_TILE = 64  # int8 channels in a row of a tile of AMX


_ENDS = MappingProxyType({"relu": 3e38, "relu6": 6.0})


def largest_of_even(processors: Processors) -> int:
    """Return the value of step 127 of an even grid on this machine, see `weight_grid`."""
    return HIGHEST if processors == "any" and multiplies_int8_exactly("paddle") else PAIR


def graph_for(graph: Graph, kind: Format, processors: Processors) -> Graph:
    """Return the float graph that files of a format are made of.

    Args:
        graph: Float graph with folded batch norms.
        kind: Format of the files.
        processors: Processors on which the files must be right.
    """
    return with_signed_bytes(graph) if kind == "paddle" and processors == "any" else graph


def weight_limits(graph: Graph, kind: Format, processors: Processors) -> dict[str, Limit]:
    """Return the limits that files of a format need, by weight.

    Args:
        graph: Float graph with folded batch norms.
        kind: Format of the files.
        processors: Processors on which the files must be right.
    """
    if processors == "vnni" or kind == "lite":
        return {}
    if kind == "paddle":
        return dict.fromkeys(computed_in_int8(graph), "even")
    return {
        COPY.sub("", weight): "pair_sum"
        for op, _, weight in layers_of(graph)
        if not _is_depthwise(op, graph.shape(weight))
    }


def with_signed_bytes(graph: Graph) -> Graph:
    """Return an equivalent graph in which Paddle Inference uses no unsigned grids.

    It uses them behind a ReLU, where oneDNN then overflows without VNNI, whatever the weights: it
    scales their largest magnitude to 127. A clip is fused with convolutions too, but does not count
    as a ReLU.
    """
    return replace(
        graph, operators=[_clip(op) if op.type in UNSIGNED else op for op in graph.operators]
    )


def _clip(op: Any) -> Any:
    ends = {"X": only(op.inputs, "X")}, {"Out": only(op.outputs, "Out")}
    return operator("clip", *ends, {"min": 0.0, "max": _ENDS[op.type]})


def slow_without_dot_products(graph: Graph) -> dict[str, str]:
    """Return the layers for which oneDNN has no fast int8 kernel without VNNI.

    These are grouped convolutions whose groups do not fill vectors of four channels, depthwise ones
    excepted: oneDNN multiplies matrices there, group by group, which takes OpenVINO 2 to 6 times as
    long as its float kernels. With VNNI int8 is faster, but with one channel to a group.

    Returns:
        Reason by weight.
    """
    found = {}
    for op, _, weight in layers_of(graph):
        shape, groups = graph.shape(weight), attribute(op, "groups", 1)
        convolves = op.type in ("conv2d", "depthwise_conv2d")
        if not convolves or groups == 1 or _is_depthwise(op, shape):
            continue
        inputs, outputs = shape[1], shape[0] // groups
        if inputs % 4 or outputs % 4:
            found[COPY.sub("", weight)] = (
                f"groups of {inputs} to {outputs} channels are slow in int8 on processors without "
                "VNNI"
            )
    return found


def wrong_with_amx(graph: Graph) -> dict[str, str]:
    """Return the convolutions that oneDNN may compute wrongly in int8 on processors with AMX.

    Returns:
        Reason by weight.
    """
    found, clipped = {}, clipped_tensors(graph)
    for op, source, weight in layers_of(graph):
        shape = graph.shape(weight)
        if op.type not in ("conv2d", "depthwise_conv2d") or _is_depthwise(op, shape):
            continue
        groups, (channels, *kernel) = attribute(op, "groups", 1), shape[1:]
        if may_be_wrong_with_amx(groups, channels, kernel, source not in clipped):
            kernels = f"kernels of {'x'.join(map(str, kernel))} on {channels} channels"
            kernels = f"groups with {kernels}" if groups > 1 else kernels
            found[COPY.sub("", weight)] = (
                f"oneDNN computes {kernels} wrongly in int8 on processors with AMX"
            )
    return found


def may_be_wrong_with_amx(groups: int, channels: int, kernel: Sequence[int], signed: bool) -> bool:
    """Tell whether oneDNN computes some convolutions of this kind wrongly with AMX.

    These are convolutions

    - with kernels of an even size from 4 on, of groups or of 16 to 63 channels, as where attention
      reduces its keys. Which of them are wrong depends on map and stride in no simple way. Paddle
      Inference 3.1 computes some of them wrongly, too.
    - of groups with 1x1 kernels and more than 64 channels that are no multiple of 64, as in RepVGG
      and MicroNet. Paddle Inference computes them wrongly, too.
    - of other groups with fewer than 32 channels, unless these are 4, 8 or 12 and the kernel is at
      most 5x5, of data that may be negative.

    Measured with OpenVINO 2026.4 by `benchmarks.measure.int8_kernels`.

    Args:
        groups: Number of groups; of a convolution that is not depthwise.
        channels: Input channels of a group.
        kernel: Sizes of the kernel.
        signed: Whether the data may be negative, so that they have a zero point in OpenVINO.
    """
    if any(size >= 4 and size % 2 == 0 for size in kernel):
        return groups > 1 or 16 <= channels < _TILE
    if groups == 1:
        return False
    if max(kernel) == 1:
        return channels > _TILE and channels % _TILE != 0
    right = channels >= 32 or (channels in (4, 8, 12) and max(kernel) <= 5)
    return signed and not right


def _is_depthwise(op: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether each channel is convolved with one filter, whose kernels add in 32 bits."""
    groups = int(attribute(op, "groups", 1))
    return groups > 1 and shape[:2] == (groups, 1) and not op.type.endswith("_transpose")
