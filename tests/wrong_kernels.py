"""A mark for tests of what ONNX Runtime makes of int8 files, where its kernels are wrong.

That is Python 3.10, which has no later version than 1.23, on a processor with AMX; any other Python
lifts it.
"""

from __future__ import annotations

import pytest

from core.targets.instructions import why_not_as_written

_WHY = why_not_as_written("onnxruntime", "any")

needs_right_kernels = pytest.mark.skipif(
    bool(_WHY), reason=f"{_WHY}; Python 3.11 and later install it"
)
