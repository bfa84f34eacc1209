"""End trainings and tools at random moments by SIGKILL and SIGTERM, and count what goes wrong.

    python -m benchmarks.measure.signals --kills 100 --terms 100

Each job first runs undisturbed, which says how long it takes and what it ends with. Then it is
started again and again, over what the time before left, and gets a signal at a random moment. What
it has written must be whole, and none of its processes may be left. It then runs to its end: a
training with `--resume`, to the same bytes. Afterwards nothing of the dead ones may lie about.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.comparison import DOCS, THREADS, record
from benchmarks.measure.command import revision
from benchmarks.measure.signals_jobs import Job, end_of, prepare
from benchmarks.pages.robustness import page
from core.runtimes.environment import environment
from core.settings import written

HANG_SECONDS, LEFT_SECONDS, LIMIT_SECONDS = 60.0, 5.0, 1800.0
MARK = "TRISLIM_SIGNALS"  # environment variable that all processes of a run have
NOISE = ("Traceback", "C++", "FatalError")
COUNTS = ("sent", "in_time", "hangs", "processes", "half_files", "noise", "failed", "different")
Counts = dict[str, int]


@dataclass
class Bench:
    """A folder in which tools run, with a place of its own for temporary files."""

    folder: Path
    usual: frozenset[str] = frozenset()  # names that libraries leave among temporary files

    def start(self, words: Sequence[str]) -> tuple[subprocess.Popen[str], str]:
        """Start a tool; return it, and the mark of its processes."""
        mark, temporary = uuid.uuid4().hex, self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        own = {MARK: mark, "TMPDIR": str(temporary), "PYTHONPATH": str(DOCS.parent)}
        process = subprocess.Popen(
            [sys.executable, str(DOCS.parent / "tools" / words[0]), *words[1:]],
            cwd=self.folder,
            env={**os.environ, **THREADS, **own},
            stdout=open(self.folder / "said.txt", "w"),  # noqa: SIM115 - a pipe could be full
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return process, mark

    def said(self) -> str:
        return (self.folder / "said.txt").read_text(encoding="utf-8", errors="replace")

    def run(self, folder: Path, words: Sequence[str]) -> None:
        """Run a tool to its end.

        Raises:
            RuntimeError: It fails.
        """
        process, _ = self.start(words)
        if process.wait(LIMIT_SECONDS):
            raise RuntimeError(f"{' '.join(words)}: {self.said()[-2000:]}")

    def litter(self) -> list[str]:
        """List what lies about of processes that have ended."""
        found = {path.name for path in (self.folder / "tmp").iterdir()}
        found |= {path.name for path in self.folder.rglob(".*trislim*")}
        return sorted(found - self.usual - {written.LIST})

    def disturb(self, job: Job, sent: signal.Signals, seconds: float) -> Iterator[str]:
        """Send a signal to a job after so many seconds; yield what went wrong."""
        yield "sent"
        process, mark = self.start(job.words)
        try:
            process.wait(seconds)
            return  # it was done before
        except subprocess.TimeoutExpired:
            process.send_signal(sent)
        yield "in_time"
        try:
            status = process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            yield self.note(job, "hangs", "")
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        left = _left(mark)
        if left:
            yield self.note(job, "processes", str(left))
        said = self.said()
        lines = said.splitlines() or [""]
        if any(word in said for word in NOISE):
            yield self.note(job, "noise", said[-2000:])
        if sent == signal.SIGTERM:
            # 0: it was just done; -15: before the tool could say anything
            if status not in (0, 128 + sent, -sent) or (status > 0 and lines[-1] != "terminated"):
                yield self.note(job, "failed", f"status {status}: {lines[-1]}")
            if self.litter():
                yield self.note(job, "half_files", str(self.litter()))
        path = self.folder / job.output
        try:
            if path.exists():
                job.intact(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is not whole
            yield self.note(job, "half_files", str(error))

    def finish(self, job: Job, wanted: dict[str, str]) -> Iterator[str]:
        """Run a job that was disturbed to its end; yield what went wrong."""
        path = self.folder / job.output
        words = list(job.words)
        if job.resumes:  # what was killed in its first epoch may have left its best model
            words.append("--resume" if (path / "latest").exists() else "--overwrite")
        try:
            self.run(self.folder, words)
        except RuntimeError as error:
            yield self.note(job, "failed", str(error))
            return
        if job.resumes and end_of(path) != wanted:
            yield self.note(job, "different", "")
        if self.litter():
            yield self.note(job, "half_files", str(self.litter()))

    def note(self, job: Job, kind: str, what: str) -> str:
        """Print a problem with what was seen; return its kind."""
        print(f"{job.name}: {kind}: {what}", flush=True)
        return kind


def _left(mark: str) -> list[str]:
    """Return the processes of a run that are still there, after some seconds."""
    deadline = time.monotonic() + LEFT_SECONDS
    while found := [each for each in psutil.process_iter() if _has(each, mark)]:
        if time.monotonic() > deadline:
            return [" ".join(each.cmdline()) for each in found if each.is_running()]
        time.sleep(0.1)
    return []


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and process.environ().get(MARK) == mark
    except psutil.Error:
        return False


def measure(
    signals: dict[signal.Signals, int], only: str, seed: int
) -> Iterator[dict[str, dict[str, Counts]]]:
    """Disturb all jobs in turn; yield the counts so far, by signal and job, after each time."""
    rng = random.Random(seed)
    found: dict[str, dict[str, Counts]] = {each.name: {} for each in signals}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        jobs = [job for job in prepare(bench.folder, bench.run) if only in job.name]
        rng.shuffle(jobs)  # a short run takes some of each
        taken: dict[str, float] = {}
        ends: dict[str, dict[str, str]] = {}
        for turn in range(max(signals.values())):
            job = jobs[turn % len(jobs)]
            if job.name not in taken:
                begin = time.monotonic()
                bench.run(bench.folder, job.words)
                taken[job.name] = time.monotonic() - begin
                bench.usual |= {name for name in bench.litter() if "trislim" not in name}
                ends[job.name] = end_of(bench.folder / job.output) if job.resumes else {}
            for sent in (each for each, count in signals.items() if turn < count):
                if job.resumes:
                    shutil.rmtree(bench.folder / job.output)
                counts = found[sent.name].setdefault(job.name, dict.fromkeys(COUNTS, 0))
                for kind in bench.disturb(job, sent, rng.uniform(0, taken[job.name])):
                    counts[kind] += 1
                for kind in bench.finish(job, ends[job.name]):
                    counts[kind] += 1
                print(f"{sent.name} {turn + 1} {job.name}", flush=True)
                yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs (100)")
    parser.add_argument("--terms", type=int, default=100, help="SIGTERMs (100)")
    parser.add_argument("--only", default="", metavar="TEXT", help="jobs whose names hold this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signals = {signal.SIGKILL: arguments.kills, signal.SIGTERM: arguments.terms}
    wanted = {sent: count for sent, count in signals.items() if count}
    about = {
        "revision": revision(),
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }
    for found in measure(wanted, arguments.only, arguments.seed):
        load = round(os.getloadavg()[0], 1)
        entries = {
            name: {"jobs": jobs, "load_average": load, **about} for name, jobs in found.items()
        }
        record("robustness_signals", entries, page, "robustness.md")  # a long run may be cut off


if __name__ == "__main__":
    main()
