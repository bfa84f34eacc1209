"""The page docs/robustness.md, from the figures in docs/benchmarks/robustness_*.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.comparison import load

Entry = dict[str, Any]

INTRODUCTION = """\
# Robustness

Written by scripts in `benchmarks/measure`, not by hand."""

SIGNALS = """
## Signals

Written by `python -m benchmarks.measure.signals`: trainings under all strategies, with two readers
of data each, and tools, each ended at a random moment of the time that it takes. Then it runs to
its end, a training with `--resume`.

- **sent**: how often; **in time**: how often the job had not ended before.
- **hangs**: not gone a minute later. **processes**: some of its own are, after 5 seconds.
- **half files**: what it writes is there and not whole, or drafts and temporary files lie about,
  after SIGTERM at once, after SIGKILL when the next one has ended.
- **noise**: a traceback, or Paddle's C++ frames. **failed**: another status than 143 with the word
  `terminated`, or it cannot be run to its end afterwards.
- **different**: a resumed training does not end in the same bytes as the undisturbed one."""

COLUMNS = ("sent", "in_time", "hangs", "processes", "half_files", "noise", "failed", "different")


def page() -> Iterator[str]:
    """Yield the lines of docs/robustness.md."""
    yield INTRODUCTION
    yield from signals(load("robustness_signals"))


def signals(entries: dict[str, Entry]) -> Iterator[str]:
    """Yield the lines about signals."""
    if not entries:
        return
    yield SIGNALS
    for name, entry in entries.items():
        yield f"\n| {name} | {' | '.join(each.replace('_', ' ') for each in COLUMNS)} |"
        yield "| --- |" + " ---: |" * len(COLUMNS)
        rows = entry["jobs"]
        total = {key: sum(counts[key] for counts in rows.values()) for key in COLUMNS}
        for job, counts in {**rows, "**all**": total}.items():
            yield f"| {job} | {' | '.join(str(counts[key]) for key in COLUMNS)} |"
        machine = entry["environment"]
        yield (
            f"\n{machine['logical_cores']} cores ({machine['cpu']}) at a load of "
            f"{entry['load_average']}, revision {entry['revision']}, {entry['date']}."
        )
