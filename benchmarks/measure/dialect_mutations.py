"""Mutate files of other projects many times: each is a valid run or an error with a path.

    python -m benchmarks.measure.dialect_mutations                       # the files of the tests
    python -m benchmarks.measure.dialect_mutations FILE [FILE ...] --dry

A file is changed in one to three places: a value, a key, a whole branch. Reading it must end in a
translation whose config and recipe are read in turn, with a schedule and an optimizer that make a
step, or in an error for the user that begins with a path. A file that no longer shows whose it is,
is read as one of ours. Writes docs/benchmarks/robustness_dialects.json and docs/robustness.md.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import logging
import random
import re
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.comparison import record
from benchmarks.measure.command import revision
from benchmarks.measure.fuzz_settings import make_step
from benchmarks.pages import robustness
from core.act.config import read_act
from core.dialects.act import is_act
from core.dialects.files import translated
from core.errors import UserError
from core.settings.config import load_yaml
from core.training.recipe import read_recipe
from core.training.run import read_run

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**9, 0.5, -0.5, float("nan"), float("inf"), "", "x", "*"),
    *("1.0/255.0", "1/0", [], [1], [[]], ["x"], {}, {"x": 1}, {"class": "X"}, {"type": "X"}),
    # whole numbers too large for floating point, dates, keys that are no text
    *(
        10**400,
        "1e999",
        "a\nb: c",
        "\x00",
        "../..",
        datetime.date(2020, 1, 1),
        {1: 2},
        {None: True},
    ),
    *([None], [[1, [2]]], [{"x": 1}], ["x", 1, None]),
)
FILES = Path(__file__).resolve().parents[2] / "tests" / "core" / "dialects" / "files"
SHOWN = 10  # tracebacks
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
    """Read a file; return `run` or the message of its error.

    Raises:
        AssertionError: A message does not begin with a path.
    """
    try:
        if is_act(content):
            read_act(dict(content))
            return "run"
        translation, _ = translated(content)
        if translation is None:
            make_step(read_run(dict(content)))
            return "run"
        settings = translation.settings
        epochs = settings.get("train", {}).get("epochs") or translation.recipe.get("epochs", 10)
        if "train" in settings and "task" in settings:
            run = read_run(settings)
            make_step(run)
            epochs = run.train.epochs
        kinds = [each["kind"] for each in translation.recipe.get("strategies", [])]
        read_recipe(translation.recipe, epochs, "distill" in kinds)
    except UserError as error:
        if PATH.match(str(error)) is None:
            raise AssertionError(f"no path: {error}") from error
        return str(error)
    return "run"


def measure(files: Sequence[Path], count: int, seed: int) -> dict[str, Any]:
    """Change files so many times in all; return how reading those of each project ended."""
    generator, ends = random.Random(seed), dict[str, Counter[str]]()
    contents = [(dialect_of(content), content) for content in map(load_yaml, files)]
    shown = 0
    for number in tqdm(range(count), disable=None):
        dialect, content = generator.choice(contents)
        changed = mutate(content, generator)
        try:
            end = "accepted" if outcome(changed) == "run" else "refused"
        except AssertionError:
            end = "no path"
        except Exception:  # noqa: BLE001 - what is looked for
            end = "traceback"
        if end in ("no path", "traceback") and shown < SHOWN:
            shown += 1
            print(f"mutation {number}, {dialect}: {changed}\n{traceback.format_exc()}", flush=True)
        ends.setdefault(dialect, Counter())[end] += 1
    return {
        "ends": {dialect: dict(counts) for dialect, counts in sorted(ends.items())},
        "files": len(files),
        "seed": seed,
        "revision": revision(),
        "date": datetime.date.today().isoformat(),
    }


def dialect_of(content: Mapping[str, Any]) -> str:
    """Return whose words a file is written in."""
    if is_act(content):
        return "ACT"
    translation, _ = translated(content)
    return translation.dialect if translation else "ours"


def _places(content: Any) -> Any:
    """Yield every holder with each of its keys, or indices."""
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from _places(content[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="(those of the tests)")
    parser.add_argument("--count", type=int, default=10_000, help="mutations in all (10,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="do not write the page")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    files = arguments.files or sorted(FILES.glob("*.yml"))
    found = measure(files, arguments.count, arguments.seed)
    print(found)
    if not arguments.dry:
        record("robustness_dialects", {"dialects": found}, robustness.page, robustness.PAGE)


if __name__ == "__main__":
    main()
