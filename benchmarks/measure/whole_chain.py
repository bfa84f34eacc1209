"""Prune, distil and quantize a trained network, and set the int8 files beside its float file.

    python -m benchmarks.measure.whole_chain NAME CONFIG FLOAT_RUN --work_dir DIR \\
        --ratios 0.3 0.7 --widths 0.5 --teacher TEACHER_RUN -o data.root=ROOT -o train.epochs=10

FLOAT_RUN is the folder of a finished training, or a file of published weights. For each ratio
`tools/train.py --slim distill_prune_qat` removes that share of the float network's MACs and trains
under the float network; for each width it keeps that share of the channels of every layer. With
TEACHER_RUN, the network as it is learns from that one by `--slim distill_qat`. Called again, it
goes on with a training that was interrupted, and takes one that is finished. Files of others
(`benchmarks.measure.chain_peers`) stand beside ours. Every file answers the validation split, and
others that are named, in its runtime on this processor and as on one without VNNI
(`benchmarks.processor.without_vnni`):

        --also lsp data.val_annotations=FILE data.val_images=FOLDER

Figures go to docs/results/chain_<name>.json; `benchmarks/measure/results.py` puts them on the page.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.comparison import THREADS, command, training_seconds
from benchmarks.measure.chain_peers import Files, Row, export_peers
from benchmarks.measure.command import revision
from benchmarks.measure.compare_runs import shortest_of_each
from benchmarks.pages.cells import measured_on
from benchmarks.processor import without_vnni
from core import cli, options
from core.export.package import export
from core.quant.calibration import training_images
from core.quant.layers import quantized_layers
from core.quant.post_training import PtqConfig, quantize_after_training
from core.runtimes.environment import environment
from core.runtimes.formats import format_of
from core.runtimes.predictor import load_predictor
from core.settings.config import load_yaml, merge, parse_overrides, read
from core.targets.instructions import multiplies_int8_exactly
from core.targets.names import BACKENDS, Backend
from core.training import checkpoint
from core.training.evaluation import evaluate, validation_loader
from core.training.run import read_run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PRUNING, TAUGHT = "distill_prune_qat", "distill_qat"
AFTER = "int8, not pruned (after training)"
RUNTIME: Backend = "openvino"
MEASURE = "--measure"
VALIDATION = "validation"  # the split of the config
PROCESSOR_WORDS = {"vnni": "with VNNI", "avx2": "without"}
FILES_OF = {"paddle": ("model.pdmodel", "model.pdiparams"), "onnx": ("model.onnx",)}
Settings = dict[str, Any]


class Course(NamedTuple):
    """A training: its label in the table, and how it is done."""

    label: str
    suffix: str  # of its folder
    recipe: str
    teacher: Path
    overrides: tuple[str, ...]


def train(
    config: Path, start: Path, folder: Path, course: Course, overrides: Sequence[str]
) -> None:
    """Train, or go on with it.

    Args:
        config: Config of the float network.
        start: Folder whose `best_model` it is.
        folder: Folder of this one.
        course: What is done.
        overrides: `key=value` for each training.
    """
    given = [*overrides, f"model.pretrained={start / 'best_model'}", "model.reinit=[]"]
    given += course.overrides
    words = [sys.executable, os.path.relpath(ROOT / "tools" / "train.py"), "-c", str(config)]
    words += [word for each in given for word in ("-o", each)]
    words += ["--slim", course.recipe, "--distill_config", str(course.teacher / "best_model")]
    words += ["--save_dir", str(folder)]
    words += ["--resume"] if (folder / "latest").is_dir() else []
    subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def courses(
    ratios: Sequence[float], widths: Sequence[float], start: Path, teacher: Path | None
) -> Iterator[Course]:
    """Yield the trainings that are asked for."""
    grids = f"strategies.2.target={RUNTIME}"
    for ratio in ratios:
        label, given = f"int8, {ratio:.0%} of the MACs pruned", f"target_ratio={ratio}"
        yield Course(label, f"{100 * ratio:.0f}", PRUNING, start, (f"strategies.0.{given}", grids))
    for width in widths:
        label, suffix = f"int8, {width:.0%} of the channels", f"width_{100 * width:.0f}"
        cut = "strategies.0.target_ratio=null", f"strategies.0.pruned_ratio={1 - width:g}"
        yield Course(label, suffix, PRUNING, start, (*cut, grids))
    if teacher is not None:
        label = f"int8, under {teacher.name.removesuffix('_float')}"
        yield Course(label, "taught", TAUGHT, teacher, (f"strategies.0.target={RUNTIME}",))


def measure(
    runs: Mapping[str, Path], splits: Mapping[str, Settings], count: int, work_dir: Path
) -> dict[str, Any]:
    """Export the runs, and measure every file in its runtime on both kinds of processor.

    Args:
        runs: Folders with a `best_model` by name; the first is the float network, from which one
            more row is made by quantization after training, for each runtime by itself.
        splits: Configs of the float network by the name of the set that they validate on.
        count: Images that quantization after training is calibrated on.
        work_dir: Folder for copies of libraries that see no VNNI.
    """
    rows: dict[str, Row] = {}
    files: Files = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (name, run) in enumerate(runs.items()):
            logging.info("exporting %s", name)
            rows[name] = _told(run)
            folder = Path(place, str(number))
            files[name] = export_all(run, folder, rows[name])
            if number == 0:
                rows[AFTER] = {}
                files[AFTER] = export_all(run, Path(place, "after"), rows[AFTER], count)
                theirs, their_files = export_peers(run, Path(place, "others"), count, work_dir)
                rows |= theirs
                files |= their_files
        here = all(map(multiplies_int8_exactly, BACKENDS))
        kinds = {"vnni": {}, "avx2": without_vnni.variables(work_dir)} if here else {"avx2": {}}
        measured = {
            kind: measure_elsewhere(files, splits, variables, Path(place))
            for kind, variables in kinds.items()
        }
    task = read_run(next(iter(splits.values()))).task
    return {
        "chain": rows,
        "measured": measured,
        "network": task.config.model.name,
        "metric": task.build_metric().primary,
        "calibration_images": count,
        "revision": revision(),
        "environment": environment(),
        "date": datetime.date.today().isoformat(),
    }


def export_all(run: Path, folder: Path, row: Row, count: int = 0) -> dict[Backend, str]:
    """Export a run for each runtime; return the folders, and tell its row of size and cost.

    Args:
        run: Folder with a `best_model`.
        folder: New folder for the exports.
        row: What is told of the run; gets `bytes` by runtime, `macs`, `parameters`, `input` and
            `quantized`, how many layers are.
        count: Images to quantize with after training, for each runtime by itself; 0: as it is.
    """
    made: dict[Backend, str] = {}
    row["bytes"] = {}
    for backend in BACKENDS:
        task, model = checkpoint.restore(run / "best_model")
        if count:
            settings = read(PtqConfig, {"target": backend})
            quantize_after_training(task, model, training_images(task, count), settings)
        target: Backend = "onnxruntime" if backend == "onnxruntime" else "openvino"
        exported = export(task, model, folder / backend, (format_of(backend),), target=target)
        made[backend] = str(exported.folder)
        names = FILES_OF[format_of(backend)]
        row["bytes"][backend] = sum(exported.file_bytes[name] for name in names)
        report = exported.description.report
        assert report is not None
        row |= {"macs": report.macs, "parameters": report.parameters}
        row |= {"input": list(report.input_shapes[0]), "quantized": len(quantized_layers(model))}
    return made


def measure_elsewhere(
    files: Files, splits: Mapping[str, Settings], variables: dict[str, str], place: Path
) -> dict[str, Any]:
    """Let a process with such variables measure all files."""
    asked, answered = place / "asked.json", place / "answered.json"
    asked.write_text(json.dumps({"files": files, "splits": splits}), encoding="utf-8")
    words = [sys.executable, "-m", "benchmarks.measure.whole_chain", MEASURE]
    words += [str(asked), str(answered)]
    found_at = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": found_at}  # in the same folder, which paths of the data may start from
    subprocess.run(words, env=os.environ | variables | THREADS | own, check=True)
    found: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    return found


def measure_here(asked: Path, answered: Path) -> None:
    """Measure what a file asks for on the processor that this process sees."""
    question = json.loads(asked.read_text(encoding="utf-8"))
    files: Files = question["files"]
    found: dict[str, dict[str, Any]] = {name: {"values": {}, "ms": {}} for name in files}
    for split, settings in question["splits"].items():
        task = read_run(settings).task
        for name, folders in files.items():
            found[name]["values"][split] = {}
            for backend, folder in folders.items():
                run = load_predictor(folder, backend).run
                metric = evaluate(task, run, validation_loader(task))
                found[name]["values"][split][backend] = metric.compute()[metric.primary]
    for backend in BACKENDS:
        named = {name: Path(each[backend]) for name, each in files.items() if backend in each}
        times = shortest_of_each(list(named.values()), backend)
        for name, shortest in zip(named, times):
            found[name]["ms"][backend] = shortest
    answered.write_text(json.dumps(found), encoding="utf-8")


def adopt(settings: Settings, weights: Path, folder: Path) -> None:
    """Make `best_model` of published weights and their config, as a training leaves it.

    Raises:
        CheckpointError: The weights do not fit.
    """
    task, model = checkpoint.restore(weights, read_run(settings).task)
    checkpoint.save(folder / "best_model", checkpoint.describe(task), model.state_dict())


def _told(run: Path) -> Row:
    if not (run / "train.log").is_file():
        return {}
    settings = yaml.safe_load((run / "config.yml").read_text())
    return {
        "epochs": settings["train"]["epochs"],
        "seed": settings.get("seed", 0),
        "minutes": training_seconds(run / "train.log") / 60,
        "command": command(run / "train.log"),
    }


def _rows_of_files(
    rows: dict[str, Row],
    measured: dict[str, dict[str, Any]],
    kinds: list[str],
    splits: list[str],
) -> Iterator[str]:
    """Yield a line for each file, beside the float file in the same runtime."""
    first = next(iter(rows))
    for label, row in rows.items():
        for backend in row["bytes"]:
            cells = [f"{row['bytes'][backend] / 1000:,.0f}"]
            if label != first:
                cells[0] += f" ({rows[first]['bytes'][backend] / row['bytes'][backend]:.1f}x)"
            for split in splits:
                values = [measured[kind][label]["values"][split][backend] for kind in kinds]
                exact = [measured[kind][first]["values"][split][backend] for kind in kinds]
                cells.append(" / ".join(f"{value:.4f}" for value in values))
                if label != first:
                    lost = " / ".join(f"{100 * (v - e):+.2f}" for v, e in zip(values, exact))
                    cells[-1] += f" ({lost})"
            times = [measured[kind][label]["ms"][backend] for kind in kinds]
            whole = [measured[kind][first]["ms"][backend] for kind in kinds]
            cells.append(" / ".join(f"{time:.2f}" for time in times))
            if label != first:
                faster = " / ".join(f"{w / t:.1f}x" for w, t in zip(whole, times))
                cells[-1] += f" ({faster})"
            yield f"| {label} | {backend} | {' | '.join(cells)} |"


def section(name: str, entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one network."""
    rows: dict[str, Row] = entry["chain"]
    measured: dict[str, dict[str, Any]] = entry["measured"]
    first, metric = next(iter(rows)), entry["metric"]
    shape = "x".join(map(str, rows[first]["input"]))
    kinds = [kind for kind in PROCESSOR_WORDS if kind in measured]
    splits = list(measured[kinds[0]][first]["values"])
    yield f"\n## Pruned, distilled, quantized: {name.removeprefix('chain_')}\n"
    yield (
        f"{entry['network']} at {shape}, {metric}. The first row is the float network, from which "
        "the others start and under which they are trained, unless it says otherwise. Minutes are "
        f"wall time of training on a busy machine. {entry['calibration_images']} images for "
        "calibration after training, for each runtime by itself.\n"
    )
    yield "| | epochs | minutes | M MACs | M parameters |"
    yield "| --- |" + " ---: |" * 4
    for label, row in rows.items():
        if "macs" not in row:  # of others, which change nothing of these
            continue
        trained = [str(row["epochs"]), f"{row['minutes']:.0f}"] if "minutes" in row else ["", ""]
        cost = [f"{row['macs'] / 1e6:.1f}", f"{row['parameters'] / 1e6:.3f}"]
        yield f"| {label} | {' | '.join([*trained, *cost])} |"
    words = " / ".join(PROCESSOR_WORDS[kind] for kind in kinds)
    yield (
        f"\nThe files, {words}; in brackets: points (hundredths) against the float file in the "
        "same runtime, and how many times smaller and faster a file is. ms are the shortest of 50 "
        "runs that take turns, one thread, by the processor's clock.\n"
    )
    yield f"| | runtime | KB | {' | '.join(f'{metric}, {split}' for split in splits)} | ms |"
    yield "| --- | --- |" + " ---: |" * (len(splits) + 2)
    yield from _rows_of_files(rows, measured, kinds, splits)
    failed = {label: row["fails"] for label, row in rows.items() if row.get("fails")}
    yield from (f"\n{label}: {why}." for label, why in failed.items())
    yield f"\n{measured_on(entry)}\n\n```"
    yield from (row["command"] for row in rows.values() if "command" in row)
    yield "```"


def main() -> None:
    if sys.argv[1:2] == [MEASURE]:
        measure_here(*map(Path, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("config", type=Path, help="of the float network")
    parser.add_argument(
        "float_run", type=Path, help="save_dir of its finished training, or weights"
    )
    parser.add_argument("--work_dir", type=Path, required=True, help="for the trainings")
    for name, help_ in (("ratios", "of the MACs to remove"), ("widths", "of channels to keep")):
        parser.add_argument(
            f"--{name}", nargs="+", type=float, default=[], metavar="SHARE", help=help_
        )
    parser.add_argument("--teacher", type=Path, help="save_dir of a finished training")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE")
    help_ = "one more set to validate on: its name, and what to change in the config"
    parser.add_argument("--also", action="append", default=[], nargs="+", metavar="X", help=help_)
    help_ = "settings of one training: what its folder ends with (5, width_50, taught), and these"
    parser.add_argument("--own", action="append", default=[], nargs="+", metavar="X", help=help_)
    parser.add_argument("--num_calib", type=options.positive, default=256)
    arguments = parser.parse_args()
    work, start = arguments.work_dir.resolve(), arguments.float_run.resolve()
    of_task = [each for each in arguments.override if not each.startswith("strategies.")]
    settings = merge(load_yaml(arguments.config), parse_overrides(of_task))
    splits = {VALIDATION: settings}
    for name, *changes in arguments.also:
        splits[name] = merge(settings, parse_overrides(changes))
    if start.is_file():
        weights, start = start, work / f"{arguments.name}_float"
        adopt(settings, weights, start)
    runs = {"float": start}
    for course in courses(arguments.ratios, arguments.widths, start, arguments.teacher):
        folder = work / f"{arguments.name}_{course.suffix}"
        own = [
            word for suffix, *words in arguments.own if suffix == course.suffix for word in words
        ]
        train(arguments.config, start, folder, course, [*arguments.override, *own])
        runs[course.label] = folder
    entry = measure(runs, splits, arguments.num_calib, work)
    content = json.dumps(entry, indent=1) + "\n"
    (RESULTS / f"chain_{arguments.name}.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
