"""Say which layers of an int8 model may be computed wrongly by x86 processors without VNNI.

These add up products of int8 in pairs, in 16 bits with saturation. Whether that can go wrong
follows from the weights in the file and the range of the data alone, so no such processor is
needed. The status is 1 if a layer may overflow.
"""

from __future__ import annotations

import core.settings.startup  # noqa: F401 - checks the versions before anything else is loaded

import argparse

from core import cli, options

EPILOG = """\
exact: right on every processor. may overflow: there is data at which a pair of products is beyond
16 bits. rounded again: the runtime halves the weights, or stretches them to a grid of its own, and
computes with other numbers than those of the file. Data is counted as the processor holds it,
without a sign: int8 data is shifted by 128.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", type=options.path, metavar="MODEL_DIR", help="exported model, or .onnx"
    )
    kind = options.file_ending(".json")
    parser.add_argument("--json", type=kind, metavar="FILE", help="also write the result there")
    return cli.parse(parser)


def main() -> int:
    arguments = parse_arguments()
    from core.runtimes.overflow_report import model_files, to_json, to_table
    from core.settings.written import replace_json
    from core.targets.overflow import check_files, summary
    from core.targets.pair_sums import Verdict

    console = cli.wide_console()
    found = [(files, check_files(files)) for files in model_files(arguments.model)]
    if arguments.json:
        replace_json(arguments.json, [to_json(files, checks) for files, checks in found])
    for files, checks in found:
        if checks:
            console.print(to_table(checks))
        print(f"{files[0]}: {summary(checks)}")
    if arguments.json:
        print(f"written to {arguments.json}")
    return int(any(each.verdict is Verdict.OVERFLOW for _, checks in found for each in checks))


if __name__ == "__main__":
    cli.run(main)
