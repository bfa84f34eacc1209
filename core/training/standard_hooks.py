"""The hooks of a training, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.training.hooks import (
    Checkpoints,
    EarlyStop,
    Hook,
    Interruptible,
    LogFile,
    Progress,
    SaveFolder,
    TensorBoard,
    VisualDL,
)
from core.training.results import Results
from core.training.review import Review
from core.training.run import TrainConfig


def standard_hooks(
    config: TrainConfig,
    save_dir: Path,
    rank: int,
    use_vdl: bool,
    settings: Mapping[str, Any],
    use_tensorboard: bool = False,
) -> list[Hook]:
    """Return the hooks `tools/train.py` uses; only rank 0 shows, logs and writes `settings`.

    An epoch is in the results before it is in the checkpoint: those that a killed run has beyond
    its checkpoint are dropped when it goes on, a row that was missing could not be made again.
    """
    hooks: list[Hook] = [Checkpoints(), Interruptible()]
    if rank == 0:
        hooks = [SaveFolder(settings), LogFile(), Progress(), Results(), Review(), *hooks]
        if use_vdl:
            hooks.append(VisualDL(save_dir / "vdl"))
        if use_tensorboard:
            hooks.append(TensorBoard(save_dir / "tensorboard"))
    if config.early_stop:
        hooks.append(EarlyStop(config.early_stop))
    return hooks
