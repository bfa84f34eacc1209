"""Measure a checkpoint, or an exported model, with the task's metric."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import paddle

from core import checkpoint, cli
from core.config import load_yaml, merge, parse_overrides
from core.data import Loader
from core.deploy.predictor import load_predictor
from core.errors import ConfigError
from core.evaluation import eager_forward, evaluate
from core.run import pick_device, read_run
from core.task import Task, build_task


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, required=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", help="checkpoint (folder or .pdparams); describes itself")
    what.add_argument("--model_dir", type=Path, help="exported model")
    parser.add_argument("--backend", default="paddle", help="paddle, onnxruntime or openvino")
    parser.add_argument("--batch_size", type=int, help="default: the config's")
    parser.add_argument("--threads", type=int, default=1, help="of an exported model")
    parser.add_argument("--save", type=Path, metavar="JSON", help="write the metrics there")
    return parser.parse_args()


def choose_task(arguments: argparse.Namespace, name: str | None, own: dict | None) -> Task:
    """Build the task of `-c`, or the one the model describes, with the overrides on top."""
    overrides = parse_overrides(arguments.override)
    if arguments.config:
        return read_run(merge(load_yaml(arguments.config), overrides)).task
    if name is None or own is None:
        what = arguments.weights or arguments.model_dir
        raise ConfigError(f"{what}: does not say what task it is of; name a config with -c")
    return build_task(name, merge(own, overrides))


def main() -> None:
    arguments = parse_arguments()
    device = pick_device("auto")
    paddle.set_device(device)
    if arguments.weights:
        description = checkpoint.load_description(arguments.weights)
        name, own = (description.task, description.settings) if description else (None, None)
        task, model = checkpoint.restore(arguments.weights, choose_task(arguments, name, own))
        run = eager_forward(task, model)
    else:
        predictor = load_predictor(arguments.model_dir, arguments.backend, arguments.threads)
        said = predictor.description.task
        task = choose_task(arguments, said.name if said else None, said.settings if said else None)
        run = predictor.run
    loader = Loader(
        task.build_dataset("val"),
        batch_size=arguments.batch_size or 1,
        train=False,
        num_workers=task.config.data.num_workers,
        on_error=task.config.data.on_error,
    )
    metric = evaluate(task, run, loader, progress=True)
    for message in loader.skipped:
        print(f"left out: {message}")
    print(metric.report())
    for key, value in metric.compute().items():
        print(f"{key}: {value:.4f}")
    if arguments.save:
        arguments.save.write_text(json.dumps(metric.compute(), indent=1))


if __name__ == "__main__":
    cli.run(main)
