"""Models in a notebook or a script: load, look, quantize, prune, export.

Nothing here changes the model that it is called on: `quantize` and `prune` return another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer

from core.errors import CheckpointError, ConfigError
from core.export.files import usual_formats
from core.export.package import export
from core.network.weights import assign
from core.prune.config import PruneConfig
from core.prune.strategy import Prune
from core.quant.apply import record_of
from core.quant.calibration import calibration_images
from core.quant.layers import quantized_layers
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.benchmark import BenchmarkRow, Protocol, benchmark
from core.runtimes.description import DESCRIPTION
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.config import load_yaml, merge, parse_overrides, read
from core.settings.files import present, scratch
from core.strategy import Context
from core.targets.names import DEFAULT_TARGET, Backend, Format
from core.task import Batch, Forward, Task, build_recorded_task
from core.training import checkpoint
from core.training.evaluation import eager_forward, evaluate, measure, validation_loader
from core.training.images import read_image
from core.training.loader import Loader
from core.training.run import pick_device, read_run
from core.workflows.ptq import onnx_target
from core.workflows.run_plan import RunFiles, read_plan
from core.workflows.training import prepare

BATCH = 16  # pictures at a time, for statistics
Picture = str | Path | np.ndarray
Prediction = dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network with its task; of a checkpoint, or made from another model.

    Attributes:
        task: Task that prepares images, reads outputs and measures.
        network: The network, in evaluation mode.
        edits: Structure edits that made it from the task's fresh network.
        epoch: Epochs that it was trained.
        target: Runtime that ONNX files of it are laid out for, if it is quantized.
    """

    task: Task
    network: Layer
    edits: tuple[checkpoint.RecordedEdit, ...] = ()
    epoch: int = 0
    target: str = DEFAULT_TARGET

    def __repr__(self) -> str:
        kind = "int8" if self.quantized else "float"
        return f"Model({self.task.name}, {self.parameters / 1e6:.3f} M parameters, {kind})"

    @property
    def parameters(self) -> int:
        """Return how many parameters the network has."""
        return sum(int(each.size) for each in self.network.parameters())

    @property
    def quantized(self) -> bool:
        """Tell whether layers of the network round to int8."""
        return bool(quantized_layers(self.network))

    def predict(self, image: Picture) -> Prediction:
        """Return what the model says of a picture: a file, or RGB values [H, W, 3] uint8."""
        names = [spec.name for spec in self.task.input_spec()]
        return _predict(self.task, eager_forward(self.task, self.network), names, image)

    def draw(self, image: Picture) -> np.ndarray:
        """Return the picture, RGB [H, W, 3] uint8, with what the model says of it."""
        pixels = _pixels(image)
        return self.task.draw(pixels, self.predict(pixels))

    def evaluate(self, share: float = 1.0, batch_size: int = 1) -> dict[str, float]:
        """Return the metrics on the validation data, or on a random share, always the same one.

        Raises:
            DataError: The data cannot be read.
        """
        loader = validation_loader(self.task, batch_size)
        return measure(self.task, loader, self.network, share)

    def quantize(
        self,
        images: str | Path | None = None,
        count: int = 256,
        target: str = DEFAULT_TARGET,
        **settings: Any,
    ) -> Model:
        """Return the model with layers that round to int8, calibrated on pictures without labels.

        Args:
            images: Folder of pictures; None: the training data.
            count: Number of pictures, at most.
            target: Runtime to quantize for: openvino, onnxruntime, tensorrt, paddle, lite.
            **settings: Others of `core.quant.post_training.PtqConfig`, such as `observer="kl"`.

        Raises:
            ConfigError: An unknown setting, or the model is quantized already.
            DataError: The pictures cannot be read.
        """
        config = read(PtqConfig, {"target": target, **settings})
        folder = None if images is None else Path(images)
        made = self._copy()
        batches = calibration_images(self.task, folder, count)
        quantize_after_training(self.task, made.network, batches, config)
        edits = (*self.edits, ("qat", record_of(made.network)))
        return replace(made, edits=edits, target=onnx_target(config.target))

    def prune(self, ratio: float | None = None, **settings: Any) -> Model:
        """Return the model without its least important channels; it then wants fine-tuning.

        Save it, and `train` with `model.pretrained=FOLDER`.

        Args:
            ratio: Share of the multiply-accumulates to remove.
            **settings: Others of `core.prune.config.PruneConfig`, such as
                `target_parameters_ratio=0.5`; `calibration_samples=0` needs no training data.

        Raises:
            ConfigError: An unknown or wrong setting.
        """
        target = {} if ratio is None else {"target_ratio": ratio}
        strategy = Prune(read(PruneConfig, {**target, **settings}))
        made = self._copy()
        with scratch() as folder:
            strategy.attach(made.network, _context(self.task, folder))
        made.network.eval()
        record = strategy.record()
        return replace(made, edits=(*self.edits, ("prune", record))) if record else made

    def save(self, folder: str | Path) -> Path:
        """Write the model as a checkpoint, which describes itself; return its folder."""
        about = checkpoint.describe(self.task, self.edits, self.epoch)
        checkpoint.save(Path(folder), about, self.network.state_dict())
        return Path(folder)

    def export(
        self,
        folder: str | Path,
        formats: Sequence[Format] | None = None,
        ending: str = "raw",
        input_shape: Sequence[int] | None = None,
    ) -> ExportedModel:
        """Write files to deploy, in int8 where the model is quantized, and compare them with it.

        Args:
            folder: Folder to make; an earlier export there is replaced.
            formats: Of paddle, onnx, lite; None: paddle, and onnx where its converter is installed.
            ending: What the graph ends in.
            input_shape: [C, H, W] or [N, C, H, W] of the input, -1 where it is free.

        Raises:
            ExportError: Not exportable, or a runtime answers differently.
        """
        kinds = usual_formats() if formats is None else formats
        export(self.task, self.network, folder, kinds, ending, input_shape, target=self.target)
        return ExportedModel(Path(folder), load_predictor(folder, own=True), self.task)

    def _copy(self) -> Model:
        network = self.task.build_model()
        checkpoint.replay(network, self.edits, "model")
        assign(network, self.network.state_dict(), "model")
        network.eval()
        return replace(self, network=network)


@dataclass(frozen=True, eq=False, repr=False)
class ExportedModel:
    """Files of an exported model, in one of the runtimes that read them.

    Attributes:
        folder: Folder of the files.
        predictor: The runtime with the model.
        task: Task that prepares images, reads outputs and measures.
    """

    folder: Path
    predictor: Predictor
    task: Task

    def __repr__(self) -> str:
        return (
            f"ExportedModel({str(self.folder)!r}, {self.predictor.backend}, {self.size_mb:.3f} MB)"
        )

    @property
    def size_mb(self) -> float:
        """Return the size of all files; 1 MB is 10**6 bytes."""
        return sum(file.stat().st_size for file in self.folder.iterdir()) / 1e6

    def predict(self, image: Picture) -> Prediction:
        """Return what the model says of a picture: a file, or RGB values [H, W, 3] uint8."""
        names = [port.name for port in self.predictor.description.inputs]
        return _predict(self.task, self.predictor.run, names, image)

    def draw(self, image: Picture) -> np.ndarray:
        """Return the picture, RGB [H, W, 3] uint8, with what the model says of it."""
        pixels = _pixels(image)
        return self.task.draw(pixels, self.predict(pixels))

    def evaluate(self, share: float = 1.0, batch_size: int = 1) -> dict[str, float]:
        """Return the metrics on the validation data, or on a random share, always the same one.

        Raises:
            DataError: The data cannot be read.
        """
        loader = validation_loader(self.task, batch_size).share(share)
        return evaluate(self.task, self.predictor.run, loader).compute()

    def benchmark(self, *others: ExportedModel, **protocol: Any) -> list[BenchmarkRow]:
        """Measure latency, size and memory in each runtime that reads the files.

        Args:
            *others: Models to measure in turns with this one, which they are compared with.
            **protocol: Settings of `core.runtimes.benchmark.Protocol`, such as `runs=20`.
        """
        folders = [self.folder, *(each.folder for each in others)]
        return benchmark(folders, read(Protocol, protocol))


def load(
    path: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    backend: Backend | None = None,
) -> Model | ExportedModel:
    """Load a checkpoint, or an exported model, from its path.

    Args:
        path: Folder of a checkpoint, file of weights, or folder of an exported model.
        config: YAML of the task; for weights that do not describe themselves.
        overrides: `key.sub=value`, such as `data.root=DATA`.
        backend: Runtime of an exported model: paddle, onnxruntime, openvino; None: the first that
            reads it.

    Raises:
        UserError: There is none, or it is not whole.
    """
    paddle.set_device(pick_device("auto"))
    if (present(Path(path)) / DESCRIPTION).is_file():
        return _load_exported(Path(path), config, overrides, backend)
    if backend is not None:
        raise ConfigError(f"backend: {path} is no exported model, which alone runs in a backend")
    description = checkpoint.load_description(path)
    task = _task(config, overrides)
    if task is None and description is not None and overrides:
        where = str(checkpoint.description_path(path))
        settings = parse_overrides(overrides)
        task = build_recorded_task(description.task, description.settings, where, settings)
    if task is None and description is None:
        raise CheckpointError(f"{path}: does not describe itself; name its config: config=...")
    task, network = checkpoint.restore(path, task)
    if description is None:
        return Model(task, network)
    return Model(task, network, tuple(description.edits), description.epoch)


def train(
    config: str | Path | Mapping[str, Any],
    slim: str | None = None,
    save_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    teachers: Sequence[str] = (),
) -> Model:
    """Train, plainly or under a compression recipe; return the best model.

    Args:
        config: YAML of the task and its training, or its content; `cls/demo.yml` comes with it.
        slim: Recipe: name, path, or several with commas between.
        save_dir: For checkpoints and logs; None: `output/<task>/<name of the config>`.
        overrides: `key.sub=value`, such as `train.epochs=3`.
        teachers: Configs or checkpoints of teachers.

    Raises:
        UserError: A setting, a file or the training is wrong.
    """
    name = "run" if isinstance(config, Mapping) else Path(config).stem
    plan = read_plan(RunFiles(config, slim, tuple(teachers), tuple(overrides)))
    folder = None if save_dir is None else Path(save_dir)
    training = prepare(plan, folder, name, use_vdl=False)
    training.train()
    made = load(training.save_dir / "best_model")
    assert isinstance(made, Model)  # a training writes checkpoints
    return made


def _task(config: str | Path | None, overrides: Sequence[str]) -> Task | None:
    if config is None:
        return None
    return read_run(merge(load_yaml(config), parse_overrides(overrides))).task


def _load_exported(
    folder: Path, config: str | Path | None, overrides: Sequence[str], backend: Backend | None
) -> ExportedModel:
    predictor = load_predictor(folder, backend)
    described, task = predictor.description.task, _task(config, overrides)
    if task is None:
        predictor.description.check_whole(folder)
        if described is None:
            raise ConfigError(f"{folder}: has no {DESCRIPTION}; give a config")
        settings, where = parse_overrides(overrides), str(folder / DESCRIPTION)
        task = build_recorded_task(described.name, described.settings, where, settings)
    return ExportedModel(folder, predictor, task)


def _pixels(image: Picture) -> np.ndarray:
    """Return a picture as RGB values [H, W, 3] uint8."""
    return image if isinstance(image, np.ndarray) else read_image(str(image))


def _predict(task: Task, run: Forward, names: Sequence[str], image: Picture) -> Prediction:
    """Run one picture through a model.

    Args:
        task: Prepares the picture, reads the outputs.
        run: The model: inputs [1, C, H, W] in, named outputs out.
        names: Of the inputs.
        image: A file, or RGB values [H, W, 3] uint8.
    """
    sample, info = task.preprocess(_pixels(image))
    return task.postprocess(run(*[sample[name][None] for name in names]), info)


def _context(task: Task, folder: Path) -> Context:
    """Return what pruning may use outside a training; data are opened when they are asked for."""
    data = task.config.data

    def calibration(samples: int) -> Iterator[Batch]:
        dataset = task.build_dataset("train")
        loader = Loader(
            dataset,
            batch_size=min(BATCH, len(dataset)),
            train=True,
            num_workers=data.num_workers,
            on_error=data.on_error,
        )
        yield from loader.some(samples, 0)

    def metrics(model: Layer, share: float = 1.0) -> dict[str, float]:
        return measure(task, validation_loader(task), model, share)

    trained = 1  # an epoch: the weights are not those of a fresh network
    return Context(task, trained, trained, 0, 0, 1, folder, calibration, metrics)
