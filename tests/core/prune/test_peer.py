"""Where PaddleSlim works, ours removes the very channels that it does.

PaddleSlim ranks the channels of a residual group by the weights of one layer, the first; ours by
the average over all of them unless `aggregate: first` is set. It runs in a process of its own,
through `benchmarks/peers/paddleslim_prune.py`. MobileNetV1 is a quarter as wide here, and of
ResNet50_vd only the first stage is ranked by FPGM, because PaddleSlim takes minutes for the rest;
`benchmarks/measure/prune.py --peer l1_norm fpgm` compares them whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle.nn import Layer

from core.prune.choices import Aggregate, Criterion
from core.prune.cut import Indices, plan_edit
from core.prune.planning import plan
from core.prune.planning.criteria import score
from core.prune.pruner import build_pruner
from core.prune.structure.analysis import Analysis
from core.task import build_task
from core.training import checkpoint

ROOT = Path(__file__).resolve().parents[3]
SIDE = 64
RATIOS = (0.3, 0.5)
CRITERIA: tuple[Criterion, ...] = ("l1_norm", "fpgm")
pytestmark = pytest.mark.chain


def saved(name: str, folder: Path) -> tuple[Layer, Analysis]:
    """Build a classifier with random weights, and save them for PaddleSlim."""
    settings = {
        "model": {"name": name, "num_classes": 10},
        "data": {"root": "", "image_size": SIDE},
    }
    task = build_task("cls", settings)
    paddle.seed(0)
    model = task.build_model()
    checkpoint.save(folder, checkpoint.describe(task), model.state_dict())
    return model, build_pruner(task, model).analysis


def ask_peer(folder: Path, result: Path, **job: Any) -> dict[tuple[str, float], Indices]:
    job |= {"checkpoint": str(folder), "shape": [1, 3, SIDE, SIDE], "ratios": RATIOS}
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks/peers/paddleslim_prune.py"),
            json.dumps(job),
            str(result),
        ],
        env={**os.environ, "FLAGS_enable_pir_api": "0", "PYTHONPATH": str(ROOT)},
        cwd=result.parent,
        capture_output=True,
        check=True,
        timeout=120,
    )
    cuts = json.loads(result.read_text())["cuts"]
    return {(c["criterion"], c["ratio"]): _numbered(c["kept"]) for c in cuts}


def _numbered(kept: dict[str, dict[str, list[int]]]) -> Indices:
    return {name: {int(axis): own for axis, own in by.items()} for name, by in kept.items()}


def rank(
    model: Layer, analysis: Analysis, criterion: Criterion, aggregate: Aggregate = "mean"
) -> plan.Ranking:
    return plan.Ranking(
        analysis, score(model, analysis.groups, analysis.weights, criterion, aggregate)
    )


def choose(model: Layer, ranking: plan.Ranking, glob: str, ratio: float) -> Indices:
    """Return what ours keeps on each axis of each weight."""
    counts = ranking.counts(plan.ratios_by_layer(ranking.analysis, {glob: ratio}))
    return plan_edit(model, ranking.analysis, ranking.keep(counts)).kept


def test_without_residuals_every_channel_is_the_same(tmp_path: Path) -> None:
    model, analysis = saved("MobileNetV1_x0_25", tmp_path / "net")
    criteria = {criterion: ["*"] for criterion in CRITERIA}
    peer = ask_peer(tmp_path / "net", tmp_path / "r.json", criteria=criteria)
    for criterion in CRITERIA:
        ranking = rank(model, analysis, criterion)
        for ratio in RATIOS:
            kept = peer[criterion, ratio]
            assert len(kept) == 27 * 5 + 1  # convolutions and norms, and the classifier
            assert choose(model, ranking, "*", ratio) == kept, (criterion, ratio)


def test_with_residuals_the_first_layer_decides(tmp_path: Path) -> None:
    model, analysis = saved("ResNet50_vd", tmp_path / "net")
    globs = {"l1_norm": "*", "fpgm": "blocks.[012].*"}
    criteria = {criterion: [glob] for criterion, glob in globs.items()}
    peer = ask_peer(tmp_path / "net", tmp_path / "r.json", criteria=criteria)
    alone = {axis for g in analysis.groups if len(g.producers) == 1 for axis in g.producers}
    for criterion in CRITERIA:
        first, default = (rank(model, analysis, criterion, how) for how in ("first", "mean"))
        for ratio in RATIOS:
            kept = peer[criterion, ratio]
            glob = globs[criterion]
            assert choose(model, first, glob, ratio) == kept, (criterion, ratio)
            ours = choose(model, default, glob, ratio)
            axes = [(name, axis) for name, axis in alone if axis in kept.get(name, {})]
            assert len(axes) == (35 if criterion == "l1_norm" else 6)  # stem; two in each block
            for name, axis in axes:
                assert ours[name][axis] == kept[name][axis], (criterion, ratio, name)
