"""Shared by all int8 formats: table entries by weight, and axes of output channels."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import ExportError
from core.graph.batch_norm_folding import COPY
from core.quant.scales import LayerScales

BITS = 8


class Entries:
    """The entries of a table by weight; it notes which were found."""

    def __init__(self, table: Sequence[LayerScales]) -> None:
        self._by_weight = {entry.weight: entry for entry in table}
        self._missing = set(self._by_weight)
        if len(self._by_weight) < len(table):
            names = [entry.weight for entry in table]
            twice = next(name for name in names if names.count(name) > 1)
            raise ExportError(f"{twice}: the table of scales has two entries for it")
        for entry in table:
            for what, bits in (("weights", entry.weight_bits), ("inputs", entry.input.bits)):
                if bits != BITS:
                    raise ExportError(
                        f"{entry.weight}: int8 files hold {what} of {BITS} bits, not of {bits}; "
                        f"quantize this layer with {BITS} bits, or leave it in float"
                    )

    def find(self, weight: str) -> LayerScales | None:
        """Return the entry of a weight, or of the weight that it is a copy of."""
        for name in (weight, COPY.sub("", weight)):
            if name in self._by_weight:
                self._missing.discard(name)
                return self._by_weight[name]
        return None

    def check_all_found(self) -> None:
        """Raise an ExportError that names a weight of which no layer was found."""
        for name in self._by_weight:
            if name in self._missing:
                raise ExportError(
                    f"{name}: no convolution or linear layer of the graph has this weight"
                )


def transposed_axis(weight: str, shape: Sequence[int], groups: int) -> int:
    """Return the axis of output channels in a transposed convolution's weight.

    It is [in, out / groups, h, w], so with groups one axis counts all of them only if depthwise.

    Raises:
        ExportError: There is no such axis.
    """
    if groups == 1:
        return 1
    if groups == shape[0] and shape[1] == 1:
        return 0
    raise ExportError(
        f"{weight}: a transposed convolution of {groups} groups cannot have a scale for each "
        "output channel in int8 files; use one for the whole weight"
    )
