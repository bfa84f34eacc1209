"""Prune, train, export and quantize every network of PaddleClas, or say why not.

    python -m benchmarks.measure.all_networks                 # all that have no result yet
    python -m benchmarks.measure.all_networks --families      # the smallest of each family first
    python -m benchmarks.measure.all_networks --networks DeiT_tiny_patch16_224 --again

Each network runs in a process of its own with limits on time and memory. Weights are random, in a
way that every layer has a say. What is done, each from the fresh network:

- prune: cut 30 % of the multiply-accumulates as `configs/slim/prune.yml` does it; a step of
  training moves the weights;
- export: the pruned network (the whole one if it cannot be pruned) as Paddle and ONNX files, which
  are compared with the eager network in three runtimes;
- ptq: quantize the whole network on a few images, and export and compare the int8 files.

A reason is the product's own message. Whatever else an exception says is a crash. Results go to
docs/benchmarks/all_networks.json, after each network, and to docs/networks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import psutil
from paddle.nn import Layer

from benchmarks.comparison import THREADS, load, record
from benchmarks.measure.command import revision
from benchmarks.measure.prune import cut_to, never_prune, train_step
from benchmarks.networks import enliven
from benchmarks.pages.networks import page
from benchmarks.peers.paddleslim_prune import in_a_line
from core.errors import UserError
from core.export.package import Exported, export
from core.export.parity import many_batches, run_eager
from core.network.batch_norms import reestimate
from core.prune.pruner import Cut, Pruner, fixed_specs
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.environment import environment
from core.task import Task, build_task
from tasks.cls.models.backbones import family, list_backbones

Entry = dict[str, Any]
TARGET = 0.3  # share of the multiply-accumulates to remove
CLASSES, IMAGES = 10, 8
SIDE = 96  # of the image, if the network takes it
TIME_LIMIT, MEMORY_LIMIT_GB = 600, 9.0
HANGS = 5  # times the limit by the clock on the wall, on a machine with other work
STEPS = ("prune", "export", "ptq")
SIZES = ("tiny", "small", "base", "large", "huge", "giant")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list_backbones()
    parser.add_argument("--networks", nargs="+", choices=names, default=[], metavar="NAME")
    parser.add_argument("--families", action="store_true", help="the smallest of each family only")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--again", action="store_true", help="what has a result, too")
    parser.add_argument("--failed", action="store_true", help="only what crashed before")
    arguments = parser.parse_args()
    chosen = arguments.networks or in_order(names, arguments.families)
    loaded = {"revision": revision(), "environment": environment()}
    for name in chosen:
        known = load("all_networks").get(name, {})
        steps = [each for each in arguments.steps if arguments.again or each not in known]
        if arguments.failed:
            steps = [each for each in arguments.steps if "crash" in known.get(each, {})]
        if steps:
            found = measure_apart(name, steps)
            found |= {**loaded, "date": datetime.date.today().isoformat()}
            record("all_networks", {name: known | found}, page, "networks.md")
            told = {key: found[key] for key in STEPS if key in found}
            print(name, json.dumps(told), flush=True)


def in_order(names: list[str], families: bool) -> list[str]:
    """Return the smallest network of each family, then the others."""
    by_family: dict[str, list[str]] = {}
    for name in sorted(names, key=_size):
        by_family.setdefault(family(name), []).append(name)
    first = [members[0] for members in by_family.values()]
    return first if families else [*first, *sorted(set(names) - {*first}, key=_size)]


def _size(name: str) -> tuple[int, list[float], str]:
    """Guess an order of size from a name: words, then numbers, then how many letters S, M, L, X."""
    words = [SIZES.index(word) for word in SIZES if word in name.lower()]
    numbers = [float(part.replace("_", ".")) for part in re.findall(r"\d+(?:_\d+)?", name)]
    return (words or [1])[0], numbers, name


def measure_apart(name: str, steps: list[str]) -> Entry:
    """Do the steps of a network in a process of its own; what goes wrong there is the result."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.measure.all_networks"])
    with tempfile.TemporaryDirectory() as place:
        process = context.Process(target=_work, args=(name, steps, place))
        process.start()
        ended = _wait(process)
        result = Path(place, "result.json")
        found: Entry = json.loads(result.read_text("utf-8")) if result.is_file() else {}
        if ended:
            said = Path(place, "said.txt").read_text("utf-8", "replace").splitlines()[-1:]
            step = next(each for each in (*steps, "") if each not in found)
            found[step] = {ended[0]: ": ".join([ended[1], *(said if ended[0] == "crash" else [])])}
    return found


def _wait(process: Any) -> tuple[str, str] | None:
    """Wait for a process within its limits; return how it ended, and what to say of it."""
    begin, this = time.monotonic(), psutil.Process(process.pid)
    while process.is_alive():
        process.join(0.5)
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = [this, *this.children(recursive=True)]
            memory = sum(each.memory_info().rss for each in tree) / 2**30
            spent = sum(sum(each.cpu_times()[:4]) for each in tree)  # with children that ended
            over = None
            if memory > MEMORY_LIMIT_GB:
                over = f"needs more than {MEMORY_LIMIT_GB:g} GB of memory"
            if spent > TIME_LIMIT:
                over = f"not done after {TIME_LIMIT} s of processor time"
            if time.monotonic() - begin > HANGS * TIME_LIMIT:
                over = f"not done after {HANGS * TIME_LIMIT} s"
            if over:
                for each in tree:
                    each.kill()
                process.join()
                return "limit", over
    status = process.exitcode
    return ("crash", f"the process ended with status {status}") if status else None


def _work(name: str, steps: list[str], place: str) -> None:
    os.environ.update(THREADS)
    os.chdir(place)
    with Path("said.txt").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    for found in do(name, steps, Path(place)):
        Path("partial.json").write_text(json.dumps(found), encoding="utf-8")
        Path("partial.json").replace("result.json")


class Network:
    """A network of PaddleClas, built anew for each step, with images of a size that it takes."""

    def __init__(self, name: str) -> None:
        self.name = name
        refusals: list[Exception] = []
        sides = _demanded_sides(name)
        # at 96 pixels the last map of Inception has one place, which no one prunes for
        for side in sides if name.startswith("Inception") else (SIDE, *sides):
            task, model = self.build(side)
            try:
                run_eager(model, [np.zeros(fixed_specs(task)[0].shape, "float32")])
            except Exception as error:  # noqa: BLE001 - whatever its code says of the size
                refusals.append(error)
            else:
                self.side = side
                return
        refusal = refusals[-len(sides)]  # at the size that its name or its authors tell
        raise UserError(f"runs on no image, its code raises {in_a_line(refusal)}")

    def build(self, side: int | None = None) -> tuple[Task, Layer]:
        """Build it with the same random weights every time, and norms that know some images."""
        settings: Entry = {
            "model": {"name": self.name, "num_classes": CLASSES},
            "data": {"root": "nowhere", "image_size": side or self.side},
        }
        task = build_task("cls", settings)
        paddle.seed(0)
        model = task.build_model()
        if side is None:
            enliven(model)
            reestimate(model, _batches(task))
        return task, model


def _demanded_sides(name: str) -> list[int]:
    named = [int(number) for number in re.findall(r"(?<!\d)(256|336|384)(?!\d)", name)]
    return named or ([299] if name.startswith("Inception") else [224, 256])


def _batches(task: Task) -> list[list[paddle.Tensor]]:
    arrays = many_batches(task, task.input_spec(), IMAGES)
    return [[paddle.to_tensor(each) for each in batch] for batch in arrays]


def do(name: str, steps: list[str], folder: Path) -> Iterator[Entry]:
    """Yield the results so far after each step."""
    found: Entry = {}
    try:
        network = Network(name)
    except Exception as error:  # noqa: BLE001 - what goes wrong is the result
        yield {step: _failed(error) for step in steps}
        return
    found["side"] = network.side
    pruned: list[tuple[Task, Layer]] = []
    work: dict[str, Callable[[], Entry]] = {
        "prune": partial(prune, network, pruned),
        "export": partial(export_float, network, pruned, folder),
        "ptq": partial(quantize, network, folder),
    }
    if "export" in steps and "prune" not in steps:
        with contextlib.suppress(Exception):
            prune(network, pruned)
    for step in steps:
        begin = time.process_time()
        try:
            found[step] = work[step]()
        except Exception as error:  # noqa: BLE001 - what goes wrong is the result
            found[step] = _failed(error)
        found[step]["seconds"] = round(time.process_time() - begin, 1)
        yield found


def _failed(error: Exception) -> Entry:
    if isinstance(error, UserError):
        told = re.sub(r"; the files are in .*|/tmp/\S*/", "", " ".join(str(error).split()))
        return {"reason": told}
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    where = [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames]
    return {"crash": in_a_line(error), "where": where}


def prune(network: Network, pruned: list[tuple[Task, Layer]]) -> Entry:
    """Cut the network, and train what is left for a step."""
    task, model = network.build()
    fixed, _ = never_prune(task, model)
    cut = Pruner(model, fixed_specs(task), fixed).cut(partial(cut_to, model, TARGET))
    pruned.append((task, model))
    (macs, left), (parameters, parameters_left) = cut.macs, cut.parameters
    entry: Entry = {
        "macs": macs,
        "removed": round(1 - left / macs, 4),
        "parameters": parameters,
        "parameters_removed": round(1 - parameters_left / parameters, 4),
        "stay": stays(cut),
    }
    answers = run_eager(
        model, [np.random.default_rng(0).random((2, 3, *task.config.data.input_size), "float32")]
    )
    for name, answer in answers.items():
        if not np.isfinite(answer).all() or np.ptp(answer) == 0:
            raise ArithmeticError(f"{name}: the pruned network answers {answer.reshape(-1)[:3]}")
    return entry | train_step(task, model)


def stays(cut: Cut) -> list[Any]:
    """Return why channels stay, with how many channels and layers, most first."""
    found: dict[str, list[Any]] = {}
    for fixed in cut.analysis.fixed:
        counts = found.setdefault(fixed.reason.why, [0, 0, str(fixed.reason)])
        counts[0] += fixed.channels
        counts[1] += 1
    return sorted(found.values(), reverse=True)[:4]


def export_float(network: Network, pruned: list[tuple[Task, Layer]], folder: Path) -> Entry:
    """Export the pruned network, or the whole one, and compare."""
    task, model = pruned[0] if pruned else network.build()
    made = export(task, model, folder / "float", ("paddle", "onnx"))
    return {"of": "pruned" if pruned else "whole", "differences": _differences(made)}


def quantize(network: Network, folder: Path) -> Entry:
    """Quantize the whole network, export it in int8 and compare."""
    task, model = network.build()
    batches = _batches(task)
    choice = quantize_after_training(task, model, lambda: batches, PtqConfig(target="openvino"))
    made = export(task, model, folder / "int8", ("paddle", "onnx"))
    files = ("model.onnx", "model.pdiparams")
    return {
        "layers": len(choice.layers),
        "share": {n: round(made.file_bytes[n] / made.float_bytes[n], 3) for n in files},
        "differences": _differences(made),
    }


def _differences(made: Exported) -> dict[str, float]:
    """Return the largest difference by runtime; none where only equal answers are counted."""
    far: dict[str, float] = {}
    for each in made.differences:
        if each.relative is not None:
            far[each.runtime] = max(far.get(each.runtime, 0.0), each.relative)
    return far


if __name__ == "__main__":
    main()
