"""Interface between tasks and the core: data, model, loss, metric, hints for compression.

`core` imports no task. A config names one under `task.name`: a folder in `tasks/`, or the dotted
path of a package anywhere; the package offers `Config` (a frozen dataclass) and `Task`. What comes
in a file (a checkpoint, an export) may name a folder in `tasks/`, or a package that the user's
config or command line has named already: a file imports no code and has no data fetched or drawn.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from paddle import Tensor
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ConfigError
from core.settings.config import merge, read, suggest
from core.settings.hints import Alignment as Alignment
from core.settings.hints import DistillPoint as DistillPoint
from core.settings.hints import QatBudget as QatBudget
from core.settings.hints import QuantHints as QuantHints
from core.settings.hints import SlimHints as SlimHints
from core.settings.home import own_module
from core.settings.yaml_loader import shown

# calibration: the training images, prepared as those of val, for quantization to look at
Split = Literal["train", "val", "calibration"]
# Mappings by name: images are [N, C, H, W]; the task says what else there is, and its shapes.
Arrays = dict[str, np.ndarray]
Sample = dict[str, np.ndarray]  # one item of a data set: arrays without a batch dimension
Batch = dict[str, Tensor]
Outputs = dict[str, Tensor]
Losses = dict[str, Tensor]  # named terms, already weighted; the engine adds them up
Forward = Callable[..., Arrays]  # a model, eager or exported, as arrays in, named arrays out


class Dataset(Protocol):
    """A split of the data. All randomness comes from the generator that is passed in."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Read item `index`; augment it if this is the training split.

        Raises:
            DataError: The item is missing or broken; the message begins with the file.
        """
        ...

    def collate(self, samples: list[Sample], rng: np.random.Generator) -> Arrays:
        """Make a batch; `core.training.images.stack` does for most, mixup and cutmix have their
        place here.
        """
        ...


class Metric(Protocol):
    """Counts over a split, in numpy; merging the states of two processes equals counting once."""

    primary: str  # which entry of compute() decides what "best" is
    higher_is_better: bool

    def reset(self) -> None: ...

    def update(self, outputs: Arrays, batch: Arrays) -> None: ...

    def state(self) -> Any:
        """Return the counts as something picklable."""
        ...

    def merge(self, states: list[Any]) -> None:
        """Replace the counts by the sum of the states of all processes."""
        ...

    def compute(self) -> dict[str, float]: ...

    def report(self) -> str:
        """Return a table for people (per class, per joint); may be empty."""
        ...


@runtime_checkable
class Task(Protocol):
    """Data, model, loss, metric and their deployment; holds no training state.

    `config` is the task's frozen dataclass. By convention it has `model` with `name`, `pretrained`
    (None, True, a path or a URL) and `reinit` (globs of weights that stay as initialised), and
    `data` with `root`. A batch names the model's inputs as `input_spec` does.
    """

    name: str
    config: Any
    qat_budget: QatBudget

    def build_model(self) -> Layer:
        """Build the network with fresh weights; parameter names are those of published weights."""
        ...

    def pretrained_url(self) -> str:
        """Return where the published weights of this network are, for `model.pretrained: true`.

        Raises:
            ConfigError: None are known.
        """
        ...

    def build_dataset(self, split: Split) -> Dataset: ...

    def name_outputs(self, raw: Any) -> Outputs:
        """Name the outputs of the model's forward; the main output comes first."""
        ...

    def losses(self, outputs: Outputs, batch: Batch) -> Losses: ...

    def infer(self, run: Forward, batch: Arrays) -> Arrays:
        """Evaluate a batch: call `run` as often as flip test or sliding windows want."""
        ...

    def build_metric(self) -> Metric: ...

    def input_spec(self) -> list[InputSpec]:
        """Describe the inputs; None marks a free dimension. Pruning traces it, export saves it."""
        ...

    def slim_hints(self, model: Layer) -> SlimHints: ...

    def deploy_model(self, model: Layer, ending: str) -> Layer:
        """Return a layer whose forward ends as asked (`raw` is the network as it is).

        Its forward returns a dict of named tensors.

        Raises:
            ConfigError: An ending this task does not have.
        """
        ...

    def preprocess(self, image: np.ndarray) -> tuple[Sample, Any]:
        """Turn an image [H, W, C] uint8 into one sample and whatever postprocess needs.

        It is RGB, or has as many channels as the setting `data.channels` says, where there is one.
        """
        ...

    def postprocess(self, outputs: Arrays, info: Any) -> dict[str, Any]:
        """Turn the outputs for one image (batch of 1) into plain values: labels, mask, points."""
        ...

    def draw(self, image: np.ndarray, prediction: dict[str, Any]) -> np.ndarray:
        """Return the RGB image [H, W, 3] uint8 with the prediction drawn on it."""
        ...


@dataclass(frozen=True)
class Box:
    """A part of an image: a corner and the sides in pixels, and the score of who found it."""

    x: float
    y: float
    width: float
    height: float
    score: float | None = None  # None: annotated, not detected


BoxesOf = Callable[[Path], list[Box]]  # the boxes in a picture of this name


@runtime_checkable
class BoxTask(Protocol):
    """A `Task` that answers for one box of an image at a time."""

    def read_boxes(self, path: Path, least_score: float) -> BoxesOf:
        """Read the boxes of pictures from a file, or from a folder with one for each picture.

        Raises:
            DataError: A file is missing or broken.
        """
        ...

    def preprocess(self, image: np.ndarray, box: Box | None = None) -> tuple[Sample, Any]:
        """Prepare what is in a box of an RGB image [H, W, 3]; without one, the whole image.

        Raises:
            DataError: The box lies outside of the image.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """A prediction in words."""

    text: str
    unsure: bool = False  # no score reaches the threshold


@runtime_checkable
class TellingTask(Protocol):
    """A `Task` that puts its predictions into words."""

    @property
    def threshold(self) -> float | None:
        """The score below which nothing counts; None: predictions have no scores."""
        ...

    def describe(self, prediction: dict[str, Any], threshold: float | None) -> Finding:
        """Describe a result of `postprocess`; None takes the task's own threshold."""
        ...

    def draw(
        self, image: np.ndarray, prediction: dict[str, Any], threshold: float | None = None
    ) -> np.ndarray:
        """Draw as `Task.draw` does, on an image [H, W, 3], leaving out scores below a threshold."""
        ...


@runtime_checkable
class PaletteTask(Protocol):
    """A `Task` whose predictions are label maps."""

    def palette(self) -> np.ndarray:
        """Return an RGB colour for each class [C, 3] uint8."""
        ...


@dataclass(frozen=True)
class SampleView:
    """A sample of the validation data with its prediction, for people."""

    image: np.ndarray  # RGB [H, W, 3] uint8, truth and prediction drawn on it
    text: str  # a few words


@runtime_checkable
class ReviewedTask(Protocol):
    """A `Task` that draws samples of its validation, see `core.training.review`."""

    def sample_errors(self, outputs: Arrays, batch: Arrays) -> np.ndarray:
        """Return how wrong the answers to a batch are [N]: the worst have the highest."""
        ...

    def view_sample(self, outputs: Arrays, batch: Arrays, number: int) -> SampleView:
        """Draw truth and prediction of a sample of a batch [N, ...]."""
        ...

    def name_sample(self, dataset: Dataset, index: int) -> str:
        """Return the file of an item of a data set."""
        ...


@runtime_checkable
class ConfusionMetric(Protocol):
    """A `Metric` that counts which class is taken for which."""

    @property
    def confusion(self) -> np.ndarray:
        """Counts [truth, prediction]."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes."""
        ...


class ForeignModels(Protocol):
    """A task's module `foreign`, which may be left out: for models that other projects exported."""

    def settings_for(self, config: Any, shape: tuple[int, ...]) -> Mapping[str, Any]:
        """Return the settings that prepare images of a shape [C, H, W]; -1 is free."""
        ...

    def name_of(self, config: Any, output: np.ndarray) -> str:
        """Return what `infer`, metric and `postprocess` call an output [N, ...].

        Raises:
            ConfigError: It cannot be an answer to this task.
        """
        ...


def build_task(name: str, settings: Mapping[str, Any]) -> Task:
    """Import the package of a task that the user names, and build it from its settings.

    Raises:
        ConfigError: No such package, it is not a task, or a setting is wrong.
    """
    package = load_package(name)
    task: Task = package.Task(read(package.Config, settings))
    return task


def load_package(name: str) -> ModuleType:
    """Import the package of a task that the user names, with its `Config` and `Task`.

    Raises:
        ConfigError: No such package, or it is not a task.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"task.name: expected a name or a dotted path, got {shown(name)}")
    module = own_module(name if "." in name else f"tasks.{name}")
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(
            f"task.name: no task {shown(name)}{suggest(name[:80], own_tasks())}"
        ) from error
    if not hasattr(package, "Config") or not hasattr(package, "Task"):
        raise ConfigError(f"task.name: package {module!r} has no Config and Task")
    return package


def build_recorded_task(
    name: str, settings: Mapping[str, Any], where: str, overrides: Mapping[str, Any] = {}
) -> Task:
    """Build the task that a file names; nothing is imported for it but a folder of `tasks/`.

    Args:
        name: As the file has it.
        settings: Likewise. What has data fetched or drawn is left out: the file would choose where
            something is written.
        where: The file, for messages.
        overrides: The user's own settings, on top.

    Raises:
        ConfigError: It is code from outside that the user has not named, there is none, or a
            setting is wrong.
    """
    if name not in own_tasks():
        module = sys.modules.get(own_module(name)) if "." in name else None
        loaded = getattr(module, "__dict__", {})
        if not isinstance(loaded.get("Task"), type) or not is_dataclass(loaded.get("Config")):
            if "." in name and all(part.isidentifier() for part in name.split(".")):
                raise outside(where, f"the task {name!r}", name)
            hint = suggest(name, own_tasks())
            raise ConfigError(f"{where}: task: no task {name[:80]!r}{hint}")
    try:
        return build_task(name, merge(_reading_only(settings), overrides))
    except ConfigError as error:
        if overrides:  # the user's word may be what is wrong
            raise
        raise ConfigError(f"{where}: {error}") from error


def outside(where: str, what: str, name: str) -> ConfigError:
    """Return the error for code from outside that a file asks for and the user has not named."""
    return ConfigError(
        f"{where}: asks for {what}, code from outside TriSlim that no file may load; "
        f"if you trust it, name it yourself: --plugin {name}"
    )


def _reading_only(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key != "synthetic"}
    if isinstance(kept.get("data"), Mapping):
        kept["data"] = {key: value for key, value in kept["data"].items() if key != "download"}
    return kept


def own_tasks() -> list[str]:
    """Return the names of the folders in `tasks/`."""
    tasks = importlib.import_module(own_module("tasks"))
    return [entry.name for entry in pkgutil.iter_modules(tasks.__path__) if entry.ispkg]
