"""Outputs that are resized bilinearly stay the same when products of matrices make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import Tensor, nn
from paddle.static import InputSpec

from core.export.onnx.convert import convert_to_onnx
from core.graph.batch_norm_folding import trace_folded
from core.graph.operators import only
from core.graph.program import Graph
from core.graph.resized_outputs import LONGEST, multiply_resized_outputs, resizing_matrix
from core.graph.rewrites import rewrite
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS
from tests.networks.shuffled import run

KIND = "bilinear_interp_v2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


class Scores(nn.Layer):
    """Scores of half the resolution of the image, scaled up.

    Args:
        how: Arguments of `interpolate`; without `size` and `scale_factor` the size of the image.
        read: Whether what was scaled up is read by others, too.
    """

    def __init__(self, how: dict[str, Any], read: bool = False) -> None:
        super().__init__()
        self.conv, self.how, self.read = nn.Conv2D(3, 4, 1, stride=2), how, read

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        how = dict(self.how)
        if not how.keys() & {"size", "scale_factor"}:
            how["size"] = paddle.shape(image)[2:]
        large = F.interpolate(self.conv(image), mode="bilinear", **how)
        return {"logits": large, **({"best": F.relu(large)} if self.read else {})}


def traced(network: nn.Layer, size: tuple[int, int]) -> Graph:
    network.eval()
    return trace_folded(network, [InputSpec([-1, 3, *size], "float32", "image")])


def kinds(graph: Graph) -> list[str]:
    return [op.type for op in graph.operators]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 9),
    growth=st.integers(0, 20),
    factor=st.sampled_from([None, 1.0, 1.5, 2.0, 3.25]),
    aligned=st.booleans(),
    mode=st.integers(0, 1),
)
def test_a_matrix_resizes_as_paddle_does(
    size: int, growth: int, factor: float | None, aligned: bool, mode: int
) -> None:
    """The columns of the result for the unit vectors are those of the matrix."""
    units = paddle.eye(size)[None, None]  # each column of this map is a unit vector
    how: dict[str, Any] = {"size": [size + growth, size]}
    if factor is not None:
        how = {"scale_factor": [factor, 1.0]}
    how |= {"mode": "bilinear", "align_corners": aligned, "align_mode": mode}
    wanted = F.interpolate(units, **how).numpy()[0, 0]

    class Resized(nn.Layer):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"out": F.interpolate(image, **how)}

    graph = trace_folded(Resized(), [InputSpec([1, 1, size, size], "float32", "image")])
    (op,) = [op for op in graph.operators if op.type == KIND]
    found = resizing_matrix(op, 0, size, len(wanted))
    np.testing.assert_allclose(found, wanted, atol=3e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"align_corners": True},
        {"size": [24, 40]},
        {"scale_factor": [3.0, 2.0], "align_mode": 1},
        {"size": [200, 16]},
    ],
)
def test_an_output_stays_the_same(folder: Path, how: dict[str, Any]) -> None:
    graph = traced(Scores(how), (20, 28))
    before = graph.to_program()
    made = multiply_resized_outputs(graph)
    assert KIND not in kinds(made)
    assert kinds(made).count("matmul_v2") == 2
    assert made.shape("logits") == graph.shape("logits")
    assert "shape" not in kinds(made)  # nobody asks for sizes any more
    reshape = next(op for op in made.operators if op.type == "reshape2")
    assert only(reshape.outputs, "XShape")  # Paddle Lite's converter wants it
    wanted = run(graph, folder)["logits"]
    files = folder / "model.pdmodel", folder / "model.pdiparams"
    image = np.random.default_rng(1).normal(0, 1, (2, 3, 20, 28)).astype("float32")  # as in `run`
    made.write(*files)
    (folder / "model.onnx").write_bytes(convert_to_onnx(made))
    for backend in BACKENDS:
        found = load_predictor(folder, backend, own=True).run(image)["logits"]
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max(), backend
    assert graph.to_program() == before


def test_the_cheaper_product_comes_first() -> None:
    """A map 1 x 30 becomes 100 x 60 by 60 x (30 + 100) products, or by 100 x 30 x (1 + 60)."""
    for size, wanted, rows_first in (((2, 60), (100, 60), False), ((60, 2), (60, 100), True)):
        made = multiply_resized_outputs(traced(Scores({"size": list(wanted)}), size))
        first = next(op for op in made.operators if op.type == "matmul_v2")
        assert ("logits@rows" in only(first.inputs, "X")) == rows_first
        assert ("logits@columns" in only(first.inputs, "Y")) != rows_first


def test_what_pays_less_stays() -> None:
    resized = Scores({})
    graph = traced(resized, (20, 28))
    assert multiply_resized_outputs(graph, {"logits"}) is graph
    free = traced(resized, (-1, -1))
    assert multiply_resized_outputs(free) is free
    smaller = traced(Scores({"size": [5, 40]}), (20, 28))
    assert multiply_resized_outputs(smaller) is smaller
    read = traced(Scores({}, read=True), (20, 28))
    assert multiply_resized_outputs(read) is read
    long = traced(resized, (2 * LONGEST + 2, 8))
    assert multiply_resized_outputs(long) is long


def test_it_is_a_part_of_rewriting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    made = rewrite(traced(Scores({}), (20, 28)))
    assert KIND not in kinds(made)
    assert caplog.messages == ["rewrote the resizing of outputs as products of matrices"]
