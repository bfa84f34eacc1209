"""Taps on layers that other strategies edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle

from core.distill.strategy import Distill
from core.distill.taps import in_full_precision
from core.distill.teacher import read_teacher
from core.training.engine import Engine
from core.training.hooks import Hook
from tests.networks.students import NARROW, RECIPES, ROUND, Watch, make_engine


def test_taps_and_adapters_follow_the_edits(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    shapes = []

    class Look(Hook):
        def after_epoch(self, engine: Engine) -> None:
            strategy = next(s for s in engine.windows._live.values() if isinstance(s, Distill))
            conv = engine.model.conv
            adapter = strategy.parameters()["0.l2.0.project.weight"]
            shapes.append((type(conv).__name__, adapter.shape, len(conv._forward_post_hooks)))

    watch = Watch()
    engine = make_engine(
        toy_settings(epochs=3),
        tmp_path / "out",
        RECIPES["narrow and round"],
        [read_teacher(teacher)],
        [Look(), watch],
    )
    engine.train()
    assert shapes == [
        ("Conv2D", [6, 4, 1, 1], 1),
        ("Conv2D", [6, 2, 1, 1], 1),
        ("Rounded", [6, 2, 1, 1], 1),
    ]
    assert all("distill.l2" in terms for terms in watch.terms)
    assert [kind for kind, _ in engine.windows.edits()] == [NARROW, ROUND]
    assert not engine.model.conv._forward_post_hooks


def test_half_precision_is_compared_in_single() -> None:
    for dtype in ("float16", "bfloat16"):
        assert in_full_precision(paddle.ones([2]).astype(dtype)).dtype == paddle.float32
    assert in_full_precision(paddle.ones([2], "float64")).dtype == paddle.float64
