"""PaddleSlim's quantized programs on other grids than its own: those of a file.

In programs for training, operators in front of a layer round its weight and its input. In those
of `quant_post_static` weights are steps already, layers read steps, and an operator behind each
multiplies by both scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from paddle.static import Program

from core.act.source import SKIP
from core.export.int8.weights import BITS
from core.quant.weight_grid import broadcast
from core.targets.processors import HIGHEST
from core.task import Arrays

_ROUNDING = ("fake_quantize_abs_max", "fake_channel_wise_quantize_abs_max")  # operators on weights
_ONE_SCALE, _BY_CHANNEL = "fake_dequantize_max_abs", "fake_channel_wise_dequantize_max_abs"
_CLIPPED = "@clipped"  # ends the name of a tensor that PACT has clipped
_FAR = 2  # steps of its own grid; a weight that is rounded to another one is nearer


def threshold_of(tensor: str) -> str:
    """Return the name of the variable [1] at which PACT clips a tensor."""
    return f"{tensor}@pact"


def unclipped(tensor: str) -> str:
    """Return the name of a tensor before PACT clipped it."""
    return tensor.removesuffix(_CLIPPED)


@dataclass(frozen=True)
class Grids:
    """Grids that a model uses instead of its own.

    Attributes:
        finer: Tensors that are never negative, with 255 steps up to the same end.
        weights: Steps of weights, in their shape, and the value of step 127, in one that goes with
            it; by name.
        floats: Weights, by name, of the layers that round neither their weight nor their input.
    """

    finer: frozenset[str] = frozenset()
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    floats: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class _Use:
    """A layer that computes with a weight.

    Attributes:
        layer: Operator.
        reads: Name of the tensor it reads as its weight.
        scaling: Operator that multiplies its sums of steps by scales; None if it reads values.
    """

    layer: Any
    reads: str
    scaling: Any


def activation_quantizers(program: Program) -> list[Any]:
    """Return the operators that round to a grid whose end a variable holds."""
    operators = program.global_block().ops
    return [op for op in operators if {"X", "InScale"}.issubset(op.input_names)]


def clip_inputs(program: Program, kinds: Sequence[str], tensors: Iterable[str]) -> list[str]:
    """Clip what layers read at thresholds on both sides of zero (PACT: Choi et al., 2018).

    Args:
        program: Program for training that does not round yet.
        kinds: Types of the operators that will round their inputs.
        tensors: Names of their inputs.

    Returns:
        The names of the thresholds, variables [1] that have no value yet.
    """
    block, found = program.global_block(), set[str]()
    for index in reversed(range(len(block.ops))):
        op = block.ops[index]
        if op.type in kinds and SKIP not in op.attr("op_namescope"):
            for name in set(tensors).intersection(op.input_arg_names):
                op._rename_input(name, name + _CLIPPED)
                found.add(name)
    for name in sorted(found):
        reader = next(i for i, op in enumerate(block.ops) if name + _CLIPPED in op.input_arg_names)
        _insert_clip(block, reader, name)
    return [threshold_of(name) for name in sorted(found)]


def _insert_clip(block: Any, index: int, name: str) -> None:
    """Insert the operators that clip a tensor in front of the first that reads it clipped."""
    tensor, end, low = block.var(name), threshold_of(name), f"{threshold_of(name)}@low"
    block.create_var(name=end, shape=[1], dtype="float32", persistable=True, stop_gradient=False)
    block.create_var(name=low, shape=[1], dtype="float32", stop_gradient=False)
    cut = f"{name}{_CLIPPED}@above"
    for each in (cut, name + _CLIPPED):
        block.create_var(name=each, shape=tensor.shape, dtype="float32", stop_gradient=False)
    below = {"scale": -1.0, "bias": 0.0, "bias_after_scale": True}
    for kind, inputs, output, attributes in (
        ("elementwise_max", {"X": cut, "Y": low}, name + _CLIPPED, {"axis": -1}),
        ("elementwise_min", {"X": name, "Y": end}, cut, {"axis": -1}),
        ("scale", {"X": end}, low, below),
    ):
        given = {slot: [each] for slot, each in inputs.items()}
        block._insert_op(
            index, type=kind, inputs=given, outputs={"Out": [output]}, attrs=attributes
        )


def unclip(program: Program) -> None:
    """Remove the clipping of `clip_inputs`; the ends of grids clip the same values."""
    for quantizer in activation_quantizers(program):
        (name,) = quantizer.input("X")
        quantizer._rename_input(name, unclipped(name))


class OnGrids:
    """A copy of a quantized program on other grids.

    Args:
        program: Stays as it is.
        grids: The grids.
        get: Returns the value of a variable.
        suffix: Suffix of the names of new variables in the copy.

    Attributes:
        program: The copy.
        values: Values of the new variables.

    Raises:
        ValueError: A weight is not the program's own.
    """

    def __init__(
        self, program: Program, grids: Grids, get: Callable[[str], np.ndarray], suffix: str
    ) -> None:
        self.program = program.clone()
        self.values: Arrays = {}
        self._get, self._suffix = get, suffix
        for name, (steps, absmax) in grids.weights.items():
            self._move(name, steps.astype(np.float32), absmax.astype(np.float32))
        for name, weight in grids.floats.items():
            self._put_in_float(name, weight)
        self._refine(grids.finer)

    def _move(self, name: str, steps: np.ndarray, absmax: np.ndarray) -> None:
        """Put a weight on another grid."""
        values = steps * (absmax / np.float32(HIGHEST))
        for use in list(self._uses(name)):
            self._check(name, use, values)
            given = values
            if use.scaling is not None:
                given = self._rescale(use.scaling, name, steps, absmax)
            use.layer._rename_input(use.reads, self._add(name, given))

    def _rescale(
        self, scaling: Any, name: str, steps: np.ndarray, absmax: np.ndarray
    ) -> np.ndarray:
        """Let an operator multiply by other scales of a weight; return steps that go with them."""
        if scaling.type == _BY_CHANNEL:
            (old, _), new = scaling.input("Scales"), self._add(f"{name}@scale", absmax.reshape(-1))
            scaling._rename_input(old, new)
            return steps
        largest = float(absmax.max())
        scaling._set_attr("max_range", HIGHEST**2 / largest)
        rescaled: np.ndarray = steps * (absmax / largest)
        return rescaled

    def _put_in_float(self, name: str, weight: np.ndarray) -> None:
        """Let the layers of a weight round nothing."""
        for use in list(self._uses(name)):
            self._check(name, use, weight)
            for read in use.layer.input_arg_names:
                new = self._add(name, weight) if read == use.reads else self._unrounded(read)
                use.layer._rename_input(read, new)
            if use.scaling is not None:
                (sums,), (scaled,) = use.scaling.input("X"), use.scaling.output("Out")
                for reader in self._readers(scaled):
                    reader._rename_input(scaled, sums)

    def _check(self, name: str, use: _Use, values: np.ndarray) -> None:
        """Refuse values that are not the program's own weight, but for its rounding and theirs."""
        own = self._get(name)
        if use.scaling is not None and use.scaling.type == _BY_CHANNEL:
            scales, axis = self._get(use.scaling.input("Scales")[0]), use.scaling.attr("quant_axis")
            own = own * (broadcast(scales, own.ndim, axis) / np.float32(HIGHEST))
        elif use.scaling is not None:
            own = own * np.float32(HIGHEST / use.scaling.attr("max_range"))
        if not np.abs(own - values).max() <= _FAR * np.abs(own).max() / HIGHEST:
            raise ValueError(f"{name}: is another weight in PaddleSlim's model")

    def _refine(self, tensors: frozenset[str]) -> None:
        """Give tensors as many steps again, up to the same end."""
        for quantizer in activation_quantizers(self.program):
            if quantizer.input("X")[0] not in tensors:
                continue
            quantizer._set_attr("bit_length", BITS + 1)
            for op in self._readers(quantizer.input("InScale")[0]):
                if op.type == _ONE_SCALE:
                    op._set_attr("max_range", op.attr("max_range") * (2**BITS - 1) / HIGHEST)
                elif op.type == _BY_CHANNEL:
                    op._set_attr("quant_bits", [BITS, BITS + 1])

    def _uses(self, name: str) -> Iterator[_Use]:
        """Yield the layers of a weight."""
        for op in self._readers(name):
            if op.type in _ROUNDING:
                (restoring,) = self._readers(op.output("Out")[0])
                (rounded,) = restoring.output("Out")
                yield from (_Use(layer, rounded, None) for layer in self._readers(rounded))
            else:
                (sums,) = op.output_arg_names
                (scaling,) = self._readers(sums)
                yield _Use(op, name, scaling)

    def _unrounded(self, name: str) -> str:
        """Return which tensor one was before it was rounded."""
        for op in self.program.global_block().ops:
            if op.type.startswith("fake_") and op.output("Out") == [name]:
                return self._unrounded(op.input("X")[0])
        return name

    def _readers(self, name: str) -> list[Any]:
        return [op for op in self.program.global_block().ops if name in op.input_arg_names]

    def _add(self, name: str, value: np.ndarray) -> str:
        """Add a variable with a value; return its name."""
        added, block = name + self._suffix, self.program.global_block()
        self.values[added] = value
        if not block.has_var(added):
            block.create_var(name=added, shape=value.shape, dtype="float32", persistable=True)
        return added
