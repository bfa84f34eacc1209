"""Layers that take channels apart and put them together, and can be told new sizes.

Pruning removes channels one by one. A `paddle.chunk` in the middle of a block would then cut at
another channel than before, and a shuffle would deal the channels out differently. A network that
uses these layers instead can lose any channel: the split follows uneven sizes, the shuffle an
order of its own. They hold no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer


class ChannelSplit(Layer):
    """Cut [N, C, ...] into parts along the channels.

    Args:
        sizes: Channels of each part.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        parts: list[Tensor] = paddle.split(x, self.sizes, axis=1)
        return parts


class ChannelShuffle(Layer):
    """Concatenate two maps [N, C, H, W] along the channels and reorder them.

    As built, the channels of the two alternate, as in ShuffleNet (Zhang et al., CVPR 2018).
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] | None = None  # positions in the concatenation; None: alternate

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Traced graphs get the operators that inference runtimes know as a channel shuffle.

        Eager training gets a single copy, a tenth of the time on CPUs.
        """
        if self.order is not None:
            return self._select(first, second, self.order)
        _, channels, height, width = first.shape
        if paddle.in_dynamic_mode():
            pairs = paddle.concat([first.unsqueeze(2), second.unsqueeze(2)], axis=2)
        else:
            halves = paddle.concat([first, second], axis=1)
            pairs = halves.reshape([0, 2, channels, height, width]).transpose([0, 2, 1, 3, 4])
        return pairs.reshape([0, 2 * channels, height, width])

    def _select(self, first: Tensor, second: Tensor, order: list[int]) -> Tensor:
        # as rows: OpenVINO 2026.4 gathers wrong channels from maps of 4 axes
        rows = paddle.concat([first.flatten(2), second.flatten(2)], axis=1)
        chosen = paddle.index_select(rows, paddle.to_tensor(order, "int32"), axis=1)
        return chosen.reshape([0, len(order), *first.shape[2:]])

    def positions(self, channels: int) -> list[int]:
        """Return the order for so many channels in both inputs together."""
        if self.order is not None:
            return self.order
        positions: list[int] = np.arange(channels).reshape(2, -1).T.ravel().tolist()
        return positions

    @staticmethod
    def simplified(order: Sequence[int]) -> list[int] | None:
        """Return None for the order as built, another one as it is."""
        half = len(order) // 2
        alternating = np.arange(2 * half).reshape(2, half).T.ravel().tolist()
        return None if list(order) == alternating else list(order)
