"""Edits that depend on trained weights are refused on random ones."""

from __future__ import annotations

from core.errors import ConfigError
from core.strategy import Context

KEEP_ALL = "if model.pretrained has been trained for this task: -o 'model.reinit=[]'"


def check_trained(context: Context, problem: str, verb: str) -> tuple[str, ...]:
    """Refuse an edit before the first epoch of a model without trained weights.

    Args:
        context: Context of the strategy.
        problem: Message on an edit of random weights; begins with the kind of strategy.
        verb: Verb for what may be done later instead.

    Returns:
        Globs of the weights that start anew in this run in spite of `model.pretrained`.

    Raises:
        ConfigError: The model starts with random weights.
    """
    if context.epoch != 0:
        return ()
    if not context.task.config.model.pretrained:
        raise ConfigError(
            f"{problem}; name trained ones in model.pretrained, or {verb} later with start_epoch"
        )
    reinit: tuple[str, ...] = context.task.config.model.reinit
    return reinit
