"""Predict on images with an exported model; draw each result and list all in predictions.json."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import logging
from pathlib import Path

from core import cli, options


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Exit status 1: some files of the folder could not be read and were left out.",
    )
    parser.add_argument(
        "--model_dir", required=True, type=Path, help="exported model: folder, or file .onnx"
    )
    parser.add_argument(
        "--image_path",
        required=True,
        type=Path,
        metavar="FILE_OR_DIR",
        help="an image, or a folder with images",
    )
    parser.add_argument(
        "--save_dir", required=True, type=Path, help="for the pictures and predictions.json"
    )
    options.add_config_arguments(parser, required=False)
    options.add_backend_argument(parser)
    options.add_output_argument(parser)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from core.runtimes.foreign import fit_output
    from core.runtimes.predict_images import PREDICTIONS, predict_files
    from core.runtimes.predictor import load_predictor

    predictor = load_predictor(arguments.model_dir, arguments.backend, arguments.threads)
    description = predictor.description
    task = cli.exported_task(arguments, arguments.model_dir, description, description.inputs)
    fit_output(predictor, task, arguments.output)
    with logging_redirect_tqdm():
        skipped = predict_files(
            task,
            predictor,
            arguments.image_path,
            arguments.save_dir,
            lambda files: tqdm(files, desc="predict", unit="image", disable=None),
        )
    logging.info("written to %s", arguments.save_dir / PREDICTIONS)
    if skipped:
        logging.warning("%d files could not be read", len(skipped))
    return 1 if skipped else 0


if __name__ == "__main__":
    cli.run(main)
