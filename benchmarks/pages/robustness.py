"""docs/robustness.md: what was done to the product, and how it ended; a section for each script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.comparison import load

PAGE = "robustness.md"
Entry = dict[str, Any]
HEAD = """# Robustness, measured

Written by the scripts named below, not by hand."""
SETTINGS = """
## Wrong settings

Written by `python -m benchmarks.measure.fuzz_settings`: files in `configs/` with up to three
settings spoilt (other values, types, names, damaged text, what YAML readers stumble over), read as
the tools read them; what is accepted draws samples, asks the schedule for rates and makes a step of
the optimizer. "Refused" is one line for the user, "hang" more than ten seconds of a processor.

| what | cases | accepted | refused | tracebacks | hangs | overlong messages |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


def page() -> Iterator[str]:
    """Yield the lines of the page, of every section that has figures."""
    yield HEAD
    for name, section in SECTIONS.items():
        entries = load(f"robustness_{name}")
        if entries:
            yield from section(entries)


def settings(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines on wrong settings."""
    entry = entries["settings"]
    yield SETTINGS
    for kind, ends in entry["ends"].items():
        columns = [ends.get(end, 0) for end in ("accepted", "refused", "traceback", "hang", "long")]
        yield f"| {kind} | {sum(columns):,} | {' | '.join(f'{count:,}' for count in columns)} |"
    yield f"\n{entry['cases']:,} cases in {entry['seconds']} seconds, {entry['date']}."


SECTIONS = {"settings": settings}
