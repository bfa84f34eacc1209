"""Plans of how many channels each group loses: by layer, by share of the cost, or by limit."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core.errors import ConfigError
from core.network.layers import match
from core.prune.planning.halves import EvenHalves
from core.prune.planning.limits import may_go, share_of
from core.prune.structure.analysis import Analysis, Group
from core.prune.structure.labels import Array
from core.settings.config import suggest

MaskCost = Callable[[Array], float]  # cost of a mask of kept labels
_log = logging.getLogger(__name__)
EXACT = 0.0005  # share of the whole that is not worth moving a channel for
CLOSE = 0.01  # share of the whole by which a plan may miss its limit
LEVELS = 100  # shares at which the layers of a group are compared


class Ranking:
    """The order in which the channels of each group go, and how many may.

    Args:
        analysis: Analysis of the model.
        scores: Importance of every unit, per group.
        round_to: Kept channels per group, and where they can be per layer in it, are a multiple of
            it, or all.
        max_ratio: No group, and no layer in it, loses a larger share of its channels.
        chosen: Positions of the groups that may be cut; None means all.
        even_halves: The second input of a channel shuffle keeps as many channels as the first, if
            it can, whatever its own share and `round_to` say.
    """

    def __init__(
        self,
        analysis: Analysis,
        scores: Sequence[Array],
        round_to: int = 1,
        max_ratio: float = 0.9,
        chosen: Sequence[int] | None = None,
        even_halves: bool = False,
    ) -> None:
        self.analysis, self.scores, self.round_to = analysis, list(scores), round_to
        groups = analysis.groups
        self.chosen = list(range(len(groups)) if chosen is None else chosen)
        found = [_order(group, score, round_to, max_ratio) for group, score in zip(groups, scores)]
        self.orders = [order for order, _ in found]
        self.steps = [
            steps if index in self.chosen else [0] for index, (_, steps) in enumerate(found)
        ]
        most = [steps[-1] for steps in self.steps]
        self._halves = EvenHalves(analysis, self.orders, most, max_ratio) if even_halves else None

    def nearest(self, group: int, removed: float) -> int:
        """Return the allowed number of channels to remove that is closest."""
        return min(self.steps[group], key=lambda step: (abs(step - removed), step))

    def counts(self, ratios: Sequence[float]) -> list[int]:
        """Turn a share to remove from each group into allowed numbers.

        A ratio of `n` channels is rounded half to even, as PaddleSlim does.
        """
        return [
            self.nearest(index, round(len(group) * ratio))
            for index, (group, ratio) in enumerate(zip(self.analysis.groups, ratios))
        ]

    def keep(self, counts: Sequence[int]) -> Array:
        """Return the mask [labels] without so many of the least important units of each group."""
        mask = self.analysis.keep_all()
        for group, order, count in zip(self.analysis.groups, self.orders, counts):
            mask[group.units[order[:count]]] = False
        if self._halves is not None:
            self._halves.even_out(mask)
        return mask


def _order(group: Group, score: Array, round_to: int, max_ratio: float) -> tuple[Array, list[int]]:
    """Return units in the order in which they go, least important first, and how many may go.

    Layers around channel shuffles make or read only parts of a group (`keep_one`). All parts lose
    the same share at every point of the order, as far as it goes: scores of different layers cannot
    be compared, and the layers of a network would otherwise go one after the other. So many may go
    that each part keeps a multiple of `round_to`, or, if that is never so, the whole group.
    """
    parts = [*group.keep_one, np.arange(len(group))]
    order = _evenly(np.argsort(score, kind="stable"), parts, max_ratio)
    gone = np.zeros(len(group), bool)
    of_group, of_parts = [0], [0]
    for count, unit in enumerate(order.tolist(), 1):
        gone[unit] = True
        if (len(group) - count) % round_to == 0:
            of_group.append(count)
            if all(_is_round(gone[part], round_to) for part in parts):
                of_parts.append(count)
    return order, of_parts if len(of_parts) > 1 else of_group


def _evenly(order: Array, parts: Sequence[Array], max_ratio: float) -> Array:
    """Return an order of units in which all parts lose the same share, without those that stay."""
    most = [may_go(len(part), max_ratio) for part in parts]
    if len(parts) == 1:
        return order[: most[0]]
    parts_of: list[list[int]] = [[] for _ in order]
    for index, part in enumerate(parts):
        for unit in part.tolist():
            parts_of[unit].append(index)
    can_go: list[int] = []
    lost, left = [0] * len(parts), order.tolist()
    for level in range(1, LEVELS + 1):
        room = [min(limit, share_of(level / LEVELS, len(p))) for limit, p in zip(most, parts)]
        stay = []
        for unit in left:
            if all(lost[part] < room[part] for part in parts_of[unit]):
                can_go.append(unit)
                for part in parts_of[unit]:
                    lost[part] += 1
            else:
                stay.append(unit)
        left = stay
    return np.array(can_go, dtype=np.int64)


def _is_round(gone: Array, round_to: int) -> bool:
    return not gone.any() or int((~gone).sum()) % round_to == 0


def choose_groups(analysis: Analysis, patterns: Sequence[str], key: str) -> list[int]:
    """Return the groups of which a producing weight matches a glob or a regular expression.

    `key` is the setting the patterns come from, for the message.

    Raises:
        ConfigError: A pattern matches nothing that can be pruned.
    """
    makers = [[name for name, _ in group.producers] for group in analysis.groups]
    names = sorted({name for maker in makers for name in maker})
    wanted: set[str] = set()
    for pattern in patterns:
        wanted.update(matching_weights(pattern, names, key))
    _log.debug("%s: matched %d of %d weights", key, len(wanted), len(names))
    return [index for index, maker in enumerate(makers) if wanted & set(maker)]


def matching_weights(pattern: str, names: Sequence[str], key: str) -> list[str]:
    """Return the names that match a glob or a regular expression.

    Raises:
        ConfigError: None does; the message begins with `key`.
    """
    try:
        return match([pattern], names, key)
    except ConfigError:
        try:
            found = [name for name in names if re.fullmatch(pattern, name)]
        except re.error:
            found = []
        if not found:
            raise ConfigError(
                f"{key}: {pattern!r} matches no weight that can be pruned, neither as a "
                f"glob nor as a regular expression{suggest(pattern, names[:200])}"
            ) from None
        return found


def ratios_by_layer(analysis: Analysis, pruned_ratio: Mapping[str, float]) -> list[float]:
    """Return the share of channels to remove per group, given by patterns on weights.

    The first pattern that matches a group's weight decides.

    Raises:
        ConfigError: A pattern matches nothing.
    """
    ratios: dict[int, float] = {}
    for pattern, ratio in pruned_ratio.items():
        for index in choose_groups(analysis, [pattern], "pruned_ratio"):
            ratios.setdefault(index, ratio)
    return [ratios.get(index, 0.0) for index in range(len(analysis.groups))]


def uniform(ranking: Ranking, measure: MaskCost, limit: float) -> list[int]:
    """Remove the same share from every group until the measure is down at the limit."""
    groups = len(ranking.analysis.groups)
    return reach(ranking, measure, limit, lambda share: ranking.counts([share] * groups))


def by_loss(
    ranking: Ranking,
    measure: MaskCost,
    limit: float,
    losses: Sequence[Sequence[tuple[float, float]]],
) -> list[int]:
    """Remove from each group as much as one common loss allows, until the limit is reached.

    Args:
        ranking: Order and steps.
        measure: Cost of a keep-mask.
        limit: Largest cost that is allowed.
        losses: Per group, (ratio, loss) in rising order of ratio; straight lines between.
    """
    curves = [_envelope(curve) for curve in losses]
    worst = max((loss for _, top in curves for loss in top), default=0.0)

    def counts(share: float) -> list[int]:
        # first what costs nothing, then what costs ever more, then on to what was not measured
        free, paid, beyond = (min(max(3 * share - third, 0.0), 1.0) for third in range(3))
        ratios = [_ratio_for(curve, worst * paid) * free for curve in curves]
        return ranking.counts([ratio + beyond * (1 - ratio) for ratio in ratios])

    return reach(ranking, measure, limit, counts)


def _envelope(curve: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Make a curve rise: cutting more cannot be said to cost less."""
    ratios = [0.0, *(ratio for ratio, _ in curve)]
    losses = np.maximum.accumulate([0.0, *(loss for _, loss in curve)])
    return ratios, losses.tolist()


def _ratio_for(curve: tuple[list[float], list[float]], allowed: float) -> float:
    ratios, losses = curve
    last = int(np.searchsorted(losses, allowed, side="right")) - 1
    if last + 1 >= len(ratios):
        return ratios[-1]
    rise = losses[last + 1] - losses[last]
    share = (allowed - losses[last]) / rise
    return ratios[last] + share * (ratios[last + 1] - ratios[last])


def global_order(ranking: Ranking, measure: MaskCost, limit: float) -> list[int]:
    """Rank the channels of all groups together and remove the least important.

    Scores are divided by their group's mean, for layers differ in scale.
    """
    scaled = [score / max(float(score.mean()), 1e-30) for score in ranking.scores]
    entries = np.concatenate(
        [score[order] for score, order in zip(scaled, ranking.orders)] or [np.zeros(0)]
    )
    bars = np.sort(entries)

    def counts(share: float) -> list[int]:
        bar = bars[min(int(share * len(bars)), len(bars) - 1)] if len(bars) else 0.0
        below = [int((score[order] < bar).sum()) for score, order in zip(scaled, ranking.orders)]
        return [ranking.nearest(index, count) for index, count in enumerate(below)]

    return reach(ranking, measure, limit, counts)


def reach(
    ranking: Ranking, measure: MaskCost, limit: float, counts: Callable[[float], list[int]]
) -> list[int]:
    """Find the share for which the measure comes closest to the limit, then move single steps."""
    low, high = 0.0, 1.0
    best, gap = [0] * len(ranking.steps), math.inf
    for _ in range(24):
        middle = (low + high) / 2
        found = counts(middle)
        value = measure(ranking.keep(found))
        if abs(value - limit) < gap:
            best, gap = found, abs(value - limit)
        if value > limit:
            low = middle
        else:
            high = middle
    return _settle(ranking, measure, limit, best)


def _settle(ranking: Ranking, measure: MaskCost, limit: float, planned: list[int]) -> list[int]:
    """Move single groups while that brings the measure nearer to the limit.

    Groups stay within one step of the plan if that is close enough, else within two, four, ...
    """
    whole = measure(ranking.analysis.keep_all())
    most = max((len(steps) for steps in ranking.steps), default=1)
    counts, steps = planned, 1
    while True:
        found = _move(ranking, measure, limit, planned, steps)
        gap, best = (abs(measure(ranking.keep(each)) - limit) for each in (found, counts))
        if gap < best:
            counts, best = found, gap
        if best <= CLOSE * whole or steps >= most:
            return counts
        steps *= 2


def _move(
    ranking: Ranking, measure: MaskCost, limit: float, planned: list[int], far: int
) -> list[int]:
    counts, whole = list(planned), measure(ranking.analysis.keep_all())
    centres = [steps.index(count) for steps, count in zip(ranking.steps, planned)]
    value = measure(ranking.keep(counts))
    for _ in range(len(counts) * far):
        if abs(value - limit) <= EXACT * whole:
            break
        moves = []
        for group, steps in enumerate(ranking.steps):
            now, towards = steps.index(counts[group]), 1 if value > limit else -1
            for place in range(now + towards, now + towards * (far + 1), towards):
                if 0 <= place < len(steps) and abs(place - centres[group]) <= far:
                    changed = [*counts[:group], steps[place], *counts[group + 1 :]]
                    gap = abs(measure(ranking.keep(changed)) - limit)
                    moves.append((gap, group, steps[place]))
        if not moves or min(moves)[0] >= abs(value - limit):
            break
        _, group, step = min(moves)
        counts[group] = step
        value = measure(ranking.keep(counts))
    return counts


def step_share(target: float, steps: int) -> float:
    """Return the share to remove in each of `steps` equal cuts that together remove `target`."""
    return 1.0 - float((1.0 - target) ** (1.0 / steps))
