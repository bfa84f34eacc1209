"""Predict on images, a video or a camera; draw each result and list all in predictions.json."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import logging
from typing import TYPE_CHECKING

from core import cli, options

if TYPE_CHECKING:
    from core.runtimes.image_model import ImageModel
    from core.task import BoxesOf


BOX_SCORE = 0.5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Exit status 1: files of the folder were left out, unreadable or without an answer.",
    )
    options.add_config_arguments(parser, required=False)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--model_dir",
        type=options.path,
        help="exported model: folder, or file (.onnx, .pdmodel, .json, .xml)",
    )
    text = "checkpoint (folder or weights file); published weights need -c"
    model.add_argument("--weights", "--model_path", type=options.path, help=text)
    what = parser.add_mutually_exclusive_group(required=True)
    text = "an image, a folder with images, or a video"
    what.add_argument("--image_path", type=options.path, metavar="FILE_OR_DIR", help=text)
    text = "a camera instead: its number, 0 for the first; Ctrl-C ends it"
    what.add_argument("--camera", type=options.natural, metavar="NUMBER", help=text)
    text = "folder for the pictures or the video, and predictions.json"
    parser.add_argument("--save_dir", required=True, type=options.path, help=text)
    text = (
        "where to look for joints: COCO detections, or a folder with a JSON file for each picture"
    )
    parser.add_argument("--boxes", type=options.path, metavar="JSON_OR_DIR", help=text)
    text = "leave out boxes with a lower score (default: 0.5)"
    parser.add_argument("--box_threshold", type=options.score, metavar="SCORE", help=text)
    text = "classes and joints with a lower score are not found (default: the task's)"
    parser.add_argument("--threshold", type=options.score, metavar="SCORE", help=text)
    text = "stop after so many frames of a video or a camera (default: all)"
    parser.add_argument("--max_frames", type=options.positive, metavar="N", help=text)
    options.add_backend_argument(parser)
    options.add_output_argument(parser)
    parser.add_argument("--threads", type=options.positive, help="CPU threads (default: 1)")
    return cli.parse(parser)


def load_model(arguments: argparse.Namespace) -> ImageModel:
    import paddle

    from core.runtimes.image_model import eager_model, exported_model
    from core.training.run import pick_device

    if arguments.weights:
        cli.refuse(arguments, ("backend", "threads", "output"), options.OF_EXPORTED)
        paddle.set_device(pick_device("auto"))
        return eager_model(*cli.restored(arguments), arguments.threshold)
    return exported_model(*cli.opened(arguments), arguments.threshold)


def load_boxes(arguments: argparse.Namespace, model: ImageModel) -> BoxesOf | None:
    from core.errors import ConfigError
    from core.task import BoxTask

    if arguments.boxes is None:
        cli.refuse(arguments, ("box_threshold",), "is for the boxes of --boxes")
        return None
    if not isinstance(model.task, BoxTask):
        raise ConfigError(f"--boxes: the task {model.task.name} answers for whole images only")
    threshold = BOX_SCORE if arguments.box_threshold is None else arguments.box_threshold
    return model.task.read_boxes(arguments.boxes, threshold)


def main() -> int:
    arguments = parse_arguments()
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from core.runtimes.predict_images import PREDICTIONS, predict_files
    from core.runtimes.predict_video import Frames, is_video, predict_video

    model = load_model(arguments)
    boxes = load_boxes(arguments, model)
    skipped: list[str] = []

    with logging_redirect_tqdm():
        if arguments.camera is not None or is_video(arguments.image_path):
            source = arguments.camera if arguments.image_path is None else arguments.image_path
            video = predict_video(
                model,
                Frames(source, arguments.max_frames),
                arguments.save_dir,
                boxes,
                lambda frames, count: tqdm(frames, "predict", count, unit="frame", disable=None),
                cli.tell,
            )
            logging.info("written to %s", video)
        else:
            skipped = predict_files(
                model,
                arguments.image_path,
                arguments.save_dir,
                boxes,
                lambda files: tqdm(files, desc="predict", unit="image", disable=None),
                cli.tell,
            )
    logging.info("written to %s", arguments.save_dir / PREDICTIONS)
    if skipped:
        logging.warning("%d files were left out", len(skipped))
    return 1 if skipped else 0


if __name__ == "__main__":
    cli.run(main)
