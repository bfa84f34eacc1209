"""What settings of pruning may be called; the command line lists it without Paddle."""

from __future__ import annotations

from typing import Literal, get_args

Criterion = Literal["l1_norm", "l2_norm", "fpgm", "bn_scale", "taylor", "random"]
Aggregate = Literal["mean", "sum", "max", "first"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
