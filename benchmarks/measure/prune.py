"""Prune networks to shares of their MACs; train, save, export and time what is left.

Every network is measured in a process of its own and written to docs/benchmarks/prune.json as soon
as it is done; one that is there is not measured again. Weights are random, so nothing is said about
metrics here: `docs/results.md` does that.

    python -m benchmarks.measure.prune  # all networks that are not there yet
    python -m benchmarks.measure.prune --networks MobileNetV1 hrnet_w32_256x192 --again
    python -m benchmarks.measure.prune --peer l1_norm             # and PaddleSlim beside ours
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer
from paddle.static import InputSpec

from benchmarks.comparison import THREADS, load, record
from benchmarks.measure.command import revision
from benchmarks.networks import NETWORKS, ROOT, build, images, labels
from benchmarks.pages.benchmarks import page
from benchmarks.peers.paddleslim_prune import LIMIT_SECONDS, PeerJob, in_a_line, run_peer
from benchmarks.peers.processes import PeerError
from core.export.package import Exported, export
from core.export.parity import run_eager
from core.network.layers import match
from core.prune.choices import Aggregate
from core.prune.cut import plan_edit
from core.prune.planning import plan
from core.prune.planning.criteria import score
from core.prune.pruner import Cut, Pruner, fixed_specs
from core.prune.structure.analysis import Analysis
from core.prune.structure.labels import Array
from core.runtimes.environment import environment
from core.runtimes.latency_table import clock_for, shortest_ms
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml
from core.settings.processes import last_words
from core.targets.names import Backend
from core.task import Task
from core.training import checkpoint

Entry = dict[str, Any]
TARGETS = (0.3, 0.5)  # shares of the MACs
CHANNELS = 0.5  # share of the channels of every layer, beside PaddleSlim
TIME_LIMIT = 1500
MS: dict[Backend, str] = {
    "onnxruntime": "ms",
    "openvino": "openvino_ms",
    "paddle": "paddle_ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--peer", nargs="+", choices=("l1_norm", "fpgm"), default=[])
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="of PaddleSlim, s")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        _work(*arguments.job)
        return
    for network in arguments.networks:
        entry = {} if arguments.again else load("prune").get(network, {})
        if "cuts" not in entry:
            entry = _circumstances() | _child("targets", network)
            _keep(network, entry)
        missing = [name for name in arguments.peer if name not in entry.get("paddleslim", {})]
        if missing and "cuts" in entry:
            _beside(network, entry, missing, arguments.limit)
            _keep(network, entry)


def _keep(network: str, entry: Entry) -> None:
    record("prune", {network: entry}, page)
    print(network, json.dumps({k: v for k, v in entry.items() if k != "environment"}), flush=True)


def _circumstances() -> Entry:
    return {
        "revision": revision(),
        "load_average": round(os.getloadavg()[0], 1),
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def _child(kind: str, network: str, folder: str = "") -> Entry:
    """Do a job in a process of its own; what goes wrong there is the result."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place, "result.json")
        command = [sys.executable, os.path.abspath(__file__), "--job", kind, network]
        try:
            done = subprocess.run(
                [*command, folder or place],
                env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT), "RESULT": str(result)},
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {TIME_LIMIT} s"}
        if not result.is_file():
            return {"error": last_words(done)[:240]}
        found: Entry = json.loads(result.read_text(encoding="utf-8"))
        return found


def _work(kind: str, network: str, folder: str) -> None:
    measure = {"targets": measure_targets, "channels": measure_channels}[kind]
    result = json.dumps(measure(network, Path(folder)))
    Path(os.environ["RESULT"]).write_text(result, encoding="utf-8")


def measure_targets(network: str, folder: Path) -> Entry:
    """Cut to each target, and look at what is left."""
    task, model = build(network)
    specs = fixed_specs(task)
    whole = _counts(export(task, model, folder / "whole", ("paddle", "onnx")))
    whole["checkpoint_bytes"] = _saved_bytes(folder / "checkpoint", task, model)
    cuts: dict[str, Entry] = {}
    for target in TARGETS:
        task, model = build(network)
        cuts[str(target)] = _measure_cut(task, model, specs, target, folder, whole)
    _time_all(folder, specs, whole, cuts)
    return {"input": list(specs[0].shape), "whole": whole, "cuts": cuts}


def _measure_cut(
    task: Task, model: Layer, specs: Sequence[InputSpec], target: float, folder: Path, whole: Entry
) -> Entry:
    fixed, hinting = never_prune(task, model)
    begin = time.process_time()
    cut = Pruner(model, specs, fixed).cut(partial(cut_to, model, target))
    found: Entry = {"seconds": time.process_time() - begin, "hints_seconds": hinting}
    found["fixed_channels"] = sum(fixed.channels for fixed in cut.analysis.fixed)
    steps: dict[str, Callable[[], Entry]] = {
        "training": lambda: train_step(task, model),
        "checkpoint": lambda: _save_and_restore(folder / f"cut {target}", task, model, cut, specs),
        "export": lambda: _export(task, model, folder / str(target), whole),
    }
    for name, step in steps.items():
        try:
            found |= step()
        except Exception as error:  # noqa: BLE001 - the other steps are worth knowing all the same
            found.setdefault("failed", {})[name] = in_a_line(error)
    return found


def never_prune(task: Task, model: Layer) -> tuple[dict[str, str], float]:
    """Ask the task what must stay, as `build_pruner` does; return it and the seconds that takes."""
    begin = time.process_time()
    hinted = task.slim_hints(model).never_prune
    names = [path for path, _ in model.named_sublayers()]
    fixed = dict.fromkeys(match(hinted, names, "never_prune"), "hint") if hinted else {}
    return fixed, time.process_time() - begin


def cut_to(model: Layer, target: float, analysis: Analysis) -> Array:
    (settings,) = load_yaml(ROOT / "configs/slim/prune.yml")["strategies"]
    scores = score(model, analysis.groups, analysis.weights, settings["criterion"])
    ranking = plan.Ranking(analysis, scores, settings["round_to"], even_halves=True)
    limit = analysis.cost.macs(analysis.keep_all()) * (1 - target)
    return ranking.keep(plan.uniform(ranking, analysis.cost.macs, limit))


def train_step(task: Task, model: Layer) -> Entry:
    """Take a step of training with the task's own loss, on labels that mean nothing."""
    (image,) = images(task)
    optimizer = paddle.optimizer.Momentum(0.001, parameters=model.parameters())
    model.train()
    outputs = task.name_outputs(model(image))
    loss = paddle.add_n(list(task.losses(outputs, labels(task, outputs, image.shape)).values()))
    loss.backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    before = [p.numpy() for p in trained]
    optimizer.step()
    model.eval()
    moved = sum(not np.array_equal(old, p.numpy()) for old, p in zip(before, trained))
    finite = all(np.isfinite(p.numpy()).all() for p in trained)
    if not np.isfinite(float(loss)) or not finite or moved == 0:
        raise ArithmeticError(f"loss {float(loss)}, {moved} weights moved, finite: {finite}")
    return {"loss": float(loss), "weights_moved": moved}


def _save_and_restore(
    folder: Path, task: Task, model: Layer, cut: Cut, specs: Sequence[InputSpec]
) -> Entry:
    size = _saved_bytes(folder, task, model, [("prune", {"cuts": [cut.edit.to_record()]})])
    _, again = checkpoint.restore(folder)
    image = np.random.default_rng(0).normal(size=specs[0].shape).astype("float32")
    for name, wanted in run_eager(model, [image]).items():
        if np.ptp(wanted) == 0:
            raise ArithmeticError(f"{name}: one number everywhere, which proves nothing")
        if not np.array_equal(run_eager(again, [image])[name], wanted):
            raise ArithmeticError(f"{name}: the restored model answers differently")
    return {"checkpoint_bytes": size}


def _saved_bytes(
    folder: Path, task: Task, model: Layer, edits: Sequence[checkpoint.RecordedEdit] = ()
) -> int:
    checkpoint.save(folder, checkpoint.describe(task, edits), model.state_dict())
    return sum(file.stat().st_size for file in folder.iterdir())


def _export(task: Task, model: Layer, folder: Path, whole: Entry) -> Entry:
    """Export and compare; what was removed is counted anew, in the exported network."""
    made = export(task, model, folder, ("paddle", "onnx"))
    counts = _counts(made)
    far: dict[str, float] = {}
    for each in made.differences:
        far[each.runtime] = max(far.get(each.runtime, 0.0), each.relative or 0.0)
    return {**counts, "removed": 1 - counts["macs"] / whole["macs"], "differences": far}


def _counts(made: Exported) -> Entry:
    counted = made.description.report
    assert counted is not None
    size = made.file_bytes["model.onnx"]
    return {"macs": counted.macs, "parameters": counted.parameters, "onnx_bytes": size}


def _time_all(
    folder: Path, specs: Sequence[InputSpec], whole: Entry, cuts: dict[str, Entry]
) -> None:
    """Let the exported networks take turns in each runtime, on one thread."""
    image = np.random.default_rng(0).normal(size=specs[0].shape).astype("float32")
    entries = {"whole": whole, **{key: cut for key, cut in cuts.items() if "macs" in cut}}
    for backend, key in MS.items():
        runs = [
            partial(load_predictor(folder / name, backend, threads=1).run, image)
            for name in entries
        ]
        times = shortest_ms(runs, clock_for(1), least_runs=15, least_seconds=1.0)
        for entry, milliseconds in zip(entries.values(), times):
            entry[key] = milliseconds


def measure_channels(network: str, folder: Path) -> Entry:
    """Cut half of the channels of every layer, as PaddleSlim is asked to.

    The network before goes to `folder/checkpoint`; `kept` is what ours would keep by each criterion
    if the first layer of a group decided, as with PaddleSlim.
    """
    task, model = build(network)
    _saved_bytes(folder / "checkpoint", task, model)
    specs = fixed_specs(task)
    fixed, _ = never_prune(task, model)
    begin = time.process_time()
    pruner = Pruner(model, specs, fixed)
    ready = time.process_time() - begin
    kept = {}
    for criterion in ("l1_norm", "fpgm"):
        keep = _half(model, criterion, "first", pruner.analysis)
        kept[criterion] = plan_edit(model, pruner.analysis, keep).kept
    begin = time.process_time()
    cut = pruner.cut(partial(_half, model, "l1_norm", "mean"))
    seconds = ready + time.process_time() - begin
    run_eager(model, [np.zeros(specs[0].shape, "float32")])
    edits = [("prune", {"cuts": [cut.edit.to_record()]})]
    size = _saved_bytes(folder / "pruned", task, model, edits)
    (macs, macs_left), (_, parameters) = cut.macs, cut.parameters
    return {
        "kept": kept,
        "ours": {
            "seconds": seconds,
            "macs_removed": 1 - macs_left / macs,
            "parameters": parameters,
            "checkpoint_bytes": size,
        },
    }


def _half(model: Layer, criterion: Any, aggregate: Aggregate, analysis: Analysis) -> Array:
    scores = score(model, analysis.groups, analysis.weights, criterion, aggregate)
    ranking = plan.Ranking(analysis, scores)
    return ranking.keep(ranking.counts([CHANNELS] * len(analysis.groups)))


def _beside(network: str, entry: Entry, criteria: Sequence[str], limit: float) -> None:
    """Let PaddleSlim do on the same weights what `measure_channels` does."""
    with tempfile.TemporaryDirectory() as folder:
        ours = _child("channels", network, folder)
        entry["half_of_channels"] = ours.get("ours", ours)
        found = entry.setdefault("paddleslim", {})
        for criterion in criteria:
            found[criterion] = {"error": "not asked, for ours failed"}
            if "kept" not in ours:
                continue
            shape = tuple(entry["input"])
            place = f"{folder}/checkpoint"
            job = PeerJob(place, shape, {criterion: ("*",)}, (CHANNELS,), measure=True)
            try:
                found[criterion] = _ask(job, limit, ours["kept"][criterion])
            except PeerError as error:
                found[criterion] = {"error": str(error)}


def _ask(job: PeerJob, limit: float, ours: Entry) -> Entry:
    (cut,) = run_peer(job, limit)
    axes = {(name, str(axis)): k for name, by in cut["kept"].items() for axis, k in by.items()}
    own = {(name, axis): kept for name, by in ours.items() for axis, kept in by.items()}
    return {
        "seconds": cut["seconds"],
        "macs_removed": 1 - cut["macs"][1] / cut["macs"][0],
        "parameters": cut["parameters"][1],
        "checkpoint_bytes": cut["checkpoint_bytes"][1],
        "checkpoint_bytes_before": cut["checkpoint_bytes"][0],
        "same_channels": sum(own.get(axis) == kept for axis, kept in axes.items()),
        "axes": len(axes),
    }


if __name__ == "__main__":
    main()
