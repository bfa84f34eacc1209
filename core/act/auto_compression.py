"""Compress an exported model by training it on with rounding: its class, as PaddleSlim has one."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import paddle.distributed as dist

from core.act.config import ActConfig, LossKind, read_act
from core.act.files import FileLayout, measure_files, write
from core.act.quantized import QuantizedProgram
from core.act.session import InputArrays, fitting, open_session, samples_of
from core.act.source import Source, open_source
from core.act.trained import keeping_trained
from core.act.training import READER, Loss, State, Training, inputs_of, tensors_of
from core.errors import ConfigError, DataError
from core.export.files import check_folder, check_formats
from core.export.package import Exported
from core.export.rejected import replacing_unless_rejected
from core.settings.metric_order import is_better
from core.settings.progress import progress
from core.targets.names import DEFAULT_TARGET
from core.task import Arrays, Forward
from core.training.distributed import gather
from core.training.loader import Loader
from core.workflows.comparison_table import ComparisonRow, MeasuredMetric, MeasureMetric

ORIGIN = 0.05  # by which the float model's metric may miss `origin_metric`, as in PaddleSlim
_log = logging.getLogger(__name__)


class Epochs:
    """The batches of a loader as arrays, another epoch each time they are gone through."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self._next = loader, 0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Arrays]:
        self._next += 1
        with contextlib.closing(self._loader.epoch(self._next - 1)) as batches:
            for batch in batches:
                yield {name: tensor.numpy() for name, tensor in batch.items()}


@dataclass(frozen=True)
class Compressed:
    """Result of a compression.

    Attributes:
        exported: The files; None in all processes but the first, which writes them.
        rows: The float model, the quantized one before and after training, and each file.
        best_step: After which step it was kept; 0: before training.
    """

    exported: Exported | None
    rows: list[ComparisonRow]
    best_step: int


class AutoCompression:
    """Quantize an exported model whose code is absent, as PaddleSlim's class of this name.

    The arguments up to `eval_callback` are PaddleSlim's, with these differences: batches are
    mappings of names to arrays, `eval_callback` is given a function from inputs to outputs by name,
    and without `Distillation` in the config `loss` is needed.

    Of several processes (`python -m paddle.distributed.launch`) each goes through its own share of
    the training data; the first measures and writes.

    Args:
        model_dir: Folder of the exported float model, or the model itself, opened.
        train_dataloader: Goes through the training data, each time it is iterated over: mappings
            with an array for each input of the model, by its name, or in their order; others are
            for `loss`.
        model_filename: Name of the program; None finds one of the usual names.
        params_filename: Name of the file of weights.
        save_dir: Folder to make.
        config: A YAML file, or its content; see `core.act.config`.
        eval_callback: Returns the metric of a function from inputs to outputs, or of a predictor,
            as `core.workflows.comparison_table.Validation.measure` does. None measures nothing, and
            keeps the last weights.
        loss: Loss of the task: terms by name, of outputs by name and a batch.
        metric: Metric that `eval_callback` measures; None: one where higher values are better.
        layout: Files to write; None: those of Paddle.
        overwrite: Replace an earlier export in `save_dir`, once the new one is right.

    Raises:
        ConfigError: An unknown section, key, layer or variable, or a wrong value.
        ExportError: There is no exported float model.
    """

    def __init__(
        self,
        model_dir: str | Path | Source,
        train_dataloader: Iterable[Mapping[str, Any]],
        model_filename: str | None = None,
        params_filename: str | None = None,
        save_dir: str | Path = "./output",
        config: str | Path | dict[str, Any] | ActConfig = "act.yml",
        eval_callback: MeasureMetric | None = None,
        *,
        loss: Loss | None = None,
        metric: MeasuredMetric | None = None,
        layout: FileLayout | None = None,
        overwrite: bool = False,
    ) -> None:
        self._layout = layout or FileLayout(("paddle",), DEFAULT_TARGET)
        check_formats(self._layout.formats)
        self._check = partial(check_folder, Path(save_dir), overwrite)
        self._check()
        self._config = config if isinstance(config, ActConfig) else read_act(config)
        if isinstance(model_dir, Source):
            self._source = model_dir
        else:
            self._source = open_source(model_dir, model_filename, params_filename)
        if Path(save_dir).resolve() == self._source.folder.resolve():
            raise ConfigError(f"save_dir: {save_dir} holds the float model; name another folder")
        given = self._config.QuantAware
        self._places = self._source.choose(
            given.operators,
            given.never_quantize,
            given.per_channel,
            "QuantAware.never_quantize",
        )
        self._groups = _groups(self._source, self._config)
        self._loss = loss
        if loss is None and not self._groups:
            raise ConfigError("Distillation: required, but not given; without it, a loss is needed")
        self._data, self._folder = train_dataloader, Path(save_dir)
        self._first = dist.get_rank() == 0
        self._measure: MeasureMetric = eval_callback or (lambda run: None)
        self._metric = metric or MeasuredMetric()

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
        inputs = inputs_of(self._source, first)
        samples = samples_of(self._source, [inputs], READER)
        with self._draft() as draft, open_session(self._source, self._places) as session:
            rows = [ComparisonRow("float", self._told(session.run_float))]
            self._check_origin(rows[0].metric)
            if self._loss is not None and not self._groups:  # it may not fit these outputs
                answer = session.run_float(*next(fitting(self._source, [inputs], READER)))
                self._loss(tensors_of(answer), tensors_of(first))
            run = Training(session, self._config, self._groups, self._loss)
            begin = time.monotonic()
            run.calibrate(self._data)
            rows.append(
                ComparisonRow("quantized", self._told(session.run), time.monotonic() - begin)
            )
            best = self._train(run, rows[1].metric)
            rows.append(
                ComparisonRow(f"trained, step {best.step}", best.metric, time.monotonic() - begin)
            )
            if draft is None:
                return Compressed(None, rows, best.step)
            model = run.restore(best)
            with keeping_trained(model, draft, self._folder):
                made, files = self._write(model, draft, samples)
        return Compressed(replace(made, folder=self._folder), rows + files, best.step)

    def _write(
        self, model: QuantizedProgram, folder: Path, samples: Sequence[InputArrays]
    ) -> tuple[Exported, list[ComparisonRow]]:
        """Write and compare the files; return them with a row of the table for each runtime."""
        begin = time.monotonic()
        made = write(model, folder, self._layout, samples, self._more_samples)
        files = measure_files(
            model,
            made,
            time.monotonic() - begin,
            self._measure,
            self._metric,
            samples[0],
        )
        return made, files

    def _more_samples(self, count: int) -> list[InputArrays]:
        """Return up to so many images of the training data."""
        inputs = (inputs_of(self._source, given) for given in self._data)
        return samples_of(self._source, inputs, READER, count)

    def _draft(self) -> contextlib.AbstractContextManager[Path | None]:
        if not self._first:
            return contextlib.nullcontext()
        return replacing_unless_rejected(self._folder, self._check)

    def _told(self, run: Forward) -> float | None:
        """Return the metric, which the first process measures and tells the others."""
        found: list[float | None] = gather(self._measure(run) if self._first else None)
        return found[0]

    def _train(self, run: Training, metric: float | None) -> State:
        """Return the best state, or the last if nothing is measured."""
        config, total = self._config.TrainConfig, run.total_steps(self._data)
        best = replace(run.state(), metric=metric)
        _log.info(
            "%d steps, %s of the quantized model %s", total, self._metric.name, _shown(metric)
        )
        steps = progress(run.steps(self._data, total), "train", total, "step", not self._first)
        with contextlib.closing(steps):
            for terms in steps:
                if run.step % config.logging_iter == 0 or run.step == total:
                    parts = " ".join(f"{name} {value:.6f}" for name, value in terms.items())
                    _log.info("step %d/%d %s lr %.2e", run.step, total, parts, run.rate)
                if run.step % config.eval_iter and run.step != total:
                    continue
                found = self._told(run.evaluated())
                if found is None or self._better(found, best.metric):
                    best = replace(run.state(), metric=found)
                line = "step %d: %s %s, best %s after step %d"
                shown = _shown(found), _shown(best.metric), best.step
                _log.info(line, run.step, self._metric.name, *shown)
                reached = config.target_metric
                if found is not None and reached is not None and not self._better(reached, found):
                    _log.info("target_metric %s is reached", _shown(reached))
                    break
        return best

    def _better(self, one: float, other: float | None) -> bool:
        return is_better(one, other, self._metric.higher_is_better)

    def _check_origin(self, metric: float | None) -> None:
        wanted = self._config.TrainConfig.origin_metric
        _log.info("%s of the float model: %s", self._metric.name, _shown(metric))
        if wanted is not None and metric is not None and abs(metric - wanted) > ORIGIN:
            raise ConfigError(
                f"TrainConfig.origin_metric: expected {wanted} within {ORIGIN}, the float model "
                f"has {metric:.4f}; look at the data and how it is prepared"
            )


def _groups(source: Source, config: ActConfig) -> list[tuple[LossKind, float, tuple[str, ...]]]:
    """Return the terms of distillation; outputs of a softmax are compared before it."""
    if config.Distillation is None:
        return []
    groups = []
    for loss, alpha, nodes in config.Distillation.groups(source.nodes()):
        for name in nodes:
            source.check_node(name, "Distillation.node")
        if loss == "soft_label":
            nodes = tuple(source.before_closing(name) for name in nodes)
            flat = [name for name in nodes if len(source.graph.shape(name)) < 2]
            if flat:
                raise ConfigError(
                    f"Distillation.node: {flat[0]} has no axis of classes, which soft_label "
                    "compares; name other variables, or take l2"
                )
        groups.append((loss, alpha, nodes))
    return groups


def _shown(metric: float | None) -> str:
    return "not measured" if metric is None else f"{metric:.4f}"
