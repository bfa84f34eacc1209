"""What is left of a trained network right after a cut, before any training, with each remedy.

    python -m benchmarks.measure.pruned_untrained NAME CONFIG WEIGHTS -o data.root=ROOT \\
        --ratios 0.05 0.15 0.3

`trislim.load(...).prune(ratio)` cuts the network as `configs/slim/prune.yml` does it (L1 norm, the
same share of every layer). Then batch norms get new statistics (`reconstruct: false`), or layers
are fitted to what they made before, which is the default; both see the same images of the training
split. The network then answers the validation split. Writes docs/benchmarks/pruned_untrained.json
and docs/benchmarks.md.
"""

from __future__ import annotations

import core.settings.startup  # isort: skip  # noqa: F401

import argparse
import datetime
import shlex
import sys
import time
from typing import Any

import trislim
from benchmarks.comparison import record
from benchmarks.measure.command import revision
from benchmarks.pages.benchmarks import page
from core import cli
from core.runtimes.environment import environment
from core.settings.config import parse_overrides

Entry = dict[str, Any]
SAMPLES = 256
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {"calibration_samples": 0},
    "statistics": {"reconstruct": False},
    "fitted": {},
}


def measure(model: trislim.Model, ratios: list[float], batch: int) -> Entry:
    """Cut a model by each share, mend it with each remedy and measure.

    Args:
        model: Trained network with its data.
        ratios: Shares of the multiply-accumulates to remove.
        batch: Images of a batch of the evaluation.
    """
    primary = model.task.build_metric().primary
    cuts: dict[str, Entry] = {}
    for ratio in ratios:
        for name, settings in REMEDIES.items():
            begin = time.process_time()
            pruned = model.prune(ratio, **{"calibration_samples": SAMPLES, **settings})
            seconds = time.process_time() - begin
            value = pruned.evaluate(batch_size=batch)[primary]
            cuts.setdefault(str(ratio), {})[name] = {"value": value, "seconds": seconds}
            print(f"{ratio:g} {name}: {primary} {value:.4f}, {seconds:.0f} s", flush=True)
    return {
        "metric": primary,
        "whole": model.evaluate(batch_size=batch)[primary],
        "cuts": cuts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the row")
    parser.add_argument("config")
    parser.add_argument("weights")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.1, 0.3], metavar="SHARE")
    parser.add_argument("--batch_size", type=int, default=1)
    arguments = parser.parse_args()
    parse_overrides(arguments.override)  # refused before anything is loaded
    model = trislim.load(arguments.weights, arguments.config, arguments.override)
    assert isinstance(model, trislim.Model)
    loaded = {"revision": revision(), "environment": environment()}
    entry = measure(model, arguments.ratios, arguments.batch_size)
    words = ["python -m benchmarks.measure.pruned_untrained", *map(shlex.quote, sys.argv[1:])]
    entry |= {**loaded, "date": datetime.date.today().isoformat(), "command": " ".join(words)}
    record("pruned_untrained", {arguments.name: entry}, page)


if __name__ == "__main__":
    cli.run(main)
