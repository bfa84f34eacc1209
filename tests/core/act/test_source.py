"""Exported float models as they are read: names, layers, batches, grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.act.auto_compression import _groups
from core.act.config import ActConfig
from core.act.session import check_batch
from core.act.source import never_negative, open_source
from core.errors import ConfigError, DataError, ExportError
from core.graph.operators import names_of
from core.graph.program import Graph
from core.graph.trace import trace
from core.settings.config import read
from core.task import build_task
from tests.core.act.conftest import places


def test_what_is_no_exported_float_model(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent: no such folder.*export the float model first"):
        open_source("absent")
    (tmp_path / "model.pdparams").write_bytes(b"")
    with pytest.raises(ExportError, match=r"holds a checkpoint.*tools/export_model.py"):
        open_source(tmp_path)
    with pytest.raises(ConfigError, match=r"model_filename: .*did you mean 'model.pdmodel'\?"):
        open_source(exported, "model.pdmodl", "model.pdiparams")
    with pytest.raises(ConfigError, match="params_filename: required beside the other one"):
        open_source(exported, "model.pdmodel")
    (tmp_path / "json").mkdir()
    for name in ("model.json", "model.pdiparams"):
        (tmp_path / "json" / name).write_bytes(b"{}")
    for place in (tmp_path / "json", tmp_path / "json" / "model.json"):
        with pytest.raises(ExportError, match=r"model\.json: .*new IR.* FLAGS_enable_pir_api=0"):
            open_source(place)


def test_a_model_under_other_names(exported: Path, tmp_path: Path) -> None:
    for ours, theirs in (("model.pdmodel", "__model__"), ("model.pdiparams", "__params__")):
        (tmp_path / theirs).write_bytes((exported / ours).read_bytes())
    source = open_source(tmp_path)
    assert source.description is None
    assert [place.layer for place in places(source)] == ["conv", "head"]
    source.graph.rename("level", "save_infer_model/scale_0")
    source.graph.outputs[:] = ["save_infer_model/scale_0"]
    source.name_outputs(build_task("outside.toy", {"data": {"root": "x"}}))
    assert source.graph.outputs == ["level"]


def test_layers_and_variables_by_name(exported: Path) -> None:
    source = open_source(exported)
    assert [place.layer for place in places(source)] == ["conv", "head"]
    assert [place.layer for place in places(source, ("he*",))] == ["conv"]
    with pytest.raises(ConfigError, match=r"never_quantize: 'haed' .*did you mean 'head'\?"):
        places(source, ("haed",))
    with pytest.raises(ConfigError, match=r"no layer of .* is left"):
        places(source, ("*",))
    with pytest.raises(ConfigError, match=r"node: .* 'levle' \(did you mean 'level'\?\)"):
        source.check_node("levle", "node")
    conv, head = places(source)
    positive = never_negative(source.graph)
    assert conv.tensor == "image"
    assert (conv.tensor in positive, head.tensor in positive) == (False, True)  # behind a ReLU
    assert source.nodes() == ["level"]


class Ending(nn.Layer):
    """Scores of classes, the best class with its score, and a pooling of features."""

    def forward(self, image: paddle.Tensor) -> dict[str, paddle.Tensor]:
        logits = image.mean([2, 3])
        scores = nn.functional.softmax(logits)
        pooled = nn.functional.relu(image).max([2, 3])
        found = {"label": scores.argmax(1), "score": scores.max(1), "pooled": pooled}
        return found | {"peak": image.max([1, 2, 3])}


def test_nodes_lie_in_front_of_what_says_the_same_in_other_words(exported: Path) -> None:
    spec = InputSpec([None, 3, 8, 8], "float32", "image")
    graph = Graph.from_trace(trace(Ending(), [spec]))
    source = replace(open_source(exported), graph=graph)
    logits, pooled, peak = source.nodes()
    (maker,) = (op for op in graph.operators if logits in names_of(op.outputs))
    assert maker.type == "reduce_mean"
    assert (pooled, peak) == ("pooled", "peak")  # no distribution is behind these maxima
    config = {"Global": {"model_dir": "x"}, "TrainConfig": {"epochs": 1}, "QuantAware": {}}
    for node, wanted in ((["score", "pooled"], (logits, "pooled")), (["peak"], None)):
        settings = {**config, "Distillation": {"loss": "soft_label", "node": node}}
        if wanted:
            assert _groups(source, read(ActConfig, settings)) == [("soft_label", 1.0, wanted)]
            continue
        with pytest.raises(ConfigError, match=r"^Distillation\.node: peak has no axis of classes"):
            _groups(source, read(ActConfig, settings))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([np.zeros((1, 3, 8, 9), "float32")], r"takes float32 \[-1, 3, 8, 8\].*got float32 \[1, 3"),
        ([np.zeros((1, 3, 8, 8), "int64")], "got int64"),
        ([np.full((1, 3, 8, 8), np.nan, "float32")], "not finite, for 'image'"),
        ([], "an array for each input"),
    ],
)
def test_a_batch_that_does_not_fit(exported: Path, batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^reader: .*{message}"):
        check_batch(open_source(exported), batch, "reader")


def test_what_is_never_negative_may_have_a_grid_from_zero_on(exported: Path) -> None:
    source = open_source(exported)
    chosen = places(source)
    scales = {place.tensor: 2.0 for place in chosen}
    table = source.table(chosen, scales, per_channel=True)
    assert [(entry.weight, entry.input.signed) for entry in table] == [
        ("conv.weight", True),  # reads the image
        ("head.weight", False),  # reads means of what a ReLU makes
    ]
    scales[chosen[1].tensor] = 0.0
    with pytest.raises(ExportError, match=r"head: expected a grid for its input .* got 0\.0"):
        source.table(chosen, scales, per_channel=True)


def test_padding_that_paddle_inference_does_not_survive_is_written_otherwise(
    tmp_path: Path,
) -> None:
    graph = Graph.from_trace(trace(Padded(), [InputSpec([1, 4, 5, 3], "float32", "x")]))
    assert "pad" in {op.type for op in graph.operators}
    graph.write(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    kinds = {op.type for op in open_source(tmp_path).graph.operators}
    assert "pad3d" in kinds
    assert "pad" not in kinds


class Padded(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.pad(x, [0, 0, 0, 3, 0, 2, 0, 0]) * 2
