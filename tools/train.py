"""Train a model, plainly or under a compression recipe."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import cli
from core.errors import ConfigError
from core.settings.config import load_yaml, merge, parse_overrides

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "slim"
TEACHER = "teacher."  # begins an override that is for the teacher
Settings = dict[str, Any]
Teachers = list[dict[str, Any]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Several processes: python -m paddle.distributed.launch --gpus 0,1 tools/train.py "
        "-c ... (on CPUs: --nproc_per_node 2 --backend gloo)",
    )
    cli.add_config_arguments(parser, required=True)
    parser.add_argument(
        "--slim", metavar="RECIPE", help="recipe: a YAML file, or the name of one in configs/slim"
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
    return cli.parse(parser)


def read_settings(arguments: argparse.Namespace) -> tuple[Settings, Settings, Teachers, bool]:
    """Return config, recipe, whose epochs go before its own, teachers, and if epochs are fixed."""
    from core.distill.teacher import read_teachers
    from core.training.recipe import recipe_epochs

    settings, recipe = load_yaml(arguments.config), {}
    slim = arguments.slim or ("distill" if arguments.distill_config else None)
    if slim:
        named = RECIPES / f"{slim}.yml"
        recipe = load_yaml(named if named.is_file() else slim)
        epochs = recipe_epochs(recipe)
        settings = merge(settings, {"train": {"epochs": epochs}} if epochs else {})
    of_teacher = [each for each in arguments.override if each.startswith(TEACHER)]
    own = [each for each in arguments.override if each not in of_teacher]
    teachers = read_teachers(arguments.distill_config, [e[len(TEACHER) :] for e in of_teacher])
    overrides = parse_overrides(own)
    fixed = "epochs" in recipe or "epochs" in overrides.get("train", {})
    return merge(settings, overrides), recipe, teachers, fixed


def main() -> None:
    arguments = parse_arguments()
    import paddle

    from core.training.distributed import initialize
    from core.training.engine import Engine
    from core.training.hooks import standard_hooks
    from core.training.recipe import read_recipe, suggested_epochs
    from core.training.run import read_run

    settings, recipe_settings, teachers, fixed = read_settings(arguments)
    run = read_run(settings)
    epochs = None if fixed else suggested_epochs(recipe_settings, run.task, run.train.epochs)
    if epochs:
        settings = merge(settings, {"train": {"epochs": epochs}})
        run = replace(run, train=replace(run.train, epochs=epochs))
    recipe = read_recipe(recipe_settings, run.train.epochs, bool(teachers))
    paddle.set_device(run.device)
    save_dir = arguments.save_dir or Path("output", run.task.name, Path(arguments.config).stem)
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"save_dir: {save_dir} cannot be written: {error.strerror}") from error
    rank, _ = initialize()
    hooks = standard_hooks(run.train, save_dir, rank, arguments.use_vdl, settings)
    engine = Engine(run, recipe, save_dir, hooks, teachers)
    engine.train(resume=arguments.resume)
    if rank == 0 and engine.best is not None:
        print(engine.best_report)
        print(f"best {engine.best:.4f} in epoch {engine.best_epoch}: {save_dir}/best_model")


if __name__ == "__main__":
    cli.run(main)
