"""Steps that are done are not done again, unless something that they depend on has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import FileError
from core.settings.config import load_yaml
from core.settings.digests import digest_of
from core.settings.files import write_text
from core.zoo.steps import ZooPlaces, ZooStep

STATE = "steps.json"
_YAML = (".yml", ".yaml")


class StepCache:
    """Cache of the done steps of a row, by a key of everything that decides a step's result.

    A key covers the command, the content of configs, recipes and weights that it names, the code,
    the data sets and the keys of the steps before. Data sets count by the names, sizes and times of
    their files.

    Args:
        places: Folders of the row.
        code: Digest of the code, of `code_digest`.
        data: Files and folders of data sets.
    """

    def __init__(self, places: ZooPlaces, code: str, data: Iterable[Path] = ()) -> None:
        self._places = places
        self._common = [code, *(_stamp(path) for path in sorted(data))]
        self._keys: dict[str, str] = {}

    def key(self, step: ZooStep) -> str:
        """Return the key of a step, whose needs have been asked for before."""
        places = self._places
        roots = {str(places.row): "ROW", str(places.floats): "FLOATS", str(places.drawn): "DRAWN"}
        words = list(step.words)
        for root, name in roots.items():
            words = [word.replace(root, name) for word in words]
        parts = [*self._common, *words, *(_content(file) for file in step.files)]
        parts += [self._keys[need] for need in step.needs]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        self._keys[step.name] = key
        return key

    def is_done(self, step: ZooStep) -> bool:
        """Tell whether the output of a step exists, made by the same command and inputs as now."""
        known = _read(step.home).get(step.name, {})
        done = known.get("key") == self.key(step) and known.get("seconds") is not None
        return done and step.output.exists()

    def was_begun(self, step: ZooStep) -> bool:
        """Tell whether a step was begun with its present key, and not ended."""
        known = _read(step.home).get(step.name, {})
        return known.get("key") == self.key(step) and known.get("seconds") is None

    def is_noted(self, step: ZooStep) -> bool:
        """Tell whether a step was ever begun, with any key."""
        return step.name in _read(step.home)

    def seconds(self, step: ZooStep) -> float | None:
        """Return how long a step took the last time, if it was ever done."""
        value = _read(step.home).get(step.name, {}).get("took")
        return float(value) if value is not None else None

    def note(self, step: ZooStep, seconds: float | None) -> None:
        """Note that a step begins (None), or has ended after so many seconds."""
        took = self.seconds(step) if seconds is None else seconds
        state = _read(step.home)
        state[step.name] = {"key": self.key(step), "seconds": seconds, "took": took}
        step.home.mkdir(parents=True, exist_ok=True)
        write_text(step.home / STATE, json.dumps(state, indent=1) + "\n")


def _read(home: Path) -> dict[str, dict[str, Any]]:
    file = home / STATE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: cannot be read: {error}; remove it") from error
    if not isinstance(content, dict) or not all(map(_is_state, content.values())):
        raise FileError(f"{file}: is not what reproduce writes; remove it")
    return content


def _is_state(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    times = (value.get("seconds"), value.get("took"))
    return all(each is None or type(each) in (int, float) for each in times)


def code_digest(folders: Iterable[Path]) -> str:
    """Return one digest of all Python files below some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)} {digest_of(file)}\n".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    if path.suffix in _YAML:
        return json.dumps(load_yaml(path), sort_keys=True, default=str)
    if path.is_dir():
        return json.dumps([[file.name, digest_of(file)] for file in sorted(path.iterdir())])
    return digest_of(path)


def _stamp(path: Path) -> str:
    """Return names, sizes and times of the files of a data set, as one digest."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            about = file.stat()
            name = file.relative_to(path) if path.is_dir() else file.name
            digest.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()
