"""A processor without VNNI, as benchmarks and the second run of the int8 tests have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processor.without_vnni import UnavailableError, variables, without_flags

ROOT = Path(__file__).resolve().parents[2]
MODULE = "benchmarks.processor.without_vnni"
FLAGS = "flags\t\t: fpu avx avx2 fma avx512f avx512_vnni avx512vbmi avx_vnni amx_int8 amx_tile aes"
PRODUCT = """
import json, numpy as np, onnx, onnxruntime
from onnx import TensorProto as T, helper, numpy_helper
from core.targets.instructions import multiplies_int8_exactly, processor
weights = np.full((64, 16), 127, np.int8)
node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
ends = [helper.make_tensor_value_info(n, t, [8, s]) for n, t, s in
        (("x", T.UINT8, 64), ("y", T.INT32, 16))]
graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
run = onnxruntime.InferenceSession(model.SerializeToString()).run
exact = int(run(None, {"x": np.full((8, 64), 255, np.uint8)})[0][0, 0]) == 64 * 255 * 127
runtimes = [multiplies_int8_exactly(b) for b in ("paddle", "onnxruntime", "openvino")]
print(json.dumps([exact, *runtimes, processor()[1]]))
"""


def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(
        [sys.executable, "-m", MODULE, *words],
        cwd=ROOT,
        env={**own, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_product_saturates_and_every_runtime_is_said_to() -> None:
    """255 x 127 x 2 = 64770 does not fit 16 bits with a sign."""
    try:
        variables()
    except UnavailableError as error:
        pytest.skip(f"{error}; installing it lifts this")
    done = call(sys.executable, "-c", PRODUCT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[false, false, false, false, ["avx2"]]'


def test_flags_of_avx512_vnni_and_amx_are_taken_out() -> None:
    text = f"processor\t: 0\n{FLAGS}\nbugs\t\t: amx_free\n"
    kept = "flags\t\t: fpu avx avx2 fma aes"
    assert without_flags(text) == f"processor\t: 0\n{kept}\nbugs\t\t: amx_free\n"


def test_without_a_compiler_it_is_refused_or_capped(tmp_path: Path) -> None:
    show = "import os; print(os.environ['ONEDNN_MAX_CPU_ISA'], 'LD_PRELOAD' in os.environ)"
    words = [sys.executable, "-c", show]
    refused = call(*words, PATH=str(tmp_path))
    assert refused.returncode == 2
    reason = "needs a C compiler (gcc or cc) and objdump (binutils)"
    assert refused.stderr == f"error: no processor without VNNI can be had: {reason}\n"
    capped = call("--allow_cap", *words, PATH=str(tmp_path))
    assert capped.stdout == "AVX2 False\n"
    assert capped.stderr == f"warning: ONNX Runtime keeps all instructions: {reason}\n"


def test_a_command_that_is_none_is_one_line(tmp_path: Path) -> None:
    assert call("--allow_cap", PATH=str(tmp_path)).stderr.endswith("no command is given\n")
    done = call("--allow_cap", "nosuch", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.endswith("\nerror: nosuch: No such file or directory\n")
