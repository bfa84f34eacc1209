"""Measure exported models: latency, size, parameters, MACs and peak memory, as a table and JSON.

Every model runs in every runtime that can read it, one run of each in turn, on one random input.
"""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, options
from core.settings.acceptance import FileFigures
from core.targets.names import BACKENDS

if TYPE_CHECKING:
    from core.runtimes.benchmark import BenchmarkRow, Protocol

EPILOG = """\
speed-up is (a - b) / a with the mean time a of the first model in the same runtime: 25 % means a
quarter less time; a / b is 1.33 then. MACs are those of one run.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model_dir",
        required=True,
        nargs="+",
        type=options.path,
        metavar="DIR",
        help="exported models: folders, or files (.onnx, .pdmodel, .json, .xml)",
    )
    parser.add_argument(
        "--backends",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="A,B",
        help=f"runtimes: {', '.join(BACKENDS)} (default: each that can read the model)",
    )
    text = "CPU threads of a run (default: 1); several, such as 1,all: a table of each"
    parser.add_argument("--threads", type=options.threads, default=(1,), metavar="N,N", help=text)
    parser.add_argument("--batch_size", type=int, default=1, help="images of one run (default: 1)")
    parser.add_argument(
        "--input_shape",
        type=options.integers,
        metavar="C,H,W",
        help="size of the image (default: the one the model was exported for)",
    )
    options.add_config_arguments(parser, required=False)
    options.add_output_argument(parser)
    text = "runs before the measured ones (default: 10)"
    parser.add_argument("--warmup", type=int, default=10, help=text)
    parser.add_argument("--runs", type=int, default=50, help="measured runs (default: 50)")
    text = "leave out peak memory, which takes a process each"
    parser.add_argument("--no_memory", action="store_true", help=text)
    text = "also measure each class of operators in ONNX Runtime and OpenVINO"
    parser.add_argument("--operators", action="store_true", help=text)
    text = "also write all figures to this file"
    parser.add_argument("--save", type=options.file_ending(".json"), metavar="JSON", help=text)
    text = "also write report.html and report.json there: charts, classes of operators, layers"
    parser.add_argument("--report", type=options.path, metavar="FOLDER", help=text)
    options.add_acceptance_argument(parser, "max_drop")
    return cli.parse(parser)


def read_protocol(arguments: argparse.Namespace) -> Protocol:
    """Return how to measure, with the first of the numbers of threads."""
    from core.runtimes.benchmark import Protocol
    from core.runtimes.foreign import image_shape

    task = cli.chosen_task(arguments)
    return Protocol(
        backends=arguments.backends,
        threads=arguments.threads[0],
        batch_size=arguments.batch_size,
        input_shape=arguments.input_shape,
        free_shape=None if task is None else image_shape(task),
        output=arguments.output,
        warmup=arguments.warmup,
        runs=arguments.runs,
        memory=not arguments.no_memory,
        operators=arguments.operators,
    )


def print_tables(rows: Sequence[BenchmarkRow], every: Sequence[BenchmarkRow]) -> None:
    """Print a table of the first number of threads, one of all numbers, and the environment."""
    from core.runtimes.benchmark_tables import operator_tables, reasons, threads_table, to_table
    from core.runtimes.environment import environment

    console = cli.wide_console(150)  # for twelve columns
    console.print(to_table(rows))
    if len(every) > len(rows):
        console.print(threads_table(every))
    for table in operator_tables(rows):
        console.print(table)
    for line in reasons(rows):
        console.print(line)
    for key, value in environment().items():
        if value:
            console.print(f"{key}: {value}")


def main() -> int:
    arguments = parse_arguments()
    from tqdm import tqdm

    from core.runtimes.benchmark import benchmark, write_json
    from core.runtimes.overflow_report import warn_of_overflow

    protocol = read_protocol(arguments)

    def measure(protocol: Protocol) -> list[BenchmarkRow]:
        steps = partial(tqdm, desc=f"rounds, threads: {protocol.threads}", disable=None)
        return benchmark(arguments.model_dir, protocol, steps)

    rows = measure(protocol)
    every = list(rows)
    for threads in arguments.threads[1:]:
        every += measure(replace(protocol, threads=threads, memory=False, operators=False))
    if arguments.save:
        write_json(every, protocol, arguments.save)
    print_tables(rows, every)
    warn_of_overflow((Path(row.model), row.backend) for row in rows)
    if arguments.save:
        print(f"written to {arguments.save}")
    if arguments.report:
        from core.reports.benchmark import write_benchmark_report
        from core.settings.processes import own_command

        page = write_benchmark_report(arguments.report, every, protocol, own_command())
        print(f"report: {page}")
    files = [FileFigures(f"{row.model} in {row.backend}", row.size_mb, row.mean_ms) for row in rows]
    return cli.judged(arguments.targets, files)


if __name__ == "__main__":
    cli.run(main)
