"""Read thousands of wrong configs, recipes and overrides, and count tracebacks and hangs.

    python -m benchmarks.measure.fuzz_settings --cases 100000
    python -m benchmarks.measure.fuzz_settings --cases 100000 --resume     # after it was stopped
    python -m benchmarks.measure.fuzz_settings --first 1961 --cases 1      # one of them, looked at

Each case spoils a few settings of a file in `configs/` and reads it as the tools do. A config that
is accepted is used, too: a sample is drawn, the schedule is asked for its rates, the optimizer
makes a step. Every end but success and one line for the user is counted and shown with its seed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml
from tqdm import tqdm

from benchmarks.comparison import load, record
from benchmarks.measure.command import revision
from benchmarks.measure.spoil import spoil, spoil_text, spoilt_override
from benchmarks.pages import robustness
from core.act.config import read_act
from core.cli import MOST_CHARACTERS
from core.errors import UserError
from core.settings.config import load_yaml, merge, parse_overrides
from core.training.optimizers import Optimizer
from core.training.recipe import read_recipe, recipe_epochs, suggested_epochs
from core.training.run import Run, read_run
from core.training.schedules import learning_rate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SECONDS, WAITING = 10, 60  # of the processor and in all, after which a case counts as hanging
LARGEST_SIDE = 1024  # of inputs that are drawn
SHOWN = 10  # tracebacks, of each block
BLOCK = 5000  # cases after which the page is written
Ends = dict[str, dict[str, int]]
Settings = dict[str, Any]


class Hanging(Exception):  # noqa: N818 - it ends a case
    """A case took too long."""


class Fuzzer:
    """Makes and reads the cases, each by its number alone.

    Args:
        folder: To write files and drawn data into; the process works there from now on.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder / "two" / "levels"  # paths like ../.. lead to the cases' own files
        folder.mkdir(parents=True)
        os.chdir(folder)
        self._file = folder / "case.yml"
        os.mkfifo(folder / "fifo")
        (folder / "loop").symlink_to(folder / "loop")
        tasks = ("cls", "seg", "keypoint")
        self._configs = [load_yaml(file) for task in tasks for file in _files(task)]
        self._recipes = [load_yaml(file) for file in _files("slim")]
        self._act = [load_yaml(file) for file in _files("act")]
        self._demos = {task: load_yaml(CONFIGS / task / "demo.yml") for task in tasks}
        for task, demo in self._demos.items():
            demo["data"]["root"] = str(folder / task)
            demo["synthetic"] |= {"train_images": 8, "val_images": 4}
            read_run(demo).task.build_dataset("train")
        self._texts = {task: yaml.safe_dump(demo) for task, demo in self._demos.items()}
        read_run(self._demos["cls"]).task.build_model()  # loads PaddleClas
        self.kinds: dict[str, Callable[[random.Random], None]] = {
            "configs": self._config,
            "recipes": self._recipe,
            "overrides": self._override,
            "compression configs": self._act_config,
            "texts": self._text,
        }

    def run(self, number: int) -> tuple[str, str]:
        """Run a case; return its kind, and how it ended."""
        rng = random.Random(number)
        kind = rng.choice(list(self.kinds))
        try:
            with _limit():
                self.kinds[kind](rng)
        except UserError as error:
            return kind, "refused" if len(str(error)) < MOST_CHARACTERS else "long"
        except Hanging:
            return kind, "hang"
        except Exception:  # noqa: BLE001 - what is looked for
            return kind, f"traceback\ncase {number} ({kind})\n{traceback.format_exc()}"
        return kind, "accepted"

    def _config(self, rng: random.Random) -> None:
        drawn = rng.choice([*self._configs, *self._demos.values()])
        self._use(self._through_file(spoil(drawn, rng), rng), rng)

    def _recipe(self, rng: random.Random) -> None:
        recipe = self._through_file(spoil(rng.choice(self._recipes), rng), rng)
        epochs = recipe_epochs(recipe) or 20
        if rng.random() < 0.02:  # builds the network
            run = read_run(self._demos["cls"])
            suggested_epochs(recipe, run.task, run.train.epochs)
        read_recipe(recipe, epochs, rng.random() < 0.5)

    def _override(self, rng: random.Random) -> None:
        demo = rng.choice(list(self._demos.values()))
        overrides = [spoilt_override(demo, rng) for _ in range(rng.randint(1, 3))]
        self._use(merge(demo, parse_overrides(overrides)), rng)

    def _act_config(self, rng: random.Random) -> None:
        read_act(self._through_file(spoil(rng.choice(self._act), rng), rng))

    def _text(self, rng: random.Random) -> None:
        text = rng.choice(list(self._texts.values()))
        self._file.write_bytes(spoil_text(text, rng))
        self._use(load_yaml(self._file), rng)

    def _through_file(self, settings: Settings, rng: random.Random) -> Settings:
        """Write some settings and read them again, where YAML can say what they are."""
        if rng.random() < 0.3:
            with contextlib.suppress(yaml.YAMLError, UnicodeError, RecursionError):
                self._file.write_text(yaml.safe_dump(settings), encoding="utf-8")
                return load_yaml(self._file)
        return settings

    def _use(self, settings: Settings, rng: random.Random) -> None:
        run = read_run(settings)
        make_step(run)
        demo = self._demos.get(run.task.name)
        if demo is None:
            return
        data = {k: v for k, v in demo["data"].items() if "size" not in k and k != "num_workers"}
        settings = merge({**settings, "synthetic": None}, {"data": data, "model": demo["model"]})
        run = read_run(settings)
        shape = run.task.input_spec()[0].shape
        crops = str(getattr(run.task.config.augment, "crop", ""))
        if max(side or 0 for side in shape[2:]) > LARGEST_SIDE or len(crops) > len("(1024, 1024)"):
            return
        dataset = run.task.build_dataset("train")
        generator = np.random.default_rng(0)
        samples = [dataset.sample(i, generator) for i in range(2)]
        dataset.collate(samples, generator)


def _files(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).glob("*.yml"))


def make_step(run: Run) -> None:
    """Ask for rates all over the training, and make a step of the optimizer."""
    train = run.train
    total = train.epochs * 3
    for step in (0, 1, total // 2, total - 1):
        rate = learning_rate(train.learning_rate, train.schedule, step, total, 3)
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(f"rate {rate} in step {step} of {total}")
    parameter = paddle.create_parameter([2], "float32")
    optimizer = Optimizer({"p": parameter}, train.optimizer, train.clip_norm)
    parameter.sum().backward()
    optimizer.step(min(rate, 1.0))
    if not bool(paddle.isfinite(parameter).all()):
        raise ValueError("the optimizer's step is not finite")


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hanging

    timers = {signal.ITIMER_PROF: SECONDS, signal.ITIMER_REAL: WAITING}
    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    for timer, seconds in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)


def measure(fuzzer: Fuzzer, first: int, cases: int) -> Ends:
    """Run so many cases; return how often those of each kind ended in which way."""
    ends: dict[str, Counter[str]] = {}
    shown = 0
    for number in tqdm(range(first, first + cases), disable=None):
        kind, end = fuzzer.run(number)
        name, _, text = end.partition("\n")
        ends.setdefault(kind, Counter())[name] += 1
        if name not in ("accepted", "refused") and shown < SHOWN:
            shown += 1
            print(text or f"case {number} ({kind}): {name}", flush=True)
    return {kind: dict(counts) for kind, counts in ends.items()}


def measure_and_record(fuzzer: Fuzzer, cases: int, found: dict[str, Any]) -> None:
    """Go on from what was found until there are so many cases; write the page now and then."""
    while found["cases"] < cases:
        started, count = time.time(), min(BLOCK, cases - found["cases"])
        ends = measure(fuzzer, found["cases"], count)
        for kind in sorted({*ends, *found["ends"]}):
            total = Counter(found["ends"].get(kind, {})) + Counter(ends.get(kind, {}))
            found["ends"][kind] = dict(sorted(total.items()))
        found |= {
            "cases": found["cases"] + count,
            "seconds": round(found["seconds"] + time.time() - started),
            "revision": revision(),
            "date": time.strftime("%Y-%m-%d"),
        }
        record("robustness_settings", {"settings": found}, robustness.page, robustness.PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="how many in all (100,000)")
    parser.add_argument("--resume", action="store_true", help="go on after the cases of the page")
    parser.add_argument("--first", type=int, help="begin with this case, and do not write the page")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    known = load("robustness_settings") if arguments.resume else {}
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder))
        if arguments.first is not None:
            print(measure(fuzzer, arguments.first, arguments.cases))
        else:
            empty = {"cases": 0, "seconds": 0, "ends": {}}
            measure_and_record(fuzzer, arguments.cases, known.get("settings", empty))


if __name__ == "__main__":
    main()
