"""Train a model, plainly or under a compression recipe."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from pathlib import Path

from core import cli, options

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "slim"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Several processes: python -m paddle.distributed.launch --gpus 0,1 tools/train.py "
        "-c ... (on CPUs: --nproc_per_node 2 --backend gloo)",
    )
    options.add_config_arguments(parser, required=False)
    parser.add_argument(
        "--slim",
        action=options.Once,
        metavar="RECIPE",
        help="recipe: a YAML file, or the name of one in configs/slim; several, with commas "
        "between, become one. -o strategies.0.start_epoch=5 changes a setting of it",
    )
    parser.add_argument(
        "--distill_config",
        action="append",
        default=[],
        metavar="TEACHER",
        help="config of a teacher, or its checkpoint; may be repeated. Without --slim this is the "
        "recipe distill. -o teacher.weights=PATH sets the weights of the only teacher",
    )
    options.add_training_arguments(parser)
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from core.workflows.run_plan import RunFiles, read_plan
    from core.workflows.training import prepare

    overrides = options.training_overrides(arguments)
    named = arguments.config, arguments.slim, arguments.distill_config, overrides
    files = RunFiles(*named, recipes=RECIPES)
    plan = read_plan(files)
    scalars = arguments.use_vdl, arguments.use_tensorboard
    return cli.train(prepare(plan, arguments.save_dir, files.name, *scalars), arguments)


if __name__ == "__main__":
    cli.run(main)
