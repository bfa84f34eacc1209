"""Files that a recipe wants while training goes on, as the 1.x Compressor saves them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from paddle.nn import Layer

from core.errors import ConfigError, ExportError, UserError
from core.export.endings import ending_in
from core.export.files import check_folder, check_formats
from core.export.package import export
from core.network.weights import assign
from core.quant.layers import quantized_layers
from core.strategy import Phase, recorded_strategy
from core.targets.names import Format
from core.task import Task
from core.training import checkpoint
from core.training.checkpoint import RecordedEdit
from core.training.engine import Engine
from core.training.hooks import Hook
from core.training.recipe import ExportPoint

FORMATS: MappingProxyType[str, Format] = MappingProxyType(
    {"int8": "paddle", "float": "paddle", "lite": "lite"}
)
_log = logging.getLogger(__name__)


class ExportsOnTheWay(Hook):
    """Writes the files of a recipe when their epoch is finished.

    An export that fails ends no training: it is told at once, and is an error at the end.
    """

    def __init__(self, points: Sequence[ExportPoint]) -> None:
        self._points = tuple(points)

    def before_training(self, engine: Engine) -> None:
        self._failures: list[str] = []
        check_exports(engine.task, engine.model, self._points, engine.replaces)

    def after_epoch(self, engine: Engine) -> None:
        for point in self._points:
            if point.after_epoch != engine.epoch or engine.rank != 0:
                continue
            with engine.best_weights():
                model = engine.model
                if point.form == "float":
                    model = rounded_in_float(engine.task, model, engine.windows.edits())
                try:
                    export(
                        engine.task,
                        model,
                        point.save_dir,
                        (FORMATS[point.form],),
                        point.ending,
                        overwrite=engine.replaces,
                    )
                except ExportError as error:
                    self._failures.append(
                        f"exports: {point.form} after epoch {engine.epoch}: {error}"
                    )
                    _log.error("%s; training goes on", self._failures[-1])
                    continue
            _log.info(
                "exported to %s (%s) after epoch %d", *(point.save_dir, point.form, engine.epoch)
            )

    def after_training(self, engine: Engine) -> None:
        """Tell of the first export that failed, if the training itself came to its end.

        Raises:
            ExportError: One did.
        """
        if self._failures and (engine.stop or engine.epoch == engine.epochs):
            raise ExportError(f"{self._failures[0]} (the training itself is whole)")


def check_exports(
    task: Task, model: Layer, points: Sequence[ExportPoint], overwrite: bool = False
) -> None:
    """Refuse, before training, what could not be exported on the way.

    Args:
        task: Task of the model.
        model: To be exported.
        points: Exports that are wanted.
        overwrite: Earlier exports may be replaced.

    Raises:
        ConfigError: A folder holds other things, an ending is unknown, or a converter is missing.
    """
    for index, point in enumerate(points):
        with _named(f"exports.{index}.form"):
            check_formats([FORMATS[point.form]])
        with _named(f"exports.{index}.save_dir"):
            check_folder(Path(point.save_dir), overwrite)
        with _named(f"exports.{index}.ending"):
            ending_in(task, model, point.ending)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Begin an error with the key that is to blame."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"{key}: {error}") from error


def rounded_in_float(task: Task, model: Layer, edits: Sequence[RecordedEdit]) -> Layer:
    """Return a float model whose weights have the values that the int8 file stores.

    Args:
        task: Builds the network.
        model: Quantized.
        edits: Edits that the model carries.
    """
    shapes = [edit for edit in edits if recorded_strategy(edit[0], "").phase != Phase.GRID]
    plain = task.build_model()
    checkpoint.replay(plain, shapes, "float")
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights = {name: weights[name] for name in plain.state_dict()}
    for path, layer in quantized_layers(model).items():
        weights[f"{path}.weight"] = layer.rounded_weight().numpy()
    assign(plain, weights, "float")
    return plain
