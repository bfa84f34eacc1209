"""For which inputs OpenVINO compiles a model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.errors import ExportError
from core.runtimes.openvino_models import OpenVinoModel
from core.runtimes.predictor import openvino_settings


def _model(folder, shape, beside=None):
    """Write a file that doubles x, and puts zeros of a shape beside it if there is one."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y" if beside is None else "twice"])]
    constants = []
    if beside is not None:
        nodes.append(helper.make_node("Concat", ["twice", "zeros"], ["y"], axis=2))
        constants.append(numpy_helper.from_array(np.zeros(beside, np.float32), "zeros"))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, folder / "model.onnx")
    return OpenVinoModel(folder / "model.onnx", openvino_settings(1))


def _answer(model, *shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    fitting = model.fitting({"x": x})
    return fitting, x, fitting({"x": x})["y"]


def test_a_free_batch_is_compiled_for_one_image_and_when_needed_for_others(tmp_path):
    model = _model(tmp_path, ["N", 3, 4])
    assert list(model.compiled.input("x").shape) == [1, 3, 4]
    one, x, y = _answer(model, 1, 3, 4)
    assert one is model.compiled
    np.testing.assert_array_equal(y, 2 * x)
    several, x, y = _answer(model, 5, 3, 4)
    assert several is not model.compiled
    np.testing.assert_array_equal(y, 2 * x)
    assert _answer(model, 2, 3, 4)[0] is several
    assert _answer(model, 1, 3, 4)[0] is model.compiled


@pytest.mark.parametrize("change", ["other", "gone"])
def test_a_file_that_has_changed_is_not_read_for_other_batches(tmp_path, change):
    model = _model(tmp_path, ["N", 3, 4])
    if change == "gone":
        (tmp_path / "model.onnx").unlink()
    else:
        _model(tmp_path, ["N", 3, 4], beside=[1, 3, 1])
    assert _answer(model, 1, 3, 4)[0] is model.compiled
    with pytest.raises(ExportError, match=r"model.onnx: has changed since it was loaded"):
        _answer(model, 5, 3, 4)


@pytest.mark.parametrize("shape", [["N", 3, "W"], [1, 3, "W"], [2, 3, 4]])
def test_other_free_sizes_and_none_are_compiled_as_they_are(tmp_path, shape):
    model = _model(tmp_path, shape)
    fitting, x, y = _answer(model, 2 if shape[0] == 2 else 1, 3, 4)
    assert fitting is model.compiled
    assert fitting.input("x").partial_shape.is_dynamic == (shape != [2, 3, 4])
    np.testing.assert_array_equal(y, 2 * x)


def test_a_model_that_holds_another_batch_is_compiled_as_it_is(tmp_path):
    model = _model(tmp_path, ["N", 3, 4], beside=[2, 3, 1])
    fitting, x, y = _answer(model, 2, 3, 4)
    assert fitting is model.compiled
    np.testing.assert_array_equal(y[:, :, :4], 2 * x)
