"""Checkpoints that describe themselves, are written atomically and are safe to open.

A checkpoint is a folder: `model.safetensors` (what the network learnt, under the names of published
weights), `model.json` (task settings, structure edits, metrics, digests of the other files) and,
where training can go on from it, `training.safetensors`. One that training does not go on from has
the same weights as `model.pdparams` beside it, for Paddle's own tools. Structure edits are replayed
first, then the weights are loaded strictly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddle.nn import Layer

from core.errors import CheckpointError, ConfigError, FileError, UserError
from core.network.weights import (
    MOST_BYTES,
    SAFETENSORS,
    assign,
    blaming,
    complete_backbone,
    load_arrays,
    save_arrays,
    save_for_paddle,
)
from core.settings.config import read, to_mapping
from core.settings.digests import UNSEALED, changed_file, digests_of, is_sealed, seal
from core.settings.download import cache_folder, fetch, file_name, is_url
from core.settings.files import check_replaceable, present, replacing
from core.settings.ranges import check_range
from core.settings.reading import read_json
from core.strategy import recorded_strategy
from core.targets.names import EXPORT_DESCRIPTION
from core.task import Task, build_recorded_task

log = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, DESCRIPTION, TRAINING = "model.safetensors", "model.json", "training.safetensors"
FOR_PADDLE, OLD_TRAINING = "model.pdparams", "training.pdopt"
PARTS = (WEIGHTS, DESCRIPTION, TRAINING, FOR_PADDLE, OLD_TRAINING)
SUFFIXES = (SAFETENSORS, ".pdparams")  # of weights files
RecordedEdit = tuple[str, dict[str, Any]]  # kind of strategy, its record


@dataclass(frozen=True)
class CheckpointDescription:
    """Description that a checkpoint gives of itself; plain JSON.

    Attributes:
        task: Its name.
        settings: Settings of the task.
        edits: Made on its model, in their order.
        epoch: Epochs finished.
        metrics: Metrics of the weights.
        format: Format number of this description.
        files: SHA-256 of each other file by name; older checkpoints have none.
        digest: SHA-256 of this description.
    """

    task: str
    settings: dict[str, Any]
    edits: list[RecordedEdit] = field(default_factory=list)
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    format: int = FORMAT
    files: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        check_range(self, 0, 1_000_000_000, "epoch")


def describe(
    task: Task,
    edits: Sequence[RecordedEdit] = (),
    epoch: int = 0,
    metrics: Mapping[str, float] = {},
) -> CheckpointDescription:
    """Describe a task and the edits made on its model."""
    settings = to_mapping(task.config)
    # in one order, whether a record was just made or comes from the file of an interrupted run
    ordered = [(kind, json.loads(json.dumps(record, sort_keys=True))) for kind, record in edits]
    return CheckpointDescription(task.name, settings, ordered, epoch, dict(metrics))


def check_folder(folder: Path) -> None:
    """Refuse a folder that a checkpoint must not replace, as it would take away what is no part.

    Hidden files are none of the user's: file managers and notebooks leave them.

    Raises:
        FileError: Names what the folder holds, or it is something else than a folder.
    """
    check_replaceable(folder)
    for path in sorted(folder.glob("*")):
        if path.name not in PARTS and not path.name.startswith("."):
            raise FileError(
                f"{folder}: holds {path.name}, which is no part of a checkpoint; name another "
                "folder, or move it away"
            )


def save(
    folder: Path,
    description: CheckpointDescription,
    weights: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder; whatever happens, the one there before or the new one is whole.

    Raises:
        FileError: The folder cannot be written.
    """
    with replacing(folder) as partial:
        save_arrays(partial / WEIGHTS, weights)
        if training is None:
            save_for_paddle(partial / FOR_PADDLE, weights)
        else:
            save_arrays(partial / TRAINING, training)
        digests = {"files": digests_of(partial, [DESCRIPTION]), "digest": UNSEALED}
        content = {"digest": "", **asdict(description), **digests}  # in this order
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (partial / DESCRIPTION).write_bytes(seal(text)[0])


def weights_path(path: str | Path) -> Path:
    """Return the weights file meant by a file, a checkpoint folder or a name without ending.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if path.suffix in SUFFIXES:
        folder = present(path.parent)
        candidates = [path, folder / path.name]
        if path.name == FOR_PADDLE:  # the name of the weights in Paddle's libraries
            candidates.append(folder / WEIGHTS)
    else:
        # "folder/name" without its ending, a name with dots included
        folder = present(path)
        candidates = [folder / WEIGHTS, folder / FOR_PADDLE, path]
        candidates += [Path(f"{path}{suffix}") for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if (path / EXPORT_DESCRIPTION).is_file():
        raise CheckpointError(
            f"{path}: is an exported model; a checkpoint or a file of weights is wanted"
        )
    inside = [name for name in ("best_model", "latest") if (path / name / DESCRIPTION).is_file()]
    if inside:
        raise CheckpointError(f"{path}: is the folder of a training; name {path / inside[0]}")
    raise CheckpointError(f"{path}: no such weights file")


def description_path(weights: str | Path) -> Path:
    """Return where the description of a weights file is, if it has one.

    Raises:
        CheckpointError: There is no such weights file.
    """
    return weights_path(weights).with_name(DESCRIPTION)


def load_description(weights: str | Path) -> CheckpointDescription | None:
    """Read what lies beside a weights file; None if nothing does (published weights).

    Raises:
        CheckpointError: The description is broken, changed, or of another format.
    """
    path = description_path(weights)
    if not path.is_file():
        return None
    try:
        content = path.read_bytes()
        plain = read_json(path, CheckpointError)
        if isinstance(plain, dict) and plain.get("format", FORMAT) != FORMAT:
            raise CheckpointError(f"{path}: format {plain['format']!r}, expected {FORMAT}")
        description = read(CheckpointDescription, plain, measured=True)
    except (OSError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a description of a checkpoint: {error}") from error
    if description.digest and not is_sealed(content, description.digest):
        raise CheckpointError(
            f"{path}: is not as it was written: its digest differs; if you changed it yourself, "
            'take out its entry "digest"'
        )
    return description


def load_weights(path: Path, description: CheckpointDescription | None) -> dict[str, Any]:
    """Read a weights file, after comparing all files of its checkpoint with their digests.

    Args:
        path: Path from `weights_path`.
        description: Description from `load_description`.

    Raises:
        CheckpointError: A file is broken, or not as it was written.
    """
    _check_files(path.parent, description)
    return load_arrays(path)


def load_training(
    folder: Path,
) -> tuple[CheckpointDescription, dict[str, Any], dict[str, Any], Path]:
    """Read all that training goes on from.

    Args:
        folder: Folder of a checkpoint.

    Returns:
        Description, weights, the rest, and the file that this is from.

    Raises:
        CheckpointError: Training cannot go on from it, or a file is broken or changed.
    """
    weights = weights_path(folder)
    description = load_description(weights)
    for name in (TRAINING, OLD_TRAINING):
        file = weights.with_name(name)
        if description is not None and file.is_file():
            return description, load_weights(weights, description), load_arrays(file), file
    raise CheckpointError(f"{folder}: training cannot go on from it")


def load_pretrained(task: Task, model: Layer) -> list[RecordedEdit]:
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
    weights = load_weights(path, description)
    replay(model, edits, str(path.with_name(DESCRIPTION)))
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
    return _fetch_weights(source) if is_url(source) else weights_path(source)


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
            raise CheckpointError(f"{path}: no {DESCRIPTION} beside it; name its config (-c)")
        where = str(path.with_name(DESCRIPTION))
        task = build_recorded_task(description.task, description.settings, where)
    elif description is not None and description.task != task.name:
        raise CheckpointError(
            f"{path}: weights of the task {description.task!r}, the config is of {task.name!r}"
        )
    weights = load_weights(path, description)
    model = task.build_model()
    replay(model, description.edits if description else [], str(path.with_name(DESCRIPTION)))
    assign(model, weights, str(path))
    model.eval()
    return task, model


def replay(model: Layer, edits: Sequence[RecordedEdit], where: str) -> None:
    """Make recorded structure edits on a fresh model, in their order.

    Args:
        model: Changed in place.
        edits: As a file has them.
        where: Name of that file, for messages.

    Raises:
        CheckpointError: An edit is not whole, or does not fit the model.
        ConfigError: It was made by code from outside that the user has not named.
    """
    for number, (kind, record) in enumerate(edits):
        strategy = recorded_strategy(kind, f"{where}: edits.{number}")
        place = f"{where}: edits.{number} ({kind})"
        try:
            with blaming(place):
                strategy.replay(model, record)
        except CheckpointError as error:
            text = str(error)
            raise CheckpointError(text if text.startswith(place) else f"{place}: {text}") from error
        except UserError as error:
            raise CheckpointError(f"{place}: {error}") from error


def _check_files(folder: Path, description: CheckpointDescription | None) -> None:
    try:
        changed = changed_file(folder, description.files) if description else None
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if changed is not None:
        raise CheckpointError(
            f"{changed}: is not as it was written: its digest in {DESCRIPTION} differs"
        )


def _fetch_weights(url: str) -> Path:
    name = file_name(url)
    if not name.endswith(SUFFIXES):
        raise CheckpointError(
            f"{url}: expected the address of a file of weights ({', '.join(SUFFIXES)}), as nothing "
            "is unpacked; fetch an archive by hand and give the path of the weights in it"
        )

    def check(path: Path) -> None:
        try:
            load_arrays(path)
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise CheckpointError(f"{url}: {reason}") from error

    return fetch(url, cache_folder() / "weights", MOST_BYTES, check)
