"""The check of whole files for overflow, against runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from core.errors import ExportError
from core.targets.overflow import check_files, summary
from core.targets.pair_sums import LayerCheck, Verdict, largest_pair
from tests.core.targets.run_capped import CAPPED, run_capped
from tests.networks.one_layer import Builder, draw, integers, only


def check_of(name: str, total: int, verdict: Verdict) -> LayerCheck:
    pair = largest_pair(np.array([[total, 0]]), 1)
    return LayerCheck(name, "Conv", 0, 255, pair, verdict, "", (2,))


def test_the_summary_counts_and_names_the_worst() -> None:
    fine = check_of("a.weight", 3, Verdict.EXACT)
    again = check_of("b.weight", 3, Verdict.ROUNDED)
    over = check_of("c.weight", 64770, Verdict.OVERFLOW)
    under = check_of("d.weight", -65280, Verdict.OVERFLOW)
    text = "of {} layers may overflow on processors without VNNI"
    assert summary([fine]) == "none " + text.format(1)
    assert summary([fine, over]) == f"1 {text.format(2)}, worst c.weight: 64770 of 32767"
    assert summary([under, over, again]) == (
        f"2 {text.format(3)}, worst d.weight: 65280 of 32768; 1 are rounded again there"
    )


def test_files_that_are_no_models_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(integers("QLinearConv", 65).SerializeToString())
    assert [check.layer for check in check_files([file])] == ["w"]
    for content in (b"", b"no protobuf", file.read_bytes()[:-20]):
        file.write_bytes(content)
        with pytest.raises(ExportError, match=r"model\.onnx: not an ONNX model"):
            check_files([file])
    with pytest.raises(ExportError, match=r"gone\.onnx: cannot be read: No such file"):
        check_files([tmp_path / "gone.onnx"])
    with pytest.raises(ExportError, match=r"model\.json: programs of PIR are not checked"):
        check_files([tmp_path / "model.json", tmp_path / "model.pdiparams"])


def test_a_weight_that_fits_no_layer_is_said_to(tmp_path: Path) -> None:
    make = Builder()
    out = make.node(
        "ConvTranspose", make.rounded("x"), make.weight(np.ones((3, 1, 1, 1), np.int8), 1)
    )
    model = make.model((1, 4, 3, 3), out)
    model.graph.node[-1].attribute.append(helper.make_attribute("group", 2))
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"model\.onnx: onnx: the graph is not valid: "):
        check_files([file])


def test_openvino_is_wrong_where_the_checker_says_so_and_nowhere_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [draw(rng) for _ in range(45)]
    checks = [only(layer.model()) for layer in layers]
    data = [layer.data(check.witness(), check.pair.channel) for layer, check in zip(layers, checks)]
    for number, (layer, values) in enumerate(zip(layers, data)):
        stem = tmp_path / f"{number:03d}"
        stem.with_suffix(".onnx").write_bytes(layer.model().SerializeToString())
        np.save(stem.with_suffix(".npy"), values)
    assert run_capped("openvino", tmp_path) == ("saturating" if CAPPED else "exact")
    for number, (layer, check, values) in enumerate(zip(layers, checks, data)):
        found = np.load(tmp_path / f"{number:03d}.out.npy").ravel()
        wrong = bool((found != layer.answers(values)).any())
        assert wrong == (CAPPED and check.verdict is Verdict.OVERFLOW), (layer, check)
    over = sum(check.verdict is Verdict.OVERFLOW for check in checks)
    assert 10 < over < 35  # the draw is worth something


def test_weights_that_lie_elsewhere_and_are_gone(tmp_path: Path) -> None:
    model = integers("QLinearConv", 65)
    onnx.save(model, str(tmp_path / "a.onnx"), save_as_external_data=True, size_threshold=0)
    (extra,) = (each for each in tmp_path.iterdir() if each.name != "a.onnx")
    extra.unlink()
    with pytest.raises(ExportError, match=rf"a\.onnx: .*{extra.name}"):
        check_files([tmp_path / "a.onnx"])
