"""Search for the shares of channels that each group loses, by simulated annealing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np

from core.prune.planning.plan import MaskCost, Ranking, reach
from core.prune.structure.labels import Array
from core.settings.progress import progress

SPREAD = 0.1  # standard deviation of a change of a ratio
_log = logging.getLogger(__name__)


def anneal(
    ranking: Ranking,
    measure: MaskCost,
    limit: float,
    evaluate: Callable[[Array], float],
    steps: int,
    seed: int,
    heat: tuple[float, float],
) -> list[int]:
    """Try plans that all reach the limit and return the best that was seen.

    The search starts with the same share everywhere. A step changes the ratios of a third of the
    groups, scales all so that the limit holds, and cuts and measures the model; a worse plan is
    gone on with by chance, ever less so (Kirkpatrick, Gelatt, Vecchi, Science 1983).

    Args:
        ranking: Order and steps of each group.
        measure: Cost of a keep-mask [labels].
        limit: Largest cost that is allowed.
        evaluate: Returns the quality of the model under a keep-mask [labels]; more is better.
        steps: Plans to try after the first.
        seed: Seed of the changes.
        heat: Temperature of the first step, as a share of the first plan's worth, and the factor
            on it from step to step.
    """
    start, cooling = heat
    generator = np.random.default_rng(seed)
    groups = len(ranking.analysis.groups)
    current = np.full(groups, 0.5)
    counts = _scaled(ranking, measure, limit, current)
    value = first = evaluate(ranking.keep(counts))
    best, best_value = counts, value
    for step in progress(range(steps), "search"):
        changed = current.copy()
        chosen = generator.permutation(groups)[: max(1, groups // 3)]
        changed[chosen] += generator.normal(0.0, SPREAD, len(chosen))
        changed = changed.clip(0.02, 0.98)
        counts = _scaled(ranking, measure, limit, changed)
        found = evaluate(ranking.keep(counts))
        if found > best_value:
            best, best_value = counts, found
        temperature = start * cooling**step * max(abs(first), 1e-12)
        chance = math.exp(min(0.0, found - value) / temperature) if temperature > 0 else 0.0
        if found >= value or generator.random() < chance:
            current, value = changed, found
    _log.info("search: %.4f with equal shares, %.4f with the best of %d", first, best_value, steps)
    return best


def _scaled(ranking: Ranking, measure: MaskCost, limit: float, ratios: Array) -> list[int]:
    def counts(share: float) -> list[int]:
        return ranking.counts(np.minimum(ratios * 2 * share, 1.0).tolist())

    return reach(ranking, measure, limit, counts)
