"""The one training loop. It knows neither tasks nor strategies by name."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from core.errors import ConfigError, TrainingError
from core.network.folded_norms import unfold_norms
from core.network.weights import assign, blaming, not_finite
from core.settings.config import to_mapping
from core.settings.metric_order import is_better
from core.strategy import Context
from core.task import Batch, Losses, Metric
from core.training import checkpoint, distributed
from core.training.active_strategies import ActiveStrategies
from core.training.ema import Ema
from core.training.evaluation import evaluate_model, measure
from core.training.hooks import Hook
from core.training.optimizers import Optimizer
from core.training.precision import Amp
from core.training.recipe import Recipe, ScheduledStrategy, check_beginning
from core.training.run import Run, build_loader, order_settings
from core.training.running_means import RunningMeans
from core.training.save_folder import check_free
from core.training.schedules import learning_rate
from core.training.training_state import check_resumed, check_settings, read_training_state

log = logging.getLogger(__name__)

UNFOLDING_SAMPLES = 256  # training images that folded batch norms are shown
_EPOCH_STRIDE, _STEP_STRIDE = 1000003, 15485863  # between the seeds of two epochs, of two steps


class Engine:
    """Trains the model of a run under a recipe.

    Args:
        run: Task and training settings.
        recipe: Strategies and their windows; empty for plain training.
        save_dir: Where checkpoints and logs go.
        hooks: Called at few points; see `core.training.hooks`.
        teachers: Settings of each `--distill_config`, for the strategies.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        save_dir: Path,
        hooks: Sequence[Hook] = (),
        teachers: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.task, self.config, self.seed = run.task, run.train, run.seed
        self.save_dir, self.hooks = save_dir, hooks
        self.rank, self.world = distributed.initialize()
        self._teachers = tuple(teachers)
        self._amp = Amp(self.config.amp, run.device)
        self.train_loader = build_loader(run, "train", self.rank, self.world)
        self.val_loader = build_loader(run, "val", self.rank, self.world)
        paddle.seed(self.seed)
        self.model = self.task.build_model()
        self._recipe = recipe
        self.windows = ActiveStrategies(recipe)
        self.steps_per_epoch = len(self.train_loader) // self.config.accumulate
        if self.steps_per_epoch == 0:
            raise ConfigError("train.accumulate: an epoch has fewer batches than one step needs")
        self._order = order_settings(run, self.world, len(self.train_loader.dataset))
        self.epochs = self.config.epochs
        self.total_steps = self.epochs * self.steps_per_epoch
        self.epoch, self.step = 0, 0  # epochs and optimizer steps finished
        self.losses = RunningMeans()  # of the steps of this epoch
        self.rate = 0.0  # learning rate of the last of them
        self.best: float | None = None
        self.best_epoch = 0
        self.metrics: dict[str, float] = {}  # metrics of the last epoch, if it was evaluated
        self.metric: Metric | None = None  # metric that computed them
        self.evaluated = self.stop = False
        self.replaces = False  # files that an earlier run wrote
        self.best_report = ""  # the metric's table, of the best epoch
        self._optimizer, self.ema = self._build_updaters()
        self._inputs = [spec.name for spec in self.task.input_spec()]

    def train(self, resume: bool = False, overwrite: bool = False) -> dict[str, float]:
        """Train to the end and return the last metrics.

        Raises:
            TrainingError: A loss or a weight is not finite.
            CheckpointError: Nothing to resume from.
            ConfigError: The save folder holds an earlier run; `overwrite` replaces it.
            FileError: A checkpoint cannot be written.
        """
        every, self.replaces = self.config.eval_every, resume or overwrite
        if resume:
            self.resume()
        else:
            check_free(self.save_dir, self.task, self._teachers, overwrite)
            edits = checkpoint.load_pretrained(self.task, self.model)
            check_beginning(self._recipe, edits)
            self._unfold_norms()
            self.windows.begin(edits, self.context)
            self._optimizer, self.ema = self._build_updaters()
        with contextlib.ExitStack() as opened:
            for hook in self.hooks:
                hook.before_training(self)
                opened.callback(hook.after_training, self)
            while self.epoch < self.epochs and not self.stop:
                self._open_epoch()
                self._train_epoch()
                self.check_weights()
                due = (self.epoch + 1) % every == 0 or self.epoch + 1 == self.epochs
                with self._telling_of_interruption():
                    metrics = self._evaluate() if due else {}
                self.epoch += 1
                self.evaluated, self.metrics = due, metrics
                for hook in self.hooks:
                    hook.after_epoch(self)
                self.losses = RunningMeans()
        self.windows.close(self.model)
        return self.metrics

    def training_state(self) -> dict[str, Any]:
        """Return the state, beside weights and edits, that an exact continuation needs.

        It may be taken after any step, and while the model is evaluated.
        """
        inside = {"losses": self.losses.state_dict(), "rate": self.rate}
        return (inside if self._steps_of_this_epoch() else {}) | {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            "evaluated": self.evaluated,
            "order": self._order,
            "optimizer": self._optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "amp": self._amp.state_dict(),
            "windows": self.windows.state_dict(),
        }

    @contextlib.contextmanager
    def best_weights(self) -> Iterator[None]:
        """Let the model hold the weights that are evaluated (the average, if there is one)."""
        with self.ema.applied(self.model) if self.ema else contextlib.nullcontext():
            yield

    def _build_updaters(self) -> tuple[Optimizer, Ema | None]:
        parameters = {**dict(self.model.named_parameters()), **self.windows.parameters()}
        distributed.broadcast_from_first([*self.model.state_dict().values(), *parameters.values()])
        kind = self.windows.optimizer(self.config.optimizer)
        optimizer = Optimizer(parameters, kind, self.config.clip_norm, self.config.clip_each)
        decay = self.config.ema_decay
        return optimizer, Ema(self.model, decay) if decay else None

    def _open_epoch(self) -> None:
        # what is random depends on the epoch alone, and later on the step, so that a resumed run
        # agrees; first for what strategies draw when they attach, the same in every process and
        # another than what the model's weights were drawn from
        paddle.seed(self.seed + _EPOCH_STRIDE * self.epoch + 500000)
        changed, edited = self.windows.enter_epoch(self.epoch, self.model, self.context)
        paddle.seed(self.seed + _EPOCH_STRIDE * self.epoch + 1 + self.rank)
        replaced = self.windows.before_epoch(self.epoch, self.model, self.context)
        if changed or replaced:
            self._optimizer, self.ema = self._build_updaters()
        if edited or replaced:  # a model of another structure does not compete with this one
            self.best, self.best_epoch = None, self.epoch

    def context(self, step: ScheduledStrategy, resuming: bool) -> Context:
        """Return the context of a strategy whose window opens."""
        return Context(
            task=self.task,
            epoch=self.epoch,
            end_epoch=step.end,
            seed=self.seed,
            rank=self.rank,
            world=self.world,
            save_dir=self.save_dir,
            calibration=lambda samples: self.train_loader.some(samples, self.epoch),
            evaluate=partial(measure, self.task, self.val_loader),
            teachers=self._teachers,
            resuming=resuming,
            steps_per_epoch=self.steps_per_epoch,
        )

    def _unfold_norms(self) -> None:
        """Give norms of published weights that were folded away statistics to train with."""
        names = [spec.name for spec in self.task.input_spec()]

        def batches() -> Iterator[list[Tensor]]:
            for batch in self.train_loader.some(UNFOLDING_SAMPLES):
                yield [batch[name] for name in names]

        count = unfold_norms(self.model, batches) if self.task.config.model.pretrained else 0
        if count:
            log.info(
                "batch norms that the loaded weights have folded away: %d; they have got mean and "
                "variance of about %d training images, which leaves the network as it is",
                *(count, UNFOLDING_SAMPLES),
            )

    def _steps_of_this_epoch(self) -> int:
        """Return how many steps of the epoch that is not finished were made."""
        return self.step - self.epoch * self.steps_per_epoch

    def _train_epoch(self) -> None:
        """Make the steps of an epoch, or those that an interrupted run has left of it."""
        done = self._steps_of_this_epoch()
        if done == self.steps_per_epoch:  # it was interrupted while it was evaluated
            return
        self.model.train()
        with contextlib.ExitStack() as scope:
            if self.config.sync_bn and self.world > 1:
                scope.enter_context(distributed.synchronized_batch_norm(self.model))
            stream = self.train_loader.epoch(self.epoch, first=done * self.config.accumulate)
            batches = scope.enter_context(contextlib.closing(stream))
            for _ in range(done, self.steps_per_epoch):
                self._train_step(batches)

    def _train_step(self, batches: Iterator[Batch]) -> None:
        paddle.seed(self.seed + _STEP_STRIDE * (self.step + 1) + self.rank)
        terms: dict[str, float] = {}
        for _ in range(self.config.accumulate):
            total = self._check(self._losses(next(batches)), terms)
            self._amp.backward(total / self.config.accumulate)
        distributed.average_gradients(self._optimizer.parameters.values())
        done = self.step, self.total_steps, self.steps_per_epoch
        whole = self.windows.learning_rate(self.config.learning_rate)
        self.rate = learning_rate(whole, self.config.schedule, *done)
        self.rate *= self.windows.learning_rate_scale()
        self._amp.step(self._optimizer, self.rate)
        self.step += 1
        self.windows.after_step()
        if self.ema:
            self.ema.update(self.model)
        self.losses.add(terms)
        with self._telling_of_interruption():
            for hook in self.hooks:
                hook.after_step(self, terms, self.rate)

    @contextlib.contextmanager
    def _telling_of_interruption(self) -> Iterator[None]:
        """Tell the hooks of Ctrl-C and its like where training can go on from exactly."""
        try:
            yield
        except KeyboardInterrupt:
            for hook in self.hooks:
                hook.interrupted(self)
            raise

    def _losses(self, batch: Batch) -> Losses:
        with self._amp.cast():
            outputs = self.task.name_outputs(self.model(*[batch[name] for name in self._inputs]))
            return self.windows.losses(self.task.losses(outputs, batch), batch, outputs)

    def _check(self, losses: Losses, terms: dict[str, float]) -> Tensor:
        """Add up the terms that carry a gradient; name the one that is not finite."""
        trains = [term.astype("float32") for term in losses.values() if not term.stop_gradient]
        self.watched = {name for name, term in losses.items() if term.stop_gradient}
        for name, term in losses.items():
            value = float(term)
            if not math.isfinite(value):
                raise TrainingError(
                    f"{name}: is {value} in step {self.step + 1} (epoch {self.epoch + 1}); "
                    "lower train.learning_rate, set train.clip_norm, or look at the data"
                )
            terms[name] = terms.get(name, 0.0) + value / self.config.accumulate
        return paddle.add_n(trains)

    def check_weights(self) -> None:
        """Refuse weights that are not finite, which rounding or a mask can hide from the loss.

        Raises:
            TrainingError: There are some.
        """
        wrong = not_finite(self.model)
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise TrainingError(
                f"{wrong[0]}{more}: not finite after step {self.step} (epoch {self.epoch + 1}); "
                "lower train.learning_rate or set train.clip_norm"
            )

    def _evaluate(self) -> dict[str, float]:
        with self.best_weights():
            metric = evaluate_model(self.task, self.model, self.val_loader, True, self.hooks)
        self.metric, metrics = metric, metric.compute()
        value = metrics[metric.primary]
        metrics |= self.windows.evaluate()
        if is_better(value, self.best, metric.higher_is_better):
            self.best, self.best_epoch, self.best_report = value, self.epoch + 1, metric.report()
        return metrics

    def resume(self) -> None:
        """Become what the run of the save folder was when it was saved last.

        Raises:
            CheckpointError: Nothing to resume from, or something broken.
            ConfigError: It is another run.
        """
        folder = self.save_dir / "latest"
        description, weights, content, file = checkpoint.load_training(folder)
        state = read_training_state(content, str(file))
        for key, value in self._order.items():
            old = state.order.get(key)
            if old != value:
                raise ConfigError(f"{key}: the run to resume has {old}, got {value}")
        check_settings(description.settings, to_mapping(self.task.config))
        paddle.seed(self.seed)
        self.model = self.task.build_model()
        checkpoint.replay(self.model, description.edits, str(folder / checkpoint.DESCRIPTION))
        for name in ("epoch", "step", "best", "best_epoch", "metrics", "evaluated"):
            setattr(self, name, getattr(state, name))
        self.losses.load_state_dict(state.losses)
        self.rate = state.rate
        # strategies of the epoch that is not finished, or else of the one that is
        edits, opened = description.edits, self.epoch - (self._steps_of_this_epoch() == 0)
        with blaming(str(file)):
            self.windows.resume(state.windows, edits, opened, self.model, self.context)
            assign(self.model, weights, str(folder))
            self._amp.load_state_dict(state.amp)
            self._optimizer, self.ema = self._build_updaters()
            stepped = self.step > 0 and not state.amp  # a scaler may skip steps
            self._optimizer.load_state_dict(state.optimizer, stepped)
            if self.ema:
                self.ema.load_state_dict(state.ema or {})
        now = self.training_state()
        now["windows"]["recipe"] = state.windows["recipe"]  # has been compared, key for key
        check_resumed(content, now, str(file))
        steps = self._steps_of_this_epoch()
        more = f" and {steps} of {self.steps_per_epoch} steps" if steps else ""
        log.info("resumed %s after epoch %d%s", folder, self.epoch, more)
