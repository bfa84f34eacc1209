"""Interface between compression methods and the engine."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError
from core.settings.config import suggest
from core.settings.home import own_module
from core.settings.optimizer_config import OptimizerConfig
from core.settings.ranges import check_range
from core.settings.yaml_loader import shown
from core.task import Batch, Losses, Outputs, Task, outside

# kind -> module:class. A new strategy is one folder in core/ and one line here.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "prune": "core.prune.strategy:Prune",
        "qat": "core.quant.strategy:Qat",
        "distill": "core.distill.strategy:Distill",
        "mutual": "core.distill.mutual:Mutual",
    }
)

Record = dict[str, Any]  # plain JSON: the edits that `replay` makes again on a fresh model


class Phase(IntEnum):
    """Order in which strategies that begin together are attached."""

    SHAPE = 0  # removes channels: everything else sees the final shapes
    GRID = 1  # replaces layers by quantized ones: nothing may replace layers after it
    LOSS = 2  # only listens, so it must tap the layers that are really there


class Evaluate(Protocol):
    """Measures a model, on all validation data or on a random share of them."""

    def __call__(self, model: Layer, share: float = 1.0) -> dict[str, float]: ...


@dataclass(frozen=True)
class Context:
    """Data and functions that the engine offers to a strategy."""

    task: Task
    epoch: int
    end_epoch: int
    seed: int
    rank: int
    world: int
    save_dir: Path
    calibration: Callable[[int], Iterator[Batch]]  # batches of about so many training samples
    evaluate: Evaluate  # the task's metric on the validation split
    teachers: tuple[dict[str, Any], ...] = ()  # settings of each `--distill_config`
    resuming: bool = False  # the edits have been replayed: add hooks, edit nothing
    steps_per_epoch: int = 1

    def inputs(self, samples: int) -> Iterator[list[Tensor]]:
        """Yield the model's inputs, [N, C, H, W] for images, for about so many training samples."""
        names = [spec.name for spec in self.task.input_spec()]
        for batch in self.calibration(samples):
            yield [batch[name] for name in names]


@dataclass(frozen=True)
class StrategyConfig:
    """Settings every strategy has: its window [start_epoch, end_epoch), and how it is trained.

    `end_epoch: null` means the end of training. Inside the window, `learning_rate` takes the place
    of the run's (the schedule goes on), `learning_rate_scale` is a factor on it (null: what the
    strategy has by itself, 1 for most), and `optimizer` takes the place of the run's.

    `BEFORE` holds what a key meant before it existed, where that is not its default: runs of then
    are resumed by it. `OPEN` holds keys whose null leaves the choice open, mostly to the task, with
    what was the default before there was null: with null, runs of then are resumed, too.
    """

    BEFORE: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    OPEN: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    start_epoch: int = 0
    end_epoch: int | None = None
    learning_rate_scale: float | None = None
    learning_rate: float | None = None
    optimizer: OptimizerConfig | None = None

    def __post_init__(self) -> None:
        if self.start_epoch < 0:
            raise ValueError(f"start_epoch: expected 0 or more, got {self.start_epoch}")
        if self.learning_rate_scale is not None and self.learning_rate_scale <= 0:
            raise ValueError(f"learning_rate_scale: expected > 0, got {self.learning_rate_scale}")
        check_range(self, 0, 1e6, "learning_rate_scale")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected > 0, got {self.learning_rate}")


class Strategy:
    """One compression method, live for one window of epochs. The base does nothing.

    A subclass names its settings in `Config` (a frozen `StrategyConfig`), its `phase`, and is
    listed in `KINDS`. After `detach` the model must run without it.
    """

    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    phase: ClassVar[Phase] = Phase.LOSS
    needs_teacher: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def default_end(cls, config: StrategyConfig, epochs: int) -> int:
        """Return the first epoch after the window where the recipe gives no `end_epoch`."""
        # pruning cuts when its window opens; what follows is fine-tuning
        return config.start_epoch + 1 if cls.phase == Phase.SHAPE else epochs

    def check(self, context: Context) -> None:
        """Refuse what would fail when the window opens; called before training, keeps nothing.

        Not called for a window that opens with the training: `attach` follows at once.

        Raises:
            UserError: A setting or a file is wrong.
        """

    def rehearse(self, model: Layer, context: Context) -> list[str]:
        """Do on a model that is thrown away what the window will do, as cheaply as can be.

        Afterwards the model is as in the window, without hooks, and `learning_rate_scale` returns
        what holds after a warm-up.

        Returns:
            What was done to which layers, in a few lines.

        Raises:
            UserError: The window could not open.
        """
        self.attach(model, context)
        self.detach(model)
        return []

    def attach(self, model: Layer, context: Context) -> None:
        """Edit the model in place and add hooks; called again, without edits, after a resume.

        A resumed engine has replayed `record` on the model and calls `load_state_dict` next.
        """

    def losses(self, batch: Batch, outputs: Outputs) -> Losses:
        """Return extra, already weighted loss terms for one training step.

        A term that carries no gradient is logged, but not added to the loss.
        """
        return {}

    def task_weight(self) -> float:
        """Return the factor on the task's own loss terms."""
        return 1.0

    def parameters(self) -> dict[str, Tensor]:
        """Return by path what the strategy trains beside the model: parameters of any shape."""
        return {}

    def learning_rate_scale(self) -> float:
        """Return the factor on the learning rate of the next step."""
        scale: float | None = self.config.learning_rate_scale
        return 1.0 if scale is None else scale

    def learning_rate(self) -> float | None:
        """Return the learning rate for the window, None for that of the run."""
        rate: float | None = self.config.learning_rate
        return rate

    def optimizer(self) -> OptimizerConfig | None:
        """Return the optimizer for the window, None for the one of the run."""
        chosen: OptimizerConfig | None = self.config.optimizer
        return chosen

    def before_epoch(self, epoch: int) -> bool:
        """Prepare an epoch; True says that the model's parameters were replaced."""
        return False

    def after_step(self) -> None:
        """Act after each optimizer step."""

    def evaluate(self) -> dict[str, float]:
        """Return metrics of whatever else the strategy trains, after the model was evaluated."""
        return {}

    def detach(self, model: Layer) -> None:
        """Drop hooks, keep the edits."""

    def record(self) -> Record | None:
        """Return the edits made so far as plain JSON; None if the structure is untouched."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run must restore (arrays and plain values)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    @staticmethod
    def replay(model: Layer, record: Record) -> None:
        """Make the recorded edits on a freshly built model of the same architecture."""
        raise TypeError("this strategy records no edits")


def strategy_class(kind: str, path: str) -> type[Strategy]:
    """Find the class behind a kind of the user's recipe: of the table, or `package.module:Class`.

    Raises:
        ConfigError: There is none.
    """
    target = KINDS.get(kind, kind)
    module, colon, name = target.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ConfigError(
            f"{path}.kind: no strategy {shown(kind)}{suggest(kind[:80], list(KINDS))}"
        )
    try:
        found = getattr(importlib.import_module(own_module(module)), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"{path}.kind: no strategy {shown(kind)}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError(f"{path}.kind: {kind!r} is not a Strategy")
    return found


def recorded_strategy(kind: str, where: str) -> type[Strategy]:
    """Find the class behind a kind that a file names; nothing is imported for it but our own.

    Args:
        kind: Name in the table, or `package.module:Class` of a module that is loaded already, as
            the user's recipe or command line named it.
        where: Begins messages.

    Raises:
        ConfigError: It is code from outside that the user has not named, or no strategy.
    """
    if kind in KINDS:
        return strategy_class(kind, where)
    module, colon, name = kind.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ConfigError(f"{where}: no strategy {kind[:80]!r}{suggest(kind, list(KINDS))}")
    found = getattr(sys.modules.get(own_module(module)), "__dict__", {}).get(name)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise outside(where, f"the strategy {kind!r}", kind)
    return found
