"""Device of the tests: `make test-gpu` runs those marked `gpu` on one, `make test` all on a CPU."""

from __future__ import annotations

import os

DEVICE = os.environ.get("TRISLIM_TEST_DEVICE", "cpu")
# what mixed precision is tested with: on a CPU Paddle computes in float32 whatever is asked
AMP_KINDS = ("off",) if DEVICE == "cpu" else ("float16", "bfloat16")
# of `paddle.distributed.launch`, for two processes
TWO_PROCESSES = (
    ("--nproc_per_node", "2", "--backend", "gloo") if DEVICE == "cpu" else ("--devices", "0,1")
)
