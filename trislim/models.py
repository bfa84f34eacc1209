"""Models in a notebook or a script: load, look, quantize, prune, export.

Nothing here changes the model that it is called on: `quantize` and `prune` return another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import paddle
from paddle.nn import Layer

from core.errors import ConfigError
from core.export.package import export
from core.graph.cost import size_mb
from core.network.weights import assign
from core.prune.config import PruneConfig
from core.prune.strategy import Prune
from core.quant.apply import record_of
from core.quant.calibration import calibration_images
from core.quant.layers import quantized_layers
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.benchmark import BenchmarkRow, Protocol, benchmark
from core.runtimes.description import DESCRIPTION
from core.runtimes.foreign import fit_output
from core.runtimes.formats import find_files, formats_in, is_model_file
from core.runtimes.image_model import ImageModel, eager_model, exported_model
from core.runtimes.predictor import Predictor, load_predictor
from core.settings.config import read
from core.settings.files import present, scratch
from core.strategy import Context
from core.targets.names import DEFAULT_TARGET, USUAL_FORMATS, Backend, Format
from core.task import Batch, Task
from core.training import checkpoint
from core.training.evaluation import evaluate, measure, validation_loader
from core.training.loader import Loader
from core.training.run import pick_device
from core.workflows.opening import exported_task, restored
from core.workflows.ptq import onnx_target
from core.workflows.run_plan import RunFiles, read_plan
from core.workflows.training import prepare
from trislim.answering import Answering
from trislim.arguments import checked

BATCH = 16  # pictures at a time, for statistics


@dataclass(frozen=True, eq=False, repr=False)
class Model(Answering):
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

    @checked
    def evaluate(self, share: float = 1.0, batch_size: int = 1) -> dict[str, float]:
        """Return the metrics on the validation data, or on a random share, always the same one.

        Raises:
            DataError: The data cannot be read.
        """
        _check_share(share)
        _check_count("batch_size", batch_size)
        loader = validation_loader(self.task, batch_size)
        return measure(self.task, loader, self.network, share)

    @checked
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
        _check_count("count", count)
        config = read(PtqConfig, {"target": target, **settings})
        folder = None if images is None else Path(images)
        made = self._copy()
        batches = calibration_images(self.task, folder, count)
        quantize_after_training(self.task, made.network, batches, config)
        edits = (*self.edits, ("qat", record_of(made.network)))
        return replace(made, edits=edits, target=onnx_target(config.target))

    @checked
    def prune(self, ratio: float | None = None, **settings: Any) -> Model:
        """Return the model without its least important channels; it then wants fine-tuning.

        Save it, and `train` with `model.pretrained=FOLDER`.

        Args:
            ratio: Share of the multiply-accumulates to remove.
            **settings: Others of `core.prune.config.PruneConfig`, such as
                `target_parameters_ratio=0.5`; `calibration_samples=0` needs no training data.
                Those that say when to prune in a training are refused.

        Raises:
            ConfigError: An unknown or wrong setting, or the model is quantized already.
        """
        if self.quantized:
            raise ConfigError("prune: the model is quantized; prune it first, then quantize")
        for name in ("num_steps", "every_epochs", "start_epoch", "end_epoch"):
            if name in settings:
                raise ConfigError(f"{name}: is for pruning in a training; here all is cut at once")
        if ratio is not None and "target_ratio" in settings:
            raise ConfigError("target_ratio: is what ratio says, too; give one of them")
        target = {} if ratio is None else {"target_ratio": ratio}
        strategy = Prune(read(PruneConfig, {**target, **settings}))
        made = self._copy()
        with scratch() as folder:
            strategy.attach(made.network, _context(self.task, folder))
        made.network.eval()
        record = strategy.record()
        return replace(made, edits=(*self.edits, ("prune", record))) if record else made

    @checked
    def save(self, folder: str | Path) -> Path:
        """Write the model as a checkpoint, which describes itself; return its folder.

        Args:
            folder: A new folder, or one with a checkpoint, which is replaced.

        Raises:
            FileError: The folder holds other things, or cannot be written.
        """
        checkpoint.check_folder(Path(folder))
        about = checkpoint.describe(self.task, self.edits, self.epoch)
        checkpoint.save(Path(folder), about, self.network.state_dict())
        return Path(folder)

    @checked
    def export(
        self,
        folder: str | Path,
        formats: Sequence[Format] | None = None,
        ending: str = "raw",
        input_shape: Sequence[int] | None = None,
        overwrite: bool = False,
    ) -> ExportedModel:
        """Write files to deploy, in int8 where the model is quantized, and compare them with it.

        Args:
            folder: Folder to make.
            formats: Of paddle, onnx, openvino, lite; None: paddle and onnx.
            ending: What the graph ends in.
            input_shape: [C, H, W] or [N, C, H, W] of the input, -1 where it is free.
            overwrite: Replace an earlier export in the folder, once the new one is right.

        Raises:
            ExportError: Not exportable, a runtime answers differently, or the folder holds an
                export and may not be overwritten.
        """
        folder = Path(folder)
        kinds = USUAL_FORMATS if formats is None else formats
        export(
            *(self.task, self.network, folder, kinds, ending, input_shape),
            target=self.target,
            overwrite=overwrite,
        )
        return ExportedModel(folder, load_predictor(folder, own=True), self.task)

    def _for_images(self) -> ImageModel:
        return eager_model(self.task, self.network)

    def _copy(self) -> Model:
        network = self.task.build_model()
        checkpoint.replay(network, self.edits, "model")
        assign(network, self.network.state_dict(), "model")
        network.eval()
        return replace(self, network=network)


@dataclass(frozen=True, eq=False, repr=False)
class ExportedModel(Answering):
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
        """Return the size of the files that the runtime reads; 1 MB is 10**6 bytes."""
        return size_mb(find_files(self.folder, self.predictor.backend))

    @checked
    def evaluate(self, share: float = 1.0, batch_size: int = 1) -> dict[str, float]:
        """Return the metrics on the validation data, or on a random share, always the same one.

        Raises:
            DataError: The data cannot be read.
        """
        _check_share(share)
        _check_count("batch_size", batch_size)
        loader = validation_loader(self.task, batch_size).share(share)
        return evaluate(self.task, self.predictor.run, loader).compute()

    @checked
    def benchmark(self, *others: ExportedModel, **protocol: Any) -> list[BenchmarkRow]:
        """Measure latency, size and memory in each runtime that reads the files.

        Args:
            *others: Models to measure in turns with this one, which they are compared with.
            **protocol: Settings of `core.runtimes.benchmark.Protocol`, such as `runs=20`.
        """
        folders = [self.folder, *(each.folder for each in others)]
        return benchmark(folders, read(Protocol, protocol))

    def _for_images(self) -> ImageModel:
        return exported_model(self.task, self.predictor)


@checked
def load(
    path: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    backend: Backend | None = None,
    output: str | None = None,
) -> Model | ExportedModel:
    """Load a checkpoint, or an exported model, from its path.

    Args:
        path: Folder of a checkpoint, file of weights, or an exported model: folder or file
            (.onnx, .pdmodel, .json).
        config: YAML of the task, ours or of another project; for weights and models that do not
            describe themselves.
        overrides: `key.sub=value`, such as `data.root=DATA`.
        backend: Runtime of an exported model: paddle, onnxruntime, openvino; None: the first that
            reads it.
        output: Of an exported model with several outputs, the one that answers.

    Raises:
        UserError: There is none, or it is not whole.
    """
    paddle.set_device(pick_device("auto"))
    place = present(Path(path))
    if (place / DESCRIPTION).is_file() or formats_in(place) or is_model_file(place):
        predictor = load_predictor(place, backend)
        about = predictor.description
        task = exported_task(place, about, about.inputs, config, overrides)
        fit_output(predictor, task, output)
        return ExportedModel(place, predictor, task)
    for name, value in (("backend", backend), ("output", output)):
        if value is not None:
            raise ConfigError(
                f"{name}: {path} is no exported model, which alone has a choice of it"
            )
    task, network = restored(path, config, overrides)
    recorded = checkpoint.load_description(path)
    if recorded is None:
        return Model(task, network)
    return Model(task, network, tuple(recorded.edits), recorded.epoch)


@checked
def train(
    config: str | Path | Mapping[str, Any],
    slim: str | None = None,
    save_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    teachers: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Model:
    """Train, plainly or under a compression recipe; return the best model.

    Args:
        config: YAML of the task and its training, or its content; `cls/demo.yml` comes with it.
        slim: Recipe: name, path, or several with commas between.
        save_dir: For checkpoints and logs; None: `output/<task>/<names of config and recipe>`.
        overrides: `key.sub=value`, such as `train.epochs=3`.
        teachers: Configs or checkpoints of teachers.
        resume: Go on with the run that the folder holds.
        overwrite: Replace the run that the folder holds.

    Raises:
        UserError: A setting, a file or the training is wrong.
    """
    files = RunFiles(config, slim, tuple(teachers), tuple(overrides))
    folder = None if save_dir is None else Path(save_dir)
    training = prepare(read_plan(files), folder, files.name, use_vdl=False)
    training.train(resume, overwrite)
    made = load(training.save_dir / "best_model")
    assert isinstance(made, Model)  # a training writes checkpoints
    return made


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"share: expected a number above 0, up to 1, got {share!r}")


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name}: expected a whole number, 1 or more, got {value!r}")


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
