"""Reproduce rows of the model zoo: train, compress, export, evaluate the files, benchmark, report.

Steps that were done are not done again unless something has changed that they depend on.
"""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import os
import shlex
from pathlib import Path

from core import cli, options
from core.settings.home import CONFIGS

EPILOG = """\
scales: full needs the public data; small takes real data sets that a CPU can train on; smoke draws
its data and takes seconds for each row. Several GPUs or machines train under Paddle's launcher:
--launch "--gpus 0,1,2,3", or --launch "--master HOST:PORT --nnodes 2 --gpus 0,1,2,3".
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows (default: all)")
    text = "how much data, see below (default: small)"
    parser.add_argument("--scale", choices=("full", "small", "smoke"), default="small", help=text)
    parser.add_argument("--list", action="store_true", help="show rows, their state and their cost")
    parser.add_argument(
        "--zoo",
        type=options.path,
        default=CONFIGS / "zoo",
        help="folder with the rows (default: those that come with it)",
    )
    parser.add_argument(
        "--data", type=options.path, default=Path("data"), help="folder with all data sets (data)"
    )
    text = "for runs, files and the report (output/zoo)"
    parser.add_argument("--save_dir", type=options.path, default=Path("output/zoo"), help=text)
    text = "train under paddle.distributed.launch with these arguments of it"
    parser.add_argument("--launch", type=shlex.split, default=[], metavar="ARGUMENTS", help=text)
    text = "rows that run at the same time (default: 1)"
    parser.add_argument("--jobs", type=options.positive, default=1, help=text)
    text = "train anew what was trained before code, settings or data changed"
    parser.add_argument("--overwrite", action="store_true", help=text)
    options.add_acceptance_argument(parser)
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from core.reports.zoo import write_report
    from core.zoo.rows import read_rows
    from core.zoo.zoo import Zoo

    rows = read_rows(arguments.zoo, tuple(arguments.rows))
    zoo = Zoo(rows, arguments.scale, arguments.data, arguments.save_dir)
    if arguments.list:
        cli.wide_console().print(zoo.table())
        return 0

    def tell(name: str, text: str) -> None:
        print(f"{name}: {cli.printable(text)}", flush=True)

    how = (arguments.jobs, arguments.launch, tell, arguments.overwrite)
    with zoo.held():
        results, failures = zoo.reproduce(*how)
        page = write_report(results, failures, zoo.folder)
    print(f"{len(results)} of {len(rows)} rows reproduced; report: {page}")
    used = os.times()  # time of all processes that were started
    print(f"processor time: {(used.children_user + used.children_system) / 60:.1f} minutes")
    judged = [cli.judged(arguments.targets, each.files()) for each in results]
    return 1 if failures else max(judged, default=0)


if __name__ == "__main__":
    cli.run(main)
