"""Reproduce rows of the model zoo: train, compress, export, evaluate the files, benchmark, report.

Steps that were done are not done again unless something has changed that they depend on.
"""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse
import shlex
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, options
from core.errors import UserError

if TYPE_CHECKING:
    from core.zoo.reproduction import ZooResult
    from core.zoo.rows import ScaleName, ZooRow
    from core.zoo.step_cache import StepCache
    from core.zoo.steps import ZooPlaces, ZooStep

    Plan = tuple[list[ZooStep], StepCache, ZooPlaces]

ROOT = Path(__file__).resolve().parent.parent
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
    parser.add_argument("--scale", choices=("full", "small", "smoke"), default="small")
    parser.add_argument("--list", action="store_true", help="show rows, their state and their cost")
    parser.add_argument("--zoo", type=Path, default=ROOT / "configs/zoo", help="folder of rows")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all data sets")
    parser.add_argument("--save_dir", type=Path, default=Path("output/zoo"))
    text = "train under paddle.distributed.launch with these arguments of it"
    parser.add_argument("--launch", type=shlex.split, default=[], metavar="ARGUMENTS", help=text)
    text = "rows that run at the same time (default: 1)"
    parser.add_argument("--jobs", type=options.positive, default=1, help=text)
    options.add_acceptance_argument(parser)
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from core.zoo.report import write_report
    from core.zoo.reproduction import collect, run_steps
    from core.zoo.rows import read_rows
    from core.zoo.step_cache import code_digest

    scale: ScaleName = arguments.scale
    rows = read_rows(arguments.zoo, tuple(arguments.rows))
    code = code_digest([ROOT / name for name in ("core", "tasks", "tools")])
    if arguments.list:
        show(rows, scale, arguments, code)
        return 0
    plans: dict[str, Plan] = {}
    results: list[ZooResult] = []
    failures: dict[str, str] = {}
    for name, row in rows.items():
        with noting(name, failures):
            plans[name] = prepare(name, row, scale, arguments, code)
    locks = {step.home: threading.Lock() for steps, _, _ in plans.values() for step in steps}

    def reproduce(name: str) -> None:
        steps, cache, places = plans[name]
        with noting(name, failures):
            say = partial(tell, name)
            run_steps(steps, cache, locks, ROOT / "tools", say, arguments.launch)
            results.append(collect(name, rows[name], scale, steps, cache, places))

    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            for future in [pool.submit(reproduce, name) for name in plans]:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results.sort(key=lambda each: list(rows).index(each.name))
    folder = arguments.save_dir / scale
    page = write_report(results, failures, folder)
    print(f"{len(results)} of {len(rows)} rows reproduced; report: {page}")
    judged = [cli.judged(arguments.targets, each.files()) for each in results]
    return 1 if failures else max(judged, default=0)


def tell(name: str, text: str) -> None:
    """Print a line about a row."""
    print(f"{name}: {cli.printable(text)}", flush=True)


@contextmanager
def noting(name: str, failures: dict[str, str]) -> Iterator[None]:
    """Print and note what a row failed of; other rows go on."""
    try:
        yield
    except UserError as error:
        failures[name] = str(error)
        tell(name, str(error))


def prepare(
    name: str,
    row: ZooRow,
    scale: ScaleName,
    arguments: argparse.Namespace,
    code: str,
    fetch: bool = True,
) -> Plan:
    """Plan a row at a scale; published weights are fetched, or the row is refused."""
    from core.zoo.rows import PUBLISHED
    from core.zoo.step_cache import StepCache
    from core.zoo.steps import ZooPlaces, missing_data, plan_steps

    if scale not in row.scales:
        raise UserError(f"has no scale {scale}; it has {', '.join(row.scales)}")
    how, folder = row.scales[scale], arguments.save_dir / scale
    places = ZooPlaces(
        folder / name, folder / "floats", arguments.data, folder / "drawn", ROOT / "configs/slim"
    )
    missing = missing_data(how, places)
    if missing:
        raise UserError(missing)
    weights = None
    if how.weights == PUBLISHED:
        if not fetch:
            raise UserError("can run; its published weights are fetched then")
        weights = published_weights(how.config or row.config)
    elif how.weights:
        weights = Path(how.weights.replace("{data}", str(arguments.data)))
    data = [Path(path.replace("{data}", str(arguments.data))) for path in how.data]
    return plan_steps(row, how, places, weights), StepCache(places, code, data), places


def published_weights(config: str) -> Path:
    """Fetch the weights that are published for the network of a config."""
    from core.settings.config import load_yaml
    from core.training.checkpoint import locate
    from core.training.run import read_run

    return locate(read_run(load_yaml(config)).task, True)


def show(
    rows: Mapping[str, ZooRow], scale: ScaleName, arguments: argparse.Namespace, code: str
) -> None:
    """Print rows, what is done of them, and what they cost."""
    from rich.table import Table

    table = Table(title=f"model zoo, scale {scale}")
    for column in ("row", "", "done", "cost"):
        table.add_column(column, overflow="fold")
    for name, row in rows.items():
        try:
            steps, cache, _ = prepare(name, row, scale, arguments, code, fetch=False)
        except UserError as error:
            cost = row.scales[scale].cost if scale in row.scales else ""
            table.add_row(name, row.title, cli.printable(str(error)), cost)
            continue
        done = [cache.is_done(step) for step in steps]
        seconds = [cache.seconds(step) for step in steps]
        known = [each for each in seconds if each is not None]
        cost = row.scales[scale].cost
        if len(known) == len(steps):
            cost = f"{sum(known):.0f} s the last time"
        table.add_row(name, row.title, f"{sum(done)} of {len(done)} steps", cost)
    cli.wide_console().print(table)


if __name__ == "__main__":
    cli.run(main)
