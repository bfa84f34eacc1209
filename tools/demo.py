"""Train, quantize, export and look at one small model per task, on data drawn on first use."""

from __future__ import annotations

import core.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from core import cli
from core.errors import UserError

TASKS = ("cls", "seg", "keypoint")
PICTURES = {"cls": "val", "seg": "images/val", "keypoint": "images/val"}
KINDS = ("exported", "int8")  # ends of the folders of exported files
BACKEND = "openvino"  # in which the last table compares them


def call(tool: str, *arguments: str) -> None:
    """Show and run a tool, as a user would type it."""
    print(f"\n$ python tools/{tool} {shlex.join(arguments)}", flush=True)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, f"tools/{tool}", *arguments]
    status = subprocess.run(command, env=environment, check=False).returncode
    if status:
        raise UserError(f"tools/{tool}: ended with status {status}, see above")


def montage(predicted: Path, file: Path, columns: int = 4, side: int = 180) -> None:
    """Put the first pictures that `predict.py` drew side by side."""
    entries = json.loads((predicted / "predictions.json").read_text(encoding="utf-8"))
    tiles = []
    for entry in list(entries.values())[: 2 * columns]:
        image = cv2.imread(str(predicted / entry["picture"]))
        scale = side / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile = np.full((side, side, 3), 255, np.uint8)
        tile[: image.shape[0], : image.shape[1]] = image
        tiles.append(tile)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    cv2.imwrite(str(file), np.vstack([row for row in rows if row.shape == rows[0].shape]))


def run_task(name: str, out: Path) -> float:
    """Take one task through every tool, in float and in int8; return the seconds of training."""
    config, run, pictures = f"configs/{name}/demo.yml", out / name, f"demo_data/{name}"
    begin = time.monotonic()
    call("train.py", "-c", config, "--save_dir", str(run))
    seconds = time.monotonic() - begin
    best, exported = str(run / "best_model"), str(out / f"{name}_exported")
    call("eval.py", "--weights", best)
    call("export_model.py", "--weights", best, "--save_dir", exported, "--format", "paddle,onnx")
    begin = time.monotonic()
    call("train.py", "-c", config, "--slim", "qat", "-o", f"model.pretrained={best}",
         "--save_dir", str(out / f"{name}_qat"))  # fmt: skip
    seconds += time.monotonic() - begin
    call("qat_export.py", "--weights", str(out / f"{name}_qat" / "best_model"),
         "--save_dir", str(out / f"{name}_int8"), "--no_metric")  # fmt: skip
    for kind in KINDS:
        call("eval.py", "--model_dir", str(out / f"{name}_{kind}"), "--backend", BACKEND,
             "--save", str(out / f"{name}_{kind}.json"))  # fmt: skip
    call("predict.py", "--model_dir", str(out / f"{name}_int8"), "--backend", BACKEND,
         "--image_path", f"{pictures}/{PICTURES[name]}",
         "--save_dir", str(out / f"{name}_predicted"))  # fmt: skip
    montage(out / f"{name}_predicted", out / f"{name}.png")
    return seconds


def measure(name: str, out: Path) -> dict[str, float]:
    """Time the float and the int8 files of a task together; return milliseconds by kind."""
    folders, saved = [str(out / f"{name}_{kind}") for kind in KINDS], out / f"{name}_benchmark.json"
    call("benchmark.py", "--model_dir", *folders, "--save", str(saved))
    rows = json.loads(saved.read_text(encoding="utf-8"))["rows"]
    return {
        kind: row["mean_ms"]
        for kind in KINDS
        for row in rows
        if row["backend"] == BACKEND and row["model"].endswith(f"{name}_{kind}")
    }


def row_of(name: str, out: Path, latency: dict[str, float], seconds: float) -> list[str]:
    """Return the line of a task in the last table."""
    metrics = [json.loads((out / f"{name}_{kind}.json").read_text()) for kind in KINDS]
    key = next(iter(metrics[0]))
    sizes = [(out / f"{name}_{kind}" / "model.onnx").stat().st_size / 1e6 for kind in KINDS]
    return [
        *(name, key, *(f"{measured[key]:.4f}" for measured in metrics)),
        *(f"{size:.2f}" for size in sizes),
        *(f"{latency[kind]:.2f}" for kind in KINDS),
        f"{seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save_dir", type=Path, default=Path("output/demo"))
    out = parser.parse_args().save_dir
    seconds = {name: run_task(name, out) for name in TASKS}
    latency = {name: measure(name, out) for name in TASKS}
    table = Table(title=f"float and int8 files in {BACKEND}, one thread")
    pairs = ("metric", "MB", "ms")
    for column in ("task", "", *(f"{kind} {what}" for what in pairs for kind in ("float", "int8"))):
        table.add_column(column)
    table.add_column("training s")
    for name in TASKS:
        table.add_row(*row_of(name, out, latency[name], seconds[name]))
    Console(width=max(Console().width, 110)).print(table)
    print("pictures of the int8 files:", ", ".join(str(out / f"{name}.png") for name in TASKS))


if __name__ == "__main__":
    cli.run(main)
