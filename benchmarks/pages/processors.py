"""The section on processors with VNNI and without in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.pages import cells

Entry = dict[str, Any]
RUNTIMES = ("paddle", "onnxruntime", "openvino")
TEXT = """
## Processors with VNNI and without

Written by `python -m benchmarks.measure.processors`: trained networks quantized after training,
each file measured in its runtime on the whole validation split; in brackets the points against
float on the same kind of processor. `any` and `vnni` are ours, by the setting `processors`, and
otherwise as the task hints; networks of which no seconds are given were measured before tasks
hinted at anything (`--observer mse` and no other step). Without VNNI: as
`python -m benchmarks.processor.without_vnni` runs them, on all images; where a column says a number
of images, ONNX Runtime answered these on an emulated Haswell instead. NNCF: its performance preset
and its mixed one with the same images, as they are, and with `overflow_fix` for all layers; it
writes files for OpenVINO only. PaddleSlim: its `PTQ` with the same images and each of its
observers; its files are for Paddle Inference, and paddle2onnx does not know their operators. The
rows are of files run with our predictor's settings, where their rounding is computed in float; what
its documentation says, int8 of oneDNN, is a row of its own, or fails as told below.

| network, metric | runtime | file | with VNNI | without |
| --- | --- | --- | ---: | ---: |"""


def processors(entries: dict[str, Entry]) -> Iterator[str]:
    """Yield the lines of the section."""
    if not entries:
        return
    yield TEXT
    for network, entry in entries.items():
        for runtime in RUNTIMES:
            files = entry["metrics"][runtime]
            for name, found in files.items():
                both = [_cell(found, files["float"], name, kind) for kind in ("vnni", "avx2")]
                if runtime == "onnxruntime" and "emulated" in entry:
                    both[1] += f", {entry['emulated']} images"
                yield f"| {network}, {entry['metric']} | {runtime} | {name} | {' | '.join(both)} |"
    yield ""
    yield from (f"- {name}: {cells.measured_on(entry)}" for name, entry in entries.items())
    for network, entry in entries.items():
        for peer, why in entry.get("failed", {}).items():
            yield f"- {network}, {peer}: {why}"
    timed = {network: entry["seconds"] for network, entry in entries.items() if "seconds" in entry}
    if timed:
        yield "\nSeconds of processor time that quantizing took, calibration included:\n"
    for network, seconds in timed.items():
        yield f"- {network}: " + "; ".join(f"{name} {spent:.0f}" for name, spent in seconds.items())
    yield "\n```"
    yield from (entry["command"] for entry in entries.values())
    yield "```"


def _cell(found: Entry, exact: Entry, name: str, kind: str) -> str:
    value, plain = found.get(kind), exact.get(kind)
    if value is None:
        return "-"
    lost = f" ({100 * (value - plain):+.2f})" if name != "float" and plain is not None else ""
    return f"{value:.4f}{lost}"
