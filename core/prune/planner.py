"""Plan cuts: from the settings to the channels that each group loses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.batch_norms import reestimate, statistics_kept
from core.prune.config import PruneConfig
from core.prune.cut import cut_for_now, plan_edit
from core.prune.planning import plan
from core.prune.planning.criteria import mean_gradients, score
from core.prune.planning.latency import Latency, load_run
from core.prune.planning.search import anneal
from core.prune.planning.sensitivity import Sensitivity, measure, plot, ratios_in_steps
from core.prune.pruner import Cut, Pruner, fixed_specs
from core.prune.structure.analysis import FIXED_OUTPUT, Analysis
from core.prune.structure.labels import Array
from core.runtimes.latency_table import LatencyTable, model_ms
from core.settings.metric_order import lost
from core.strategy import Context
from core.training.distributed import gather
from core.training.measurements import metric_of, render, task_meter

CLOSE = 0.01  # share of the whole by which an achieved target may differ without a warning
MS_CLOSE = 0.03  # likewise of a latency, which is measured
LATENCY_TRIES = 5
_log = logging.getLogger(__name__)


class Planner:
    """Turns the settings of one cut into what each group loses.

    Args:
        config: Settings of the strategy.
        context: Data, metric and other processes of the run.
        model: Model to cut.
        pruner: Pruner of the model.
        step: Number of cuts made before.
        start: Cost of the model before the first of them: `macs`, `parameters`, and `ms` if
            latency is the target. Filled in by the first cut, so that each step aims at what is
            left to remove, whatever those before it reached.
    """

    def __init__(
        self,
        config: PruneConfig,
        context: Context,
        model: Layer,
        pruner: Pruner,
        step: int,
        start: dict[str, float],
    ) -> None:
        self._config, self._context, self._model = config, context, model
        self._pruner, self._step, self._start = pruner, step, start
        self._gradients: dict[str, Array] | None = None
        self._told = ""

    def cut(self) -> Cut:
        """Choose and cut."""
        cost, whole = self._pruner.analysis.cost, self._pruner.analysis.keep_all()
        self._start.setdefault("macs", cost.macs(whole))
        self._start.setdefault("parameters", cost.parameters(whole))
        if self._config.target_latency_ms or self._config.target_latency_ratio:
            return self._cut_to_latency()
        return self._pruner.cut(self._plan)

    def tell(self, cut: Cut) -> None:
        """Log the targets up to here and the values reached; warn where they differ."""
        config = self._config
        reached = {
            "target_ratio": 1 - cut.macs[1] / self._start["macs"],
            "target_parameters_ratio": 1 - cut.parameters[1] / self._start["parameters"],
        }
        for fixed in cut.analysis.fixed:
            _log.debug("%s keeps %d channels: %s", fixed.layer, fixed.channels, fixed.reason)
        if cut.keep.all():
            _log.warning("prune: nothing is cut%s", _why_nothing(cut.analysis))
        name = next((key for key in reached if getattr(config, key) is not None), None)
        if name is not None:
            wanted = 1 - self._left(1 - getattr(config, name))
            level = logging.INFO if abs(reached[name] - wanted) <= CLOSE else logging.WARNING
            _log.log(
                level,
                "prune step %d of %d: %s asked to remove %.1f %%, removed %.1f %%",
                *(self._step + 1, config.num_steps),
                *(name, 100 * wanted, 100 * reached[name]),
            )
            if reached[name] < wanted - CLOSE and not cut.keep.all():
                _log.warning("prune: %s", _what_stays(cut.analysis, config.max_ratio))
        if config.pruned_ratio is not None:
            self._told = f"; asked for pruned_ratio {config.pruned_ratio}"
        _log.info(
            "prune: this strategy removed %.1f %% of the MACs and %.1f %% of the parameters%s",
            *(100 * reached["target_ratio"], 100 * reached["target_parameters_ratio"]),
            self._told,
        )

    def _left(self, whole: float) -> float:
        """Return the share that is left after this step if `whole` is to be left in the end."""
        each = 1 - plan.step_share(1 - whole, self._config.num_steps)
        return float(each ** (self._step + 1))

    def _ranking(self, analysis: Analysis) -> plan.Ranking:
        config, context = self._config, self._context
        if config.criterion == "taylor" and self._gradients is None:
            batches = context.calibration(config.calibration_samples)
            own = mean_gradients(context.task, self._model, batches)
            shared = gather(own)
            self._gradients = {name: sum(g[name] for g in shared) / len(shared) for name in own}
        scores = score(
            *(self._model, analysis.groups, analysis.weights, config.criterion, config.aggregate),
            seed=context.seed + self._step,
            gradients=self._gradients,
        )
        chosen = plan.choose_groups(analysis, config.pruned_params, "pruned_params")
        asked = config.pruned_ratio is not None  # for so many channels of each layer
        limits = config.round_to, config.max_ratio
        return plan.Ranking(analysis, scores, *limits, chosen, even_halves=not asked)

    def _plan(self, analysis: Analysis) -> Array:
        config, cost = self._config, analysis.cost
        ranking = self._ranking(analysis)
        if config.target_ratio is not None:
            limit = self._start["macs"] * self._left(1 - config.target_ratio)
            return self._agree(ranking.keep(self._allocate(ranking, cost.macs, limit)))
        if config.target_parameters_ratio is not None:
            limit = self._start["parameters"] * self._left(1 - config.target_parameters_ratio)
            return self._agree(ranking.keep(self._allocate(ranking, cost.parameters, limit)))
        ratio = config.pruned_ratio
        assert ratio is not None
        per_layer = ratio if isinstance(ratio, dict) else {"*": ratio}
        counts = ranking.counts(plan.ratios_by_layer(analysis, per_layer))
        return self._agree(ranking.keep(counts))

    def _agree(self, keep: Array) -> Array:
        """Take the choice of the first process, so that all cut the same."""
        return np.asarray(gather(keep)[0])

    def _allocate(
        self, ranking: plan.Ranking, measure_of: plan.MaskCost, limit: float
    ) -> list[int]:
        if self._config.allocation == "uniform":
            return plan.uniform(ranking, measure_of, limit)
        if self._config.allocation == "global":
            return plan.global_order(ranking, measure_of, limit)
        if self._config.allocation == "search":
            seed = self._context.seed + self._step
            steps = self._config.search_steps
            heat = self._config.search_temperature, self._config.search_cooling
            return anneal(ranking, measure_of, limit, self._worth(ranking), steps, seed, heat)
        found = self.sensitivity(ranking)
        losses = []
        for group in ranking.analysis.groups:
            curve = found.curves.get(group.name)
            losses.append([] if curve is None else list(zip(curve.ratios, curve.losses)))
        return plan.by_loss(ranking, measure_of, limit, losses)

    def _worth(self, ranking: plan.Ranking) -> Callable[[Array], float]:
        """Return what a mask is worth: the metric after the cut, with new batch norm statistics.

        That ranks plans as training would (Li et al.: "EagleEye", ECCV 2020).
        """
        config, context, model = self._config, self._context, self._model
        metric = context.task.build_metric()
        name = config.metric_name or metric.primary

        def worth(keep: Array) -> float:
            edit = plan_edit(model, ranking.analysis, keep)
            with statistics_kept(model), cut_for_now(model, edit):
                if config.calibration_samples:
                    reestimate(model, context.inputs(config.calibration_samples))
                found = context.evaluate(model, config.eval_rate)
                value = metric_of(found, name, "metric_name")
                return lost(value, 0.0, metric.higher_is_better)

        return worth

    def sensitivity(self, ranking: plan.Ranking) -> Sensitivity:
        """Measure the loss of every group, or read it."""
        config, context = self._config, self._context
        file = Path(config.sensitivities_file) if config.sensitivities_file else None
        found = measure(
            self._model,
            # measured as asked, rounded when it is used: so the file serves any rounding
            plan.Ranking(ranking.analysis, ranking.scores, max_ratio=1.0, chosen=ranking.chosen),
            ratios_in_steps(config.delta_rate),
            task_meter(context.task, context.evaluate, config.eval_rate, config.metric_name),
            file=file or context.save_dir / "sensitivities.json",
        )
        _log.info("sensitivity\n%s", render(found.table()))
        if context.rank == 0:
            plot(found, context.save_dir / "sensitivity.png")
        return found

    def _load(self) -> Callable[[], object]:
        config, task = self._config, self._context.task
        return load_run(task, self._model, fixed_specs(task), config.backend, config.threads)

    def _milliseconds(self, *runs: Callable[[], object]) -> list[float]:
        """Measure runs in turns; the first process decides."""
        own = model_ms(runs, self._config.threads)
        return [float(gather(each)[0]) for each in own]

    def _goal(self) -> float:
        """Return the milliseconds this step aims at."""
        config, first = self._config, self._start["ms"]
        if config.target_latency_ratio is not None:
            return first * self._left(1 - config.target_latency_ratio)
        assert config.target_latency_ms is not None
        if config.target_latency_ms >= first:
            raise ConfigError(
                f"target_latency_ms: expected less than the {first:.2f} ms the model takes in "
                f"{config.backend}, got {config.target_latency_ms:.2f}"
            )
        return first * self._left(config.target_latency_ms / first)

    def _cut_to_latency(self) -> Cut:
        """Cut to a predicted latency, measure the model, correct the prediction, and again.

        Each time the model as it was is measured in turns with it: other programs may have slowed
        the machine down, or no longer do, and that changes both alike.
        """
        config, context = self._config, self._context
        whole = self._load()
        (before,) = self._milliseconds(whole)
        self._start.setdefault("ms", before)
        goal, close = self._goal(), MS_CLOSE * self._start["ms"]
        if before <= goal:
            _log.info("latency: %.2f ms, no need to cut to %.2f ms", before, goal)
            return self._pruner.cut(lambda analysis: analysis.keep_all())
        lookup = LatencyTable(config.backend, config.threads, context.save_dir / "latency.json")
        predictor: Latency | None = None

        def to_goal(analysis: Analysis) -> Array:
            nonlocal predictor
            if predictor is None or predictor.analysis is not analysis:
                predictor = Latency(analysis, lookup, before)
            ranking = self._ranking(analysis)
            return self._agree(ranking.keep(self._allocate(ranking, predictor.predict, goal)))

        for attempt in range(LATENCY_TRIES):
            cut = self._pruner.cut(to_goal)
            now, again = self._milliseconds(self._load(), whole)
            after = before * now / again if again else now
            _log.info("latency %.2f ms, goal %.2f ms, before %.2f ms", after, goal, before)
            if abs(after - goal) <= close or attempt == LATENCY_TRIES - 1:
                break
            cut.undo()
            assert predictor is not None
            predictor.correct(cut.keep, after)
        if abs(after - goal) > close:
            _log.warning("latency: %.2f ms were asked for, %.2f ms reached", goal, after)
        self._told = f"; {before:.2f} -> {after:.2f} ms in {config.backend}, asked for {goal:.2f}"
        return cut


def _why_nothing(analysis: Analysis) -> str:
    """Return why nothing is cut, behind a colon; empty if that is not known."""
    if analysis.groups:
        count = len(analysis.groups)
        return f": in all {count} groups, target, round_to and max_ratio leave every channel"
    why = max(analysis.fixed, key=lambda fixed: fixed.channels, default=None)
    return f": {why.layer} keeps {why.channels} channels: {why.reason}" if why else ""


def _what_stays(analysis: Analysis, max_ratio: float) -> str:
    """Return what keeps a target from being reached."""
    said = f"no layer loses more than {100 * max_ratio:g} % of its channels (max_ratio)"
    inner = [each for each in analysis.fixed if FIXED_OUTPUT not in str(each.reason)]
    if not inner:
        return said
    why = max(inner, key=lambda fixed: fixed.channels)
    return f"{said}, and {len(inner)} keep all, as {why.layer}: {why.reason}"
