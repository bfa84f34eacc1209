"""Model cards of the files of a row, with the measurements of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.errors import ExportError
from core.runtimes.description import read_description
from core.targets.names import BACKENDS
from core.workflows.model_card import RuntimeFigures, write_card
from core.workflows.opening import exported_task
from core.zoo.reproduction import ZooResult
from core.zoo.steps import FLOAT


def write_cards(result: ZooResult, folders: Mapping[str, Path]) -> None:
    """Write a model card into each folder of exported files.

    The licence of the weights depends on those of data and source, which are not known; so it
    is left out.

    Args:
        result: Figures of the row.
        folders: Folders of exported files by model, `float` and perhaps `compressed`.

    Raises:
        ExportError: A folder is no export.
        FileError: A card cannot be written.
    """
    machine = str(result.environment.get("cpu", "")), result.environment.get("cpu_instructions", [])
    for model, folder in folders.items():
        description = read_description(folder)
        if description is None:
            raise ExportError(f"{folder}: has no deploy.yml")
        task = exported_task(folder, description, description.inputs)
        write_card(folder, task, _figures(result, model), machine=machine)


def _figures(result: ZooResult, model: str) -> list[RuntimeFigures]:
    figures = []
    for backend in BACKENDS:
        before, known = (result.measured(each, backend) for each in (FLOAT, model))
        compressed = model != FLOAT
        figures.append(
            RuntimeFigures(
                backend,
                result.metrics[model].get(backend, {}),
                result.metrics[FLOAT].get(backend, {}) if compressed else {},
                known["size_mb"] if known else None,
                known["mean_ms"] if known else None,
                before["mean_ms"] if before and compressed else None,
            )
        )
    return figures
