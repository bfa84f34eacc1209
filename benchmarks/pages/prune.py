"""The section on pruning in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.pages import cells

Entry = dict[str, Any]
PRUNING = """
## Pruning

Written by `python -m benchmarks.measure.prune --peer l1_norm`: networks with random weights, cut to
a share of their multiply-accumulates as `configs/slim/prune.yml` does it (L1 norm, the same share
of every layer, channels in steps of 4). "Seconds" is processor time on one core for tracing,
grouping, ranking, cutting and tracing again to check; "hints", apart, is what the task takes to
find the layers that must stay (where it shows -, it is within "seconds"). "Removed" is counted in
the exported network. Parameters and checkpoint: before -> after. "Works": a step of training with
the task's loss moves the weights; the checkpoint, restored from its path alone, answers bit for bit
the same; the export is within 1e-4 of the eager model in Paddle Inference, ONNX Runtime and
OpenVINO, the largest difference is shown. Latency: milliseconds on one thread, the shortest of runs
that take turns, by the processor's clock, and the ratio to the whole network; "-" where a runtime
was not yet measured.

| network, input | M MACs | asked | removed | seconds | hints | M parameters | checkpoint MB \
| works | ONNX Runtime | OpenVINO | Paddle Inference |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |"""
BESIDE = """
### Beside PaddleSlim 2.6.0

The same weights, half of the channels of every convolution: all that both can be asked for.
PaddleSlim runs in a process of its own, where it is given back one name that Paddle 3.1 no longer
has, and the old IR; it has 200 seconds of processor time. Checkpoint MB: whole network, ours
pruned, its own pruned (it saves backups of what it cut). "Same channels" counts the axes of weights
on which both keep the same positions; for groups that several layers make, ours is told to rank by
the first layer (`aggregate: first`), as PaddleSlim does.

| network | pruner | ours s | peer s | ours removes MACs | peer removes MACs | ours M parameters | \
peer M parameters | checkpoint MB | same channels |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def pruning(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines of the section; none if nothing was measured."""
    if not entries:
        return
    yield PRUNING
    for network, entry in entries.items():
        if "error" in entry:
            yield f"| {network} | failed: {entry['error']} |{' |' * 10}"
            continue
        for asked, cut in entry["cuts"].items():
            yield _row(network, entry, float(asked), cut)
    compared = {name: entry for name, entry in entries.items() if entry.get("paddleslim")}
    if compared:
        yield BESIDE
    for network, entry in compared.items():
        for criterion, found in entry["paddleslim"].items():
            yield _peer_row(network, criterion, entry, found)
    yield ""
    yield from dict.fromkeys(map(_circumstances, entries.values()))


def _row(network: str, entry: Entry, asked: float, cut: Entry) -> str:
    whole = entry["whole"]
    failed = cut.get("failed", {})
    works = "; ".join(f"{step} failed: {why}" for step, why in failed.items())
    if not works:
        works = f"yes, {max(cut['differences'].values()):.0e}"
    columns = [
        f"{network}, {'x'.join(map(str, entry['input'][2:]))}",
        f"{whole['macs'] / 1e6:.0f}",
        f"{asked:.0%}",
        f"{cut['removed']:.1%}" if "removed" in cut else "-",
        f"{cut['seconds']:.2f}",
        f"{cut['hints_seconds']:.2f}" if "hints_seconds" in cut else "-",
        _pair(whole, cut, "parameters"),
        _pair(whole, cut, "checkpoint_bytes"),
        works,
        *(_latency(whole, cut, key) for key in ("ms", "openvino_ms", "paddle_ms")),
    ]
    return f"| {' | '.join(columns)} |"


def _latency(whole: Entry, cut: Entry, key: str) -> str:
    if key not in cut:
        return "-"
    return f"{whole[key]:.2f} -> {cut[key]:.2f}, **{cut[key] / whole[key]:.2f}**"


def _pair(whole: Entry, cut: Entry, key: str) -> str:
    return f"{whole[key] / 1e6:.2f} -> {cut[key] / 1e6:.2f}" if key in cut else "-"


def _peer_row(network: str, criterion: str, entry: Entry, found: Entry) -> str:
    ours = entry["half_of_channels"]
    if "error" in found or "error" in ours:
        why = f"ours: {ours['error']}" if "error" in ours else found["error"]
        mine = f"{ours['seconds']:.2f}" if "seconds" in ours else "-"
        return f"| {network} | {criterion} | {mine} | fails: {why} |{' |' * 6}"
    sizes = (
        found["checkpoint_bytes_before"],
        ours["checkpoint_bytes"],
        found["checkpoint_bytes"],
    )
    columns = [
        network,
        criterion,
        f"{ours['seconds']:.2f}",
        f"{found['seconds']:.2f}",
        *(f"{side['macs_removed']:.1%}" for side in (ours, found)),
        *(f"{side['parameters'] / 1e6:.2f}" for side in (ours, found)),
        ", ".join(f"{size / 1e6:.1f}" for size in sizes),
        f"{found['same_channels']} of {found['axes']}",
    ]
    return f"| {' | '.join(columns)} |"


def _circumstances(entry: Entry) -> str:
    version = entry["environment"]["packages"].get("onnxruntime", "?")
    return (
        f"- Pruning: {cells.machine(entry['environment'])}, ONNX Runtime {version}, revision "
        f"{entry['revision']}, {entry['date']}."
    )


UNTRAINED = """
### Before any training

Written by `python -m benchmarks.measure.pruned_untrained`: trained networks right after a cut (L1
norm, the same share of every layer), with nothing mended, with new statistics of batch norms
(`reconstruct: false`), and with layers fitted to what they made before (the default), on the same
images of the training split, without labels; that of squeezenet1_1_imagenet_sample is its
validation split, as it has no other. Seconds: processor time of the cut and of what mends it.

| network, metric | whole | removed MACs | not mended | statistics | s | fitted | s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def untrained(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines about networks right after a cut; none if nothing was measured."""
    if not entries:
        return
    yield UNTRAINED
    for network, entry in entries.items():
        for ratio, cut in entry["cuts"].items():
            columns = [f"{network}, {entry['metric']}", f"{entry['whole']:.4f}"]
            columns += [f"{float(ratio):.0%}", f"{cut['none']['value']:.4f}"]
            for remedy in ("statistics", "fitted"):
                columns += [f"{cut[remedy]['value']:.4f}", f"{cut[remedy]['seconds']:.0f}"]
            yield f"| {' | '.join(columns)} |"
    yield ""
    for network, entry in entries.items():
        yield f"- {network}: revision {entry['revision']}. {cells.measured_on(entry)}"
    yield "\n```"
    yield from (entry["command"] for entry in entries.values())
    yield "```"
