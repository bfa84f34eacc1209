"""The sections on quantization-aware training in docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.pages import cells

Entry = dict[str, Any]
QAT = """
## Quantization-aware training

Written by `python -m benchmarks.measure.qat_step`: a step with rounding beside a step in float, in
turns on the same images of one process, random weights, one thread; processor milliseconds, median.
The ratios are to float, for PaddleSlim to float in a process of its own.

| network, batch | float ms | moving average | PACT | LSQ | PaddleSlim, PACT |
| --- | ---: | ---: | ---: | ---: | ---: |"""
NETWORKS = """
## Nine networks, from training to files

Written by `python -m benchmarks.measure.qat_networks`: random weights, drawn pictures, an epoch of
a few steps in float, then two with rounding, in one go and interrupted in between; "equal" says
that all bytes of weights, optimizer and counters are. Seconds of an export in all formats with all
its
comparisons: of processors, and as they pass. Bytes of the int8 files are shares of float; then
distance of each runtime from the eager int8 model beside what rounding itself changes (root mean
squares, relative).

| network, input | layers | resumed | s processor | s wall | .pdiparams | with .pdmodel | .onnx | \
.nb | Paddle | ONNX Runtime | OpenVINO |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def qat_steps(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines on the cost of a step; none if nothing was measured."""
    if not entries:
        return
    yield QAT
    for network, entry in entries.items():
        medians = {way: statistics.median(all_) for way, all_ in entry["milliseconds"].items()}
        size = "x".join(map(str, entry["input"]))
        ratios = [f"**{value / medians['float']:.2f}**" for value in list(medians.values())[1:]]
        ratios.append(_peer_ratio(entry))
        yield f"| {network}, {size} | {medians['float']:.0f} | {' | '.join(ratios)} |"
    yield ""
    for network, entry in entries.items():
        if "peer_failed" in entry:
            yield f"- PaddleSlim fails on {network}: `{entry['peer_failed']}`"
    for network, entry in entries.items():
        steps = len(entry["milliseconds"]["float"])
        yield (
            f"- Rounding, {network}: {steps} steps, {cells.processor(entry['environment'])} at "
            f"a load of {entry['load_average']}, revision {entry['revision']}, {entry['date']}."
        )


def _peer_ratio(entry: Entry) -> str:
    if "peer" not in entry:
        return "fails" if "peer_failed" in entry else ""
    plain, wrapped = (statistics.median(taken) for taken in entry["peer"].values())
    return f"{wrapped / plain:.2f}"


def qat_networks(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines on networks that were trained and exported; none if there are none."""
    if not entries:
        return
    yield NETWORKS
    for network, entry in entries.items():
        if "refused" in entry:
            yield f"| {network} | refused: {entry['refused']} |{' |' * 10}"
        else:
            yield _network_row(network, entry)
    yield ""
    for network, entry in entries.items():
        low, high = sorted(entry["load_average"])
        yield (
            f"- Trained and exported, {network}: {cells.processor(entry['environment'])} at a "
            f"load of {low}-{high}, revision {entry['revision']}, {entry['date']}."
        )


def _network_row(network: str, entry: Entry) -> str:
    columns = [
        f"{network}, {'x'.join(map(str, entry['input']))}",
        str(entry["layers"]),
        "equal" if entry["resumed_equal"] else "**not equal**",
        *(f"{entry['export_seconds'][clock]:.1f}" for clock in ("cpu", "wall")),
        *cells.shares_of_float(entry["bytes"]),
        *cells.differences(entry["differences"]),
    ]
    return f"| {' | '.join(columns)} |"
