"""From the settings of a cut to what each group loses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from paddle import Tensor
from paddle.nn import Layer

from core.deploy.lookup import Lookup
from core.distributed import gather
from core.errors import ConfigError
from core.norms import reestimate, statistics_kept
from core.prune import plan
from core.prune.analysis import Analysis
from core.prune.config import PruneConfig
from core.prune.criteria import mean_gradients, score
from core.prune.cut import cut_for_now, plan_edit
from core.prune.labels import Array
from core.prune.latency import Latency, measure_ms
from core.prune.pruner import Cut, Pruner, fixed_specs
from core.prune.report import render
from core.prune.search import anneal
from core.prune.sensitivity import Sensitivity, measure, plot, ratios_in_steps
from core.strategy import Context

CLOSE = 0.01  # share of the whole by which an achieved target may differ without a warning
_LATENCY_CLOSE, _LATENCY_TRIES = 0.03, 5
_log = logging.getLogger(__name__)


def inputs_of(context: Context, samples: int) -> Iterator[Sequence[Tensor]]:
    """Yield the model's inputs for about so many training samples."""
    names = [spec.name for spec in context.task.input_spec()]
    for batch in context.calibration(samples):
        yield [batch[name] for name in names]


class Planner:
    """Turns the settings of one cut into what each group loses.

    Args:
        config: Of the strategy.
        context: For data, metric and the other processes.
        model: To cut.
        pruner: Of the model.
        step: Number of cuts made before.
    """

    def __init__(
        self, config: PruneConfig, context: Context, model: Layer, pruner: Pruner, step: int
    ) -> None:
        self._config, self._context, self._model = config, context, model
        self._pruner, self._step = pruner, step
        self._gradients: dict[str, Array] | None = None
        self._told = ""

    def cut(self) -> Cut:
        """Choose and cut."""
        if self._latency_target:
            return self._cut_to_latency()
        return self._pruner.cut(self._plan)

    def tell(self, cut: Cut) -> None:
        """Log what was asked for and what was reached; warn where they differ."""
        (macs, macs_left), (all_, all_left) = cut.macs, cut.parameters
        reached = {
            "target_ratio": 1 - macs_left / macs,
            "target_parameters_ratio": 1 - all_left / all_,
        }
        for fixed in cut.analysis.fixed:
            _log.debug("%s keeps %d channels: %s", fixed.layer, fixed.channels, fixed.reason)
        name = next((key for key in reached if getattr(self._config, key) is not None), None)
        if name is not None:
            wanted = self._share(getattr(self._config, name))
            level = logging.INFO if abs(reached[name] - wanted) <= CLOSE else logging.WARNING
            _log.log(
                level,
                "prune step %d of %d: %s asked to remove %.1f %%, removed %.1f %%",
                *(self._step + 1, self._config.num_steps),
                *(name, 100 * wanted, 100 * reached[name]),
            )
        else:
            _log.info(
                "prune: removed %.1f %% of the MACs and %.1f %% of the parameters%s",
                *(100 * reached["target_ratio"], 100 * reached["target_parameters_ratio"]),
                self._told,
            )

    @property
    def _latency_target(self) -> bool:
        config = self._config
        return config.target_latency_ms is not None or config.target_latency_ratio is not None

    def _share(self, target: float) -> float:
        return plan.step_share(target, self._config.num_steps)

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
        chosen = plan.choose_groups(analysis, config.pruned_params)
        return plan.Ranking(analysis, scores, config.round_to, config.max_ratio, chosen)

    def _plan(self, analysis: Analysis) -> Array:
        config, cost = self._config, analysis.cost
        ranking = self._ranking(analysis)
        whole = analysis.keep_all()
        if config.target_ratio is not None:
            measure_of: plan.Measure = cost.macs
            limit = cost.macs(whole) * (1 - self._share(config.target_ratio))
        elif config.target_parameters_ratio is not None:
            measure_of = cost.parameters
            limit = cost.parameters(whole) * (1 - self._share(config.target_parameters_ratio))
        else:
            ratio = config.pruned_ratio
            assert ratio is not None
            per_layer = ratio if isinstance(ratio, dict) else {"*": ratio}
            counts = ranking.counts(plan.ratios_by_layer(analysis, per_layer))
            return self._agree(ranking.keep(counts))
        return self._agree(ranking.keep(self._allocate(ranking, measure_of, limit)))

    def _agree(self, keep: Array) -> Array:
        """Take the choice of the first process, so that all cut the same."""
        return np.asarray(gather(keep)[0])

    def _allocate(self, ranking: plan.Ranking, measure_of: plan.Measure, limit: float) -> list[int]:
        if self._config.allocation == "uniform":
            return plan.uniform(ranking, measure_of, limit)
        if self._config.allocation == "global":
            return plan.global_order(ranking, measure_of, limit)
        if self._config.allocation == "search":
            seed = self._context.seed + self._step
            steps = self._config.search_steps
            return anneal(ranking, measure_of, limit, self._worth(ranking), steps, seed)
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
        sign = 1.0 if metric.higher_is_better else -1.0

        def worth(keep: Array) -> float:
            edit = plan_edit(model, ranking.analysis, keep)
            with statistics_kept(model), cut_for_now(model, edit):
                if config.calibration_samples:
                    reestimate(model, inputs_of(context, config.calibration_samples))
                return sign * context.evaluate(model, config.eval_rate)[metric.primary]

        return worth

    def sensitivity(self, ranking: plan.Ranking) -> Sensitivity:
        """Measure the loss of every group, or read it."""
        config, context = self._config, self._context
        metric = context.task.build_metric()
        file = Path(config.sensitivities_file) if config.sensitivities_file else None
        found = measure(
            self._model,
            ranking,
            ratios_in_steps(config.delta_rate),
            lambda model: context.evaluate(model, config.eval_rate)[metric.primary],
            metric.primary,
            metric.higher_is_better,
            settings=f"{config.criterion} {config.aggregate} {config.round_to} {config.eval_rate}",
            file=file or context.save_dir / "sensitivities.json",
        )
        _log.info("sensitivity\n%s", render(found.table()))
        if context.rank == 0:
            plot(found, context.save_dir / "sensitivity.png")
        return found

    def _cut_to_latency(self) -> Cut:
        """Cut to a predicted latency, measure the model, correct the prediction, and again."""
        config, context = self._config, self._context
        specs = fixed_specs(context.task)

        def milliseconds() -> float:
            own = measure_ms(context.task, self._model, specs, config.backend, config.threads)
            return float(gather(own)[0])

        before = milliseconds()
        if config.target_latency_ms is not None:
            goal = config.target_latency_ms
        else:
            assert config.target_latency_ratio is not None
            goal = before * (1 - config.target_latency_ratio)
        goal = before * (goal / before) ** (1 / (config.num_steps - self._step))
        if goal >= before:
            raise ConfigError(
                f"target_latency_ms: expected less than the {before:.2f} ms the model takes "
                f"in {config.backend}, got {goal:.2f}"
            )
        lookup = Lookup(config.backend, config.threads, context.save_dir / "latency.json")
        predictor: Latency | None = None

        def to_goal(analysis: Analysis) -> Array:
            nonlocal predictor
            if predictor is None or predictor.analysis is not analysis:
                predictor = Latency(analysis, lookup, before)
            ranking = self._ranking(analysis)
            return self._agree(ranking.keep(self._allocate(ranking, predictor.predict, goal)))

        for attempt in range(_LATENCY_TRIES):
            cut = self._pruner.cut(to_goal)
            after = milliseconds()
            _log.info("latency %.2f ms, goal %.2f ms, before %.2f ms", after, goal, before)
            if abs(after - goal) <= _LATENCY_CLOSE * before or attempt == _LATENCY_TRIES - 1:
                break
            cut.undo()
            assert predictor is not None
            predictor.correct(cut.keep, after)
        if after > goal + _LATENCY_CLOSE * before:
            _log.warning("latency: %.2f ms were asked for, %.2f ms reached", goal, after)
        self._told = f"; {before:.2f} -> {after:.2f} ms in {config.backend}, asked for {goal:.2f}"
        return cut
