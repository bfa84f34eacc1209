"""The command line of training.py and loader.py, and the page that all benchmarks write."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.comparison import (
    DOCS,
    TASKS,
    Job,
    draw_pictures,
    record,
    take_turns,
)
from benchmarks.pages.benchmarks import page

Entry = dict[str, Any]
PICTURES = 320


def main(
    script: str,
    description: str | None,
    name: str,
    sides: tuple[str, ...],
    measure: Callable[[Job], dict[str, float]],
    networks: dict[str, dict[str, str]] | None = None,
) -> None:
    """Compare the sides on every task, or measure the one job that a parent asks for.

    `networks` names those of each task where they are not the job's own.
    """
    arguments = _parse(description)
    if arguments.job:
        logging.basicConfig(level=logging.INFO)  # as the tools do
        result = json.dumps(measure(Job(**json.loads(arguments.job))))
        Path(arguments.result).write_text(result, encoding="utf-8")
        return
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    root = arguments.data or arguments.work_dir / "pictures"
    if arguments.data is None:
        draw_pictures(root, PICTURES)
    for task in [arguments.task] if arguments.task else TASKS:
        if task == "keypoint" and "peer" in sides:
            from benchmarks.peers.training_loops import install_paddledet

            install_paddledet(arguments.work_dir)
        entry = _compare(script, task, sides, root.resolve(), arguments)
        entry |= {"networks": networks[task]} if networks else {}
        row = f"{task}, {entry['data']}" if arguments.data else task
        record(name, {row: entry}, page)


def _parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work_dir = Path(tempfile.gettempdir(), "trislim_benchmarks")
    parser.add_argument("--task", choices=TASKS, help="default: all")
    parser.add_argument("--data", type=Path, help="data.root of --task; default: drawn pictures")
    parser.add_argument("--work_dir", type=Path, default=work_dir, help="for pictures and peers")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=15, help="measured steps of training")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data and not arguments.task:
        parser.error("--data: say with --task whose data this is")
    return arguments


def _compare(
    script: str, task: str, sides: tuple[str, ...], root: Path, arguments: argparse.Namespace
) -> Entry:
    from core.runtimes.environment import environment

    work_dir, workers = str(arguments.work_dir.resolve()), arguments.workers
    jobs = [Job(task, side, str(root), work_dir, workers, steps=arguments.steps) for side in sides]
    load_before = os.getloadavg()[0]
    measured = take_turns(os.path.abspath(script), jobs, arguments.repeats)
    settings = jobs[0].settings()
    return {
        "network": settings["model"]["name"],
        "batch_size": settings["train"]["batch_size"],
        "input": _input_size(settings),
        "data": arguments.data.resolve().name if arguments.data else "drawn",
        "workers": workers,
        "steps": arguments.steps,
        "measured": measured,
        "revision": revision(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def revision() -> str:
    """Return the commit that was measured; `-dirty` if files differed, but for these documents."""
    git = ["git", "-C", str(DOCS.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changes = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!docs"]
    dirty = "-dirty" if subprocess.run(changes, capture_output=True).returncode else ""
    return f"{head.stdout.strip()}{dirty}" if head.stdout else "unknown"


def _input_size(settings: Entry) -> list[int]:
    data = settings["data"]
    if "image_size" in data:
        side = data["image_size"]
        return [side] * 2 if isinstance(side, int) else list(side)
    size: list[int] = data.get("input_size") or settings["augment"]["crop"]
    return size
