"""Train an exported model on with rounding, under itself in float or under its task's loss.

PaddleSlim makes the programs that round, in its own process; they go forward and back there. What
the outputs should be is decided here, on arrays: a loss gives its gradients by output, the
programs turn them into gradients by weight, and the update is the core's. So any loss does, the
task's as well as a distance from the float model, whose program is another one and never changes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core import distributed
from core.config import to_mapping
from core.deploy.description import TaskSettings
from core.deploy.predictor import Format
from core.distill import losses as distill
from core.errors import ConfigError, DataError, TrainingError
from core.export.int8 import TARGET
from core.export.package import Exported, check_folder, check_formats
from core.export.side_by_side import Row, check_metrics
from core.exported.config import ActConfig, LossKind, read_act
from core.exported.files import Layout, Measure, Quantized, measured_rows, write
from core.exported.session import Batch, Session, fitting, open_session, samples_of
from core.exported.source import Place, Source, open_source
from core.files import replacing
from core.optim import Optimizer
from core.task import Arrays, Forward, Losses, Outputs, Task

Loss = Callable[[Outputs, Mapping[str, Tensor]], Losses]
ORIGIN = 0.05  # by which the float model's metric may miss `origin_metric`, as in PaddleSlim
READER = "train_dataloader"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compressed:
    """What came out.

    Attributes:
        exported: The files.
        rows: The float model, the quantized one before and after training, and each file.
        best_step: After which step it was kept; 0: before training.
    """

    exported: Exported
    rows: list[Row]
    best_step: int


class AutoCompression:
    """Quantize an exported model whose code is absent, as PaddleSlim's class of this name.

    The arguments up to `eval_callback` are PaddleSlim's, with these differences: batches are
    mappings of names to arrays, `eval_callback` is given a function from inputs to outputs by name,
    and without `Distillation` in the config `loss` is needed.

    Args:
        model_dir: Folder of the exported float model.
        train_dataloader: Goes through the training data, each time it is iterated over: mappings
            with an array for each input of the model, by its name, or in their order; others are
            for `loss`.
        model_filename: Of the program; None finds one of the usual names.
        params_filename: Of the weights.
        save_dir: Folder to make.
        config: A YAML file, or its content; see `core.exported.config`.
        eval_callback: Returns the metric of a model. None measures nothing, and keeps the last.
        loss: The task's: terms by name, of outputs by name and a batch.
        higher_is_better: Of the metric.
        metric: Its name.
        images: How many it is measured on, which says how closely files must reach it.
        formats: `paddle` is always written.
        target: Runtime that an ONNX file is laid out for.
        task: Goes into `deploy.yml`, with which the files can be used; None: what the float
            model's says.

    Raises:
        ConfigError: An unknown section, key, layer or variable, or a wrong value.
        ExportError: There is no exported float model.
    """

    def __init__(
        self,
        model_dir: str | Path,
        train_dataloader: Iterable[Mapping[str, Any]],
        model_filename: str | None = None,
        params_filename: str | None = None,
        save_dir: str | Path = "./output",
        config: str | Path | dict[str, Any] | ActConfig = "act.yml",
        eval_callback: Callable[[Forward], float] | None = None,
        *,
        loss: Loss | None = None,
        higher_is_better: bool = True,
        metric: str = "metric",
        images: int = 1,
        formats: Sequence[Format] = ("paddle",),
        target: str = TARGET,
        task: Task | None = None,
    ) -> None:
        check_formats(formats)
        check_folder(Path(save_dir))
        self._config = config if isinstance(config, ActConfig) else read_act(config)
        self._source = open_source(model_dir, model_filename, params_filename, task)
        given = self._config.QuantAware
        self._places = self._source.choose(
            given.quantize_op_types,
            given.never_quantize,
            given.per_channel,
            "QuantAware.never_quantize",
        )
        self._groups = _groups(self._source, self._config)
        self._loss = loss
        if loss is None and not self._groups:
            raise ConfigError("Distillation: required, but not given; without it, a loss is needed")
        self._data, self._folder = train_dataloader, Path(save_dir)
        self._measure: Measure = eval_callback or (lambda run: None)
        self._sign = 1 if higher_is_better else -1
        self._metric, self._images = metric, images
        settings = TaskSettings(task.name, to_mapping(task.config)) if task else None
        self._layout = Layout(formats, target, settings)

    def compress(self) -> Compressed:
        """Train, write int8 files from the best weights, and compare them.

        Raises:
            DataError: The training data is not what the model takes.
            TrainingError: A loss is not finite.
            ExportError: PaddleSlim fails, or a file answers otherwise than its model.
        """
        first = next(iter(self._data), None)
        if first is None:
            raise DataError(f"{READER}: yields no batch")
        if (name := self._config.Global.input_name) not in (None, *self._source.graph.inputs):
            raise ConfigError(
                f"Global.input_name: the model's inputs are {self._source.graph.inputs}, got {name}"
            )
        samples = samples_of(self._source, [_inputs(self._source, first)], READER)
        with replacing(self._folder) as draft, open_session(self._source, self._places) as session:
            rows = [Row("float", self._measure(session.run_float))]
            self._check_origin(rows[0].metric)
            run = _Run(session, self._config, self._groups, self._loss)
            begin = time.monotonic()
            run.calibrate(self._data)
            rows.append(Row("quantized", self._measure(session.run), time.monotonic() - begin))
            best = self._train(run, rows[1].metric)
            rows.append(Row(f"trained, step {best.step}", best.metric, time.monotonic() - begin))
            model = run.restore(best)
            begin = time.monotonic()
            made, predictors = write(model, draft, self._layout, samples)
            seconds = time.monotonic() - begin
            files = measured_rows(made, predictors, seconds, self._measure)
            check_metrics(best.metric, files, self._metric, self._images, rows[0].metric)
            del predictors  # they may hold the files open, and the folder is about to be renamed
        return Compressed(replace(made, folder=self._folder), rows + files, best.step)

    def _train(self, run: _Run, metric: float | None) -> _State:
        """Return the best state, or the last if nothing is measured."""
        config, total = self._config.TrainConfig, run.total_steps(self._data)
        best = replace(run.state(), metric=metric)
        _log.info("%d steps, %s of the quantized model %s", total, self._metric, _shown(metric))
        with logging_redirect_tqdm(), tqdm(total=total, unit="step", disable=None) as bar:
            for terms in run.steps(self._data, total):
                bar.update()
                if run.step % config.logging_iter == 0 or run.step == total:
                    parts = " ".join(f"{name} {value:.6f}" for name, value in terms.items())
                    _log.info("step %d/%d %s lr %.2e", run.step, total, parts, run.rate)
                if run.step % config.eval_iter and run.step != total:
                    continue
                found = self._measure(run.evaluated())
                if found is None or self._better(found, best.metric):
                    best = replace(run.state(), metric=found)
                line = "step %d: %s %s, best %s after step %d"
                shown = _shown(found), _shown(best.metric), best.step
                _log.info(line, run.step, self._metric, *shown)
                reached = config.target_metric
                if found is not None and reached is not None and not self._better(reached, found):
                    _log.info("target_metric %s is reached", _shown(reached))
                    break
        return best

    def _better(self, one: float, other: float | None) -> bool:
        return other is None or self._sign * one > self._sign * other

    def _check_origin(self, metric: float | None) -> None:
        wanted = self._config.TrainConfig.origin_metric
        _log.info("%s of the float model: %s", self._metric, _shown(metric))
        if wanted is not None and metric is not None and abs(metric - wanted) > ORIGIN:
            raise ConfigError(
                f"TrainConfig.origin_metric: expected {wanted} within {ORIGIN}, the float model has "
                f"{metric:.4f}; look at the data and how it is prepared"
            )


@dataclass(frozen=True)
class _State:
    """Weights and grids after a step."""

    step: int
    weights: Arrays
    scales: dict[str, float]
    metric: float | None = None


@dataclass
class _Run:
    """Quantization-aware training in steps.

    Attributes:
        session: With the float model.
        config: How.
        groups: Loss, weight and variables of each term of distillation; empty: `loss` it is.
        loss: The task's.
    """

    session: Session
    config: ActConfig
    groups: Sequence[tuple[LossKind, float, Sequence[str]]]
    loss: Loss | None
    step: int = 0
    rate: float = 0.0
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def calibrate(self, data: Iterable[Mapping[str, Any]]) -> None:
        """Find where grids begin, by the mean of the batches' largest magnitudes."""
        source, tensors = self.session.source, sorted({p.tensor for p in self.session.places})
        sums: dict[str, list[float]] = {name: [] for name in tensors}
        with contextlib.closing(_endless(data)) as batches:
            for _, given in zip(range(self.config.Global.calibration_batches), batches):
                feeds = self._feeds(given)
                found = self.session.child.call("run_float", feeds, tensors)
                for name, array in found.items():
                    sums[name].append(float(np.abs(array).max()))
        scales = {name: float(np.mean(values)) for name, values in sums.items()}
        source.table(self.session.places, scales, self.config.QuantAware.per_channel)  # checked
        quant = self.config.QuantAware
        settings = {
            "quantize_op_types": list(quant.quantize_op_types),
            "weight_quantize_type": quant.weight_quantize_type,
            "activation_quantize_type": quant.activation_quantize_type,
            "moving_rate": quant.moving_rate,
            "onnx_format": False,  # whose grids of weights lag behind the weights
        }
        trained = self.session.child.call(
            "prepare", settings, scales, _floats(source), self._nodes()
        )
        if not trained:
            raise ConfigError("Distillation.node: no weight has an influence on these variables")
        for name in trained:
            first = paddle.nn.initializer.Assign(source.graph.weights[name])
            shape = list(source.graph.weights[name].shape)
            self._weights[name] = paddle.create_parameter(
                shape, "float32", default_initializer=first
            )
        builder = self.config.TrainConfig.optimizer_builder
        clip = builder.grad_clip.clip_norm if builder.grad_clip else None
        self._optimizer = Optimizer(self._weights, builder.config, clip)

    def total_steps(self, data: Any) -> int:
        """Return how many steps there are: the shorter of `epochs` and `train_iter`.

        Raises:
            ConfigError: It cannot be known.
        """
        given = self.config.TrainConfig
        if given.epochs is None:
            return given.train_iter or 0
        if not hasattr(data, "__len__"):
            raise ConfigError(
                f"TrainConfig.epochs: {READER} does not say how many batches it has; give "
                "train_iter instead"
            )
        return min(given.epochs * len(data), given.train_iter or given.epochs * len(data))

    def steps(
        self, data: Iterable[Mapping[str, Any]], total: int
    ) -> Iterator[dict[str, float]]:
        """Train; yield the terms of the loss after each step.

        Raises:
            TrainingError: A term is not finite.
        """
        world = paddle.distributed.get_world_size()
        with contextlib.closing(_endless(data)) as batches:
            for given in batches:
                images = len(next(iter(given.values()))) * world
                if self.step == 0:
                    self.config.TrainConfig.warn_of_rate(images)
                self.rate = self.config.TrainConfig.rate(self.step, total, images)
                yield self._advance(given)
                if self.step == total:
                    return

    def evaluated(self) -> Forward:
        """Return the quantized model as it is now."""
        self.session.child.call("load_weights", self._arrays())
        return self.session.run

    def state(self) -> _State:
        """Return weights and grids as they are now."""
        scales: dict[str, float] = self.session.child.call("scales")
        return _State(self.step, self._arrays(), scales)

    def restore(self, state: _State) -> Quantized:
        """Go back to a state, and return the model."""
        self.session.child.call("load_weights", state.weights)
        self.session.child.call("load_scales", state.scales)
        source, per_channel = self.session.source, self.config.QuantAware.per_channel
        graph = replace(source.graph, weights={**source.graph.weights, **state.weights})
        table = source.table(self.session.places, state.scales, per_channel)
        return Quantized(source, graph, table, self.session)

    def _advance(self, given: Mapping[str, Any]) -> dict[str, float]:
        child, feeds, nodes = self.session.child, self._feeds(given), self._nodes()
        student = {
            name: paddle.to_tensor(array, stop_gradient=False)
            for name, array in child.call("observe", feeds, nodes).items()
        }
        if self.groups:
            wanted = child.call("run_float", feeds, nodes)
            terms = _distillation(self.groups, student, wanted)
        else:
            assert self.loss is not None  # checked at the beginning
            terms = self.loss(student, {n: paddle.to_tensor(a) for n, a in given.items()})
        values = {name: float(term) for name, term in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{name}: is {value} in step {self.step + 1}; lower TrainConfig.learning_rate "
                    "or set TrainConfig.optimizer_builder.grad_clip"
                )
        paddle.add_n([term.astype("float32") for term in terms.values()]).backward()
        cotangents = {
            name: np.zeros(t.shape, np.float32) if t.grad is None else t.grad.numpy()
            for name, t in student.items()
        }
        found = child.call("gradients", feeds, cotangents, list(self._weights))
        for name, gradient in found.items():
            self._weights[name].grad = paddle.to_tensor(gradient)
        distributed.average_gradients(self._weights.values())
        self._optimizer.step(self.rate)
        child.call("load_weights", self._arrays())
        self.step += 1
        return values

    def _feeds(self, given: Mapping[str, Any]) -> Arrays:
        source = self.session.source
        batch = next(iter(fitting(source, [_inputs(source, given)], READER)), None)
        if batch is None:
            raise DataError(f"{READER}: yields batches smaller than the model's fixed one")
        return self.session.feeds(batch)

    def _nodes(self) -> list[str]:
        if not self.groups:
            return self.session.source.graph.outputs
        return list(dict.fromkeys(name for _, _, nodes in self.groups for name in nodes))

    def _arrays(self) -> Arrays:
        return {name: tensor.numpy() for name, tensor in self._weights.items()}


def _groups(
    source: Source, config: ActConfig
) -> list[tuple[LossKind, float, tuple[str, ...]]]:
    """Return the terms of distillation; what a softmax makes is compared before it."""
    if config.Distillation is None:
        return []
    groups = []
    for loss, alpha, nodes in config.Distillation.groups(source.nodes()):
        for name in nodes:
            source.check_node(name, "Distillation.node")
        if loss == "soft_label":
            nodes = tuple(source.before_closing(name) for name in nodes)
        groups.append((loss, alpha, nodes))
    return groups


def _distillation(
    groups: Sequence[tuple[LossKind, float, Sequence[str]]], student: Outputs, teacher: Arrays
) -> Losses:
    terms: Losses = {}
    for loss, alpha, nodes in groups:
        for name in nodes:
            wanted = paddle.to_tensor(teacher[name])
            if loss == "l2":
                term = distill.l2(student[name], wanted)
            else:
                term = distill.soft_label(student[name], wanted, "cross_entropy")
            key = f"distill_{loss}({name})"
            terms[key] = terms[key] + alpha * term if key in terms else alpha * term
    return terms


def _floats(source: Source) -> list[str]:
    """Return the weights that can be trained: all in float but the statistics of batch norms."""
    fixed = {
        name
        for op in source.graph.operators
        for slot in op.inputs
        if slot.parameter in ("Mean", "Variance")
        for name in slot.arguments
    }
    weights = source.graph.weights
    return [n for n, array in weights.items() if array.dtype == np.float32 and n not in fixed]


def _inputs(source: Source, given: Mapping[str, Any]) -> Batch:
    """Return the model's inputs of a batch: by name, or else the first ones."""
    names = source.graph.inputs
    chosen = names if all(name in given for name in names) else list(given)[: len(names)]
    return [np.asarray(given[name]) for name in chosen]


def _endless(data: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    while True:
        yield from data


def _shown(metric: float | None) -> str:
    return "not measured" if metric is None else f"{metric:.4f}"
