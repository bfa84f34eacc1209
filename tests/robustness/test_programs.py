"""Programs that somebody else made: damaged ones are refused, and this process lives on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest
from paddle.base.proto import framework_pb2

from core.act.source import open_source
from core.errors import ExportError
from core.export.package import export
from core.graph.program import Graph
from core.runtimes import survived
from core.runtimes.description import read_description, write_description
from core.runtimes.predictor import load_predictor
from core.settings.download import CACHE
from core.task import build_task
from tests.robustness.conftest import one_line


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}, "synthetic": {}})
    paddle.seed(0)
    export(task, task.build_model(), folder / "out", ("paddle", "onnx"))
    return folder / "out"


@pytest.fixture
def stranger(exported: Path, tmp_path: Path) -> Path:
    """The files without their description."""
    for path in exported.glob("model.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def program(folder: Path) -> Any:
    made = framework_pb2.ProgramDesc()
    made.ParseFromString((folder / "model.pdmodel").read_bytes())
    return made


def operator_named(made: Any, kind: str) -> Any:
    return next(op for op in made.blocks[0].ops if op.type == kind)


def no_input(made: Any) -> None:
    """Paddle Inference (3.1.1) refuses it by itself."""
    del operator_named(made, "conv2d").inputs[:]


def no_output(made: Any) -> None:
    """It is opened, and its process is killed when it runs."""
    del operator_named(made, "relu").outputs[0].arguments[:]


def no_such_input(made: Any) -> None:
    """Its process is killed when it is opened."""
    operator_named(made, "matmul_v2").inputs[0].arguments[:] = ["nowhere"]


def no_feed(made: Any) -> None:
    del operator_named(made, "feed").outputs[:]


def own_child(made: Any) -> None:
    """Paddle Inference opens it for ever."""
    made.blocks[0].parent_idx = 0
    made.blocks.add(idx=1, parent_idx=5)
    operator_named(made, "relu").attrs.add(name="sub_block", type=8, block_idx=7)


KILLED = "the process that tried it out ended: killed by SIGSEGV"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(no_input, ""), (no_feed, ""), (no_output, KILLED), (no_such_input, KILLED)],
)
def test_a_damaged_program_ends_in_one_line(stranger: Path, damage: Any, reason: str) -> None:
    made = program(stranger)
    damage(made)
    (stranger / "model.pdmodel").write_bytes(made.SerializePartialToString())
    with one_line() as said:
        load_predictor(stranger)
    assert said[0].startswith(f"{stranger}/model.pdmodel: paddle cannot load it: {reason}")


def test_a_program_that_is_opened_for_ever_ends(
    stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survived, "TRIAL_SECONDS", 6.0)
    made = program(stranger)
    own_child(made)
    (stranger / "model.pdmodel").write_bytes(made.SerializePartialToString())
    with pytest.raises(ExportError, match=r"model\.pdmodel: paddle cannot load it: not done after"):
        load_predictor(stranger)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_damaged_onnx_file_ends_in_one_line(stranger: Path, backend: Any) -> None:
    made = onnx.load(str(stranger / "model.onnx"))
    del made.graph.node[0].input[:]
    (stranger / "model.onnx").write_bytes(made.SerializeToString())
    with one_line() as said:
        load_predictor(stranger, backend)
    assert said[0].startswith(f"{stranger}/model.onnx: {backend} cannot load it: ")


def test_a_stranger_s_program_is_tried_once_and_ours_never(
    exported: Path, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    run = survived.run_module

    def count(*arguments: str, seconds: float) -> Any:
        started.append(arguments)
        return run(*arguments, seconds=seconds)

    monkeypatch.setattr(survived, "run_module", count)
    image = np.ones((1, 3, 8, 8), "float32")
    ours = load_predictor(exported).run(image)
    assert not started
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))  # as on another machine
    theirs = load_predictor(stranger).run(image)
    assert started == [("core.runtimes.trial", str(stranger), "paddle")]
    np.testing.assert_array_equal(*ours.values(), *theirs.values())
    load_predictor(stranger)
    assert len(started) == 1
    # digests do not vouch for a program: whoever changes it can change them, too
    weights = bytearray((stranger / "model.pdiparams").read_bytes())
    weights[-1] ^= 1
    (stranger / "model.pdiparams").write_bytes(weights)
    description = read_description(exported)
    assert description is not None
    write_description(description, stranger)
    load_predictor(stranger)
    assert len(started) == 2


def test_where_nothing_can_be_remembered(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    image = np.ones((1, 3, 8, 8), "float32")
    assert load_predictor(stranger, "onnxruntime").run(image)


@pytest.mark.parametrize(("kind", "ports"), [("feed", "inputs"), ("fetch", "outputs")])
def test_a_program_without_inputs_or_outputs(stranger: Path, kind: str, ports: str) -> None:
    made = program(stranger)
    kept = [op for op in made.blocks[0].ops if op.type != kind]
    del made.blocks[0].ops[:]
    made.blocks[0].ops.extend(kept)
    (stranger / "model.pdmodel").write_bytes(made.SerializeToString())
    with one_line() as said:
        open_source(stranger)
    assert ports in said[0]


def mutations(folder: Path, count: int) -> Iterator[None]:
    """Damage the program or its weights in the folder, again and again."""
    model, params = folder / "model.pdmodel", folder / "model.pdiparams"
    contents, whole = (model.read_bytes(), params.read_bytes()), program(folder)
    for seed in range(count):
        rng = random.Random(seed)
        made, stored = framework_pb2.ProgramDesc(), bytearray(contents[1])
        made.CopyFrom(whole)
        written, kind = None, seed % 4
        if kind == 0:
            written = bytearray(contents[0])
            for _ in range(rng.choice((1, 1, 4))):
                written[rng.randrange(len(written))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            var = rng.choice([v for v in made.blocks[0].vars if v.type.HasField("dense_tensor")])
            types = list(framework_pb2.VarType.Type.values())
            var.type.dense_tensor.tensor.data_type = rng.choice(types)
        elif kind == 2:
            op = rng.choice(made.blocks[0].ops)
            slot = rng.choice([each for each in (*op.inputs, *op.outputs) if each.arguments])
            names = [var.name for var in made.blocks[0].vars]
            slot.arguments[:] = rng.choice(([], [rng.choice(names)], ["nowhere"], names[:3]))
        elif rng.random() < 0.5:
            stored[rng.randrange(len(stored))] ^= 1 << rng.randrange(8)
        else:
            del stored[rng.randrange(len(stored)) :]
        model.write_bytes(written or made.SerializePartialToString())
        params.write_bytes(stored)
        yield


def test_damaged_programs_are_read_or_refused_in_one_line(stranger: Path) -> None:
    read = refused = 0
    for _ in mutations(stranger, 400):
        try:
            source = open_source(stranger)
            source.nodes()
            source.graph.to_program()
            read += 1
        except ExportError as error:
            refused += 1
            if "\n" in str(error) or not str(error).startswith((str(stranger), "conv", "norm")):
                pytest.fail(str(error))
    assert read > 50
    assert refused > 100


def test_weights_of_another_size_are_refused(stranger: Path) -> None:
    params = stranger / "model.pdiparams"
    content = params.read_bytes()
    for damaged in (content[:-4], content + b"\0" * 40, content[4:], b""):
        params.write_bytes(damaged)
        with pytest.raises(ExportError, match=r"model\.pdiparams: does not hold the weights of"):
            Graph.from_files(stranger / "model.pdmodel", params)


@pytest.fixture
def of_new_ir(tmp_path: Path) -> Path:
    """A program as `paddle.jit.save` writes it in Paddle 3."""
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.Sigmoid())
    spec = [paddle.static.InputSpec([None, 3, 8, 8], "float32", "input")]
    paddle.jit.save(layer, str(tmp_path / "inference"), input_spec=spec)
    return tmp_path


def no_json(text: str) -> str:
    """Paddle Inference ends the process."""
    return text[: len(text) // 2]


def no_such_operator(text: str) -> str:
    return text.replace("1.conv2d", "1.conv9d")


def no_such_value(text: str) -> str:
    return text.replace('"I":[{"%":', '"I":[{"%":9')


@pytest.mark.parametrize("damage", [no_json, no_such_operator, no_such_value])
def test_a_damaged_program_of_the_new_ir_ends_in_one_line(of_new_ir: Path, damage: Any) -> None:
    file = of_new_ir / "inference.json"
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    for place in (of_new_ir, file):
        with one_line() as said:
            load_predictor(place)
        assert said[0].startswith(f"{file}: paddle cannot load it: ")
