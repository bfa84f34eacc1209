"""The page docs/robustness.md: what was done to the product, and how it ended, by script."""

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

FLIPS = """
## Damaged files

Written by `python -m benchmarks.measure.bit_flips`: single bits of each file of a checkpoint and of
an export flipped, and the file cut off at random places, one at a time. "Noticed" is one line that
names the file, when the folder is opened as the tools open it.

| file | bytes | bits flipped | noticed | cut off | noticed |
| --- | ---: | ---: | ---: | ---: | ---: |"""
DIALECTS = """
## Files of other projects

Written by `python -m benchmarks.measure.dialect_mutations`: files as the documents have them,
changed in one to three places (a value, a key, a whole branch), and read as the tools read them;
what is accepted asks the schedule for rates and makes a step of the optimizer. "Refused" is a
message that begins with the path of a key.

| whose | files read | accepted | refused | without a path | tracebacks |
| --- | ---: | ---: | ---: | ---: | ---: |"""
COLUMNS = ("sent", "in_time", "hangs", "processes", "half_files", "noise", "failed", "different")


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
    yield (
        f"\n{entry['cases']:,} cases in {entry['seconds']:,} seconds, "
        f"revision {entry['revision']}, {entry['date']}."
    )


def signals(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines about signals."""
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


def flips(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines about damaged files."""
    entry = entries["flips"]
    yield FLIPS
    for name, counts in entry["files"].items():
        keys = ("bytes", "flips", "noticed", "truncations", "truncations_noticed")
        yield f"| {name} | {' | '.join(f'{counts[key]:,}' for key in keys)} |"
    yield f"\nRevision {entry['revision']}, {entry['date']}."


def dialects(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yield the lines about files of other projects."""
    entry = entries["dialects"]
    yield DIALECTS
    total = 0
    for name, ends in entry["ends"].items():
        counts = [ends.get(end, 0) for end in ("accepted", "refused", "no path", "traceback")]
        total += sum(counts)
        yield f"| {name} | {sum(counts):,} | {' | '.join(f'{count:,}' for count in counts)} |"
    yield (
        f"\n{total:,} of {entry['files']} files, seed {entry['seed']}, revision "
        f"{entry['revision']}, {entry['date']}."
    )


SECTIONS = {"signals": signals, "settings": settings, "dialects": dialects, "flips": flips}
