"""What oneDNN and Paddle's profiler print, read for the page of benchmarks."""

from __future__ import annotations

import pytest

from benchmarks.measure.onednn_calls import calls, operators

CONVOLUTION = "onednn_verbose,v1,primitive,exec,cpu,convolution,jit,forward,src:f32,,alg:direct,mb1"
REORDER = "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,1x40x32x24"
MADE = "onednn_verbose,v1,primitive,create:cache_hit,cpu,reorder,jit:uni,undef,src:f32,,,1x40,3"


def test_the_shortest_of_each_call_is_taken() -> None:
    loading = [f"{REORDER},9", f"{CONVOLUTION},9", MADE, "something else"]
    rounds = [
        *(f"{CONVOLUTION},2", f"{REORDER},0.5", f"{CONVOLUTION}x,8"),
        *(f"{CONVOLUTION},4", MADE, f"{REORDER},1e-1", f"{CONVOLUTION}x,4"),
        *(f"{CONVOLUTION},3", f"{REORDER},0.25", f"{CONVOLUTION}x,5"),
    ]
    found = calls("\n".join(loading + rounds), 3)
    assert found == {"convolution": [2, 6.0], "reorder": [1, pytest.approx(0.1)]}


def test_rounds_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        calls("\n".join([f"{CONVOLUTION},2", f"{REORDER},2", f"{REORDER},2"]), 3)
    with pytest.raises(ValueError, match="rounds"):
        calls("nothing was said", 3)


def test_operators_of_a_round_are_counted() -> None:
    said = """
Event                            Calls       Total
thread0::fused_conv2d            12105       4209.48     0.034722
thread0::split                   90          650.637     0.020851
Executor::Run                    1           13.7478
"""
    assert operators(said, 42) == {"fused_conv2d": 269, "split": 2}
