"""Measure a checkpoint, or an exported model, with the task's metric."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from pathlib import Path

from core import cli, options


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    options.add_config_arguments(parser, required=False)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--weights", help="checkpoint (folder or weights file); describes itself")
    what.add_argument(
        "--model_dir",
        type=options.path,
        help="exported model: folder, or file (.onnx, .pdmodel, .json, .xml)",
    )
    text = "the exported model, and perhaps its data, that the section Global of an ACT file names"
    what.add_argument("--config_path", type=options.path, metavar="YML", help=text)
    options.add_backend_argument(parser)
    options.add_output_argument(parser)
    parser.add_argument(
        "--batch_size", type=options.positive, default=1, help="images of a batch (1)"
    )
    parser.add_argument("--threads", type=options.positive, help="CPU threads (default: 1)")
    text, kind = "also write the metrics to this file", options.file_ending(".json")
    parser.add_argument("--save", type=kind, metavar="JSON", help=text)
    text = "draw some samples into this file, with truth and prediction"
    parser.add_argument("--pictures", type=options.file_ending(".png"), metavar="PNG", help=text)
    return cli.parse(parser)


def main() -> None:
    arguments = parse_arguments()
    import paddle

    from core.act.config import read_act
    from core.runtimes.overflow_report import warn_of_overflow
    from core.settings.config import assignment
    from core.settings.written import replace_json
    from core.training.evaluation import eager_forward, evaluate, validation_loader
    from core.training.review import SamplePictures
    from core.training.run import pick_device

    paddle.set_device(pick_device("auto"))
    if arguments.config_path is None and arguments.model_dir is None:
        cli.complete(arguments, "weights")
    if arguments.config_path:
        given = read_act(arguments.config_path).Global
        given.check_files()
        arguments.model_dir = Path(given.model_dir)
        if given.data_dir:
            arguments.override.insert(0, assignment("data.root", given.data_dir))
    if arguments.weights:
        cli.refuse(arguments, ("backend", "threads", "output"), options.OF_EXPORTED)
        task, model = cli.restored(arguments)
        run = eager_forward(task, model)
    else:
        task, predictor = cli.opened(arguments)
        run = predictor.run
        warn_of_overflow([(arguments.model_dir, predictor.backend)])
    loader = validation_loader(task, arguments.batch_size)
    pictures = SamplePictures(task, loader) if arguments.pictures else None
    watchers = [pictures] if pictures else []
    metric = evaluate(task, run, loader, progress=True, watchers=watchers)
    cli.print_left_out(loader.skipped)
    print(metric.report())
    for key, value in metric.compute().items():
        print(f"{key}: {value:.4f}")
    if arguments.save:
        replace_json(arguments.save, metric.compute())
    if pictures:
        pictures.write(arguments.pictures)


if __name__ == "__main__":
    cli.run(main)
