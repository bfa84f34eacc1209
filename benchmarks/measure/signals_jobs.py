"""What `benchmarks.measure.signals` disturbs: trainings under all strategies, and the tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core.runtimes.predictor import load_predictor
from core.settings.digests import digest_of
from core.training import checkpoint

EPOCHS = 4
SETTINGS: dict[str, Any] = {
    "task": {"name": "cls"},
    "model": {"name": "MobileNetV3_small_x0_35", "num_classes": 4},
    "data": {"root": "data", "image_size": 32, "num_workers": 2},
    "synthetic": {"train_images": 16, "val_images": 8, "side": 32},
    "train": {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 0.01},
    "device": "cpu",
}
PRUNE = {"kind": "prune", "start_epoch": 1, "target_ratio": 0.3, "calibration_samples": 4}
QAT = {"kind": "qat", "start_epoch": 2, "calibration_samples": 4}
DISTILL = {"kind": "distill", "end_epoch": EPOCHS}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "prune": [PRUNE],
    "qat": [QAT],
    "distill": [DISTILL],
    "mutual": [{"kind": "mutual", "end_epoch": EPOCHS}],
    "distill, prune, qat": [DISTILL, PRUNE, QAT],
}
ACT = {
    "Global": {"model_dir": "float", "batch_size": 4, "calibration_batches": 2},
    "Distillation": {"loss": "l2"},
    "QuantAware": {},
    "TrainConfig": {"epochs": 1, "eval_iter": 2, "logging_iter": 1, "learning_rate": 0.01},
}


@dataclass(frozen=True)
class Job:
    """A tool with its arguments, in a folder where all that it needs is there.

    Attributes:
        name: In the table.
        words: Tool and arguments.
        output: File or folder that it makes.
        intact: Raises where the output is there and is not whole.
        resumes: Whether `--resume` goes on from an output that is there.
    """

    name: str
    words: tuple[str, ...]
    output: str
    intact: Callable[[Path], object] = field(repr=False)
    resumes: bool = False


def prepare(folder: Path, call: Callable[[Path, Sequence[str]], None]) -> list[Job]:
    """Make configs, a checkpoint and exports; return the jobs that use them.

    Args:
        folder: Where to.
        call: Runs a tool there.
    """
    (folder / "config.yml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    (folder / "act.yml").write_text(yaml.safe_dump(ACT), encoding="utf-8")
    train = ("train.py", "-c", "config.yml", "--save_dir")
    call(folder, (*train, "run"))
    best = ("--weights", "run/best_model")
    call(folder, ("export_model.py", *best, "--save_dir", "float", "--format", "paddle,onnx"))
    jobs = []
    for number, (name, steps) in enumerate(RECIPES.items()):
        words, recipe = [*train, f"trained_{number}"], f"recipe_{number}.yml"
        if steps:
            (folder / recipe).write_text(yaml.safe_dump({"strategies": steps}), encoding="utf-8")
            words += ["--slim", recipe]
        if DISTILL in steps:
            words += ["--distill_config", "run/best_model"]
        if QAT in steps:
            words += ["-o", "model.pretrained=run/best_model"]
        jobs.append(Job(f"train, {name}", tuple(words), f"trained_{number}", _trained, True))
    return jobs + _tools(best)


def _tools(best: tuple[str, str]) -> list[Job]:
    both = ("--format", "paddle,onnx")
    return [
        Job("export_model", _into("export_model", "made", *best, *both), "made", _exported),
        Job("ptq", _into("ptq", "quantized", *best, *both, "--num_calib", "8"), "quantized", _ptq),
        Job(
            "ptq, exported model",
            _into("ptq", "static", "--model_dir", "float", "--num_calib", "8"),
            "static",
            _ptq,
        ),
        Job("act", _into("act", "act", "--config_path", "act.yml"), "act", _exported),
        Job(
            "predict",
            _into("predict", "drawn", "--model_dir", "float", "--image_path", "data/val"),
            "drawn",
            _predicted,
        ),
        Job("eval", ("eval.py", *best, "--save", "metrics.json"), "metrics.json", _json),
        Job(
            "benchmark",
            ("benchmark.py", "--model_dir", "float", "--runs", "5", "--save", "times.json"),
            "times.json",
            _json,
        ),
        Job(
            "sensitivity",
            _into("sensitivity", "costs", *best, "--delta_rate", "0.5"),
            "costs",
            lambda path: [_json(file) for file in path.glob("*.json")],
        ),
    ]


def _into(tool: str, folder: str, *words: str) -> tuple[str, ...]:
    again = ("--overwrite",) if tool in ("export_model", "ptq", "act") else ()
    return (f"{tool}.py", *words, "--save_dir", folder, *again)


def end_of(folder: Path) -> dict[str, str]:
    """Return what a training ended with: the digests of all files of its last checkpoint."""
    names = (checkpoint.WEIGHTS, checkpoint.TRAINING, checkpoint.DESCRIPTION)
    return {name: digest_of(folder / "latest" / name) for name in names}


def _trained(folder: Path) -> None:
    for name in ("latest", "best_model"):
        if (folder / name).exists():
            weights = checkpoint.weights_path(folder / name)
            checkpoint.load_weights(weights, checkpoint.load_description(weights))


def _exported(folder: Path) -> None:
    load_predictor(folder)


def _ptq(folder: Path) -> None:
    load_predictor(folder / "int8" if (folder / "int8").is_dir() else folder)


def _predicted(folder: Path) -> None:
    file = folder / "predictions.json"
    for entry in _json(file).values() if file.exists() else ():
        if not (folder / entry["picture"]).stat().st_size:
            raise ValueError(f"{entry['picture']}: is empty")


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
