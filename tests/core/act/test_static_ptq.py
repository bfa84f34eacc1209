"""Static quantization of exported models, and the process that it runs in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from core.act import static_ptq
from core.act.config import StaticPtqConfig
from core.act.files import FileLayout, write
from core.act.session import open_session, samples_of
from core.act.source import open_source
from core.errors import ExportError
from core.export.package import export
from core.targets.names import DEFAULT_TARGET
from core.task import build_task
from tests.core.act.conftest import alive, images, places


def test_static_quantization(exported: Path, tmp_path: Path, unchanged: None) -> None:
    source, data = open_source(exported), images()
    (tmp_path / "int8").mkdir()
    with open_session(source, places(source)) as session:
        process = session.child._process.pid
        config = StaticPtqConfig(observer="abs_max")
        scales, table = static_ptq.calibrate(session, lambda: iter(data), config)
        largest = max(float(batch.max()) for (batch,) in data)
        assert scales["image"] == pytest.approx(largest, rel=1e-6)
        narrow, _ = static_ptq.calibrate(
            session, lambda: iter(images(scale=0.5)), StaticPtqConfig(observer="percentile")
        )
        assert 0 < narrow["image"] <= largest / 2 * 1.001
        model = static_ptq.settle(session, scales, table)
        samples = samples_of(source, data, "images")
        made = write(
            model, tmp_path / "int8", FileLayout(("paddle", "onnx"), DEFAULT_TARGET, None), samples
        )
        assert alive(process)
    assert not alive(process)
    assert {each.runtime for each in made.differences} == {"paddle", "onnxruntime", "openvino"}
    for each in made.differences:  # the same grids: far nearer than two roundings would be
        assert each.relative is not None
        assert each.effect is not None
        assert each.relative < each.effect / 10
    assert made.file_bytes["model.pdiparams"] < made.float_bytes["model.pdiparams"]


def test_layers_without_a_bias(tmp_path: Path) -> None:
    """What they make is read by the next layer, and put out."""
    paddle.seed(0)
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}})
    plain = {"padding": 1, "bias_attr": False}
    model = nn.Sequential(nn.Conv2D(3, 8, 3, **plain), nn.Conv2D(8, 4, 3, **plain))
    export(task, model, tmp_path / "float")
    source, data = open_source(tmp_path / "float"), images()
    (tmp_path / "int8").mkdir()
    with open_session(source, places(source)) as session:
        config = StaticPtqConfig(observer="abs_max")
        found = static_ptq.calibrate(session, lambda: iter(data), config)
        wanted, rounded = session.run_float(*data[0])["level"], session.run(*data[0])["level"]
        assert 0 < np.abs(rounded - wanted).max() < 0.05 * np.abs(wanted).max()
        model = static_ptq.settle(session, *found)
        write(model, tmp_path / "int8", FileLayout(("paddle",), DEFAULT_TARGET, None), data[:2])


def test_grids_of_another_model_are_noticed(exported: Path, tmp_path: Path) -> None:
    source, data = open_source(exported), images()
    with open_session(source, places(source)) as session:
        config = StaticPtqConfig(observer="abs_max")
        scales, _ = static_ptq.calibrate(session, lambda: iter(data), config)
        wrong = source.table(session.places, {n: s * 8 for n, s in scales.items()}, True)
        model = static_ptq.settle(session, scales, wrong)
        with pytest.raises(ExportError, match=r"output 'level' of the int8 file .* 64 images"):
            write(
                model,
                tmp_path,
                FileLayout(("paddle",), DEFAULT_TARGET, None),
                samples_of(source, data, "x"),
                lambda count: samples_of(source, images(16), "x", count),
            )
        with pytest.raises(ExportError, match=r"^paddleslim: quantize failed: .*algo"):
            session.child.call("quantize", {"algo": "nonsense"}, batches=lambda: [])


def test_a_killed_process_and_ctrl_c(exported: Path, unchanged: None) -> None:
    source = open_source(exported)
    with open_session(source, places(source)) as session:
        session.child._process.kill()
        with pytest.raises(ExportError, match="paddleslim: its process was killed by signal 9"):
            session.run_float(*images(1)[0])
    context = open_session(source, places(source))
    number = context.__enter__().child._process.pid
    assert alive(number)
    stop = KeyboardInterrupt()
    assert not context.__exit__(KeyboardInterrupt, stop, None)
    assert not alive(number)
