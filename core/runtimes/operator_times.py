"""Time of each class of operators of an exported model, where the runtime tells it.

ONNX Runtime writes a profile of each run, OpenVINO keeps counters; Paddle Inference has neither.
Profiling slows a model down, so this is measured in a session of its own, and only shares and
differences mean something beside the latency of a benchmark.
"""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from core.runtimes.openvino_models import OpenVinoModel
from core.runtimes.predictor import openvino_settings
from core.settings.files import scratch
from core.targets.names import Backend
from core.task import Arrays

Precision = Literal["float", "int8"]
CONVOLUTION, GROUPED, PRODUCT = "convolution", "grouped convolution", "matrix product"
ROUNDING, LAYOUT = "rounding", "layout"
# classes of operators that runtimes name differently; others keep their names
_CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        CONVOLUTION: (
            *("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "ConvTranspose"),
            *("Convolution", "ConvolutionBackpropData", "Deconvolution"),
        ),
        GROUPED: ("GroupConvolution", "GroupConvolutionBackpropData"),
        PRODUCT: (
            *("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "QGemm", "QLinearMatMul"),
            *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
            *("FullyConnected", "FullyConnectedCompressed", "FullyConnectedQuantized"),
            *("FullyConnectedQuantizedLegacy",),
        ),
        ROUNDING: ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize"),
        LAYOUT: ("Reorder", "ReorderInput", "ReorderOutput", "Transpose"),
    }
)
_CLASS_OF = MappingProxyType({name: key for key, names in _CLASSES.items() for name in names})
_NOTABLE = 0.05  # share of the first model's time: smaller differences are not named
_NAMED = 4


@dataclass(frozen=True)
class OperatorTime:
    """Time of the operators of one class in one run of a model.

    Attributes:
        kind: `convolution`, `grouped convolution` (in OpenVINO alone), `matrix product`,
            `rounding` to and from int8, `layout` of tensors; others as the runtime calls them.
        precision: Type they compute in; that of `rounding` is float.
        count: Number of operators.
        ms: Sum of the medians of their times, in milliseconds.
    """

    kind: str
    precision: Precision
    count: int
    ms: float


@dataclass(frozen=True)
class _Operator:
    name: str
    kind: str
    precision: Precision
    ms: float


def measure_operators(
    file: Path, backend: Backend, threads: int, feeds: Arrays, warmup: int, runs: int
) -> tuple[OperatorTime, ...] | None:
    """Measure the classes of operators of a model; the slowest comes first.

    Args:
        file: File of the model, which this process has loaded before.
        backend: Runtime.
        threads: CPU threads of one run.
        feeds: Arrays [N, ...] by the names of inputs.
        warmup: Runs before it counts.
        runs: Runs that count.

    Returns:
        None of a runtime that does not tell.
    """
    if backend == "paddle":
        return None
    measure = _by_onnxruntime if backend == "onnxruntime" else _by_openvino
    times: dict[tuple[str, Precision], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for step, operators in enumerate(measure(file, threads, feeds, warmup + runs)):
        if step >= warmup:
            for each in operators:
                times[each.kind, each.precision][each.name].append(each.ms)
    found = [
        OperatorTime(*key, len(named), float(sum(np.median(each) for each in named.values())))
        for key, named in times.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.ms))


def by_kind(times: Iterable[OperatorTime]) -> dict[str, float]:
    """Return milliseconds by class of operators, whatever they compute in."""
    found: dict[str, float] = defaultdict(float)
    for each in times:
        found[each.kind] += each.ms
    return dict(found)


def int8_share(times: Sequence[OperatorTime]) -> float:
    """Return the share of the time that is spent in int8, from 0 to 1."""
    total = sum(each.ms for each in times)
    return sum(each.ms for each in times if each.precision == "int8") / total if total else 0.0


def explain(first: Sequence[OperatorTime], other: Sequence[OperatorTime]) -> str:
    """Say in one line which classes of operators make one model slower or faster than another.

    Args:
        first: Times of the model that is compared with.
        other: Times of the other model.
    """
    before, after = by_kind(first), by_kind(other)
    changes = {
        kind: after.get(kind, 0.0) - before.get(kind, 0.0) for kind in before.keys() | after.keys()
    }
    limit = _NOTABLE * sum(before.values())
    named = sorted(
        (kind for kind, change in changes.items() if abs(change) >= limit),
        key=lambda kind: -abs(changes[kind]),
    )
    said = [f"{kind} {changes[kind]:+.2f} ms" for kind in named[:_NAMED]]
    share = f"{int8_share(other):.0%} of the time in int8"
    return "; ".join([", ".join(said) or "no class of operators differs by 5 % of the time", share])


def _by_onnxruntime(
    file: Path, threads: int, feeds: Arrays, runs: int
) -> Iterable[list[_Operator]]:
    """Return the operators of each run, as the profile that ONNX Runtime writes tells them."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with scratch() as folder:
        options.profile_file_prefix = str(folder / "profile")
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ends = sorted(each["ts"] + each["dur"] for each in events if each["name"] == "model_run")
    found: list[list[_Operator]] = [[] for _ in ends]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            run = next(index for index, end in enumerate(ends) if event["ts"] <= end)
            found[run].append(_of_event(event))
    return found


def _of_event(event: Mapping[str, Any]) -> _Operator:
    about = event["args"]
    kind = _class_of(about["op_name"])
    types = [each.keys() for each in about["input_type_shape"]]  # each input: its type, its shape
    in_int8 = bool(types) and not types[0].isdisjoint(("int8", "uint8")) and kind != ROUNDING
    name = f"{about.get('node_index')} {event['name']}"
    return _Operator(name, kind, "int8" if in_int8 else "float", event["dur"] / 1e3)


def _by_openvino(file: Path, threads: int, feeds: Arrays, runs: int) -> Iterable[list[_Operator]]:
    """Yield the operators of each run, as OpenVINO counts them."""
    settings = {**openvino_settings(threads), "PERF_COUNT": True}
    request = OpenVinoModel(file, settings).fitting(feeds).create_infer_request()
    for _ in range(runs):
        request.infer(feeds)
        yield [
            _Operator(
                each.node_name,
                _class_of(each.node_type),
                _precision_of(each.exec_type, each.node_type),
                each.real_time.total_seconds() * 1e3,
            )
            for each in request.get_profiling_info()
            if each.status.name == "EXECUTED"
        ]


def _precision_of(kernel: str, operator: str) -> Precision:
    """Return the precision of a kernel of OpenVINO, such as `brgconv_avx512_1x1_I8`."""
    in_int8 = kernel.rpartition("_")[2].lower() in ("i8", "u8")
    return "int8" if in_int8 and _class_of(operator) != ROUNDING else "float"


def _class_of(operator: str) -> str:
    plain = operator.removeprefix("QLinear")  # kinds that are not listed
    return _CLASS_OF.get(operator, plain)
