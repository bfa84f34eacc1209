"""Compare int8 files as a whole with the rounded eager model.

They agree to 1e-6 until a sum of other order, or a bias that a runtime rounds to int32, falls to
the other side of a rounding; from there on they are two roundings of one network, and drift apart
layer by layer. Two that have nothing in common differ by 1.4 times what rounding changes at all,
which is the distance of the eager model from itself in float. More than that is warned about: the
layers are right one by one, but something between them is not as in the model, or the network
magnifies what it is given. The file is refused where, besides, nothing of the model is left: where
a constant would be as near to what the model answers, or what it answers to another image.

Few values make a coin toss of that: of 4 images with 2 probabilities each, a file that agrees over
160 images was refused every other time. So as many images are taken as tell the two apart, and what
a softmax makes is compared by its logits. Where there are no more images, a few values are no
reason to refuse a file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations

import numpy as np

from core.errors import RejectedError
from core.export import parity
from core.export.int8.distances import Parts, is_clear, parts_of, whole_distance
from core.export.softmax_outputs import before_softmax, softmax_axes
from core.graph.program import Graph
from core.runtimes.formats import format_of
from core.runtimes.predictor import Predictor, load_as_written
from core.targets.names import Backend
from core.task import Arrays

ArrayBatches = Sequence[Sequence[np.ndarray]]
MoreBatches = Callable[[int], ArrayBatches]  # returns so many images, or all that there are
_log = logging.getLogger(__name__)
LIMIT = 1.5  # share of the effect of rounding: 1.4, and a little for chance
VALUES = 64  # fewer do not tell two roundings from an agreement
COUNTS = (64, 256)  # images, where the first few do not tell
MOST_VALUES = 1 << 24  # values of the inputs, or of an output, that are held at once


@dataclass(frozen=True)
class OutputKinds:
    """Kinds of outputs that are not compared value by value.

    Attributes:
        decided: Outputs behind a decision, of which equal elements are counted.
        softmax: Axis of the softmax that makes an output: its logits are compared.
    """

    decided: Sequence[str] = ()
    softmax: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> OutputKinds:
        """Return the kinds of the outputs of a graph."""
        return cls(parity.deciding_outputs(graph), softmax_axes(graph))


@dataclass(frozen=True)
class WholeAnswers:
    """Answers to the same batches, each by name of the output, [N, ...].

    Attributes:
        wanted: Answers of the rounded eager model.
        found: Answers of a runtime.
        exact: Answers of the eager model in float.
    """

    wanted: Sequence[Arrays]
    found: Sequence[Arrays]
    exact: Sequence[Arrays]


def compare(backend: Backend, answers: WholeAnswers, kinds: OutputKinds) -> list[parity.Difference]:
    """Set the distance of a runtime from the rounded model beside that of rounding from float.

    Args:
        backend: Runtime that the result names.
        answers: Answers to the same batches.
        kinds: Kinds of the outputs.

    Raises:
        RejectedError: An output is missing or of another shape or type.
    """
    differences = []
    for name in answers.wanted[0]:
        wanted = [each[name] for each in answers.wanted]
        found = [each[name] for each in answers.found]
        parity.check_alike(backend, name, list(zip(wanted, found)))
        exact = [each[name] for each in answers.exact]
        counted = name in kinds.decided or wanted[0].dtype.kind != "f"
        axis = kinds.softmax.get(name)
        wanted, found, exact = (before_softmax(each, axis) for each in (wanted, found, exact))
        apart = parts_of(list(zip(found, wanted)), counted)
        effect = parts_of(list(zip(wanted, exact)), counted)
        differences.append(_difference(backend, name, apart, effect, counted))
        values = math.prod(wanted[0].shape[1:]) - (axis is not None)
        differences[-1] = _judged(differences[-1], apart, effect, counted, values)
    return differences


def _difference(
    backend: Backend, name: str, apart: Parts, effect: Parts, counted: bool
) -> parity.Difference:
    far, rounding = whole_distance(apart, counted), whole_distance(effect, counted)
    limit = LIMIT * rounding + _slack(counted)
    return parity.Difference(backend, name, far, None, rounding, limit, images=len(apart[0]))


def _judged(
    difference: parity.Difference, apart: Parts, effect: Parts, counted: bool, values: int
) -> parity.Difference:
    """Say whether other images would tell the same, which have so many values each."""
    assert difference.relative is not None  # `_difference` says so
    if difference.passes:
        enough = values * difference.images >= VALUES or difference.relative <= difference.limit / 4
    else:
        enough = is_clear(apart, effect, counted, partial(_beyond_limit, counted))
    return replace(difference, enough=enough)


def _beyond_limit(counted: bool, apart: float, effect: float) -> float:
    return apart - LIMIT * effect - _slack(counted)


def _slack(counted: bool) -> float:
    return 1 - parity.AGREEMENT if counted else parity.TOLERANCE


def compare_enough(
    backend: Backend,
    answer: Callable[[ArrayBatches], WholeAnswers],
    batches: ArrayBatches,
    more: MoreBatches,
    kinds: OutputKinds,
) -> tuple[list[parity.Difference], WholeAnswers]:
    """Compare on as many images as it takes to tell; return the answers to these as well.

    Args:
        backend: Runtime that the result names.
        answer: Lets all three answer.
        batches: Arrays [N, ...] for each input: the first few images.
        more: Returns more images than these.
        kinds: Kinds of the outputs.

    Raises:
        RejectedError: An output is missing or of another shape or type.
    """
    answers = answer(batches)
    differences = compare(backend, answers, kinds)
    values = max(_values(batches), *(_values([list(each.values())]) for each in answers.wanted))
    for count in COUNTS:
        if all(each.enough for each in differences):
            break
        wanted = min(count, MOST_VALUES // values)
        batches = more(wanted) if wanted > differences[0].images else []
        if count_images(batches) <= differences[0].images:
            break
        answers = answer(batches)
        differences = compare(backend, answers, kinds)
    return differences, answers


def count_images(batches: ArrayBatches) -> int:
    """Return how many images there are in arrays [N, ...]; one without axes is of one image."""
    return sum(len(batch[0]) if batch[0].ndim else 1 for batch in batches)


def _values(batches: ArrayBatches) -> int:
    """Return how many values an image has at most, in the largest of the arrays."""
    return (
        max(array.size // max(count_images([[array]]), 1) for batch in batches for array in batch)
        or 1
    )


def nothing_left(
    difference: parity.Difference, wanted: Sequence[Arrays], kinds: OutputKinds
) -> bool:
    """Tell whether a runtime is no nearer to the rounded eager model than what knows no image.

    That is a constant, or the model's own answers to other images: who is as far off as these
    cannot tell images apart. A few values, of which others might tell otherwise, do not show that.

    Args:
        difference: Difference of one output.
        wanted: Outputs of the rounded eager model for each batch.
        kinds: Kinds of the outputs.
    """
    name = difference.output
    values = before_softmax([answers[name] for answers in wanted], kinds.softmax.get(name))
    flat = np.concatenate([each.reshape(-1) for each in values])
    if flat.size < VALUES and not difference.enough:
        return False
    counted = name in kinds.decided or flat.dtype.kind != "f"
    constant = flat.mean()
    if counted:
        found, counts = np.unique(flat, return_counts=True)
        constant = found[counts.argmax()]

    def measure(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        return whole_distance(parts_of(pairs, counted), counted)

    nearest = measure([(np.full_like(each, constant), each) for each in values])
    rows = [row for each in values if each.ndim > 1 for row in each]
    others = [
        (one, other)
        for one, other in permutations(rows, 2)
        if one.shape == other.shape and not np.array_equal(one, other)
    ]
    if others:
        nearest = min(nearest, measure(others))
    return difference.relative is None or not difference.relative < nearest


def compare_as_written(
    predictor: Predictor,
    batches: ArrayBatches,
    more: MoreBatches,
    answer: Callable[[ArrayBatches], tuple[Sequence[Arrays], Sequence[Arrays]]],
    kinds: OutputKinds,
    why: str,
) -> list[parity.Difference]:
    """Compare what a file says where it is computed otherwise here; report how it is answered here.

    Args:
        predictor: The file, opened.
        batches: Arrays [N, ...] for each input: the first few images.
        more: Returns more images than these.
        answer: Returns the outputs of the rounded model, computed as the file is written, and those
            of the model in float.
        kinds: Kinds of the outputs.
        why: Why it is computed otherwise, see `core.targets.instructions.why_not_as_written`.

    Raises:
        RejectedError: The file does not say what the model computes.
    """
    backend = predictor.backend
    written = load_as_written(predictor.folder, format_of(backend))

    def answers_of(some: ArrayBatches) -> WholeAnswers:
        wanted, exact = answer(some)
        return WholeAnswers(wanted, [parity.run(written, batch) for batch in some], exact)

    for each in compare_enough(backend, answers_of, batches, more, kinds)[0]:
        said = f"output {each.output!r} of the int8 model, computed as it is written, {each}"
        if not each.passes and each.enough:
            raise RejectedError(f"{backend}: {said}")
        if not each.passes:
            _log.warning("%s: %s; so few images do not tell", backend, said)
    few = answers_of(batches)
    found = [parity.run(predictor, batch) for batch in batches]
    reported = [
        replace(each, limit=math.inf)
        for each in compare(backend, WholeAnswers(few.found, found, few.exact), kinds)
    ]
    _log.warning(
        "%s: %s: answers here are %s from what the file says",
        *(backend, why),
        ", ".join(f"{each.relative:.1e} ({each.output})" for each in reported),
    )
    return reported
