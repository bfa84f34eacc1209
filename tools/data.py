"""Inspect a folder of data: say what it holds, what is missing, and which config trains on it."""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, options
from core.errors import FileError

if TYPE_CHECKING:
    from core.training.inspection import Inspection

EPILOG = """\
inspect writes nothing into ROOT. SAVE_DIR then holds config.yml (three lines for -c), samples.png
(pictures with their labels drawn) and, where the validation split is drawn, its lists with
config_lists.yml, which reads them; training draws the same split without the lists.
Exit status 1: the data cannot be trained on as they are.
"""
SAMPLES = 8
NAMES = (  # of what is written
    *("config.yml", "config_lists.yml", "samples.png", "labels.txt"),
    *("train_list.txt", "val_list.txt", "train.txt", "val.txt"),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("inspect",), help="look at ROOT")
    parser.add_argument("root", metavar="ROOT", help="folder of the data")
    parser.add_argument(
        "--task", metavar="NAME", help="what for: cls, seg, keypoint (default: what the data fit)"
    )
    parser.add_argument(
        "--save_dir", type=options.path, help="folder for config, pictures and lists"
    )
    parser.add_argument(
        "--samples",
        type=options.positive,
        default=SAMPLES,
        help=f"how many pictures to draw ({SAMPLES})",
    )
    options.add_plugin_argument(parser)
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from core.training.own_data import inspections, short_config

    found = inspections(arguments.root, (arguments.task,) if arguments.task else ())
    best = found[0]
    if not best.sure:
        for each in found:
            print(f"{each.task}: {cli.printable(each.in_one_line())}")
        return 1
    print(f"{arguments.root}: {best.layout} (task {best.task})")
    for line in best.found:
        print(f"  {cli.printable(line)}")
    for line in best.missing:
        print(f"missing or wrong: {cli.printable(line)}")
    for other in found[1:]:
        if other.sure == best.sure:
            print(f"could also be {other.task}: {other.layout}; choose with --task")
    if not best.settings:
        return 1
    config = short_config(best, arguments.root)
    print(f"\nThis config trains on it:\n\n{config}")
    if arguments.save_dir:
        save(best, config, arguments)
    if not best.trainable:
        print("training would stop there (data.on_error: skip leaves out what cannot be read)")
        return 1
    return 0


def save(inspection: Inspection, config: str, arguments: argparse.Namespace) -> None:
    """Write config, pictures and lists, and say where."""
    import yaml

    from core.settings.files import write_text
    from core.settings.written import WrittenFiles
    from core.training.contact_sheet import write_sheet
    from core.training.own_data import labelled_pictures, write_lists

    folder, root = arguments.save_dir, Path(arguments.root)
    if folder.resolve().is_relative_to(root.resolve()):
        raise FileError(
            f"{folder}: lies in {root}, where what is written would count as data; name another "
            "folder"
        )
    with WrittenFiles(folder).writing(NAMES):
        write_text(folder / "config.yml", config)
        pictures = labelled_pictures(inspection, arguments.root, arguments.samples)
        write_sheet(folder / "samples.png", pictures)
        print(f"written: {folder / 'config.yml'}, {folder / 'samples.png'}")
        lists = write_lists(inspection, arguments.root, folder)
        if lists:
            content = yaml.safe_load(config)
            content["data"] |= lists
            write_text(folder / "config_lists.yml", yaml.safe_dump(content, sort_keys=False))
            print(f"written: the split as lists, {folder / 'config_lists.yml'} reads them")


if __name__ == "__main__":
    cli.run(main)
