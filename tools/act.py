"""Compress an exported model without its code: train it on with rounding, taught by itself."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, options
from core.errors import ConfigError

if TYPE_CHECKING:
    from core.act.config import ActConfig
    from core.task import Task
    from core.training.loader import Loader


def parse_arguments() -> argparse.Namespace:
    epilog = "Files that are refused go to SAVE_DIR.rejected, with the trained weights."
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog)
    options.add_config_arguments(parser, required=False)
    add = parser.add_argument
    add(
        "--config_path",
        required=True,
        type=options.path,
        metavar="YML",
        help="how to compress: a file as in configs/act",
    )
    options.add_export_arguments(parser, "paddle")
    for name in ("model_dir", "model_filename", "params_filename"):
        add(f"--{name}", help="instead of the one in CONFIG_PATH, section Global")
    options.add_target_argument(parser)
    options.add_output_argument(parser)
    add("--eval_rate", type=options.share, default=1.0, help="share of the validation data (1.0)")
    add("--no_metric", action="store_true", help="do not measure the metric, keep the last weights")
    options.add_acceptance_argument(parser)
    return cli.parse(parser)


def read_config(arguments: argparse.Namespace) -> ActConfig:
    from core.act.config import read_act
    from core.settings.config import assignment

    config = read_act(arguments.config_path)
    names = ("model_dir", "model_filename", "params_filename")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if config.Global.data_dir is not None:
        arguments.override.insert(0, assignment("data.root", config.Global.data_dir))
    return replace(config, Global=replace(config.Global, **given))


def open_training(task: Task, config: ActConfig, rank: int, world: int) -> Loader:
    """Open the training data: without labels, if the float model is the teacher."""
    from core.quant.calibration import ImageFiles, UnlabelledImages
    from core.runtimes.predict_images import list_images
    from core.training.loader import Loader

    images, data = config.Global.images, task.config.data
    if images and config.Distillation is None:
        raise ConfigError("Global.images: have no labels; without Distillation they are needed")
    dataset = ImageFiles(task, list_images(Path(images))) if images else task.build_dataset("train")
    if config.Distillation is not None:
        dataset = UnlabelledImages(dataset, [spec.name for spec in task.input_spec()])
    how = {"num_workers": data.num_workers, "on_error": "skip" if images else data.on_error}
    how |= {"rank": rank, "world": world}
    given = config.Global
    return Loader(dataset, batch_size=given.batch_size, train=True, seed=given.seed, **how)


def main() -> int:
    arguments = parse_arguments()
    cli.complete(arguments, "save_dir")
    import paddle

    from core.act.auto_compression import AutoCompression, Epochs
    from core.act.files import FileLayout, describe_task
    from core.act.source import open_source
    from core.training.distributed import initialize
    from core.training.run import pick_device
    from core.workflows.comparison_table import figures_of, to_table

    paddle.set_device(pick_device("auto"))
    rank, world = initialize()
    config = read_config(arguments)
    model = config.Global
    source = open_source(model.model_dir, model.model_filename, model.params_filename)
    task = cli.task_of(source, arguments)
    train = open_training(task, config, rank, world)
    val = cli.validation_of(task, arguments)
    compression = AutoCompression(
        source,
        Epochs(train),
        save_dir=arguments.save_dir,
        config=config,
        eval_callback=val.measure,
        loss=task.losses,
        metric=val.measured,
        layout=FileLayout(arguments.format, arguments.target, describe_task(task)),
        overwrite=arguments.overwrite,
    )
    rows = compression.compress().rows
    if rank:
        return 0
    cli.print_left_out(train.skipped)
    cli.wide_console().print(to_table(rows, val.metric))
    print(f"written to {arguments.save_dir}")
    return cli.judged(arguments.targets, figures_of(rows, val.higher_is_better))


if __name__ == "__main__":
    cli.run(main)
