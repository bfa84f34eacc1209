"""Train a model on with the rounding of int8 files, at the learning rate that is given.

The tool of PaddleSeg's quantization guide, with its flags, for any config. How long to train is
what the config says; tools/train.py --slim qat takes the share of it that the task suggests.
"""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from dataclasses import replace
from pathlib import Path

from core import cli, options

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "slim"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_config_arguments(parser, required=True)
    options.add_training_arguments(parser)
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from core.workflows.run_plan import RunFiles, read_plan
    from core.workflows.training import prepare

    overrides = options.training_overrides(arguments)
    plan = read_plan(RunFiles(arguments.config, "qat_as_given", (), overrides, RECIPES))
    plan = replace(plan, epochs_given=True)
    name = f"{Path(arguments.config).stem}_qat"
    scalars = arguments.use_vdl, arguments.use_tensorboard
    return cli.train(prepare(plan, arguments.save_dir, name, *scalars), arguments)


if __name__ == "__main__":
    cli.run(main)
