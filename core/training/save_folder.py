"""Check a save folder: find what an earlier run left, and refuse to replace it unasked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import CheckpointError, ConfigError, FileError
from core.settings.config import load_one_yaml
from core.settings.download import is_url
from core.settings.files import present
from core.settings.locks import Lock
from core.task import Task
from core.training import checkpoint
from core.training.hooks import LOCK

BEST, LATEST = "best_model", "latest"
_SOURCE, _WEIGHTS = "source", "weights"  # keys of a teacher's settings, see `core.distill.teacher`


def check_free(
    folder: Path, task: Task, teachers: Sequence[Mapping[str, Any]] = (), overwrite: bool = False
) -> None:
    """Refuse a save folder in which a new run would replace an earlier one, or what it starts from.

    Args:
        folder: The save folder.
        task: Names the weights that the run starts from.
        teachers: Settings of teachers, which name their weights.
        overwrite: An earlier run may be replaced; weights that this run reads may not.

    Raises:
        ConfigError: The folder is not free; the message says what it holds, and the ways out.
        FileError: Another run is writing there.
    """
    own = {each.resolve() for each in (folder, folder / BEST, folder / LATEST)}
    for name, weights in _read_weights(task, teachers):
        if weights.resolve().parent in own:
            raise ConfigError(
                f"save_dir: {folder} holds the weights that this run starts from ({name}: "
                f"{weights.parent}), and would lose them; name another folder with --save_dir"
            )
    if _is_checkpoint(folder):
        raise ConfigError(f"save_dir: {folder} is a checkpoint itself; name another folder")
    found = None if overwrite else _earlier_run(folder)
    if found is not None:
        with Lock(folder / LOCK, folder):  # a run that is still going on is the better reason
            raise ConfigError(f"save_dir: {folder} holds {found}")


def _read_weights(task: Task, teachers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Path]]:
    """Yield the weights files that a run reads, with the settings that name them."""
    named = [("model.pretrained", task.config.model.pretrained)]
    named += [(f"teacher {each.get(_SOURCE)}", each.get(_WEIGHTS)) for each in teachers]
    for name, wanted in named:
        if not isinstance(wanted, str) or is_url(wanted):
            continue
        try:
            yield name, checkpoint.weights_path(wanted)
        except CheckpointError:  # whoever loads them says so
            continue


def _earlier_run(folder: Path) -> str | None:
    """Name the run that a folder holds and the ways out; None if it holds none."""
    others = "name another folder (--save_dir), or replace it (--overwrite)"
    if not _is_checkpoint(folder / LATEST):
        found = f"the {BEST} of an earlier run; {others}"
        return found if _is_checkpoint(folder / BEST) else None
    finished, wanted = _progress(folder)
    if finished is None or wanted is None:
        return f"an earlier run; go on with it (--resume), {others}"
    if finished < wanted:
        said = f"a run that ended after {finished} of {wanted} epochs; go on with it (--resume)"
        return f"{said}, {others}"
    # its config has the recipe as it was fitted to these epochs
    own = f"-c {folder / 'config.yml'} --save_dir {folder}"
    more = f"or let it go on for more epochs ({own} --resume -o train.epochs=N)"
    return f"a finished run of {finished} epochs; {others}, {more}"


def _is_checkpoint(folder: Path) -> bool:
    there = present(folder)
    names = checkpoint.DESCRIPTION, checkpoint.WEIGHTS, checkpoint.FOR_PADDLE
    return any((there / name).is_file() for name in names)


def _progress(folder: Path) -> tuple[int | None, int | None]:
    """Return how many epochs of a run are finished, and how many it is to have; None: unknown."""
    finished = wanted = None
    try:
        description = checkpoint.load_description(folder / LATEST)
        finished = description.epoch if description is not None else None
        train = load_one_yaml(folder / "config.yml").get("train")
        wanted = train.get("epochs") if isinstance(train, Mapping) else None
    except (CheckpointError, ConfigError, FileError):  # damaged, but a run all the same
        return finished, None
    return finished, wanted if isinstance(wanted, int) else None
