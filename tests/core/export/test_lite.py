"""Paddle Lite's files: which interpreter makes them, what is said if none can, what is in them.

Where paddlelite cannot be found (it has wheels for CPython 3.8 and 3.10 only), scripts stand in for
the interpreter that has it; what the real converter makes is tested where it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError
from core.export import lite
from core.export.int8.paddle_writer import quantize_program
from core.export.package import export
from core.graph.batch_norm_folding import fold_batch_norms
from core.graph.program import Graph
from core.graph.trace import trace
from core.quant.apply import apply_quantization
from core.quant.grid_plan import plan_grids, trace_float
from core.quant.quantizers import Rounding
from core.quant.scales import Grid, LayerScales
from core.quant.selection import select_layers
from core.task import Task, build_task

PYTHON = sys.executable
# leaves a note of what it is asked, and writes what a converter would
CONVERTER = """\
#!{python}
import json, os, sys
if len(sys.argv) > 3:
    with open({log!r}, "w") as file:
        json.dump([sys.argv[3:], os.getcwd(), sorted(os.environ)], file)
    {act}
"""
WRITES = 'open(sys.argv[6] + ".nb", "wb").write(b"..conv2d/int8_out/4/2/1..fc/def/4/1/1..")'


def has_paddlelite() -> bool:
    try:
        lite.find_python()
    except ExportError:
        return False
    return True


needs_paddlelite = pytest.mark.skipif(
    not has_paddlelite(),
    reason=f"no interpreter has paddlelite; name one with CPython 3.10 and {lite.PACKAGE} in "
    f"{lite.VARIABLE}",
)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a script in the place of the interpreter; return where it notes how it was called."""

    def install(act: str = WRITES) -> Path:
        script, log = tmp_path / "python-of-lite", tmp_path / "called.json"
        script.write_text(CONVERTER.format(python=PYTHON, log=str(log), act=act))
        script.chmod(0o755)
        monkeypatch.setenv(lite.VARIABLE, str(script))
        return log

    return install


@pytest.fixture
def without_paddlelite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(lite.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    bare = tmp_path / "python"  # without the packages that are installed
    bare.write_text(f'#!/bin/sh\nexec {PYTHON} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "none")}})


def quantized(task: Task) -> Layer:
    paddle.seed(0)
    model = task.build_model()
    choice = select_layers(model, Rounding(), ("Conv2D", "Linear"), ())
    batches = [[paddle.rand([8, 3, 8, 8])] for _ in range(4)]
    apply_quantization(
        model,
        choice,
        Rounding(),
        batches,
        "abs_max",
        plan_grids(trace_float(task, model), model, "lite"),
    )
    return model


class TestFindingAnInterpreter:
    def test_the_one_that_is_named(self, stand_in: Any, tmp_path: Path) -> None:
        stand_in()
        assert lite.find_python() == str(tmp_path / "python-of-lite")

    def test_one_on_the_path(
        self, stand_in: Any, tmp_path: Path, without_paddlelite: None, monkeypatch: Any
    ) -> None:
        stand_in()
        monkeypatch.delenv(lite.VARIABLE)
        with pytest.raises(ExportError):
            lite.find_python()
        (tmp_path / "python3.10").symlink_to(tmp_path / "python-of-lite")
        assert lite.find_python() == str(tmp_path / "python3.10")

    def test_none(self, without_paddlelite: None) -> None:
        with pytest.raises(ExportError) as told:
            lite.find_python()
        message = str(told.value)
        assert message.startswith("format: lite needs paddlelite==2.13rc0, for CPython 3.8 or 3.10")
        assert "python3.10 -m venv lite && lite/bin/python -m pip install paddlelite" in message
        assert "export TRISLIM_LITE_PYTHON=$PWD/lite/bin/python" in message

    @pytest.mark.parametrize("named", ["nowhere/python", "/bin/false"])
    def test_a_named_one_without_it_is_an_error(
        self, named: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(lite.VARIABLE, named)
        pattern = f"^{lite.VARIABLE}: {named} cannot import paddlelite; run: {named} -m pip install"
        with pytest.raises(ExportError, match=pattern):
            lite.find_python()


class TestConverting:
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        return tmp_path / "a.pdmodel", tmp_path / "a.pdiparams"

    def test_what_the_child_is_told(
        self, stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = stand_in()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", "of this interpreter")
        content = lite.convert(Path("a.pdmodel"), Path("a.pdiparams"), "arm opencl")
        assert content.startswith(b"..conv2d")
        (model, params, targets, _), place, variables = json.loads(log.read_text())
        assert (model, params) == tuple(map(str, self.files(tmp_path)))
        assert targets == "arm opencl"
        assert Path(place) != tmp_path
        assert "PYTHONPATH" not in variables

    def test_the_reason_of_a_failure(self, stand_in: Any, tmp_path: Path) -> None:
        said = "Error: This model is not supported, because 1 ops are not supported on 'arm'."
        stand_in(f"print('Loading'); print({said!r}); print('more'); os.abort()")
        with pytest.raises(ExportError) as told:
            lite.convert(*self.files(tmp_path))
        assert str(told.value) == f"lite: the model cannot be converted for arm: {said}"

    def test_success_without_a_file_is_a_failure(self, stand_in: Any, tmp_path: Path) -> None:
        stand_in("pass")
        with pytest.raises(ExportError, match="cannot be converted for arm: status 0"):
            lite.convert(*self.files(tmp_path))

    def test_a_file_of_a_process_that_failed_is_not_taken(
        self, stand_in: Any, tmp_path: Path
    ) -> None:
        stand_in(f"{WRITES}; sys.exit(3)")
        with pytest.raises(ExportError, match="cannot be converted for arm: status 3"):
            lite.convert(*self.files(tmp_path))

    def test_one_that_does_not_end(self, stand_in: Any, tmp_path: Path) -> None:
        stand_in("import time; time.sleep(60)")
        with pytest.raises(ExportError, match=r"^lite: the converter of .* not done after 2 s$"):
            lite.convert(*self.files(tmp_path), seconds=2.0)

    def test_operators_are_counted_by_kind(self) -> None:
        content = b"\0conv2d/int8_out/4/2/1\0conv2d/fp32_out/4/2/1,fc/def/4/1/1.fc/fp32out/4/2/1"
        content += b"calib/fp32_to_int8/4/2/1 \xff relu/def/4/1/1"
        assert lite.int8_operators(content) == {"conv2d": 2, "fc": 1}


class TestExporting:
    def test_the_file_is_beside_the_others(self, stand_in: Any, task: Task, tmp_path: Path) -> None:
        stand_in()
        for name, model in (("float", task.build_model()), ("int8", quantized(task))):
            made = export(task, model, tmp_path / name, ("paddle", "lite"))
            size = (tmp_path / name / "model.nb").stat().st_size
            assert made.file_bytes["model.nb"] == size
        assert made.float_bytes["model.nb"] == size  # the stand-in always writes the same

    def test_nothing_stays_of_a_failure(self, stand_in: Any, task: Task, tmp_path: Path) -> None:
        stand_in("print('Error: no'); sys.exit(1)")
        with pytest.raises(ExportError, match="Error: no"):
            export(task, task.build_model(), tmp_path / "out", ("paddle", "lite"))
        assert not list(tmp_path.glob("*out*"))

    def test_a_quantized_model_left_in_float_is_refused(
        self, stand_in: Any, task: Task, tmp_path: Path
    ) -> None:
        stand_in('open(sys.argv[6] + ".nb", "wb").write(b"conv2d/def/4/1/1")')
        with pytest.raises(ExportError, match="lite: the converter left all layers in float"):
            export(task, quantized(task), tmp_path / "out", ("paddle", "lite"))
        assert not (tmp_path / "out").exists()

    def test_told_before_anything_is_done(
        self, without_paddlelite: None, task: Task, tmp_path: Path
    ) -> None:
        with pytest.raises(ExportError, match="format: lite needs paddlelite"):
            export(task, None, tmp_path / "out", ("lite",))  # type: ignore[arg-type]


class Net(Layer):
    """What a network for phones is made of, behind a ReLU, and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(8, 16, 3, padding=1)
        self.depthwise = nn.Conv2D(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2D(16, 16, 1)
        self.up = nn.Conv2DTranspose(16, 8, 2, stride=2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = nn.functional.relu(self.stem(x))
        return self.up(self.project(nn.functional.relu(self.depthwise(y))) + y)


class Heads(Layer):
    """Two linear layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second(nn.functional.relu(self.first(x.mean([2, 3]))))


SHAPE = (2, 8, 12, 10)
ABSMAX = 2.0


def sparse(model: Layer) -> Layer:
    """Draw weights of which no two neighbours, as kernels pair them, are far from zero.

    Paddle Lite's kernels for x86 add products of neighbours in 16 bits, which two weights of 127
    are too large for. Its kernels for ARM do not, but cannot be run here.
    """
    rng = np.random.default_rng(0)
    for weight in model.parameters():
        values = rng.uniform(-1, 1, weight.shape).astype("float32")
        if weight.ndim > 1:
            places = np.indices(weight.shape)[1:].sum(axis=0)
            values *= places % 2 == 0
        weight.set_value(values)
    model.eval()
    return model


def graph_of(model: Layer) -> Graph:
    made = Graph.from_trace(trace(model, [InputSpec(list(SHAPE), "float32", "image")]))
    fold_batch_norms(made)
    return made


def table_of(model: Layer) -> list[LayerScales]:
    names = [name for name, weight in model.named_parameters() if weight.ndim > 1]
    return [LayerScales(name, Grid(ABSMAX)) for name in names]


def rounded(array: np.ndarray, absmax: np.ndarray | float) -> np.ndarray:
    step = absmax / 127
    return (np.clip(np.rint(array / step), -128, 127) * step).astype("float32")


def reference(model: Layer, image: np.ndarray) -> np.ndarray:
    """Answer with inputs and weights of every layer rounded, from the formula."""
    hooks = []
    for layer in model.sublayers():
        weight = layer.weight.numpy()
        axis = 1 if isinstance(layer, nn.Conv2DTranspose) else 0
        others = tuple(i for i in range(weight.ndim) if i != axis)
        layer.weight.set_value(rounded(weight, np.abs(weight).max(axis=others, keepdims=True)))
        hook = layer.register_forward_pre_hook(
            lambda _, inputs: paddle.to_tensor(rounded(inputs[0].numpy(), ABSMAX))
        )
        hooks.append(hook)
    answer = model(paddle.to_tensor(image)).numpy()
    for hook in hooks:
        hook.remove()
    return np.asarray(answer)


RUN = """\
import sys
import array
from paddlelite.lite import MobileConfig, create_paddle_predictor
file, source, shape, result = sys.argv[1:]
config = MobileConfig()
config.set_model_from_file(file)
predictor = create_paddle_predictor(config)
tensor = predictor.get_input(0)
tensor.resize([int(size) for size in shape.split(",")])
values = array.array("f")
with open(source, "rb") as data:
    values.frombytes(data.read())
tensor.set_float_data(list(values))
predictor.run()
with open(result, "wb") as out:
    array.array("f", predictor.get_output(0).float_data()).tofile(out)
"""


def run_lite(content: bytes, image: np.ndarray, folder: Path) -> np.ndarray:
    """Answer as Paddle Lite does on this machine."""
    files = [folder / name for name in ("model.nb", "image.raw", "answer.raw")]
    files[0].write_bytes(content)
    files[1].write_bytes(image.tobytes())
    shape = ",".join(map(str, image.shape))
    arguments = [str(files[0]), str(files[1]), shape, str(files[2])]
    subprocess.run([lite.find_python(), "-c", RUN, *arguments], check=True, capture_output=True)
    return np.fromfile(files[2], "float32")


@needs_paddlelite
class TestTheRealConverter:
    def convert(self, graph: Graph, folder: Path, targets: str) -> bytes:
        files = folder / "model.pdmodel", folder / "model.pdiparams"
        graph.write(*files)
        return lite.convert(*files, targets)

    @pytest.mark.skipif(sys.platform != "linux", reason="runs the file for x86")
    def test_int8_answers_are_those_of_the_formula(self, tmp_path: Path) -> None:
        model, image = sparse(Net()), np.random.default_rng(1).normal(size=SHAPE).astype("float32")
        int8 = quantize_program(graph_of(model), table_of(model), "lite")
        content = self.convert(int8, tmp_path, "x86")
        assert lite.int8_operators(content) == {"conv2d": 2, "depthwise_conv2d": 1}
        found = run_lite(content, image, tmp_path)
        exact = model(paddle.to_tensor(image)).numpy().ravel()
        wanted = reference(model, image).ravel()
        distance = np.linalg.norm(found - wanted)
        assert distance < 0.05 * np.linalg.norm(wanted - exact)

    def test_linear_layers_are_in_int8_on_arm(self, tmp_path: Path) -> None:
        model = sparse(Heads())
        int8 = quantize_program(graph_of(model), table_of(model), "lite")
        content = self.convert(int8, tmp_path, "arm")
        assert lite.int8_operators(content) == {"fc": 2}
        # the first puts out floats: a copy stands between it and the grid of the second
        assert content.count(b"fc/fp32out/4/2/1") == 2

    def test_a_whole_export(self, task: Task, tmp_path: Path) -> None:
        made = export(task, quantized(task), tmp_path / "out", ("paddle", "onnx", "lite"))
        assert made.file_bytes["model.nb"] > 0
        content = (tmp_path / "out" / "model.nb").read_bytes()
        assert lite.int8_operators(content)
        export(task, quantized(task), tmp_path / "alone", ("lite",))
        assert {path.name for path in (tmp_path / "alone").iterdir()} == {"model.nb", "deploy.yml"}
        assert (tmp_path / "alone" / "model.nb").read_bytes() == content


def test_linear_layers_are_written_as_others_are_for_lite() -> None:
    model = sparse(Heads())
    made = quantize_program(graph_of(model), table_of(model), "lite")
    kinds = [op.type for op in made.operators]
    assert kinds.count("quantize_linear") == 2
    assert kinds.count("dequantize_linear") == 4
    assert kinds.count("relu") == 2  # one is the copy in front of the second layer
