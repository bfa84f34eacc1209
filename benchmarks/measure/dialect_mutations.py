"""Mutate files of other projects many times: each is a valid run or an error with a path.

    python -m benchmarks.measure.dialect_mutations FILE [FILE ...] --count 10000

A file is changed in one to three places: a value, a key, a whole branch. Reading it must end in a
translation whose config and recipe are read in turn, or in a ConfigError that begins with a path.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.dialects.files import translated
from core.errors import ConfigError
from core.settings.config import load_yaml
from core.training.recipe import read_recipe
from core.training.run import read_run

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**9, 0.5, -0.5, float("nan"), float("inf"), "", "x", "*"),
    *("1.0/255.0", "1/0", [], [1], [[]], ["x"], {}, {"x": 1}, {"class": "X"}, {"type": "X"}),
)
PATH = re.compile(r"^[^\s:]+( \([^)]*\))?: \S")  # of an error: a key, perhaps with its strategy


def mutate(content: Mapping[str, Any], generator: random.Random) -> dict[str, Any]:
    """Return a copy of a file with one to three changes."""
    changed: Any = copy.deepcopy(dict(content))
    for _ in range(generator.randint(1, 3)):
        places = list(_places(changed))
        holder, key = generator.choice(places)
        kind = generator.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif kind == 1:
            del holder[key]
        elif kind == 2:
            other, name = generator.choice(places)
            try:
                holder[key] = copy.deepcopy(other[name])
            except (KeyError, IndexError):  # it went with an earlier change
                continue
        else:
            holder[key] = copy.deepcopy(generator.choice(VALUES))
        if not changed:
            break
    return dict(changed)


def outcome(content: Mapping[str, Any]) -> str:
    """Read a file; return `run`, `ours` or the message of its error.

    Raises:
        AssertionError: A message does not begin with a path.
    """
    try:
        translation, _ = translated(content)
        if translation is None:
            return "ours"
        settings = translation.settings
        epochs = settings.get("train", {}).get("epochs") or translation.recipe.get("epochs", 10)
        if "train" in settings and "task" in settings:
            epochs = read_run(settings).train.epochs
        kinds = [each["kind"] for each in translation.recipe.get("strategies", [])]
        read_recipe(translation.recipe, epochs, "distill" in kinds)
    except ConfigError as error:
        if PATH.match(str(error)) is None:
            raise AssertionError(f"no path: {error}") from error
        return str(error)
    return "run"


def _places(content: Any) -> Any:
    """Yield every holder with each of its keys, or indices."""
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from _places(content[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=10000, help="mutations in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator, counts = random.Random(arguments.seed), Counter[str]()
    files = [load_yaml(file) for file in arguments.files]
    for _ in range(arguments.count):
        found = outcome(mutate(generator.choice(files), generator))
        counts[found if found in ("run", "ours") else "ConfigError"] += 1
    print(", ".join(f"{name}: {count}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
