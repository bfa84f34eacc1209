"""Small trained layers between a student's features and a teacher's; they end with the window."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from core.task import Alignment


def resize(values: Tensor, size: Sequence[int], aligned_at: Alignment) -> Tensor:
    """Resize maps [N, C, H, W]; `aligned_at` says which pixels of both sizes coincide."""
    if list(values.shape[2:]) == list(size):
        return values
    corners = aligned_at == "corners"
    # align_mode 1: pixel i reads from i * ratio, without the half pixel of mode 0
    return F.interpolate(values, list(size), mode="bilinear", align_corners=corners, align_mode=1)


class Adapter(nn.Layer):
    """Give a student's features the channels and the size of a teacher's.

    Args:
        channels: Channels of the student.
        wanted: Channels of the teacher; if equal, no weights are needed.
        is_map: Maps [N, C, H, W], or else vectors [N, C].
        aligned_at: See `resize`.
    """

    def __init__(self, channels: int, wanted: int, is_map: bool, aligned_at: Alignment) -> None:
        super().__init__()
        self._aligned_at = aligned_at
        self.project: nn.Layer | None = None
        if channels != wanted:
            make = nn.Conv2D(channels, wanted, 1) if is_map else nn.Linear(channels, wanted)
            self.project = make

    def forward(self, values: Tensor, like: Tensor) -> Tensor:
        if self.project is not None:
            values = self.project(values)
        if values.ndim != 4:
            return values
        return resize(values, like.shape[2:], self._aligned_at)


class Generator(nn.Layer):
    """Hide a random share of the places and generate the map anew (MGD).

    Args:
        channels: Channels of the map.
        masked: Share of the places that is set to zero.
    """

    def __init__(self, channels: int, masked: float) -> None:
        super().__init__()
        self.masked = masked
        self.first = nn.Conv2D(channels, channels, 3, padding=1)
        self.second = nn.Conv2D(channels, channels, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        samples, _, height, width = values.shape
        draw = paddle.rand([samples, 1, height, width])
        kept = (draw >= self.masked).astype(values.dtype)
        generated: Tensor = self.second(F.relu(self.first(values * kept)))
        return generated
