"""Train, measure, export and look at one small model per task, on data drawn on first use."""

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
from core.checkpoint import load_description
from core.deploy.description import read_description
from core.errors import UserError

TASKS = ("cls", "seg", "keypoint")
PICTURES = {"cls": "val", "seg": "images/val", "keypoint": "images/val"}


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


def run_task(name: str, out: Path) -> list[str]:
    """Take one task through every tool and return its row of the table."""
    config, run, exported = f"configs/{name}/demo.yml", out / name, out / f"{name}_exported"
    begin = time.monotonic()
    call("train.py", "-c", config, "--save_dir", str(run))
    seconds = time.monotonic() - begin
    best = run / "best_model"
    call("eval.py", "--weights", str(best / "model.pdparams"))
    arguments = ["--weights", str(best / "model.pdparams"), "--save_dir", str(exported)]
    call("export_model.py", *arguments, "--format", "paddle,onnx")
    call("eval.py", "--model_dir", str(exported), "--save", str(out / f"{name}.json"))
    pictures = Path("demo_data", name, PICTURES[name])
    call("predict.py", "--model_dir", str(exported), "--image_path", str(pictures),
         "--save_dir", str(out / f"{name}_predicted"))  # fmt: skip
    montage(out / f"{name}_predicted", out / f"{name}.png")
    described, deployed = load_description(best), read_description(exported)
    measured = json.loads((out / f"{name}.json").read_text())
    key = next(iter(measured))
    size = deployed.report.size_mb if deployed and deployed.report else 0.0
    eager = described.metrics[key] if described else float("nan")
    return [name, key, f"{eager:.4f}", f"{measured[key]:.4f}", f"{size:.2f}", f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save_dir", type=Path, default=Path("output/demo"))
    out = parser.parse_args().save_dir
    rows = [run_task(name, out) for name in TASKS]
    for name in TASKS:  # one table each: their inputs differ
        saved = str(out / f"{name}_benchmark.json")
        call("benchmark.py", "--model_dir", str(out / f"{name}_exported"), "--save", saved)
    table = Table(title="demo")
    for column in ("task", "metric", "trained", "exported", "size MB", "training s"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print("pictures:", ", ".join(str(out / f"{name}.png") for name in TASKS))


if __name__ == "__main__":
    cli.run(main)
