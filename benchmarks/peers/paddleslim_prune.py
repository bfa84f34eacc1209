"""Prune a checkpoint with PaddleSlim, in a process of its own, and say which channels it keeps.

PaddleSlim 2.6.0 reads graphs of the old IR, calls a function of Paddle by a name that 3.1 no longer
has, and leaves a process other than it was; so it is only ever run as a child:

    FLAGS_enable_pir_api=0 python -m benchmarks.peers.paddleslim_prune JOB RESULT

JOB is the JSON of a `PeerJob`, RESULT a file to write.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401
import dataclasses
import fnmatch
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer
from paddle.static import InputSpec

from benchmarks.peers.processes import PeerError, ask_paddleslim
from core.graph.cost import count_macs, count_parameters
from core.prune.cut import Indices
from core.prune.structure.analysis import Analysis
from core.prune.structure.labels import Array
from core.training import checkpoint

LIMIT_SECONDS = 200
SEARCH_STEPS = 12


@dataclass(frozen=True)
class PeerJob:
    """What to prune.

    Attributes:
        checkpoint: Of ours.
        shape: [N, C, H, W] of its input.
        criteria: `l1_norm`, `fpgm`, each a pruner of PaddleSlim, with globs on the weights of which
            it is asked to remove channels.
        ratios: Shares of the channels of every convolution to remove, each from the whole network.
        target: Instead of `ratios`, share of its FLOPs; the same ratio everywhere, by bisection.
        measure: Also cut, count, save and run what is left; otherwise only choose.
    """

    checkpoint: str
    shape: tuple[int, ...]
    criteria: dict[str, tuple[str, ...]]
    ratios: tuple[float, ...] = (0.5,)
    target: float | None = None
    measure: bool = False


def run_peer(job: PeerJob, limit: float = LIMIT_SECONDS) -> list[dict[str, Any]]:
    """Return one entry per criterion and ratio.

    Args:
        job: What to prune.
        limit: Seconds of processor time that the process may take, for all it does.

    Raises:
        PeerError: It failed, or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        arguments = [json.dumps(dataclasses.asdict(job)), str(result)]
        found = ask_paddleslim(__file__, arguments, result, limit)
    if "error" in found:
        raise PeerError(found["error"])
    for cut in found["cuts"]:
        cut["kept"] = {n: {int(a): k for a, k in by.items()} for n, by in cut["kept"].items()}
    return list(found["cuts"])


def to_mask(analysis: Analysis, kept: Mapping[str, Mapping[int, list[int]]]) -> Array:
    """Express what the peer keeps in the labels of ours.

    Raises:
        PeerError: It cuts where ours sees nothing to cut, or not all that belongs together.
    """
    keep = analysis.keep_all()
    for name, axis, gone in _removed(kept, analysis):
        if gone.any() and axis not in analysis.weights.get(name, {}):
            raise PeerError(f"{name}: axis {axis} is cut, which leads nowhere in our graph")
        if gone.any():
            keep[analysis.weights[name][axis][gone]] = False
    for name, axis, gone in _removed(kept, analysis):
        if not np.array_equal(keep[analysis.weights[name][axis]], ~gone):
            raise PeerError(f"{name}: axis {axis} keeps channels that are cut elsewhere")
    return keep


def _removed(
    kept: Mapping[str, Mapping[int, list[int]]], analysis: Analysis
) -> Iterator[tuple[str, int, Array]]:
    shapes = {n: s for t in analysis.graphs for n, s in t.graph.shapes.items()}
    for name, axes in kept.items():
        for axis, positions in axes.items():
            gone = np.ones(shapes[name][axis], bool)
            gone[positions] = False
            yield name, axis, gone


def _prune(job: PeerJob) -> list[dict[str, Any]]:
    task, model = checkpoint.restore(job.checkpoint)
    name = task.input_spec()[0].name
    specs = [InputSpec(list(job.shape), "float32", name)]
    found = []
    for criterion, only in job.criteria.items():
        before = _measures(model, specs) if job.measure else {}
        model.train()  # as PaddleSlim wants it: heads that only training has are to be seen
        begin = time.process_time()
        pruner = _pruner(criterion, model, job.shape)
        building = time.process_time() - begin
        wanted = _weights(pruner, only)
        ratios = job.ratios if job.target is None else (_ratio_for(pruner, wanted, job.target),)
        for ratio in ratios:
            begin = time.process_time()
            how = "impretive" if job.measure else None  # sic; None: only choose
            plan = pruner.prune_vars(dict.fromkeys(wanted, ratio), 0, apply=how)
            seconds = building + time.process_time() - begin
            entry = {"criterion": criterion, "ratio": ratio, "seconds": seconds}
            entry["kept"] = _kept(model, plan)
            if job.measure:
                after = _measures(model, specs)
                entry |= {key: [before[key], after[key]] for key in after}
                plan.restore(model)
            found.append(entry)
    return found


def _pruner(criterion: str, model: Layer, shape: tuple[int, ...]) -> Any:
    from paddle.base.dygraph import base

    # their names up to Paddle 2 and NumPy 1
    base._to_static_mode_guard_ = base.to_static_mode_guard
    vars(np).setdefault("product", np.prod)
    from paddleslim.dygraph import FPGMFilterPruner, L1NormFilterPruner

    pruners = {"l1_norm": L1NormFilterPruner, "fpgm": FPGMFilterPruner}
    return pruners[criterion](model, list(shape))


def _weights(pruner: Any, only: Sequence[str]) -> list[str]:
    """Name the weights of all convolutions that PaddleSlim does not refuse, as it names them."""
    return [
        weight.name
        for path, weight in pruner.model.named_parameters()
        if weight.ndim == 4 and weight.name not in pruner.skip_vars
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in only)
    ]


def _ratio_for(pruner: Any, weights: Sequence[str], target: float) -> float:
    """Find the share of channels that takes this share of the multiply-accumulates."""
    from paddleslim.analysis import flops

    def removed(ratio: float) -> float:
        plan = pruner.prune_vars(dict.fromkeys(weights, ratio), 0)
        left: float = flops(pruner.model, pruner.inputs)
        plan.restore(pruner.model)
        return 1 - left / whole

    whole = flops(pruner.model, pruner.inputs)
    low, high = 0.0, 0.95
    missed: dict[float, float] = {}
    for _ in range(SEARCH_STEPS):
        ratio = (low + high) / 2
        share = removed(ratio)
        missed[ratio] = abs(share - target)
        if share < target:
            low = ratio
        else:
            high = ratio
    return min(missed, key=missed.__getitem__)


def _kept(model: Layer, plan: Any) -> Indices:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    paths = {tensor.name: path for path, tensor in tensors if not path.endswith("_backup")}
    return {
        paths[name]: {mask.dims: np.flatnonzero(mask.mask).tolist() for mask in masks}
        for name, masks in plan.masks.items()
        if name in paths  # it notes activations, too
    }


def _measures(model: Layer, specs: list[InputSpec]) -> dict[str, float]:
    """Count, save and run the model, in evaluation mode."""
    model.eval()
    shape = specs[0].shape
    with paddle.no_grad():
        model(paddle.zeros(shape))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pdparams")
        paddle.save(model.state_dict(), str(path))
        size = path.stat().st_size
    return {
        "macs": count_macs(model, [tuple(shape)], specs),
        "parameters": count_parameters(model),
        "checkpoint_bytes": size,
    }


def in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if not set(line) <= set("-=")), "")
    return f"{type(error).__name__}: {told}"[:240]


def main() -> None:
    job = PeerJob(**json.loads(sys.argv[1]))
    try:
        result: dict[str, Any] = {"cuts": _prune(job)}
    except Exception as error:  # noqa: BLE001 - whatever it fails with is the result
        result = {"error": in_a_line(error)}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
