"""Checkpoints that describe themselves, are written atomically and are safe to open.

A checkpoint is a folder: `model.pdparams` (what the network learnt, under the names of published
weights), `model.json` (task settings, structure edits, metrics) and, where training can go on from
it, `training.pdopt`. Structure edits are replayed first, then the weights are loaded strictly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddle.nn import Layer

from core.config import to_mapping
from core.errors import CheckpointError, ConfigError
from core.files import present, replacing
from core.recipe import strategy_class
from core.task import Task, build_task
from core.weights import assign, complete_backbone, load_arrays, save_arrays

log = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, DESCRIPTION, TRAINING = "model.pdparams", "model.json", "training.pdopt"
Edit = tuple[str, dict[str, Any]]  # kind of strategy, its record


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself; plain JSON."""

    task: str
    settings: dict[str, Any]
    edits: list[Edit] = field(default_factory=list)
    epoch: int = 0  # epochs finished
    metrics: dict[str, float] = field(default_factory=dict)
    format: int = FORMAT


def describe(
    task: Task, edits: Sequence[Edit] = (), epoch: int = 0, metrics: Mapping[str, float] = {}
) -> Description:
    """Describe a task and the edits made on its model."""
    settings = to_mapping(task.config)
    return Description(task.name, settings, list(edits), epoch, dict(metrics))


def save(
    folder: Path,
    description: Description,
    weights: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder; whatever happens, the one there before or the new one is whole.

    Raises:
        FileError: The folder cannot be written.
    """
    with replacing(folder) as partial:
        save_arrays(partial / WEIGHTS, dict(weights))
        if training is not None:
            save_arrays(partial / TRAINING, dict(training))
        text = json.dumps(asdict(description), indent=1, ensure_ascii=False)
        (partial / DESCRIPTION).write_text(text, encoding="utf-8")


def weights_path(path: str | Path) -> Path:
    """Return the weights file meant by a file, a checkpoint folder or a name without ending.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if path.suffix == ".pdparams":
        candidates = [path, present(path.parent) / path.name]
    else:
        # "folder/name" without its ending, a name with dots included
        candidates = [present(path) / WEIGHTS, path, Path(f"{path}.pdparams")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"{path}: no such weights file")


def load_description(weights: str | Path) -> Description | None:
    """Read what lies beside a weights file; None if nothing does (published weights).

    Raises:
        CheckpointError: The description is broken or of another format.
    """
    path = weights_path(weights).with_name(DESCRIPTION)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["edits"] = [(kind, record) for kind, record in content["edits"]]
        description = Description(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: not a description of a checkpoint: {error}") from error
    if description.format != FORMAT:
        raise CheckpointError(f"{path}: format {description.format}, expected {FORMAT}")
    return description


def load_pretrained(task: Task, model: Layer) -> list[Edit]:
    """Load what the config's `model.pretrained` names, strictly, and return the edits replayed.

    Raises:
        CheckpointError: The file does not fit the network.
        ConfigError: `true`, but no published weights are known.
    """
    wanted, reinit = task.config.model.pretrained, task.config.model.reinit
    if not wanted:
        if reinit:
            raise ConfigError("model.reinit: has no meaning without model.pretrained")
        return []
    path = locate(task, wanted)
    description = load_description(path)
    edits = description.edits if description else []
    replay(model, edits)
    weights = load_arrays(path)
    if description is None:
        weights = complete_backbone(model, weights, str(path))
    assign(model, weights, str(path), reinit)
    log.info("loaded %s%s", path, f", but for {', '.join(reinit)}" if reinit else "")
    return edits


def locate(task: Task, wanted: bool | str) -> Path:
    """Return the weights file behind a path or URL, or behind `true`: the published weights.

    Raises:
        CheckpointError: There is none, or it cannot be downloaded.
        ConfigError: `true`, but no published weights are known.
    """
    source = task.pretrained_url() if wanted is True else str(wanted)
    is_url = source.startswith(("http://", "https://"))
    return weights_path(_download(source) if is_url else source)


def restore(path: str | Path, task: Task | None = None) -> tuple[Task, Layer]:
    """Rebuild the model of a checkpoint, in evaluation mode, from its path alone.

    Args:
        path: Weights file or checkpoint folder.
        task: Use this task instead of the one described (other data, or published weights that
            have no description).

    Raises:
        CheckpointError: No description and no task, or weights that do not fit.
    """
    path = weights_path(path)
    description = load_description(path)
    if task is None:
        if description is None:
            raise CheckpointError(f"{path}: no {DESCRIPTION} beside it; name a config with -c")
        task = build_task(description.task, description.settings)
    elif description is not None and description.task != task.name:
        raise CheckpointError(
            f"{path}: weights of the task {description.task!r}, the config is of {task.name!r}"
        )
    model = task.build_model()
    replay(model, description.edits if description else [])
    assign(model, load_arrays(path), str(path))
    model.eval()
    return task, model


def replay(model: Layer, edits: Sequence[Edit]) -> None:
    """Make recorded structure edits on a fresh model, in their order."""
    for kind, record in edits:
        strategy_class(kind, "edits").replay(model, record)


def _download(url: str) -> str:
    from paddle.utils.download import get_weights_path_from_url

    try:
        path: str = get_weights_path_from_url(url)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{url}: cannot be downloaded: {error}") from error
    return path
