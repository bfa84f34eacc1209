"""Choose the layers to quantize, put them on grids, and record it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import paddle
from paddle import Tensor, nn
from paddle.nn import Layer

from core.config import read
from core.errors import ConfigError, DataError
from core.layers import match
from core.quant.layers import Quantized, quantize, quantized_layers, restore_float, why_not
from core.quant.layout import Layout
from core.quant.observers import build_observer
from core.quant.outputs import output_readers, restore_output, round_output, rounded_outputs
from core.quant.parts import layer_of, restore, rounded_by
from core.quant.quantizers import ActivationQuantizer, Rounding
from core.quant.weight_grid import LIMITS
from core.strategy import Record
from core.trace import evaluation_mode

# of the rounding, in every record
_RECORDED = ("weight_type", "activation_type", "pact", "weight_bits", "activation_bits")
CANDIDATES = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)


@dataclass(frozen=True)
class Choice:
    """Which layers are quantized, and why the others are not.

    Attributes:
        layers: Paths, in the model's order.
        left: Reason by path of the layers that stay in float.
        spared: Paths that are to stay in float, with all in them.
        outputs: Paths of the layers whose outputs are rounded.
    """

    layers: tuple[str, ...]
    left: dict[str, str]
    spared: frozenset[str] = frozenset()
    outputs: tuple[str, ...] = ()


def choose(
    model: Layer,
    rounding: Rounding,
    kinds: Sequence[str],
    never: Sequence[str],
    key: str = "never_quantize",
) -> Choice:
    """Choose among convolutions and linear layers.

    Args:
        model: The float model.
        rounding: How they would be rounded.
        kinds: Names of the classes to quantize.
        never: Globs on paths of layers that stay in float; one on a block spares all in it.
        key: The setting the globs come from, for messages.

    Raises:
        ConfigError: A glob matches nothing, or nothing is left to quantize.
    """
    paths = [path for path, _ in model.named_sublayers()]
    spared = set(match(never, paths, key)) if never else set()
    chosen, left = [], {}
    for path, layer in model.named_sublayers():
        if not isinstance(layer, CANDIDATES):
            continue
        parents = {path[:end] for end in range(len(path)) if path[end] == "."} | {path}
        reason = None
        if spared & parents:
            reason = key
        elif type(layer).__name__ not in kinds and type(layer) in CANDIDATES:
            reason = f"quantizable_layer_type has no {type(layer).__name__}"
        else:
            reason = why_not(layer, rounding)
        if reason is None:
            chosen.append(path)
        else:
            left[path] = reason
    if not chosen:
        raise ConfigError(f"{key}: no layer is left to quantize: {_some(left)}")
    return Choice(tuple(chosen), left, frozenset(spared))


def choose_with_hints(
    model: Layer,
    rounding: Rounding,
    kinds: Sequence[str],
    never: Sequence[str],
    hints: Sequence[str],
) -> Choice:
    """Choose as `choose` does, and spare the layers that the task hints at too.

    Raises:
        ConfigError: A glob matches nothing, or nothing is left to quantize.
    """
    own = choose(model, rounding, kinds, never)
    if not hints:
        return own
    spared = choose(model, rounding, kinds, hints, "never_quantize (task)")
    both = tuple(path for path in own.layers if path in spared.layers)
    left = spared.left | own.left
    if not both:
        raise ConfigError(f"never_quantize: no layer is left to quantize: {_some(left)}")
    return Choice(both, left, own.spared | spared.spared)


def insert(
    model: Layer,
    choice: Choice,
    rounding: Rounding,
    batches: Iterable[Sequence[Tensor]],
    observer: str,
    layout: Layout,
) -> Choice:
    """Quantize the chosen layers in place; their grids begin where the observer says.

    Layers that do not run in evaluation mode, such as heads for training, stay in float.

    Args:
        model: Changed in place; in case of an error it is as before.
        choice: What to quantize.
        rounding: How.
        batches: Inputs of the model, for calibration.
        observer: Kind of `core.quant.observers`.
        layout: What files will make of the layers, and whose outputs to round. Norms are of use
            where a weight has one grid.

    Returns:
        What really was quantized.

    Raises:
        ConfigError: All layers are slow in int8 on the target.
        DataError: No batches, or activations that are not finite; names the layer.
    """
    chosen = [path for path in choice.layers if path not in layout.slow]
    if not chosen:
        raise ConfigError(f"target: no layer is left to quantize: {_some(layout.slow)}")
    choice = replace(choice, layers=tuple(chosen), left=choice.left | layout.slow)
    one_grid = rounding.weight_type == "abs_max"
    layers = {
        path: quantize(
            model,
            path,
            rounding,
            layout.norms.get(path) if one_grid else None,
            limit=layout.limits.get(path, "none"),
        )
        for path in choice.layers
    }
    for path, readers in layout.outputs.items():
        round_output(model, path, rounding, readers)
    try:
        _calibrate(model, batches, observer, layout)
    except BaseException:
        for path in rounded_outputs(model):
            restore_output(model, path)
        for layer in layers.values():
            if isinstance(layer, Quantized):
                restore_float(layer)
        raise
    idle = [path for path, layer in layers.items() if not isinstance(layer, Quantized)]
    left = choice.left | dict.fromkeys(idle, "does not run in evaluation")
    if len(idle) == len(layers):
        raise DataError("calibration: none of the chosen layers ran")
    running = tuple(path for path in choice.layers if path not in idle)
    return replace(choice, layers=running, left=left, outputs=tuple(layout.outputs))


def _calibrate(
    model: Layer,
    batches: Iterable[Sequence[Tensor]],
    kind: str,
    layout: Layout,
) -> None:
    quantizers = rounded_by(model)
    for quantizer, parts in quantizers:
        quantizer.observer = build_observer(kind, layer_of(parts[0]))
    empty = True
    try:
        with evaluation_mode(model), paddle.no_grad():
            for inputs in batches:
                model(*inputs)
                empty = False
        if empty:
            raise DataError("calibration: no data")
        for quantizer, parts in quantizers:
            seen, quantizer.observer = quantizer.observer, None
            assert seen is not None
            if seen.lowest == float("inf"):
                restore(model, parts[0])
                continue
            nonnegative = seen.lowest >= 0
            unsigned = not layout.unsigned.isdisjoint(parts)
            bits = quantizer.rounding.activation_bits
            absmax = seen.absmax(bits, not (nonnegative and unsigned))
            quantizer.begin(absmax, nonnegative, unsigned)
    finally:
        for quantizer, _ in quantizers:
            quantizer.observer = None


def record_of(model: Layer) -> Record:
    """Describe the quantized layers and outputs of a model as plain JSON."""
    paths = {id(layer): path for path, layer in model.named_sublayers()}
    layers, rounding = [], None
    for path, layer in quantized_layers(model).items():
        rounding = layer.input_quantizer.rounding
        norm = layer.__dict__["norm"]
        grid = {"norm": paths[id(norm)] if norm is not None else None, "limit": layer.limit}
        layers.append({"path": path, **_sign(layer.input_quantizer), **grid})
    assert rounding is not None
    readers = output_readers(model)
    outputs = [
        {"path": path, **_sign(quantizer), "readers": readers[path]}
        for path, quantizer in rounded_outputs(model).items()
    ]
    return {"rounding": dataclasses.asdict(rounding), "layers": layers, "outputs": outputs}


def _sign(quantizer: ActivationQuantizer) -> dict[str, bool]:
    return {"nonnegative": quantizer.nonnegative, "signed": quantizer.signed}


def replay(model: Layer, record: Record) -> None:
    """Quantize what is recorded in a fresh model; grids come with the weights."""
    for name in _RECORDED:
        record["rounding"][name]  # a default would be another model
    rounding = read(Rounding, record["rounding"], "rounding")
    for entry in record["layers"]:
        limit = entry["limit"] if "processors" in record["rounding"] else "none"  # of older ones
        if limit not in LIMITS:
            raise TypeError(f"{entry['path']}: expected a limit of {LIMITS}, got {limit!r}")
        quantize(model, entry["path"], rounding, entry["norm"], *_recorded_sign(entry), limit)
    for entry in record.get("outputs", []):  # older ones have none
        round_output(model, entry["path"], rounding, entry["readers"], *_recorded_sign(entry))


def _recorded_sign(entry: Record) -> tuple[bool, bool]:
    nonnegative, signed = entry["nonnegative"], entry["signed"]
    if not (isinstance(nonnegative, bool) and isinstance(signed, bool)):
        raise TypeError(f"{entry['path']}: expected true or false for nonnegative and signed")
    return nonnegative, not signed


def summary(choice: Choice) -> list[str]:
    """Return lines for the log: how many layers are quantized, and why the others are not."""
    outputs = f" and the outputs of {len(choice.outputs)}" if choice.outputs else ""
    lines = [f"quantized {len(choice.layers)} layers{outputs}, {len(choice.left)} stay in float"]
    by_reason: dict[str, list[str]] = {}
    for path, reason in choice.left.items():
        by_reason.setdefault(reason, []).append(path)
    lines += [f"  in float ({reason}): {_names(paths)}" for reason, paths in by_reason.items()]
    return lines


def _names(paths: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(paths[:most])
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"


def _some(left: dict[str, str]) -> str:
    return "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:3]) or "none found"
