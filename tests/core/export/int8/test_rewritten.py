"""int8 files of rewritten graphs: the same integers in another order, and the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from paddle.static import InputSpec

from core.export import parity
from core.export.files import MODEL, ONNX, PARAMS
from core.export.int8.exporter import Int8Exporter
from core.export.int8.layerwise import LIMIT
from core.export.traced_model import ExportSettings, trace_for_export
from core.graph.channel_orders import WeightOrder
from core.graph.program import Graph
from core.graph.rewrites import rewrite
from core.quant.outputs import rounded_outputs
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS
from tests.networks.compared_layers import (
    KINDS,
    differences,
    images,
    prepared,
    quantized,
    randomize,
    wrong,
)
from tests.networks.shuffled import Irregular, Residual

pytestmark = pytest.mark.int8
# a shuffle, of which no shuffle is left, and what it is added to
ROUNDED = ("chain.blocks.1.shuffle", "paths.0")

Files = tuple[Int8Exporter, Int8Exporter, Path]


@pytest.fixture(scope="module", params=["inputs", "outputs too"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the exporters of a plain and of a rewritten graph, and the folder of their files."""
    folder = tmp_path_factory.mktemp("files")
    outputs = ROUNDED if request.param == "outputs too" else ()
    plain = prepared(quantized(randomize(Residual()), outputs=outputs))
    kept = {plain.graph.made[path] for path in rounded_outputs(plain.model)}
    made = replace(plain, graph=rewrite(plain.graph, kept))
    assert made.graph.permuted
    for exporter, name in ((plain, "plain"), (made, "rewritten")):
        (folder / name).mkdir()
        exporter.write(folder / name, KINDS)
    return plain, made, folder


def test_each_layer_is_that_of_the_model(files: Files) -> None:
    _, made, folder = files
    found = differences(made, folder / "rewritten")
    assert {each.runtime for each in found} == set(BACKENDS)
    assert max(each.relative for each in found) < LIMIT


def test_channels_are_selected_from_rows(tmp_path: Path) -> None:
    """A convolution for that, as in float files, would have no grid, and Paddle asks for one."""
    model = quantized(randomize(Irregular()))
    task: Any = None  # is only kept
    specs = [InputSpec([None, 3, 12, 12], "float32", "image")]
    made = trace_for_export(task, model, model, specs, False, ExportSettings(target="openvino"))
    assert any(op.type == "index_select" for op in made.graph.operators)
    assert made.quantized is not None
    made.quantized.write(tmp_path, KINDS)
    found = differences(made.quantized, tmp_path)
    assert {each.runtime for each in found} == set(BACKENDS)
    assert max(each.relative for each in found) < LIMIT


def test_a_wrong_order_is_found(files: Files) -> None:
    _, made, folder = files
    name = "again.0.last.weight"
    order = made.graph.permuted[name]
    turned = WeightOrder(order.inputs, order.outputs[::-1].copy())
    graph = replace(made.graph, permuted={**made.graph.permuted, name: turned})
    found = differences(replace(made, graph=graph), folder / "rewritten")
    assert {layer for _, layer in wrong(found)} == {"again.0.last"}


def integers(folder: Path) -> dict[str, np.ndarray]:
    """Return the int8 weights of the files, those of Paddle's with a prefix."""
    graph = Graph.from_files(folder / MODEL, folder / PARAMS)
    found = {f"paddle {n}": w for n, w in graph.weights.items() if w.dtype == np.int8}
    for each in onnx.load(folder / ONNX).graph.initializer:
        values = numpy_helper.to_array(each)
        if values.dtype == np.int8 and values.ndim == 4:
            found[each.name] = values
    return found


def test_the_files_hold_the_same_integers(files: Files) -> None:
    _, made, folder = files
    wanted, found = (integers(folder / name) for name in ("plain", "rewritten"))
    assert len(wanted) > 20
    assert wanted.keys() == found.keys()
    for name, steps in found.items():
        order = made.graph.permuted.get(name.removeprefix("paddle "))
        assert np.array_equal(steps if order is None else order.undo(steps), wanted[name]), name


def test_the_files_answer_the_same(files: Files) -> None:
    """To 1e-6 where sums are of integers; sums in float may fall to another side of a rounding."""
    _, _, folder = files
    for backend in BACKENDS:
        plain, made = (
            load_predictor(folder / name, backend, own=True) for name in ("plain", "rewritten")
        )
        for batch in images():
            (wanted,), (found,) = (parity.run(each, batch).values() for each in (plain, made))
            limit = 2e-2 if backend == "onnxruntime" else 1e-6
            far = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
            assert far <= limit, backend
