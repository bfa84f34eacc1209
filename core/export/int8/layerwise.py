"""Compare the layers of an int8 file with those of the eager model, each by itself.

A wrong scale in one layer of a deep network may well hide behind what rounding does to it as a
whole. Fed with the same values of its input's grid, a layer has nothing left to round: it is a sum
of products that are the same whole numbers everywhere, and what remains is

- the sum in float32 of the eager model: about `2^-24 sqrt(n)` of its terms for n of them, of which
  one lost bit in scale, batch norm or bias is the larger part up to thousands of terms,
- the product of scales, and bias and weights behind a folded batch norm, each one bit of float32,
- a bias that the file stores in int32, which is taken as it is if it is the nearest.

On eleven networks of 26 to 506 layers, two of them trained, all that is 1e-7 to 1.7e-6 of the
largest output, in every runtime; a weight that is off by one of its 255 steps is 1e-4 and more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from onnx import ModelProto

from core.errors import RejectedError
from core.export import parity
from core.export.int8.isolated import IsolatedLayer, in_order_of_model
from core.export.int8.isolated_onnx import grids_on, isolate_onnx
from core.export.int8.isolated_program import ends_on, isolate_program
from core.export.int8.layer_feeds import BEYOND, EagerLayers
from core.graph.program import Graph
from core.quant.quantizers import ActivationQuantizer
from core.runtimes.predictor import load_predictor
from core.settings.files import scratch
from core.settings.progress import progress
from core.targets.names import Backend

LIMIT = 1e-5
# Paddle Inference loads 300 layers in 9 s, 50 at a time in 2.5; others take as long either way
AT_ONCE = 50


@dataclass(frozen=True)
class LayerDifference:
    """Difference of a layer of a file from the eager one on the same input.

    Attributes:
        layer: Path of the layer.
        runtime: Runtime that ran it.
        relative: Largest difference, relative to the largest eager value.
    """

    layer: str
    runtime: str
    relative: float

    @property
    def passes(self) -> bool:
        """Tell whether it is within the limit; not-a-number is not."""
        return self.relative <= LIMIT

    def __str__(self) -> str:
        return f"{self.layer} differs by {self.relative:.1e} of its largest output"


def compare(
    file: ModelProto | Graph, backends: Sequence[Backend], eager: EagerLayers
) -> list[LayerDifference]:
    """Run each layer of a file on the inputs of the eager layers, and compare the outputs.

    ONNX Runtime computes convolutions in int8 only if their output is rounded, so it runs those
    layers once more, with the rounding that the file has behind them.

    Args:
        file: Content of the written file, of ONNX or of Paddle.
        backends: Runtimes that read it.
        eager: The layers that it should hold, with their feeds; on the grids of the file.

    Returns:
        Of each runtime and layer the largest difference.

    Raises:
        ExportError: A layer is not in the file in int8, or a runtime cannot run it.
    """
    worst: dict[tuple[str, str], float] = {}
    answers: dict[str, np.ndarray] = {}
    plans: list[tuple[bool, Sequence[Backend]]] = [(False, backends)]
    if "onnxruntime" in backends:
        plans.append((True, ["onnxruntime"]))
    total = sum(len(running) for _, running in plans) * len(eager.layers)
    what = f"compare layers in {', '.join(backends)}"
    for backend, layer, found in progress(_answers(file, eager, plans), what, total, "layer"):
        if layer.weight not in answers:
            answers[layer.weight] = eager.answer(layer)
        key, far = (
            (backend, layer.path),
            _relative(layer, answers[layer.weight], found, eager.feeds[layer.path].drawn),
        )
        worst[key] = max(worst.get(key, 0.0), far)
    return [
        LayerDifference(path, backend, worst[backend, path])
        for backend in backends
        for path in eager.layers
    ]


def _answers(
    file: ModelProto | Graph, eager: EagerLayers, plans: Sequence[tuple[bool, Sequence[Backend]]]
) -> Iterator[tuple[Backend, IsolatedLayer, np.ndarray]]:
    """Run isolated layers; yield runtime, layer and output [N, ...] of each."""
    for endings, running in plans:
        for layers, place in _isolated(file, eager, endings):
            for backend in running:
                for layer, found in zip(layers, _run(place, backend, layers, eager)):
                    yield backend, layer, found


def _isolated(
    file: ModelProto | Graph, eager: EagerLayers, endings: bool
) -> Iterator[tuple[list[IsolatedLayer], Path]]:
    """Write models of isolated layers; yield the layers of each, and the folder it is in."""
    shapes, paths = eager.shapes(), list(eager.layers)
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        with scratch() as place:
            folder, some_shapes = Path(place), {path: shapes[path] for path in some}
            if isinstance(file, Graph):
                program, layers = isolate_program(file, some_shapes)
                program.write(folder / "model.pdmodel", folder / "model.pdiparams")
            else:
                model, layers = isolate_onnx(file, some_shapes, endings=endings)
                (folder / "model.onnx").write_bytes(model.SerializeToString())
            missing = [path for path in some if path not in {layer.path for layer in layers}]
            if missing and not endings:
                raise RejectedError(f"{missing[0]}: is quantized, but not in int8 in the file")
            orders = eager.graph.permuted
            layers = [in_order_of_model(layer, orders.get(layer.weight)) for layer in layers]
            if layers:
                yield layers, folder


def _run(
    folder: Path, backend: Backend, layers: Sequence[IsolatedLayer], eager: EagerLayers
) -> list[np.ndarray]:
    """Return the outputs of the layers in a runtime, with the channels as in the eager model."""
    orders = eager.graph.permuted
    feeds, predictor = {}, load_predictor(folder, backend, own=True)
    for layer in layers:
        x = eager.fed(layer.path)
        x = x[:, orders[layer.weight].inputs] if layer.weight in orders else x
        as_map = [1] * (layer.stored.steps.ndim - x.ndim)  # a vector for a convolution
        feeds[layer.source] = x.reshape([*x.shape, *as_map])
    made = parity.run(predictor, [feeds[port.name] for port in predictor.description.inputs])
    return [
        made[layer.output][:, np.argsort(orders[layer.weight].outputs)]
        if layer.weight in orders
        else made[layer.output]
        for layer in layers
    ]


def _relative(layer: IsolatedLayer, wanted: np.ndarray, found: np.ndarray, drawn: int = 1) -> float:
    """Return the largest difference: of images to their largest value, of drawn samples to theirs.

    Values are those of the outputs or of the sums before the bias is added, for where they cancel
    out, their errors stay; and at least those of one step of the data times one of the weight, for
    where all data are zero, what is left is a bias. What is rounded may be off by half a step, and
    by that of a bias that ONNX Runtime rounds to int32.
    """
    if found.size != wanted.size:
        return float("inf")
    found, scope = found.reshape(wanted.shape).astype(np.float64), np.abs(wanted)
    if layer.bias is not None:
        by_channel = [-1, *[1] * (wanted.ndim - 2)] if layer.stored.steps.ndim > 2 else [-1]
        scope = np.maximum(scope, np.abs(wanted - layer.bias.reshape(by_channel)))
    products = layer.input_step * float(layer.stored.step.max())
    scope = np.maximum(scope, products)
    if layer.ending is None:
        far = np.abs(found - wanted)
    else:
        far = np.abs(found - np.clip(wanted, layer.ending.lowest, layer.ending.highest))
        far = np.maximum(far - (layer.ending.step + products) / 2, 0)
    parts = slice(None, -drawn), slice(-drawn, None)
    relative = max(float(far[part].max()) / (float(scope[part].max()) or 1.0) for part in parts)
    return relative if np.isfinite(far).all() else float("inf")


def check_outputs(
    file: ModelProto | Graph, outputs: Mapping[str, tuple[str, ActivationQuantizer]]
) -> None:
    """Refuse a file that rounds outputs of layers to other grids than the model.

    Args:
        file: Content of the written file.
        outputs: Name in the file, and quantizer, of each rounded output, by path of the layer.

    Raises:
        ExportError: Names the layer.
    """
    for path, (tensor, quantizer) in outputs.items():
        grid = quantizer.grid()
        if isinstance(file, Graph):
            wanted, found = (
                np.array([grid.absmax]),
                [np.array([each]) for each in ends_on(file, tensor)],
            )
        else:
            low, high = (BEYOND * grid.step * each for each in (grid.lowest, grid.highest))
            beyond = paddle.linspace(low, high, 2000)
            with paddle.no_grad():
                wanted = np.unique(quantizer(beyond).numpy())
            found = grids_on(file, tensor)
        if not any(
            each.shape == wanted.shape and np.abs(each - wanted).max() <= LIMIT * grid.absmax
            for each in found
        ):
            ends = " and ".join(f"{each[-1]:.6g}" for each in found) or "none"
            raise RejectedError(
                f"{path}: the model rounds its output to a grid of {wanted.size} values that "
                f"ends at {wanted[-1]:.6g}, the file to one that ends at {ends}"
            )


def check(differences: Sequence[LayerDifference]) -> None:
    """Refuse files with a layer that differs.

    Raises:
        ExportError: Names the worst layer, and how many more there are.
    """
    wrong = sorted((each for each in differences if not each.passes), key=lambda d: -d.relative)
    if not wrong:
        return
    worst = wrong[0]
    others = [each.layer for each in wrong[1:] if each.runtime == worst.runtime]
    more = f"; so {'does' if len(others) == 1 else 'do'} {', '.join(others[:3])}" if others else ""
    more += f" and {len(others) - 3} more" if len(others) > 3 else ""
    raise RejectedError(
        f"{worst.layer}: this layer of the int8 file, run by itself in {worst.runtime}, differs "
        f"from the quantized model by {worst.relative:.1e} of its largest output, at most "
        f"{LIMIT:.0e} wanted{more}; name it in never_quantize, or export for another target"
    )


def summary(differences: Sequence[LayerDifference]) -> Mapping[str, str]:
    """Return one line for each runtime."""
    found: dict[str, list[LayerDifference]] = defaultdict(list)
    for each in differences:
        found[each.runtime].append(each)
    lines = {}
    for runtime, some in found.items():
        worst = max(some, key=lambda each: each.relative)
        lines[runtime] = (
            f"{len(some)} layers, each by itself, within {worst.relative:.1e} ({worst.layer})"
        )
    return lines
