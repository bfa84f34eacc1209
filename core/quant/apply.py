"""Quantize the selected layers, calibrate them, and record the edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import replace

from paddle import Tensor
from paddle.nn import Layer

from core.errors import ConfigError, DataError
from core.quant.calibration import run_back, run_through
from core.quant.grid_plan import GridPlan
from core.quant.layers import QuantizedLayer, quantize, quantized_layers, restore_float
from core.quant.observers import OBSERVERS, build_observer
from core.quant.outputs import output_readers, restore_output, round_output, rounded_outputs
from core.quant.quantizers import ActivationQuantizer, Rounding
from core.quant.selection import LayerSelection, _some
from core.quant.sites import layer_of, restore, rounded_by
from core.quant.weight_grid import LIMITS
from core.settings.config import read
from core.strategy import Record

# of the rounding, in every record
_RECORDED = ("weight_type", "activation_type", "pact", "weight_bits", "activation_bits")


def apply_quantization(
    model: Layer,
    choice: LayerSelection,
    rounding: Rounding,
    batches: Iterable[Sequence[Tensor]],
    observer: str,
    plan: GridPlan,
) -> LayerSelection:
    """Quantize the chosen layers in place, and calibrate their grids.

    Layers that do not run in evaluation mode, such as heads for training, stay in float.

    Args:
        model: Changed in place; after an error it is as before.
        choice: Layers to quantize.
        rounding: How they are rounded.
        batches: Calibration data: inputs of the model, [N, C, H, W] for images.
        observer: Kind of observer, of `core.quant.observers`.
        plan: Grids that the files need, and layers whose outputs are rounded.

    Returns:
        The layers that were quantized.

    Raises:
        ConfigError: int8 serves no layer on the target.
        DataError: No batches, or activations that are not finite; names the layer.
    """
    chosen = [path for path in choice.layers if path not in plan.in_float]
    if not chosen:
        raise ConfigError(f"target: no layer is left to quantize: {_some(plan.in_float)}")
    choice = replace(choice, layers=tuple(chosen), left=choice.left | plan.in_float)
    layers = _insert(model, choice.layers, rounding, plan)
    try:
        _calibrate(model, batches, observer, plan)
    except BaseException:
        _take_out(model, layers.values())
        raise
    idle = [path for path, layer in layers.items() if not isinstance(layer, QuantizedLayer)]
    left = choice.left | dict.fromkeys(idle, "does not run in evaluation")
    if len(idle) == len(layers):
        raise DataError("calibration: none of the chosen layers ran")
    running = tuple(path for path in choice.layers if path not in idle)
    return replace(choice, layers=running, left=left, outputs=tuple(plan.outputs))


def _insert(
    model: Layer, paths: Sequence[str], rounding: Rounding, plan: GridPlan
) -> dict[str, QuantizedLayer]:
    """Quantize layers and outputs whose grids are not calibrated yet; return the layers."""
    one_grid = rounding.weight_type == "abs_max"  # which is that of the folded weight
    layers = {
        path: quantize(
            model,
            path,
            rounding,
            plan.norms.get(path) if one_grid else None,
            limit=plan.limits.get(path, "none"),
        )
        for path in paths
    }
    for path, readers in plan.outputs.items():
        round_output(model, path, rounding, readers)
    return layers


def _take_out(model: Layer, layers: Iterable[Layer]) -> None:
    """Restore outputs and layers to float."""
    for path in rounded_outputs(model):
        restore_output(model, path)
    for layer in layers:
        if isinstance(layer, QuantizedLayer):
            restore_float(layer)


def _calibrate(
    model: Layer,
    batches: Iterable[Sequence[Tensor]],
    kind: str,
    plan: GridPlan,
) -> None:
    quantizers = rounded_by(model)
    for quantizer, sites in quantizers:
        quantizer.observer = build_observer(kind, layer_of(sites[0]))
    run = run_back if OBSERVERS[kind].reads_gradients else run_through
    try:
        run(model, batches)
        for quantizer, sites in quantizers:
            seen, quantizer.observer = quantizer.observer, None
            assert seen is not None
            if seen.lowest == float("inf"):
                restore(model, sites[0])
                continue
            nonnegative = seen.lowest >= 0
            unsigned = not plan.unsigned.isdisjoint(sites)
            bits = quantizer.rounding.activation_bits
            if quantizer.rounding.zero_points and not nonnegative:
                lowest, absmax = seen.ends(bits)
            else:
                lowest, absmax = 0.0, seen.absmax(bits, not (nonnegative and unsigned))
            quantizer.begin(absmax, nonnegative, unsigned, lowest)
    finally:
        for quantizer, _ in quantizers:
            quantizer.observer = None


def record_of(model: Layer) -> Record:
    """Describe the quantized layers and outputs of a model as plain JSON."""
    paths = {id(layer): path for path, layer in model.named_sublayers()}
    layers, rounding = [], None
    for path, layer in quantized_layers(model).items():
        rounding = layer.input_quantizer.rounding
        norm = paths[id(layer.norm.layer)] if layer.norm is not None else None
        grid = {"norm": norm, "limit": layer.limit}
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


def replay_quantization(model: Layer, record: Record) -> None:
    """Quantize the recorded layers in a fresh model; grids come with the weights."""
    for name in _RECORDED:
        record["rounding"][name]  # a default would be another model
    limited = "processors" in record["rounding"] or any("limit" in e for e in record["layers"])
    if limited:
        record["rounding"]["processors"]  # older ones have neither
    rounding = read(Rounding, record["rounding"], "rounding")
    for entry in record["layers"]:
        limit = entry["limit"] if limited else "none"
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
