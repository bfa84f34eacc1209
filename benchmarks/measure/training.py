"""Compare training with the library's own loop: same network, batch, data and input size.

    python -m benchmarks.measure.training                               # generated data, all tasks
    python -m benchmarks.measure.training --task seg --data ../camvid   # data of your own

Writes docs/benchmarks/training_throughput.json and docs/benchmarks.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparison import Finished, Job, Meter
from benchmarks.measure.command import main


def measure(job: Job) -> dict[str, float]:
    """Train for a few steps, ours as tools/train.py does, and return what they cost."""
    import paddle

    paddle.set_device("cpu")
    meter = Meter(job, job.settings()["train"]["batch_size"])
    try:
        if job.side == "ours":
            _train_ours(job, meter)
        else:
            from benchmarks.peers.training_loops import build_peer

            build_peer(job).train(meter)
    except Finished:
        pass
    return meter.result


def _train_ours(job: Job, meter: Meter) -> None:
    from core.training.engine import Engine
    from core.training.hooks import Hook
    from core.training.recipe import read_recipe
    from core.training.run import read_run
    from core.training.standard_hooks import standard_hooks

    class Step(Hook):
        def after_step(self, engine: Engine, terms: dict[str, float], rate: float) -> None:
            meter.step()

    run = read_run(job.settings())
    with tempfile.TemporaryDirectory() as folder:
        standard = standard_hooks(run.train, Path(folder), 0, False, job.settings())
        hooks: Sequence[Hook] = [*standard, Step()]
        recipe = read_recipe({}, run.train.epochs, has_teacher=False)
        Engine(run, recipe, Path(folder), hooks).train()


if __name__ == "__main__":
    main(__file__, __doc__, "training_throughput", ("ours", "peer"), measure)
