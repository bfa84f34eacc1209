"""Resizing of maps: to the nearest place, linear and cubic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.operators.kinds import Write
from core.export.onnx.operators.layouts import channels_second, spatial
from core.export.onnx.paddle_operator import PaddleOperator
from core.export.onnx.told import Told, told

_LAYOUT = "data_layout"
_SIZES = ("out_d", "out_h", "out_w")


def _resize(op: PaddleOperator, to: NodeWriter) -> None:
    attributes = {**_places(op), "mode": _mode(op)}
    if attributes["mode"] == "cubic":
        attributes["cubic_coeff_a"] = -0.75

    def inner(source: str, target: str) -> str:
        scales, sizes = _wanted(op, to, source)
        return to.add("Resize", [source, "", scales, *sizes], target, **attributes)

    channels_second(op, to, (op.source(), op.target()), _LAYOUT, inner)


def _mode(op: PaddleOperator) -> str:
    kind = op.type.partition("_")[0]
    return {"nearest": "nearest", "bicubic": "cubic"}.get(kind, "linear")


def _places(op: PaddleOperator) -> dict[str, str | float]:
    """Return how ONNX is told where a number of the result lies in the map."""
    aligned = op.flag("align_corners", True)
    if _mode(op) == "nearest":
        rounding = "round_prefer_ceil" if aligned else "floor"
        place = "align_corners" if aligned else "asymmetric"
        return {"coordinate_transformation_mode": place, "nearest_mode": rounding}
    centred = _mode(op) == "cubic" or op.integer("align_mode", 1) == 0
    place = "align_corners" if aligned else "half_pixel" if centred else "asymmetric"
    return {"coordinate_transformation_mode": place}


def _wanted(op: PaddleOperator, to: NodeWriter, source: str) -> tuple[str, list[str]]:
    """Return names of the scales, and of the sizes if these are told, for each axis.

    Args:
        op: The operator.
        to: Writer of the graph.
        source: The map with channels second.
    """
    count = op.rank(op.source()) - 2
    computed = told(op, to, ["OutSize", "SizeTensor"], "")
    if isinstance(computed, str) or computed:
        return "", [_sizes(to, source, computed)]
    if op.source("Scale"):
        raise op.refusal("its scale is computed while it runs")
    scales = op.numbers("scale")
    scales = scales * count if len(scales) == 1 else scales
    if scales and min(scales) > 0:
        return to.constant([1.0, 1.0, *scales], np.float32), []
    wanted = [op.integer(name, -1) for name in _SIZES[-count:]]
    before = spatial(op, op.source(), _LAYOUT)
    if min(before) > 0 and not any(b % a for a, b in zip(before, wanted)):
        factors = [b // a for a, b in zip(before, wanted)]
        return to.constant([1.0, 1.0, *factors], np.float32), []
    return "", [_sizes(to, source, wanted)]


def _sizes(to: NodeWriter, source: str, wanted: Told) -> str:
    """Return the name of the sizes of all axes; batch and channels are those of the map."""
    ends = wanted if isinstance(wanted, str) else to.sizes(wanted)
    begins = to.slice(to.add("Shape", [source]), 0, 0, 2)
    return to.add("Concat", [begins, ends], axis=0)


TABLE: Mapping[str, Write] = MappingProxyType(
    {
        f"{kind}_interp{version}": _resize
        for kind in ("nearest", "linear", "bilinear", "trilinear", "bicubic")
        for version in ("", "_v2")
    }
)
