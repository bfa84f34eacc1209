"""Steps of quantization-aware training of an exported model.

PaddleSlim makes the programs that round, in its own process; they go forward and back there. What
the outputs should be is decided here, on arrays: a loss gives its gradients by output, the
programs turn them into gradients by weight, and the update is the core's. So any loss does, the
task's as well as a distance from the float model, whose program is another one and never changes.

Of several processes each has PaddleSlim at work on batches of its own. Gradients are averaged in
each step, so the weights stay the same everywhere; the grids of activations follow each process's
batches, and their mean is measured and kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from core.act.config import ActConfig, LossKind
from core.act.programs import threshold_of
from core.act.quantized import QuantizedProgram
from core.act.session import InputArrays, Session, fitting
from core.act.source import Source
from core.distill import losses as distill
from core.errors import ConfigError, DataError, TrainingError
from core.settings.progress import progress
from core.task import Arrays, Forward, Losses, Outputs
from core.training.distributed import average_gradients, gather
from core.training.optimizers import Optimizer

Loss = Callable[[Outputs, dict[str, Tensor]], Losses]
Groups = Sequence[tuple[LossKind, float, Sequence[str]]]
READER = "train_dataloader"


@dataclass(frozen=True)
class State:
    """Weights, with the thresholds of PACT, and grids after a step."""

    step: int
    weights: Arrays
    scales: dict[str, float]
    metric: float | None = None


@dataclass
class Training:
    """Quantization-aware training in steps.

    Attributes:
        session: Session of the float model.
        config: Settings of the training.
        groups: Loss, weight and variables of each term of distillation; empty: `loss` it is.
        loss: The task's.
    """

    session: Session
    config: ActConfig
    groups: Groups
    loss: Loss | None
    step: int = 0
    rate: float = 0.0
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def calibrate(self, data: Iterable[Mapping[str, Any]]) -> None:
        """Find where grids begin, by the mean of the batches' largest magnitudes."""
        source, tensors = self.session.source, sorted({p.tensor for p in self.session.places})
        sums: dict[str, list[float]] = {name: [] for name in tensors}
        with contextlib.closing(_endless(data)) as batches:
            count = range(self.config.Global.calibration_batches)
            for _, given in zip(progress(count, "calibrate", unit="batch"), batches):
                feeds = self._feeds(given)
                found = self.session.child.call("run_float", feeds, tensors)
                for name, array in found.items():
                    sums[name].append(float(np.abs(array).max()))
        scales = _mean({name: float(np.mean(values)) for name, values in sums.items()})
        source.table(self.session.places, scales, self.config.QuantAware.per_channel)  # checked
        quant = self.config.QuantAware
        settings = {
            "quantize_op_types": quant.operators,
            "weight_quantize_type": quant.weight_quantize_type,
            "activation_quantize_type": quant.activation_quantize_type,
            "moving_rate": quant.moving_rate,
            "window_size": quant.window_size,
            "onnx_format": False,  # True would let the grids of weights lag behind the weights
        }
        trained = self.session.child.call(
            "prepare", settings, scales, _floats(source), self._nodes(), quant.use_pact
        )
        if not source.graph.weights.keys() & trained:
            raise ConfigError("Distillation.node: no weight has an influence on these variables")
        ends = {threshold_of(name): np.array([end], np.float32) for name, end in scales.items()}
        beginnings = {**source.graph.weights, **ends}
        for name in trained:
            first = paddle.nn.initializer.Assign(beginnings[name])
            shape = list(beginnings[name].shape)
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

    def steps(self, data: Iterable[Mapping[str, Any]], total: int) -> Iterator[dict[str, float]]:
        """Train; yield the terms of the loss after each step.

        Raises:
            TrainingError: A term is not finite.
        """
        with contextlib.closing(_endless(data)) as batches:
            for given in batches:
                images = len(next(iter(given.values()))) * dist.get_world_size()
                if self.step == 0:
                    self.config.TrainConfig.warn_of_rate(images)
                self.rate = self.config.TrainConfig.rate(self.step, total, images)
                yield self._advance(given)
                if self.step == total:
                    return

    def evaluated(self) -> Forward:
        """Return the quantized model as it is now."""
        self.session.child.call("load_weights", self._arrays())
        self.session.child.call("load_scales", self.state().scales)
        return self.session.run

    def state(self) -> State:
        """Return weights and grids as they are now; all processes must ask together."""
        return State(self.step, self._arrays(), _mean(self.session.child.call("scales")))

    def restore(self, state: State) -> QuantizedProgram:
        """Go back to a state, and return the model."""
        self.session.child.call("load_weights", state.weights)
        self.session.child.call("load_scales", state.scales)
        source, given = self.session.source, self.config.QuantAware
        known = source.graph.weights  # thresholds are in the grids
        weights = {name: state.weights.get(name, weight) for name, weight in known.items()}
        graph = replace(source.graph, weights=weights)
        table = source.table(self.session.places, state.scales, given.per_channel)
        return QuantizedProgram(source, graph, table, self.session, given.processors)

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
            terms = self.loss(student, tensors_of(given))
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
        average_gradients(self._weights.values())
        self._optimizer.step(self.rate)
        child.call("load_weights", self._arrays())
        self.step += 1
        return values

    def _feeds(self, given: Mapping[str, Any]) -> Arrays:
        source = self.session.source
        batch = next(iter(fitting(source, [inputs_of(source, given)], READER)), None)
        if batch is None:
            raise DataError(f"{READER}: yields batches smaller than the model's fixed one")
        return self.session.feeds(batch)

    def _nodes(self) -> list[str]:
        if not self.groups:
            return self.session.source.graph.outputs
        return list(dict.fromkeys(name for _, _, nodes in self.groups for name in nodes))

    def _arrays(self) -> Arrays:
        return {name: tensor.numpy() for name, tensor in self._weights.items()}


def _mean(scales: dict[str, float]) -> dict[str, float]:
    """Return the mean of each grid's end over the processes."""
    every = gather(scales)
    return {name: float(np.mean([each[name] for each in every])) for name in scales}


def _distillation(groups: Groups, student: Outputs, teacher: Arrays) -> Losses:
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


def inputs_of(source: Source, given: Mapping[str, Any]) -> InputArrays:
    """Return the model's inputs [N, ...] of a batch: by name, or else the first ones."""
    names = source.graph.inputs
    chosen = names if all(name in given for name in names) else list(given)[: len(names)]
    return [np.asarray(given[name]) for name in chosen]


def tensors_of(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a batch of arrays, of any shape, as tensors."""
    return {name: paddle.to_tensor(array) for name, array in given.items()}


def _endless(
    data: Iterable[Mapping[str, Any]],
) -> Generator[Mapping[str, Any], None, None]:
    while True:
        yield from data
