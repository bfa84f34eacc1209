"""The page docs/networks.md: what becomes of each network of PaddleClas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.comparison import load
from benchmarks.pages import cells

Entry = dict[str, Any]
HEAD = """\
# Networks of PaddleClas

Written by `python -m benchmarks.measure.all_networks`, not by hand. Classifiers of PaddleClas 2.6,
which has 363, with 10 classes and random weights, each in a process of its own; one of each family
comes first:

- **pruned**: share of the multiply-accumulates removed by the settings of `configs/slim/prune.yml`,
  where 30 % were asked for; the pruned network ran, and a step of training moved its weights.
  Under it, why less was removed.
- **export**: the pruned network as Paddle and ONNX files: the largest difference from the eager
  network, relative to the largest answer, in Paddle Inference, ONNX Runtime and OpenVINO.
- **int8**: the whole network quantized after training on a few images, exported and compared: the
  number of layers on int8 grids, and the size of the ONNX file beside float.

Where a step is refused, the table says what the user is told.
"""
TABLE = """
| network | input | M MACs | pruned | export | int8 |
| --- | ---: | ---: | --- | --- | --- |"""


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    entries = load("all_networks")
    yield HEAD
    yield from _counts(entries)
    yield TABLE
    for name in sorted(entries):
        yield _row(name, entries[name])
    yield ""
    yield from sorted({_circumstances(entry) for entry in entries.values()})


def _counts(entries: Mapping[str, Entry]) -> Iterator[str]:
    yield f"Of {len(entries)} networks that were tried:\n"
    yield "| step | works | refused with a reason | over the limits | crashes |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for step in ("prune", "export", "ptq"):
        tried = [entry[step] for entry in entries.values() if step in entry]
        counts = [sum(key in each for each in tried) for key in ("reason", "limit", "crash")]
        works = len(tried) - sum(counts)
        yield f"| {step} | {works} | {' | '.join(map(str, counts))} |"


def _row(name: str, entry: Entry) -> str:
    side, pruned = entry.get("side", "-"), entry.get("prune", {})
    macs = f"{pruned['macs'] / 1e6:.0f}" if "macs" in pruned else "-"
    cells = [_cell(entry.get("prune"), _pruned), _cell(entry.get("export"), _exported)]
    cells.append(_cell(entry.get("ptq"), _quantized))
    return f"| {name} | {side} | {macs} | {' | '.join(cells)} |"


def _cell(step: Entry | None, tell: Any) -> str:
    if step is None:
        return "not tried"
    for key in ("reason", "limit", "crash"):
        if key in step:
            what = "crash: " if key == "crash" else ""
            return f"{what}{step[key]}".replace("|", "\\|").replace("\n", " ")
    return str(tell(step))


def _pruned(step: Entry) -> str:
    why = ""
    if step["removed"] < 0.29:
        channels, layers, reason = step["stay"][0]
        why = f"; {channels} channels of {layers} layers stay, such as {reason}"
    return f"{step['removed']:.1%}{why}"


def _exported(step: Entry) -> str:
    whole = "" if step["of"] == "pruned" else "whole: "
    far = step["differences"].values()
    # at least 99 % of the answers are within 1e-4; a network that compares is not measured closer
    return f"{whole}{max(far):.0e}" if far else f"{whole}within 1e-04"


def _quantized(step: Entry) -> str:
    return f"{step['layers']} layers, {step['share']['model.onnx']:.0%}"


def _circumstances(entry: Entry) -> str:
    machine = cells.machine(entry["environment"])
    return f"- {machine}, revision {entry['revision']}, {entry['date']}."
