"""The section on rewritten graphs in docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.pages import cells

Entry = dict[str, Any]
TEXT = """
## Rewritten graphs

Written by `python -m benchmarks.measure.rewrites`: exports as they are by default (`--rewrite on`)
beside plain ones (`--rewrite off`), random weights, norms estimated on random images, one image,
one thread, milliseconds of processor time, medians of runs that take turns in one process. int8:
quantized after training for the runtime (Paddle Inference: for OpenVINO). Ratios are time of the
plain file / time of the rewritten one, in brackets of the shortest runs; the last columns are plain
float over rewritten int8, and how far the answers of rewritten files are from those of plain ones,
relative to the largest. int8 answers are the same to the bit, unless a sum in float falls to the
other side of a rounding, from where on these untrained networks drift apart as roundings do. "No
shuffles": a float file from which all shuffles were taken out before it was rewritten. Its answers
are wrong; no order of channels can be faster. paddle2onnx: its file, for one image, of the network
that `paddle.jit.save` wrote. "Any batch": the plain file as OpenVINO compiles it by itself. Our
predictor has it compile all others for one image.

| network, input | runtime | float plain | rewritten | **plain / rewritten** | no shuffles | \
plain / no shuffles | paddle2onnx | \
**paddle2onnx / rewritten** | any batch | **any batch / rewritten** | int8 plain | \
rewritten | **plain / rewritten** | float rewritten / int8 rewritten | \
float plain / int8 rewritten | float apart | int8 apart |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | \
---: | ---: | ---: | ---: |"""
OTHERS = ("without shuffles", "by paddle2onnx", "plain for any batch")
INT8_OTHERS = """
int8 of others, from the plain network on the same images, both with ranges that end at the largest
magnitudes: NNCF's performance preset for OpenVINO, and PaddleSlim's `PTQ` for Paddle Inference, run
with our predictor's settings (its rounding is computed in float) and, where that does not fail, as
its documentation says, with int8 of oneDNN.

| network | by | runtime | ms | ours, int8 rewritten | **theirs / ours** |
| --- | --- | --- | ---: | ---: | ---: |"""
BY = "int8 by "
OPERATORS = """
What moves channels in the float graph, plain and rewritten:

| network | shuffles | selections | splits | concatenations | upsampling to the nearest |
| --- | ---: | ---: | ---: | ---: | ---: |"""


def rewrites(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines of the section; none if nothing was measured."""
    if not entries:
        return
    yield TEXT
    for network, entry in entries.items():
        for runtime, taken in entry["milliseconds"].items():
            yield _row(network, runtime, entry, taken)
    yield from _int8_of_others(entries)
    yield OPERATORS
    for network, entry in entries.items():
        plain, made = (entry["operators"][side] for side in ("plain", "rewritten"))
        yield f"| {network} | {' | '.join(f'{plain[kind]}, {made[kind]}' for kind in plain)} |"
    yield ""
    for network, entry in entries.items():
        rounds = len(entry["milliseconds"]["openvino"]["float plain"])
        yield (
            f"- {network}: {rounds} rounds, {entry['date']}, revision {entry['revision']}, "
            f"{cells.processor(entry['environment'])}, load average {entry['load_average']}"
        )


def _int8_of_others(entries: Mapping[str, Entry]) -> Iterator[str]:
    yield INT8_OTHERS
    for network, entry in entries.items():
        for runtime, taken in entry["milliseconds"].items():
            ours = taken["int8 rewritten"]
            for name in (name for name in taken if name.startswith(BY)):
                columns = [network, name.removeprefix(BY), runtime]
                columns += [f"{statistics.median(each):.2f}" for each in (taken[name], ours)]
                columns.append(_ratio(taken[name], ours))
                yield f"| {' | '.join(columns)} |"
    yield ""
    for network, entry in entries.items():
        for peer, why in entry.get("failed", {}).items():
            yield f"- {network}, {peer}: {why}"


def _row(network: str, runtime: str, entry: Entry, taken: Mapping[str, list[float]]) -> str:
    size = "x".join(map(str, entry["input"][2:]))
    middle = {name: statistics.median(each) for name, each in taken.items()}
    columns = [f"{network}, {size}", runtime]
    for kind in ("float", "int8"):
        plain, made = f"{kind} plain", f"{kind} rewritten"
        shortest = min(taken[plain]) / min(taken[made])
        columns += [f"{middle[plain]:.2f}", f"{middle[made]:.2f}"]
        columns.append(f"**{middle[plain] / middle[made]:.2f}** ({shortest:.2f})")
        if kind == "float":
            bound, peer, any_batch = (f"float {each}" for each in OTHERS)
            columns += _beside(taken, bound, (plain, bound))
            columns += _beside(taken, peer, (peer, made))
            columns += _beside(taken, any_batch, (any_batch, made))
    for first in ("float rewritten", "float plain"):
        columns.append(f"{middle[first] / middle['int8 rewritten']:.2f}")
    columns += [f"{entry['apart'][runtime][kind]:.0e}" for kind in ("float", "int8")]
    return f"| {' | '.join(columns)} |"


def _beside(taken: Mapping[str, list[float]], other: str, two: tuple[str, str]) -> list[str]:
    """Return the time of a file, and the ratio of the times of two."""
    if other not in taken:  # not in this runtime, or measured before it was looked at
        return ["-", "-"]
    return [f"{statistics.median(taken[other]):.2f}", _ratio(*(taken[each] for each in two))]


def _ratio(upper: list[float], lower: list[float]) -> str:
    """Return the ratio of two medians, in brackets that of the shortest."""
    ratio = statistics.median(upper) / statistics.median(lower)
    return f"{ratio:.2f} ({min(upper) / min(lower):.2f})"
