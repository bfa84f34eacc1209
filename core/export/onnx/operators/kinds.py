"""What the modules of this package share: the type of their functions."""

from __future__ import annotations

from collections.abc import Callable

from core.export.onnx.node_writer import NodeWriter
from core.export.onnx.paddle_operator import PaddleOperator

Write = Callable[[PaddleOperator, NodeWriter], None]
