"""Measure how much of the metric each layer's channels are worth, or list what can be cut."""

from __future__ import annotations

import core.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from functools import partial
from pathlib import Path
from typing import get_args

import paddle
from rich.console import Console

from core import checkpoint, cli
from core.data import Loader
from core.evaluation import measure as measure_metric
from core.prune import sensitivity
from core.prune.criteria import Criterion, mean_gradients, score
from core.prune.plan import Ranking, choose_groups
from core.prune.pruner import build_pruner
from core.prune.report import fixed_table, group_table
from core.run import pick_device

GRADIENT_SAMPLES, GRADIENT_BATCH = 256, 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, required=False)
    parser.add_argument("--weights", required=True, help="checkpoint (folder or .pdparams)")
    parser.add_argument("--print_groups", action="store_true", help="list the channels and stop")
    parser.add_argument("--criterion", choices=get_args(Criterion), default="l1_norm")
    parser.add_argument(
        "--delta_rate", type=cli.part, default=0.2, help="ratios are this, twice this, ... (0.2)"
    )
    parser.add_argument(
        "--eval_rate", type=cli.share, default=1.0, help="share of the validation data (1.0)"
    )
    parser.add_argument("--params", nargs="+", default=["*"], help="only groups these weights make")
    parser.add_argument("--batch_size", type=cli.positive, default=1, help="default: 1")
    parser.add_argument("--save_dir", type=Path, default=Path("output/sensitivity"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    paddle.set_device(pick_device("auto"))
    chosen = cli.chosen_task(arguments, cli.described_by(arguments.weights))
    task, model = checkpoint.restore(arguments.weights, chosen)
    pruner, console = build_pruner(task, model), Console()
    file = arguments.save_dir / "sensitivities.json"
    pruner.probe()
    if arguments.print_groups:
        console.print(group_table(pruner.analysis))
        console.print(fixed_table(pruner.analysis))
        return
    sensitivity.save(file, sensitivity.load(file))  # what cannot be read or written is told now
    data = task.config.data
    common = {"num_workers": data.num_workers, "on_error": data.on_error}
    gradients = None
    if arguments.criterion == "taylor":
        loader = Loader(
            task.build_dataset("train"), batch_size=GRADIENT_BATCH, train=True, **common
        )
        gradients = mean_gradients(task, model, loader.some(GRADIENT_SAMPLES))
    groups, weights = pruner.analysis.groups, pruner.analysis.weights
    scores = score(model, groups, weights, arguments.criterion, gradients=gradients)
    chosen_groups = choose_groups(pruner.analysis, arguments.params, "--params")
    ranking = Ranking(pruner.analysis, scores, max_ratio=1.0, chosen=chosen_groups)
    batch_size, val = arguments.batch_size, task.build_dataset("val")
    loader = Loader(val, batch_size=batch_size, train=False, **common)
    found = sensitivity.measure(
        model,
        ranking,
        sensitivity.ratios_in_steps(arguments.delta_rate),
        sensitivity.task_meter(task, partial(measure_metric, task, loader), arguments.eval_rate),
        file,
    )
    console.print(found.table())
    sensitivity.plot(found, arguments.save_dir / "sensitivity.png")
    print(f"{arguments.save_dir}/sensitivities.json, {arguments.save_dir}/sensitivity.png")


if __name__ == "__main__":
    cli.run(main)
