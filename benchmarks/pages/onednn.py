"""The section on Paddle Inference's time in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Entry = dict[str, Any]
TEXT = """
## Where Paddle Inference spends its time

Written by `python -m benchmarks.measure.onednn_calls`: float files, random weights, one image, one
thread, shortest of runs that take turns. Paddle Inference and OpenVINO both compute with oneDNN.
"In oneDNN" is what its own clock says of the calls of one run in Paddle Inference; the rest of the
time goes by operator, into shapes, layouts and the making of the call, whatever there is to
compute. So it is the number of operators that counts in networks of many small layers.

| network, input | Paddle Inference ms | in oneDNN ms | operators | µs around each | calls of \
oneDNN | of these conversions of layout | OpenVINO ms | Paddle Inference / OpenVINO | \
in oneDNN / OpenVINO |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def onednn(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines of the section; none if nothing was measured."""
    if not entries:
        return
    yield TEXT
    for network, entry in entries.items():
        ours, peer = (min(entry["milliseconds"][name]) for name in ("paddle", "openvino"))
        inside = sum(taken for _, taken in entry["calls"].values())
        operators = sum(entry["operators"].values())
        cells = [f"{network}, {'x'.join(map(str, entry['input'][2:]))}", f"{ours:.2f}"]
        cells += [f"{inside:.2f}", str(operators), f"{1000 * (ours - inside) / operators:.0f}"]
        cells += [str(sum(count for count, _ in entry["calls"].values()))]
        cells += [str(entry["calls"].get("reorder", [0])[0]), f"{peer:.2f}"]
        cells += [f"{ours / peer:.2f}", f"{inside / peer:.2f}"]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for network, entry in entries.items():
        machine = entry["environment"]
        instructions = ", ".join(machine["cpu_instructions"])
        yield (
            f"- {network}: {entry['date']}, revision {entry['revision']}, {machine['cpu']} "
            f"({instructions})"
        )
