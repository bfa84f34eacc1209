"""Deep mutual learning: students teach each other, there is no teacher (Zhang et al., 2018)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor
from paddle.nn import Layer

from core.distill.pairs import Comparison, pair_up
from core.distill.strategy import Imitation, ImitationConfig
from core.distill.taps import Side, Taps, look_at
from core.distill.teacher import rename
from core.errors import ConfigError
from core.network.weights import assign
from core.settings.config import load_yaml
from core.settings.metric_order import is_better
from core.settings.ranges import check_range
from core.strategy import Context
from core.task import Batch, Losses, Outputs, Task
from core.training import checkpoint
from core.training.run import read_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MutualConfig(ImitationConfig):
    """Settings of mutual learning.

    Attributes:
        students: Number of networks that learn together, the model of the run included.
        others: Configs of further students of other architectures; the rest are like the model.
    """

    students: int = 2
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.students < 2:
            raise ValueError(f"students: expected 2 or more, got {self.students}")
        check_range(self, 2, 64, "students")
        if len(self.others) >= self.students:
            raise ValueError(
                f"others: expected fewer than students ({self.students}), got {len(self.others)}"
            )


class Mutual(Imitation):
    """Trains peers of the model on the same batches, each drawn to what the others say.

    Each student's terms, averaged over the others, take those others as given, so every pair has
    one loss in each direction. Peers are evaluated with the model and saved under `peer_1`, ...
    of the save folder as checkpoints of their own; they keep the structure they begin with.
    """

    Config = MutualConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._peers: list[_Peer] = []
        self._comparisons: dict[tuple[int, int], Comparison] = {}  # learner, other; 0: the model

    def rehearse(self, model: Layer, context: Context) -> list[str]:
        """Build the other students and compare layers."""
        super().rehearse(model, context)
        return [f"mutual: {len(self._peers) + 1} students teach each other"]

    def attach(self, model: Layer, context: Context) -> None:
        batch, student = self._open(model, context)
        self._context, self._model = context, model
        self._inputs = [spec.name for spec in context.task.input_spec()]
        if not self._peers:
            self._peers = self._build_peers(context)
            self._warn_of_twins(model)
        inputs = [batch[name] for name in self._inputs]
        sides = [student]
        for number, peer in enumerate(self._peers, start=1):
            peer.model.train()
            sides.append(look_at(f"peer {number}", peer.task, peer.model, inputs))
        kept = {pair: comparison.state_dict() for pair, comparison in self._comparisons.items()}
        self._comparisons = {
            (i, j): _compare(sides[i], sides[j], self.config, batch)
            for i in range(len(sides))
            for j in range(len(sides))
            if i != j
        }
        for pair, state in kept.items():
            self._comparisons[pair].load(state)
        models = [model, *(peer.model for peer in self._peers)]
        self._taps = [Taps(each, self._tapped(i)) for i, each in enumerate(models)]

    def losses(self, batch: Batch, outputs: Outputs) -> Losses:
        caught = [self._taps[0].collect(outputs)]
        terms: Losses = {}
        for number, peer in enumerate(self._peers, start=1):
            named = peer.task.name_outputs(peer.model(*[batch[name] for name in self._inputs]))
            for name, term in peer.task.losses(named, batch).items():
                terms[f"peer_{number}.{name}"] = term * self.config.truth_weight
            caught.append(self._taps[number].collect(named))
        given = [{path: value.detach() for path, value in each.items()} for each in caught]
        factor = self._factor / len(self._peers)
        for (i, j), comparison in self._comparisons.items():
            learner = f"peer_{i}." if i else ""
            for name, term in comparison.losses(caught[i], given[j], batch).items():
                name = f"{learner}mutual.{name}"
                terms[name] = terms.get(name, 0.0) + term * factor
        return terms

    def parameters(self) -> dict[str, Tensor]:
        weights = {
            f"peer_{number}.{path}": tensor
            for number, peer in enumerate(self._peers, start=1)
            for path, tensor in peer.model.named_parameters()
        }
        adapters = {
            f"adapter_{i}_{j}.{path}": tensor
            for (i, j), comparison in self._comparisons.items()
            for path, tensor in comparison.parameters().items()
        }
        return {**weights, **adapters}

    def evaluate(self) -> dict[str, float]:
        """Measure and save the peers; every process takes part in the measuring."""
        found: dict[str, float] = {}
        for number, peer in enumerate(self._peers, start=1):
            metrics = self._context.evaluate(peer.model)
            folder = self._context.save_dir / f"peer_{number}"
            peer.keep(metrics, folder, writes=self._context.rank == 0)
            found |= {f"peer_{number}.{name}": value for name, value in metrics.items()}
        return found

    def detach(self, model: Layer) -> None:
        for taps in self._taps:
            taps.remove()

    def state_dict(self) -> dict[str, Any]:
        adapters = {
            f"{i}_{j}": comparison.state_dict() for (i, j), comparison in self._comparisons.items()
        }
        return {"peers": [peer.state_dict() for peer in self._peers], "adapters": adapters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for peer, own in zip(self._peers, state["peers"]):
            peer.load_state_dict(own)
        if any(peer.edits for peer in self._peers):  # other layers now, with other shapes
            self.detach(self._model)
            self.attach(self._model, self._context)
        for (i, j), comparison in self._comparisons.items():
            comparison.load(state["adapters"][f"{i}_{j}"])

    def _build_peers(self, context: Context) -> list[_Peer]:
        tasks = [_peer_task(path, context.task) for path in self.config.others]
        tasks += [context.task] * (self.config.students - 1 - len(tasks))
        peers = []
        for task in tasks:
            peer = _Peer(task)
            if not context.resuming:
                peer.edits = checkpoint.load_pretrained(task, peer.model)
                rename(peer.model, "peer")
            peers.append(peer)
        return peers

    def _tapped(self, number: int) -> list[str]:
        paths: list[str] = []
        for (i, j), comparison in self._comparisons.items():
            for pair in comparison.pairs:
                paths += pair.student if i == number else ()
                paths += pair.teacher if j == number else ()
        return paths

    def _warn_of_twins(self, model: Layer) -> None:
        state = {name: value.numpy() for name, value in model.state_dict().items()}
        for number, peer in enumerate(self._peers, start=1):
            own = peer.model.state_dict()
            same = own.keys() == state.keys() and all(
                np.array_equal(own[name].numpy(), value) for name, value in state.items()
            )
            if same:
                log.warning(
                    "mutual: peer %d begins with the model's own weights; without dropout the two "
                    "stay the same and learn nothing from each other",
                    number,
                )


class _Peer:
    """A further student with its best metric."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = task.build_model()
        self.edits: list[checkpoint.RecordedEdit] = []
        self._best: float | None = None

    def keep(self, metrics: dict[str, float], folder: Path, writes: bool) -> None:
        """Note the metrics; write `latest`, and `best_model` if it is better than before."""
        metric = self.task.build_metric()
        value = metrics[metric.primary]
        better = is_better(value, self._best, metric.higher_is_better)
        self._best = value if better else self._best
        if writes:
            description = checkpoint.describe(self.task, self.edits, metrics=metrics)
            for name in ("latest", "best_model") if better else ("latest",):
                checkpoint.save(folder / name, description, self.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return weights, statistics and the best metric."""
        weights = {name: value.numpy() for name, value in self.model.state_dict().items()}
        edits = [[kind, record] for kind, record in self.edits]
        return {"weights": weights, "best": self._best, "edits": edits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.edits = [(kind, record) for kind, record in state["edits"]]
        self._best = state["best"]
        checkpoint.replay(self.model, self.edits, "peer")
        rename(self.model, "peer")
        assign(self.model, state["weights"], "peer")


def _compare(learner: Side, other: Side, config: MutualConfig, batch: Batch) -> Comparison:
    ours, theirs = learner.shapes[learner.main_output], other.shapes[other.main_output]
    if ours[1:2] != theirs[1:2]:
        raise ConfigError(
            f"mutual.others: the {other.title}'s output has {theirs[1]} channels, that of the "
            f"{learner.title} {ours[1]}"
        )
    pairs = pair_up(config.losses, learner, other, batch, "mutual.losses")
    return Comparison(pairs, learner, other)


def _peer_task(path: str, student: Task) -> Task:
    """Build the task of another student from its config; the data are those of the run."""
    task = read_run(load_yaml(path)).task
    if task.name != student.name:
        raise ConfigError(
            f"{path}: a student of the task {task.name!r}, the model's is {student.name!r}"
        )
    return task
