"""Compress an exported model without its code: train it on with rounding, taught by itself."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.errors import ConfigError

if TYPE_CHECKING:
    from core.act.config import ActConfig
    from core.task import Task
    from core.training.loader import Loader


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_arguments(parser, required=False)
    add = parser.add_argument
    add("--config_path", required=True, type=Path, metavar="YML", help="see configs/act")
    cli.add_export_arguments(parser, "paddle")
    for name in ("model_dir", "model_filename", "params_filename"):
        add(f"--{name}", help="in the place of the one in the file's section Global")
    cli.add_target_argument(parser)
    add("--eval_rate", type=cli.share, default=1.0, help="share of the validation data (1.0)")
    add("--no_metric", action="store_true", help="measure nothing, keep the last weights")
    return cli.parse(parser)


def read_config(arguments: argparse.Namespace) -> ActConfig:
    from core.act.config import read_act

    config = read_act(arguments.config_path)
    names = ("model_dir", "model_filename", "params_filename")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if config.Global.data_dir is not None:
        arguments.override.insert(0, f"data.root={config.Global.data_dir}")
    return replace(config, Global=replace(config.Global, **given))


def open_training(task: Task, config: ActConfig, rank: int, world: int) -> Loader:
    """Open the training data: without labels, if the float model says what is right."""
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


def main() -> None:
    arguments = parse_arguments()
    cli.complete(arguments, "save_dir")
    import paddle

    from core.act.auto_compression import AutoCompression, Epochs
    from core.act.source import open_source
    from core.training.distributed import initialize
    from core.training.run import pick_device
    from core.workflows.comparison_table import meter, open_validation, to_table

    paddle.set_device(pick_device("auto"))
    rank, world = initialize()
    config = read_config(arguments)
    model = config.Global
    files = (model.model_dir, model.model_filename, model.params_filename)
    task = cli.exported_task(arguments, model.model_dir, open_source(*files).description)
    train = open_training(task, config, rank, world)
    val = None if arguments.no_metric else open_validation(task, share=arguments.eval_rate)
    metric = task.build_metric()
    compression = AutoCompression(
        *(files[0], Epochs(train), *files[1:], arguments.save_dir, config, meter(task, val)),
        loss=task.losses,
        higher_is_better=metric.higher_is_better,
        metric=metric.primary,
        images=len(val.dataset) if val else 1,
        formats=arguments.format,
        target=arguments.target,
        task=task,
    )
    rows = compression.compress().rows
    if rank:
        return
    cli.print_left_out(train.skipped)
    cli.wide_console().print(to_table(rows, metric.primary))
    print(f"written to {arguments.save_dir}")


if __name__ == "__main__":
    cli.run(main)
