"""Values that pruning settings may take; the command line lists them without Paddle."""

from __future__ import annotations

from typing import Literal, get_args

Criterion = Literal["l1_norm", "l2_norm", "fpgm", "bn_scale", "taylor", "random"]
Aggregate = Literal["mean", "sum", "max", "first"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
