"""Compare int8 files as a whole with the rounded eager model.

They agree to 1e-6 until a sum of other order, or a bias that a runtime rounds to int32, falls to
the other side of a rounding; from there on they are two roundings of one network, and drift apart
layer by layer. Two that have nothing in common differ by 1.4 times what rounding changes at all,
which is the distance of the eager model from itself in float. More than that is warned about: the
layers are right one by one, but something between them is not as in the model, or the network
magnifies what it is given. The file is refused where, besides, nothing of the model is left: where
a constant would be as near to what the model answers, or what it answers to another image.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from core.errors import RejectedError
from core.export import parity
from core.runtimes.formats import format_of
from core.runtimes.predictor import Predictor, load_as_written
from core.targets.names import Backend
from core.task import Arrays

_log = logging.getLogger(__name__)
LIMIT = 1.5  # of the effect of rounding: 1.4, and a little for chance


def compare(
    backend: Backend,
    wanted: Sequence[Arrays],
    found: Sequence[Arrays],
    exact: Sequence[Arrays],
    decided: Sequence[str],
) -> list[parity.Difference]:
    """Set the distance of a runtime from the rounded model beside that of rounding from float.

    Args:
        backend: Named in what is returned.
        wanted: Outputs of the rounded eager model for each batch.
        found: Those of the runtime.
        exact: Those of the eager model in float.
        decided: Outputs behind a decision, of which equal elements are counted.

    Raises:
        ExportError: An output is missing or of another shape or type.
    """
    differences = []
    for name in wanted[0]:
        parity.check_alike(backend, name, [(w[name], f[name]) for w, f in zip(wanted, found)])
        counted = name in decided or wanted[0][name].dtype.kind != "f"
        measure = _unequal if counted else _distance
        apart = measure([(f[name], w[name]) for f, w in zip(found, wanted)])
        effect = measure([(w[name], e[name]) for w, e in zip(wanted, exact)])
        limit = LIMIT * effect + (1 - parity.AGREEMENT if counted else parity.TOLERANCE)
        differences.append(parity.Difference(backend, name, apart, None, effect, limit))
    return differences


def nothing_left(
    difference: parity.Difference, wanted: Sequence[Arrays], decided: Sequence[str]
) -> bool:
    """Tell whether a runtime is no nearer to the rounded eager model than what knows no image.

    That is a constant, or the model's own answers to other images: who is as far off as these
    cannot tell images apart.

    Args:
        difference: Difference of one output.
        wanted: Outputs of the rounded eager model for each batch.
        decided: Outputs behind a decision.
    """
    values = [answers[difference.output] for answers in wanted]
    flat = np.concatenate([each.reshape(-1) for each in values])
    if difference.output in decided or flat.dtype.kind != "f":
        found, counts = np.unique(flat, return_counts=True)
        constant, measure = found[counts.argmax()], _unequal
    else:
        constant, measure = flat.mean(), _distance
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
    batches: Sequence[Sequence[np.ndarray]],
    wanted: Sequence[Arrays],
    exact: Sequence[Arrays],
    decided: Sequence[str],
) -> list[parity.Difference]:
    """Compare what a file for other processors than this one says; report how this one answers.

    Args:
        predictor: The file, opened.
        batches: Arrays [N, ...] for each input.
        wanted: Outputs of the rounded model for each batch, computed as the file is written.
        exact: Those of the model in float.
        decided: Outputs behind a decision, of which equal elements are counted.

    Raises:
        ExportError: The file does not say what the model computes.
    """
    backend = predictor.backend
    written = load_as_written(predictor.folder, format_of(backend))
    said = [parity.run(written, batch) for batch in batches]
    for each in compare(backend, wanted, said, exact, decided):
        if not each.passes:
            raise RejectedError(
                f"{backend}: output {each.output!r} of the int8 model, computed as it is written, "
                f"{each}"
            )
    found = [parity.run(predictor, batch) for batch in batches]
    reported = [
        replace(each, limit=math.inf) for each in compare(backend, said, found, exact, decided)
    ]
    _log.warning(
        "%s: this processor has no VNNI, which processors: vnni asks for: its answers are %s from "
        "what the file says; quantize with processors: any for files that are right here",
        *(backend, ", ".join(f"{each.relative:.1e} ({each.output})" for each in reported)),
    )
    return reported


def _distance(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the root of the mean square of differences, relative to that of the values."""
    apart = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
    whole = sum(float((b.astype(np.float64) ** 2).sum()) for _, b in pairs)
    distance = float((apart / max(whole, 1e-300)) ** 0.5)
    return distance if np.isfinite(distance) else float("inf")


def _unequal(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the share of elements that are not equal (floats: within the tolerance)."""
    count = sum(a.size for a, _ in pairs)
    unequal = 0
    for a, b in pairs:
        limit = parity.TOLERANCE * float(np.abs(b).max(initial=0)) if b.dtype.kind == "f" else 0
        unequal += int((~(np.abs(a.astype(np.float64) - b) <= limit)).sum())
    return unequal / max(count, 1)
