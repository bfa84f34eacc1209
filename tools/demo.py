"""Train, quantize, export and look at one small model per task, on data drawn on first use."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from core import cli, options
from core.errors import UserError
from core.settings.processes import run_beside

TASKS = ("cls", "seg", "keypoint")
PICTURES = {"cls": "val", "seg": "images/val", "keypoint": "images/val"}
KINDS = ("exported", "int8")  # ends of the folders of exported files
TOOLS = Path(__file__).resolve().parent
FILES = {"export": "export_model"}  # the others are named after their commands
OUT = Path("output/demo")
SHOWN = 8  # pictures on the sheet of a task


def call(tool: str, *arguments: str) -> None:
    """Show and run a tool, as a user would type it."""
    print(f"\n$ trislim {tool} {shlex.join(arguments)}", flush=True)
    file = FILES.get(tool, tool.replace("-", "_"))
    status = run_beside([sys.executable, str(TOOLS / f"{file}.py"), *arguments])
    if status:
        raise UserError(f"trislim {tool}: ended with status {status}, see above")


def run_task(name: str, out: Path, formats: str, backend: str, *again: str) -> float:
    """Take one task through every tool, in float and in int8; return the seconds of training.

    Args:
        name: Name of the task.
        out: Folder for everything.
        formats: Formats to export, with commas between.
        backend: Runtime that the files are evaluated in.
        again: `--overwrite`, or nothing.
    """
    from core.runtimes.predict_images import drawn_pictures
    from core.training.contact_sheet import write_sheet

    config, run, pictures = f"{name}/demo.yml", out / name, f"demo_data/{name}"
    begin = time.monotonic()
    call("train", "-c", config, "--save_dir", str(run), *again)
    seconds = time.monotonic() - begin
    best, exported = str(run / "best_model"), str(out / f"{name}_exported")
    call("eval", "--weights", best)
    call("export", "--weights", best, "--save_dir", exported, "--format", formats, *again)
    begin = time.monotonic()
    call("train", "-c", config, "--slim", "qat", "-o", f"model.pretrained={best}",
         "--save_dir", str(out / f"{name}_qat"), *again)  # fmt: skip
    seconds += time.monotonic() - begin
    call("qat-export", "--weights", str(out / f"{name}_qat" / "best_model"),
         "--save_dir", str(out / f"{name}_int8"), "--format", formats, "--no_metric",
         *again)  # fmt: skip
    for kind in KINDS:
        call("eval", "--model_dir", str(out / f"{name}_{kind}"), "--backend", backend,
             "--save", str(out / f"{name}_{kind}.json"))  # fmt: skip
    call("predict", "--model_dir", str(out / f"{name}_int8"), "--backend", backend,
         "--image_path", f"{pictures}/{PICTURES[name]}",
         "--save_dir", str(out / f"{name}_predicted"))  # fmt: skip
    write_sheet(out / f"{name}.png", drawn_pictures(out / f"{name}_predicted", SHOWN))
    return seconds


def row_of(name: str, out: Path, seconds: float, backend: str) -> list[str]:
    """Time the files of a task together and return its line in the last table."""
    folders, saved = [out / f"{name}_{kind}" for kind in KINDS], out / f"{name}_benchmark.json"
    call("benchmark", "--model_dir", *map(str, folders), "--save", str(saved))
    rows = json.loads(saved.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if row["backend"] == backend]
    metrics = [json.loads((out / f"{name}_{kind}.json").read_text()) for kind in KINDS]
    key = next(iter(metrics[0]))
    figures = [f"{measured[key]:.4f}" for measured in metrics]
    figures += [f"{row[value]:.2f}" for value in ("size_mb", "mean_ms") for row in rows]
    return [name, key, *figures, f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save_dir", type=options.path, default=OUT, help=f"default: {OUT}")
    text = f"replace what an earlier demo has left in SAVE_DIR, as in {OUT}"
    parser.add_argument("--overwrite", action="store_true", help=text)
    arguments = cli.parse(parser)
    out = arguments.save_dir
    again = ["--overwrite"] if arguments.overwrite or out == OUT else []
    from rich.table import Table

    from core.targets.names import USUAL_FORMATS

    backend = "openvino"  # in which the last table compares
    formats = ",".join(USUAL_FORMATS)
    seconds = {name: run_task(name, out, formats, backend, *again) for name in TASKS}
    rows = [row_of(name, out, seconds[name], backend) for name in TASKS]
    table = Table(title=f"float and int8 files in {backend}, one thread")
    pairs = ("metric", "MB", "ms")
    for column in ("task", "", *(f"{kind} {what}" for what in pairs for kind in ("float", "int8"))):
        table.add_column(column)
    table.add_column("training s")
    for row in rows:
        table.add_row(*row)
    cli.wide_console(110).print(table)
    print("pictures of the int8 files:", ", ".join(str(out / f"{name}.png") for name in TASKS))


if __name__ == "__main__":
    cli.run(main)
