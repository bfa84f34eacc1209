"""Pruning as a strategy of a recipe: cut trained weights, then let training mend them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle.nn import Layer

from core.network.batch_norms import reestimate
from core.network.folded_norms import unfold_norms
from core.network.layer_fitting import few_of_one_size
from core.prune.config import PruneConfig
from core.prune.cut import ChannelEdit, apply_edit
from core.prune.planner import Planner
from core.prune.planning import plan
from core.prune.planning.sensitivity import Sensitivity
from core.prune.pruner import Pruner, build_pruner
from core.prune.reconstruction import mend, note
from core.prune.report import layer_table
from core.strategy import Context, Phase, Record, Strategy, StrategyConfig
from core.training.measurements import load, metric_of, render
from core.training.warm_start import KEEP_ALL, check_trained

LEAST_SHARE = 1e-6  # of the validation data: a sample tells which metrics there are
_log = logging.getLogger(__name__)


class Prune(Strategy):
    """Removes channels when its window opens, and again every few epochs if asked to."""

    Config = PruneConfig
    phase = Phase.SHAPE

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.config: PruneConfig = config
        self._cuts: list[Record] = []
        self._start: dict[str, float] = {}  # cost of the model before the first cut

    @classmethod
    def default_end(cls, config: StrategyConfig, epochs: int) -> int:
        """Stay until the last cut is made; fine-tuning follows."""
        assert isinstance(config, PruneConfig)
        return config.start_epoch + (config.num_steps - 1) * config.every_epochs + 1

    def check(self, context: Context) -> None:
        """Trace the model and read the patterns, long before the window opens."""
        model = context.task.build_model()
        self._prepare(context, model)
        self._check_measuring(context, model)

    def rehearse(self, model: Layer, context: Context) -> list[str]:
        """Cut the same share everywhere, whatever decides in the run, and all of it at once."""
        self._check_trained(context)
        self._check_measuring(context, model)
        config = self.config
        if config.target_latency_ms is not None or config.target_latency_ratio is not None:
            self._prepare(context, model)
            goal = (
                f"{config.target_latency_ms:g} ms"
                if config.target_latency_ms is not None
                else f"{1 - (config.target_latency_ratio or 0):.0%} of its latency"
            )
            return [f"prune: to {goal} in {config.backend}, measured when the window opens"]
        criterion = "l1_norm" if config.criterion == "taylor" else config.criterion
        even = replace(config, allocation="uniform", criterion=criterion, num_steps=1)
        pruner = self._prepare(context, model)
        cut = Planner(even, context, model, pruner, 0, {}).cut()
        groups = plan.choose_groups(pruner.analysis, config.pruned_params, "pruned_params")
        lines = [
            f"prune: {1 - cut.macs[1] / cut.macs[0]:.1%} of the MACs, "
            f"{1 - cut.parameters[1] / cut.parameters[0]:.1%} of the parameters, "
            f"{config.criterion}, from {len(groups)} of {len(pruner.analysis.groups)} groups"
        ]
        if config.num_steps > 1:
            lines.append(f"  in {config.num_steps} cuts, every {config.every_epochs} epochs")
        if config.allocation != "uniform":
            lines.append(
                f"  each layer's share by {config.allocation}; counted here with even ones"
            )
        return lines

    def attach(self, model: Layer, context: Context) -> None:
        self._model, self._context = model, context
        if context.resuming:
            return
        self._check_trained(context)
        self._cut()

    def _check_measuring(self, context: Context, model: Layer) -> None:
        """Refuse a metric that the task does not have, and a file that holds no sensitivities."""
        config = self.config
        if config.sensitivities_file is not None:
            load(Sensitivity, Path(config.sensitivities_file))
        if config.metric_name is not None and config.allocation in ("sensitive", "search"):
            metric_of(context.evaluate(model, LEAST_SHARE), config.metric_name, "metric_name")

    @staticmethod
    def _check_trained(context: Context) -> None:
        problem = "prune: would rank the channels of random weights"
        reinit = check_trained(context, problem, "prune")
        if reinit:
            _log.warning(
                "prune: model.reinit starts %s anew, whose channels are ranked by random weights; "
                "%s",
                *(", ".join(reinit), KEEP_ALL),
            )

    def before_epoch(self, epoch: int) -> bool:
        config = self.config
        due = config.start_epoch + len(self._cuts) * config.every_epochs
        if epoch < due or len(self._cuts) >= config.num_steps:
            return False
        self._cut()
        return True

    def record(self) -> Record | None:
        return {"cuts": list(self._cuts)} if self._cuts else None

    def state_dict(self) -> dict[str, Any]:
        return {"cuts": list(self._cuts), "start": dict(self._start)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._cuts, self._start = list(state["cuts"]), dict(state["start"])

    @staticmethod
    def replay(model: Layer, record: Record) -> None:
        for cut in record["cuts"]:
            apply_edit(model, ChannelEdit.from_record(cut))

    def _prepare(self, context: Context, model: Layer) -> Pruner:
        pruner = build_pruner(context.task, model, self.config.never_prune)
        chosen = plan.choose_groups(pruner.analysis, self.config.pruned_params, "pruned_params")
        _log.info("pruned_params: %d of %d groups", len(chosen), len(pruner.analysis.groups))
        if isinstance(self.config.pruned_ratio, dict):
            plan.ratios_by_layer(pruner.analysis, self.config.pruned_ratio)
        return pruner

    def _cut(self) -> None:
        config, model = self.config, self._model
        samples = config.calibration_samples
        if samples:
            unfold_norms(model, lambda: self._context.inputs(samples))
        pruner = self._prepare(self._context, model)
        step = len(self._cuts)
        planner = Planner(config, self._context, model, pruner, step, self._start)
        few = few_of_one_size(self._context.inputs(samples)) if config.fits_layers else []
        before = note(self._context.task, model, few) if config.fits_layers else None
        cut = planner.cut()
        self._cuts.append(cut.edit.to_record())
        _log.info("pruned\n%s", render(layer_table(cut)))
        planner.tell(cut)
        if before is not None:
            count = mend(model, cut.edit, before, few)
            _log.info("fitted %d layers to what they made before the cut", count)
        elif samples:
            count = reestimate(model, self._context.inputs(samples))
            _log.info("estimated the statistics of %d batch norms anew", count)
