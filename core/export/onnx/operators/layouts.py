"""Channels that lie last in Paddle and second in ONNX, and paddings of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.paddle_operator import PaddleOperator

# writes a node that reads the first name, with channels second, and makes the second
Inner = Callable[[str, str], str]


def channels_second(
    op: PaddleOperator, to: NodeWriter, ends: tuple[str, str], layout: str, write: Inner
) -> None:
    """Write an operator between two transposes if its channels lie last.

    Args:
        op: The operator.
        to: Writer of the graph.
        ends: What it reads and what it makes.
        layout: Attribute that tells the layout.
        write: Adds the nodes for channels that lie second.
    """
    source, target = ends
    if not has_channels_last(op, layout):
        write(source, target)
        return
    rank = op.rank(source)
    turned = to.transpose(source, [0, rank - 1, *range(1, rank - 1)])
    made = write(turned, "")
    to.transpose(made, [0, *range(2, rank), 1], target)


def has_channels_last(op: PaddleOperator, layout: str) -> bool:
    """Tell whether the channels of an operator lie last."""
    return op.text(layout, "NCHW").endswith("C")


def spatial(op: PaddleOperator, name: str, layout: str) -> list[int]:
    """Return the sizes of a tensor without those of batch and channels."""
    shape = op.shape(name)
    return list(shape[1:-1] if has_channels_last(op, layout) else shape[2:])


def told_pads(op: PaddleOperator, count: int) -> list[int]:
    """Return the paddings that an operator has in its attributes, begins first, then ends.

    Args:
        op: The operator, with one padding for each axis, or two side by side.
        count: Number of axes.
    """
    pads = op.integers("paddings") or [0] * count
    if len(pads) == count:
        return [*pads, *pads]
    return [*pads[::2], *pads[1::2]]


def same_pads(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the paddings with which there are `ceil(size / stride)` windows, begins first."""
    both = [
        max((-(-size // stride) - 1) * stride + width - size, 0)
        for size, width, stride in zip(sizes, kernel, strides)
    ]
    return [*(each // 2 for each in both), *(each - each // 2 for each in both)]
