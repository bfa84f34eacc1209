"""Flip bits of every file of a checkpoint or an export, one at a time, and count what is noticed.

    python -m benchmarks.measure.bit_flips output/demo/cls/latest output/demo/cls_int8

Each flip is made in a copy, which is then opened as the tools open it, up to where weights or
programs would be used. Truncations at as many places are counted beside them. Writes
docs/benchmarks/robustness_flips.json and docs/robustness.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from benchmarks.comparison import record
from benchmarks.measure.command import revision
from benchmarks.pages.robustness import PAGE, page
from core.errors import UserError
from core.runtimes.description import DESCRIPTION, read_description
from core.training import checkpoint


def read_checkpoint(folder: Path) -> object:
    weights = checkpoint.weights_path(folder)
    return checkpoint.load_weights(weights, checkpoint.load_description(weights))


def noticed(read: Callable[[Path], object], folder: Path, file: Path) -> bool:
    """Tell whether opening a folder ends in one line that names the file."""
    try:
        read(folder)
    except UserError as error:
        return str(error).startswith(str(file)) and "\n" not in str(error)
    return False


def measure(folder: Path, count: int) -> dict[str, dict[str, int]]:
    """Return for each file how many flips and truncations were made, and how many were noticed."""
    read = read_description if (folder / DESCRIPTION).is_file() else read_checkpoint
    found = {}
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(folder, Path(place, "copy")))
        read(copy)
        for file in sorted(copy.iterdir()):
            content, rng = file.read_bytes(), random.Random(file.name)
            seen = {"bytes": len(content), "flips": count, "noticed": 0}
            seen |= {"truncations": count, "truncations_noticed": 0}
            for _ in tqdm(range(count), desc=f"{folder.name}/{file.name}", disable=None):
                flipped = bytearray(content)
                flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                file.write_bytes(flipped)
                seen["noticed"] += noticed(read, copy, file)
                file.write_bytes(content[: rng.randrange(len(content))])
                seen["truncations_noticed"] += noticed(read, copy, file)
            file.write_bytes(content)
            found[file.name] = seen
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="checkpoints and exports")
    parser.add_argument("--flips", type=int, default=1000, help="of each file (1000)")
    arguments = parser.parse_args()
    files = {
        f"{'export' if (folder / DESCRIPTION).is_file() else 'checkpoint'}, {name}": counts
        for folder in arguments.folders
        for name, counts in measure(folder, arguments.flips).items()
    }
    today = datetime.date.today().isoformat()
    entry = {"files": files, "revision": revision(), "date": today}
    record("robustness_flips", {"flips": entry}, page, PAGE)


if __name__ == "__main__":
    main()
