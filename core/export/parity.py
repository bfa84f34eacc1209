"""Compare an exported model with the eager one, on real inputs and in every installed runtime.

Compared values and their limits:

- **Outputs that are sums and products of the inputs** (logits, heatmaps, probabilities): the
  largest absolute difference, relative to the largest eager value, is at most `TOLERANCE`. Folding
  and other orders of summation cost 1e-7 to 3e-5 on real networks of 10 to 300 layers; a wrong
  weight, layout or precision costs 1e-2 and more. A network that magnifies rounding (untrained
  Lite-HRNet-30: the last bit of its inputs moves its outputs by 2e-5, and runtimes differ by 1e-4)
  may differ by `CONDITION` times what the last bit of its inputs does, but by `CEILING` at most.
- **Outputs that decide** (integers, and floats behind an argmax, a top-k, a sign or a rounding,
  like decoded points): a difference of one bit may turn a tie, so the share of elements that agree
  (floats within `TOLERANCE`) is at least `AGREEMENT` over all samples.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import paddle
from paddle.nn import Layer
from paddle.static import InputSpec

from core.errors import ExportError, RejectedError, UserError
from core.graph.operators import names_of
from core.graph.program import Graph
from core.graph.trace import name_outputs
from core.network.modes import evaluation_mode
from core.runtimes.predictor import Predictor
from core.settings.progress import progress
from core.task import Arrays, Sample, Task

TOLERANCE = 1e-4
AGREEMENT = 0.99
CONDITION = 10.0
CEILING = 1e-3
SAMPLES = 4
AT_ONCE = 1 << 19  # values of a batch of many samples: networks with attention need 5 KB for each

_DECIDING = (
    *("arg_max", "arg_min", "top_k", "top_k_v2", "argsort", "sign", "round", "floor", "ceil"),
    *("equal", "not_equal", "greater_than", "greater_equal", "less_than", "less_equal"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """Difference of one output from the eager one, over all batches."""

    runtime: str
    output: str
    relative: float | None  # largest difference / largest eager value
    agreement: float | None  # share of equal elements, of an output that decides
    # of quantized models `relative` is of the root mean squares, or the share of unequal decisions
    effect: float | None = None  # the same between the rounded eager model and itself in float
    limit: float = TOLERANCE
    images: int = 0  # for quantized models: number of images it was measured on
    enough: bool = True  # whether others would hardly tell otherwise

    @property
    def passes(self) -> bool:
        """Tell whether it is within the limits; not-a-number is not."""
        if self.agreement is not None:
            return self.agreement >= AGREEMENT
        return self.relative is not None and self.relative <= self.limit

    def __str__(self) -> str:
        if self.effect is not None:
            return (
                f"differs by {self.relative:.1e} over {self.images} images, rounding itself by "
                f"{self.effect:.1e}; at most {self.limit:.1e} wanted"
            )
        if self.agreement is not None:
            return f"{self.agreement:.2%} of elements equal, at least {AGREEMENT:.0%} wanted"
        return f"differs by {self.relative:.1e} of the largest, at most {self.limit:.1e} wanted"


def run_eager(layer: Layer, batch: Sequence[np.ndarray]) -> Arrays:
    """Run the layer itself on arrays [N, ...], in evaluation mode and without gradients."""
    with evaluation_mode(layer), paddle.no_grad():
        outputs = layer(*[paddle.to_tensor(array) for array in batch])
    return {name: tensor.numpy() for name, tensor in name_outputs(outputs).items()}


def move_last_bits(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Replace floats, in arrays of any shape, by the next larger or smaller ones at random."""
    rng = np.random.default_rng(0)
    return [
        np.nextafter(array, rng.choice([-np.inf, np.inf], array.shape), dtype=array.dtype)
        if array.dtype.kind == "f"
        else array
        for array in batch
    ]


def check(
    layer: Layer,
    expected: Sequence[Arrays],
    predictors: Sequence[Predictor],
    batches: Sequence[Sequence[np.ndarray]],
    decided: Sequence[str] = (),
) -> list[Difference]:
    """Compare each predictor with the eager outputs on each batch.

    Args:
        layer: Was exported; runs once more where a difference is above `TOLERANCE`.
        expected: Answers of `run_eager` to each batch.
        predictors: The exported model in each runtime.
        batches: Inputs [N, ...] in the order of the layer.
        decided: Outputs that decide, see `deciding_outputs`; integers count as such anyway.

    Raises:
        ExportError: An output differs, is missing, or has another shape or type; the message
            names the runtime, the output and the numbers.
    """
    differences = []
    for predictor in progress(predictors, "compare the files", unit="runtime"):
        got = [run(predictor, batch) for batch in batches]
        for name in expected[0]:
            pairs = [(want[name], have[name]) for want, have in zip(expected, got)]
            difference = _compare(predictor.backend, name, pairs, name in decided)
            if not difference.passes and difference.relative is not None:
                limit = CONDITION * _effect_of_last_bits(layer, name, expected, batches)
                difference = replace(difference, limit=max(TOLERANCE, min(limit, CEILING)))
            if not difference.passes:
                raise RejectedError(
                    f"{predictor.backend}: output {name!r} of the exported model {difference}"
                )
            differences.append(difference)
    return differences


def _effect_of_last_bits(
    layer: Layer,
    name: str,
    expected: Sequence[Arrays],
    batches: Sequence[Sequence[np.ndarray]],
) -> float:
    """Return how far the last bits of the inputs move an output, relative to its largest value."""
    moved = [run_eager(layer, move_last_bits(batch)) for batch in batches]
    pairs = [(want[name], have[name]) for want, have in zip(expected, moved)]
    relative = _compare("eager", name, pairs, False).relative
    return relative if relative is not None and np.isfinite(relative) else 0.0


def deciding_outputs(graph: Graph) -> list[str]:
    """Return the outputs that depend on a decision, like decoded points on an argmax."""
    tainted: set[str] = set()
    for op in graph.operators:
        if op.type in _DECIDING or tainted.intersection(names_of(op.inputs)):
            tainted.update(names_of(op.outputs))
    return [name for name in graph.outputs if name in tainted]


def real_batches(task: Task, specs: Sequence[InputSpec]) -> list[list[np.ndarray]]:
    """Return batches of 1 and of 2, [N, C, H, W]: samples of the validation split if readable.

    Otherwise they are random images that went through the task's `preprocess`. A sample that does
    not fit the fixed dimensions is cut, or continued periodically. Where the specification fixes
    the batch, so are the batches.
    """
    rows = _rows(task, specs, SAMPLES)
    fixed = specs[0].shape[0]
    if fixed not in (None, -1):
        return [_stack((rows * int(fixed))[: int(fixed)])]
    half = (len(rows) + 1) // 2
    return [*(_stack([row]) for row in rows[:half]), _stack((rows[half:] + rows)[:2])]


def many_batches(task: Task, specs: Sequence[InputSpec], count: int) -> list[list[np.ndarray]]:
    """Return up to `count` samples as batches [N, C, H, W], as `real_batches` takes a few.

    Where the specification fixes the batch, so are the batches; samples that do not fill one are
    left out.
    """
    rows = _rows(task, specs, count)
    fixed = specs[0].shape[0]
    size = int(fixed) if fixed not in (None, -1) else 1
    if size == 1 and fixed != 1 and len({tuple(each.shape for each in row) for row in rows}) == 1:
        size = max(1, min(len(rows), AT_ONCE // max(each.size for each in rows[0])))
    starts = range(0, len(rows), size)
    whole = [rows[start : start + size] for start in starts]
    return [_stack(some) for some in whole if fixed in (None, -1) or len(some) == size]


def _rows(task: Task, specs: Sequence[InputSpec], count: int) -> list[list[np.ndarray]]:
    samples = _validation_samples(task, count) or _random_samples(task, count)
    return [
        [_fit(sample[spec.name], tuple(spec.shape[1:])) for spec in specs] for sample in samples
    ]


def _validation_samples(task: Task, count: int) -> list[Sample]:
    config = task.config
    root = getattr(getattr(config, "data", None), "root", None)
    if root is not None and not Path(root).exists():
        _log.info("%s does not exist, random images are compared", root)
        return []  # exporting should neither draw nor download a data set
    try:
        dataset = task.build_dataset("val")
        indices = sorted({index * len(dataset) // count for index in range(count)})
        rng = np.random.default_rng(0)
        return [dataset.sample(index, rng) for index in indices] if len(dataset) else []
    except UserError as error:
        _log.info("the validation data cannot be read, random images are compared: %s", error)
        return []


def _random_samples(task: Task, count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        sample, _ = task.preprocess(np.kron(coarse, np.ones((20, 20, 1), np.uint8)))
        samples.append(sample)
    return samples


def _fit(array: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
    for axis, wanted in enumerate(shape):
        if wanted not in (None, -1, array.shape[axis]):
            array = np.take(array, range(int(wanted or 0)), axis=axis, mode="wrap")
    return array


def _stack(rows: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Make a batch; instead of a sample of another size it holds the first one mirrored."""
    columns = []
    for first, *others in zip(*rows):
        alike = [each if each.shape == first.shape else first[..., ::-1] for each in others]
        columns.append(np.stack([first, *alike]))
    return columns


def run(predictor: Predictor, batch: Sequence[np.ndarray]) -> Arrays:
    """Run an exported model on arrays [N, ...].

    Raises:
        ExportError: It fails; the message names the runtime.
    """
    try:
        return predictor.run(*batch)
    except ExportError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        shapes = ", ".join(str(list(array.shape)) for array in batch)
        raise RejectedError(
            f"{predictor.backend}: the exported model fails on {shapes}: {lines[-1].strip()}"
        ) from error


def check_alike(runtime: str, name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Refuse an output that cannot be compared.

    Args:
        runtime: Named in messages.
        name: Name of the output.
        pairs: Answers [N, ...] of the eager model and of the runtime to each batch.

    Raises:
        ExportError: Another shape or type, or eager values that are not finite.
    """
    for wanted, got in pairs:
        if got.shape != wanted.shape or got.dtype.kind != wanted.dtype.kind:
            raise RejectedError(
                f"{runtime}: output {name!r} of the exported model is {got.dtype} "
                f"{list(got.shape)}, expected {wanted.dtype} {list(wanted.shape)}"
            )
        if not np.isfinite(wanted).all():
            raise ExportError(f"{name}: the eager model itself puts out values that are not finite")


def _compare(
    runtime: str, name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], decided: bool
) -> Difference:
    check_alike(runtime, name, pairs)
    counts: dict[str, float] = defaultdict(float)
    for wanted, got in pairs:
        far = np.abs(got.astype(np.float64) - wanted)
        largest = float(np.abs(wanted.astype(np.float64)).max(initial=1e-12))
        worst = float(far.max(initial=0.0)) / largest
        counts["worst"] = max(counts["worst"], worst if np.isfinite(worst) else np.inf)
        limit = TOLERANCE * largest if wanted.dtype.kind == "f" else 0.0
        counts["equal"] += int((far <= limit).sum())
        counts["all"] += wanted.size
    if decided or pairs[0][0].dtype.kind != "f":
        return Difference(runtime, name, None, counts["equal"] / max(counts["all"], 1))
    return Difference(runtime, name, counts["worst"], None)


def summary(differences: Sequence[Difference]) -> Mapping[str, str]:
    """Return one line for each runtime."""
    lines: dict[str, list[str]] = defaultdict(list)
    for each in differences:
        figure = f"{each.agreement:.2%} equal" if each.relative is None else f"{each.relative:.1e}"
        if each.effect is not None:
            figure += f" (rounding itself {each.effect:.1e}, {each.images} images)"
        lines[each.runtime].append(f"{each.output} {figure}")
    return {runtime: ", ".join(parts) for runtime, parts in lines.items()}
