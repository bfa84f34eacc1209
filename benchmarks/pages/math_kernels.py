"""The section on the kernels of Paddle's MKL, of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.comparison import median, ratio
from benchmarks.pages import cells

INTRODUCTION = """
## Matrix kernels

By `python -m benchmarks.measure.math_kernels`: the kernels that Paddle's MKL takes by itself on a
processor that is not of Intel's make, beside those for AVX2, which the tools ask for (docs/faq.md).
Processor milliseconds as medians over the processes, which took turns; one thread, random weights.
A ratio above 1 means that AVX2 needs less, with the smallest and the largest. Paddle Inference
computes most layers with oneDNN, which has kernels of its own.

| network | step, by itself | step, AVX2 | ratio | answer, by itself | answer, AVX2 | ratio | \
Paddle Inference, ratio |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def math_kernels(entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the section; none without figures."""
    if not entries:
        return
    yield INTRODUCTION
    for network, entry in entries.items():
        plain, fast = entry["turns"]["by itself"], entry["turns"]["avx2"]
        columns = [network]
        for what in ("step", "answer"):
            columns += [f"{median(side, what):.0f}" for side in (plain, fast)]
            columns.append(f"**{ratio(plain, fast, what)}**")
        columns.append(ratio(plain, fast, "paddle"))
        yield f"| {' | '.join(columns)} |"
    yield ""
    yield from dict.fromkeys(map(cells.measured_on, entries.values()))
