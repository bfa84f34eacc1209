"""Quantization-aware training as a strategy of a recipe: train with the rounding of the file."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import paddle
from paddle.nn import Layer

from core.errors import ConfigError
from core.network.batch_norms import is_batch_norm
from core.network.layer_fitting import few_of_one_size
from core.quant.apply import apply_quantization, record_of, replay_quantization
from core.quant.balance import balance
from core.quant.calibration import CalibrationBatches, first_batches, training_images
from core.quant.config import QatConfig
from core.quant.grid_plan import choose_layers_and_grids
from core.quant.observers import OBSERVERS
from core.quant.quantizers import TINY
from core.quant.reconstruction import noting_while_calibrated, reconstruct
from core.quant.selection import select_with_hints, summary
from core.quant.sites import quantizers_of
from core.settings.hints import SlimHints
from core.strategy import Context, Phase, Record, Strategy
from core.task import QatBudget
from core.training.distributed import gather
from core.training.warm_start import KEEP_ALL, check_trained

_log = logging.getLogger(__name__)


class Qat(Strategy):
    """Rounds weights and activations while training goes on.

    Jacob et al., CVPR 2018; grids begin where a calibration ends, and weights, if the task suggests
    or the recipe asks for it, where quantization after training ends.
    """

    Config = QatConfig
    phase = Phase.GRID

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.config: QatConfig = config
        self._record: Record | None = None
        self._steps = 0  # since the window opened
        self._warmup = 0  # steps
        self._scale = 1.0
        self._keeps_grids = False  # and batch norms with them, if nothing else is said

    def check(self, context: Context) -> None:
        """Choose the layers, long before the window opens."""
        select_with_hints(context.task, context.task.build_model(), self.config)

    def rehearse(self, model: Layer, context: Context) -> list[str]:
        """Choose and quantize, calibrated on a single batch."""
        self._check_trained(context)
        self._plan_rate(context, context.task.qat_budget)
        lines = self._insert(model, context, samples=1)
        if self._warmup:
            lines[0] += f", {self._warmup} steps of warm-up"
        self._steps = self._warmup
        return [f"qat: {lines[0]}", *lines[1:]]

    def attach(self, model: Layer, context: Context) -> None:
        self._model, self._context = model, context
        self._plan_rate(context, context.task.qat_budget)
        if context.resuming:
            self._record = record_of(model)
            return
        self._check_trained(context)
        self._insert(model, context, self.config.calibration_samples)

    @staticmethod
    def _check_trained(context: Context) -> None:
        problem = "qat: would round random weights"
        reinit = check_trained(context, problem, "quantize")
        if reinit:
            raise ConfigError(
                f"{problem}, as model.reinit starts {', '.join(reinit)} anew; {KEEP_ALL}, else "
                "quantize later with start_epoch"
            )

    def before_epoch(self, epoch: int) -> bool:
        done, if_not_said = epoch - self.config.start_epoch, 0 if self._keeps_grids else math.inf
        off_after, freeze_after = (
            if_not_said if said is None else said
            for said in (self.config.observer_off_after, self.config.freeze_bn_after)
        )
        if done >= off_after:
            for quantizer in quantizers_of(self._model).values():
                quantizer.tracking = False
        if done >= freeze_after:
            for layer in self._model.sublayers():
                if is_batch_norm(layer):
                    layer._use_global_stats = True
        return False

    def after_step(self) -> None:
        self._steps += 1
        with paddle.no_grad():
            for quantizer in quantizers_of(self._model).values():
                for learned in quantizer.parameters():
                    if float(learned) < TINY:  # an optimizer may overshoot; a grid may not
                        learned.set_value(paddle.full([1], TINY, "float32"))

    def learning_rate_scale(self) -> float:
        """Rise from nothing over the warm-up."""
        if self._steps < self._warmup:
            return self._scale * (self._steps + 1) / (self._warmup + 1)
        return self._scale

    def record(self) -> Record | None:
        return self._record

    def state_dict(self) -> dict[str, Any]:
        quantizers = {
            path: quantizer.training_state()
            for path, quantizer in quantizers_of(self._model).items()
        }
        state: dict[str, Any] = {"steps": self._steps, "quantizers": quantizers}
        return state | ({"keeps_grids": True} if self._keeps_grids else {})  # older ones lack it

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = int(state["steps"])
        self._keeps_grids = bool(state.get("keeps_grids", False))
        for path, quantizer in quantizers_of(self._model).items():
            quantizer.load_training_state(state["quantizers"][path])

    @staticmethod
    def replay(model: Layer, record: Record) -> None:
        replay_quantization(model, record)

    def _plan_rate(self, context: Context, budget: QatBudget) -> None:
        config = self.config
        scale, warmup = config.learning_rate_scale, config.warmup_epochs
        suggested = scale is None and config.learning_rate is None
        if scale is None:
            # a rate that the recipe gives is meant for quantization already
            scale = budget.learning_rate_scale if suggested else 1.0
        self._scale = scale
        if warmup is None:
            # a tenth of the window, at most an epoch
            epochs = context.end_epoch - config.start_epoch
            warmup = min(1.0, 0.1 * epochs) if budget.warmup else 0.0
        self._warmup = round(warmup * context.steps_per_epoch)
        _log.info(
            "qat: learning rate x %g (%s), %d steps of warm-up",
            self._scale,
            "as the task suggests" if suggested else "as the recipe says",
            self._warmup,
        )

    def _insert(self, model: Layer, context: Context, samples: int) -> list[str]:
        """Let the first process choose and calibrate, and the others do the same edits.

        Returns:
            Lines that say what was chosen, in the first process.
        """
        lines = [""]
        hints = context.task.slim_hints(model)
        config = self.config.completed(hints.qat)
        self._keeps_grids = config.keeps_grids
        if context.rank == 0:
            lines = self._quantize(model, context, samples, config, hints)
            _log.info("%s", "\n".join(lines))
            self._record = record_of(model)
        self._record = gather(self._record)[0]
        assert self._record is not None
        if context.rank != 0:
            replay_quantization(model, self._record)  # the engine shares the values afterwards
        return lines

    def _quantize(
        self, model: Layer, context: Context, samples: int, config: QatConfig, hints: SlimHints
    ) -> list[str]:
        """Choose layers and calibrate them; return lines that say what was chosen."""
        assert config.observer is not None
        if config.keeps_grids:
            text = "qat: grids and batch norms stay as %s finds them (observer_off_after)"
            _log.info(text, config.observer)
        choice, plan, graph = choose_layers_and_grids(context.task, model, config)
        # grids that stay and weights that are fitted are for images as they come in use
        as_in_use = config.keeps_grids or config.reconstruct
        images: CalibrationBatches = partial(context.inputs, samples)
        if as_in_use:
            images = training_images(context.task, samples)
        few_images = OBSERVERS[config.observer].reads_gradients
        if few_images:
            images = first_batches(images)
        if config.balance:
            # what a student is compared in stays as it was
            taught = hints.distill_points if context.teachers else ()
            kept = [point.layer for point in taught if point.output == "feature"]
            count = balance(model, graph, context.task.input_spec(), images(), kept)
            _log.info("qat: evened out activations, %d groups of channels were rescaled", count)
        together = config.reconstruct and few_images
        noting = noting_while_calibrated(model, choice, plan, images) if together else nullcontext()
        with noting as noted:
            seen = images()
            made = apply_quantization(model, choice, config.rounding, seen, config.observer, plan)
        if config.reconstruct:
            few = few_of_one_size(images())
            fitted = reconstruct(model, made.layers, plan.norms, few, True, noted)
            _log.info("qat: fitted %d layers to what they made in float", fitted)
        return summary(made)
