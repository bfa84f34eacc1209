"""Train a model, plainly or under a compression recipe."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from pathlib import Path

from core import cli

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "slim"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Several processes: python -m paddle.distributed.launch --gpus 0,1 tools/train.py "
        "-c ... (on CPUs: --nproc_per_node 2 --backend gloo)",
    )
    cli.add_config_arguments(parser, required=False)
    parser.add_argument(
        "--slim",
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
    parser.add_argument("--save_dir", type=Path, help="default: output/<task>/<name of the config>")
    parser.add_argument("--resume", action="store_true", help="go on from SAVE_DIR/latest")
    parser.add_argument("--use_vdl", action="store_true", help="write VisualDL scalars")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print what would happen epoch by epoch, and train nothing; status 2 if the run would "
        "fail",
    )
    parser.add_argument(
        "--save_config",
        type=Path,
        metavar="YML",
        help="write the whole run (config, recipe, teachers) as one file for -c, and train nothing",
    )
    return cli.parse(parser)


def main() -> None:
    arguments = parse_arguments()
    from core.training.distributed import initialize
    from core.workflows.run_plan import RunFiles, read_plan, settle
    from core.workflows.training import TrainingRun, save_plan

    named = arguments.config, arguments.slim, arguments.distill_config, arguments.override
    plan, run, recipe = settle(read_plan(RunFiles(*named, recipes=RECIPES)))
    stem = Path(arguments.config or arguments.slim).stem
    default = plan.save_dir or Path("output", run.task.name, stem)
    save_dir = arguments.save_dir or Path(default)
    training = TrainingRun(plan, run, recipe, save_dir, arguments.use_vdl or plan.use_vdl)
    if arguments.dry_run:
        cli.print_timeline(training.rehearse())
    if arguments.save_config:
        save_plan(plan, arguments.save_config)
        print(f"the run in our own words: {arguments.save_config}")
    if arguments.dry_run or arguments.save_config:
        return
    engine = training.train(arguments.resume)
    if initialize()[0] == 0 and engine.best is not None:
        print(engine.best_report)
        print(f"best {engine.best:.4f} in epoch {engine.best_epoch}: {save_dir}/best_model")


if __name__ == "__main__":
    cli.run(main)
