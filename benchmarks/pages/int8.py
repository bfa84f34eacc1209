"""The section on int8 files in docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.pages import cells

Entry = dict[str, Any]
INT8 = """
## Int8

Written by `python -m benchmarks.measure.int8`: files of networks with random weights and norms
estimated on random images, one image, one thread, milliseconds of processor time, medians of runs
that take turns in one process. Ours are quantized after training (8 images, the largest
magnitudes): `.onnx` for OpenVINO and `.pdmodel` for Paddle Inference with grids for what skips
layers, `.onnx` for ONNX Runtime with the outputs of layers on grids of their own. NNCF takes the
same float `.onnx` and the same 8 images, by both of its presets; all files have the same settings
(float32 where nothing is quantized, latency, one image). PaddleSlim: QAT with PACT as its
`save_quantized_model` writes it, run as its documentation says and with our predictor's settings;
the better one counts. Ratios are time of the other / time of ours: above 1 ours is faster. NNCF
rounds more than ours does: what a convolution adds to a connection that skips it (ResNet50), and
the products that scale the scores of BiSeNetV2 up to the image.
"""
WITHOUT_VNNI = """
## Int8 without VNNI

The same networks and files on a processor without VNNI, or as on one:
`python -m benchmarks.processor.without_vnni python -m benchmarks.measure.int8`.
"""
OPENVINO = """\
| network, input | OpenVINO float | ours | NNCF performance | mixed | **float / ours** | \
**best NNCF / ours** |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |"""
PADDLE = """
| network | Paddle Inference float | ours | PaddleSlim | **float / ours** | \
**PaddleSlim / ours** | ONNX Runtime float | ours | **float / ours** |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
CONTROL = """
Where int8 is no faster than float: the same with `--speed_control`, which leaves in float what int8
makes no faster, in turns with the other two.

| network, runtime | in int8 | float | all in int8 | **chosen** | **float / chosen** |
| --- | ---: | ---: | ---: | ---: | ---: |"""
FILES = """
Processor seconds of an export with all its comparisons (`.pdmodel` alone; with `.onnx` and, where
a converter was found, `.nb`), bytes of int8 files as a share of float, and the distance of each
runtime from the eager int8 model beside what rounding itself changes (root mean squares,
relative).

| network | layers, and outputs for ONNX Runtime | s | s, all | NNCF s | PaddleSlim s | \
.pdiparams | with .pdmodel | .onnx | .nb | Paddle | ONNX Runtime | OpenVINO |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
NNCF = ("openvino: NNCF performance", "openvino: NNCF mixed")


def int8(entries: Mapping[str, Entry], introduction: str) -> Iterator[str]:
    """Yield the lines of a section; none if nothing was measured."""
    if not entries:
        return
    medians = {
        network: {name: statistics.median(taken) for name, taken in entry["milliseconds"].items()}
        for network, entry in entries.items()
    }
    yield introduction
    yield OPENVINO
    for network, entry in entries.items():
        yield _openvino_row(network, entry, medians[network])
    yield f"| geometric mean |{' |' * 4} {_mean(medians, _over_float)} | {_mean(medians, _nncf)} |"
    yield PADDLE
    for network in entries:
        yield _paddle_row(network, medians[network])
    if any(entry.get("controlled") for entry in entries.values()):
        yield CONTROL
        for network, entry in entries.items():
            yield from _controlled_rows(network, entry)
    yield FILES
    for network, entry in entries.items():
        yield _files_row(network, entry)
    yield ""
    for network, entry in entries.items():
        yield from _notes(network, entry)


def _over_float(found: Mapping[str, float], runtime: str = "openvino") -> float | None:
    if f"{runtime}: ours" not in found:
        return None
    return found[f"{runtime}: float"] / found[f"{runtime}: ours"]


def _nncf(found: Mapping[str, float]) -> float | None:
    peers = [found[name] for name in NNCF if name in found]
    return min(peers) / found["openvino: ours"] if peers else None


def _paddleslim(found: Mapping[str, float]) -> float | None:
    """Return the milliseconds of its file with the settings that suit it best."""
    return min((found[name] for name in found if "PaddleSlim" in name), default=None)


def _mean(medians: Mapping[str, Mapping[str, float]], ratio: Any) -> str:
    ratios = [value for value in map(ratio, medians.values()) if value is not None]
    return f"**{statistics.geometric_mean(ratios):.2f}**" if ratios else "-"


def _openvino_row(network: str, entry: Entry, found: Mapping[str, float]) -> str:
    size = "x".join(map(str, entry["input"][2:]))
    names = ("openvino: float", "openvino: ours", *NNCF)
    columns = [f"{network}, {size}", *(_figure(found.get(name)) for name in names)]
    return f"| {' | '.join([*columns, _bold(_over_float(found)), _bold(_nncf(found))])} |"


def _paddle_row(network: str, found: Mapping[str, float]) -> str:
    peer = _paddleslim(found)
    columns = [
        network,
        *(_figure(found[f"paddle: {side}"]) for side in ("float", "ours")),
        _figure(peer),
        _bold(_over_float(found, "paddle")),
        _bold(None if peer is None else peer / found["paddle: ours"]),
        *(_figure(found.get(f"onnxruntime: {side}")) for side in ("float", "ours")),
        _bold(_over_float(found, "onnxruntime")),
    ]
    return f"| {' | '.join(columns)} |"


def _controlled_rows(network: str, entry: Entry) -> Iterator[str]:
    for backend, found in entry.get("controlled", {}).items():
        columns = [f"{network}, {backend}"]
        if "refused" in found:
            columns += [f"refused: {found['refused']}", "", "", "", ""]
        else:
            medians = {
                name: statistics.median(all_) for name, all_ in found["milliseconds"].items()
            }
            columns.append(f"{found['layers']} layers of {entry['layers']}")
            columns += [_figure(medians[name]) for name in ("float", "all")]
            columns += [f"**{medians['chosen']:.2f}**", _bold(medians["float"] / medians["chosen"])]
        yield f"| {' | '.join(columns)} |"


def _layers(entry: Entry) -> str:
    outputs = entry.get("outputs", {}).get("onnxruntime")  # taken before they could be rounded
    return str(entry["layers"]) if outputs is None else f"{entry['layers']}, {outputs}"


def _files_row(network: str, entry: Entry) -> str:
    seconds = entry["seconds"]
    nncf = entry.get("nncf", {}).get("seconds", {}).get("performance")
    columns = [
        network,
        _layers(entry),
        *(_figure(seconds[name]) for name in ("paddle", "openvino")),
        *(_figure(value) for value in (nncf, seconds.get("PaddleSlim"))),
        *cells.shares_of_float(entry["bytes"]),
        *cells.differences(entry["differences"]),
    ]
    return f"| {' | '.join(columns)} |"


def _notes(network: str, entry: Entry) -> Iterator[str]:
    machine, rounds = entry["environment"], len(next(iter(entry["milliseconds"].values())))
    packages = machine["packages"]
    versions = f"OpenVINO {packages['openvino']}, ONNX Runtime {packages['onnxruntime']}"
    versions += f", NNCF {entry.get('nncf', {}).get('version', '-')}"
    drift = "".join(
        f" {name.replace('PaddleSlim, settings', 'PaddleSlim with settings of')}: its file is "
        f"{apart:.0e} from its eager model, which rounding moves by {effect:.0e}."
        for name, (apart, effect) in entry.get("drift", {}).items()
    )
    failures = "".join(f" {name} failed: {told}." for name, told in entry["failures"].items())
    yield (
        f"- Int8, {network}: {rounds} rounds, {cells.processor(machine)} at a "
        f"load of {entry['load_average']}, {versions}, revision {entry['revision']}, "
        f"{entry['date']}.{drift}{failures}"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bold(value: float | None) -> str:
    return "-" if value is None else f"**{value:.2f}**"
