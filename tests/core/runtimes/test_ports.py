"""What model files say of their inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
from onnx import TensorProto, helper, numpy_helper
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.runtimes.description import Port
from core.runtimes.ports import as_fed, check_shape, described, in_words, ports_in, with_sizes


def test_an_onnx_file_says_sizes_and_types(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, 8, None]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT16, [1]),  # a weight, as old files
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(np.zeros(1, np.float16), "w")],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "x.onnx"))
    assert ports_in(tmp_path / "x.onnx") == {
        "x": Port("x", (-1, 3, 8, -1), "float16"),
        "y": Port("y", (), "float16"),
    }


class Both(nn.Layer):
    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> list[paddle.Tensor]:
        return [x * 2, paddle.gather(x, y, axis=1), x > 0]


def test_a_program_of_the_new_ir_says_sizes_and_types(tmp_path: Path) -> None:
    specs = [InputSpec([None, 3, 8, None], "float32", "x"), InputSpec([2], "int64", "y")]
    paddle.jit.save(Both(), str(tmp_path / "inference"), input_spec=specs)
    assert ports_in(tmp_path / "inference.json") == {
        "x": Port("x", (-1, 3, 8, -1), "float32"),
        "y": Port("y", (2,), "int64"),
        "fetch_name_0": Port("fetch_name_0", (-1, 3, 8, -1), "float32"),
        "fetch_name_1": Port("fetch_name_1", (-1, 2, 8, -1), "float32"),
        "fetch_name_2": Port("fetch_name_2", (-1, 3, 8, -1), "bool"),
    }


@pytest.mark.parametrize("name", ["x.onnx", "x.pdmodel", "x.json"])
def test_files_that_say_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x0a\xff\xff\xff\xff no model")
    assert ports_in(tmp_path / name) == {}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        '{"program": {"regions": []}}',
        '{"program": {"regions": [{"blocks": [{"ops": [{"#": "1.data", "A": [], "O": []}]}]}]}}',
        '{"program": {"regions": [{"blocks": [{"ops": [7]}]}]}}',
        "[" * 100_000,
    ],
)
def test_json_that_is_no_program(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert ports_in(tmp_path / "x.json") == {}


def test_sizes_come_where_there_are_none() -> None:
    known = {"x": Port("x", (-1, 3), "float32")}
    plain = described(["x", "other"], ["y"], {})
    assert plain.inputs == (Port("x", (), ""), Port("other", (), ""))
    sized = with_sizes(plain, known | {"y": Port("y", (2,), "int64")})
    assert sized.inputs == (known["x"], Port("other", (), ""))
    assert sized.outputs == (Port("y", (2,), "int64"),)
    own = described(["x"], ["y"], {"x": Port("x", (7,), "float32")})
    assert with_sizes(own, known).inputs == own.inputs
    assert in_words(sized.inputs) == "x [-1, 3], other"


def test_arrays_are_of_the_ports_type_and_shape() -> None:
    port = Port("x", (-1, 3), "float32")
    assert as_fed(port, np.ones((2, 3), np.float64)[:, ::-1]).flags.c_contiguous
    check_shape(port, (5, 3))
    check_shape(Port("x", (), ""), (5, 9, 1))
    for shape, message in (((5, 4), r"takes \[-1, 3\]"), ((0, 3), "at least one image")):
        with pytest.raises(ExportError, match=message):
            check_shape(port, shape)
    with pytest.raises(ExportError, match="expected numbers"):
        as_fed(Port("x", (), ""), np.array(["a"]))
