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

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from core.deploy.predictor import Backend
from core.export import parity
from core.task import Arrays

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
        difference: Of an output.
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
