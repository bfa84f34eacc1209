"""Every distillation loss beside numpy written from its formula, gradients by finite differences.

Paddle computes in float64 here, so the two agree to many digits; the gradient of the numpy formula
is taken numerically, without any code of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

from core.distill import feature_losses, losses

Formula = Callable[[np.ndarray, np.ndarray], float]
LABELS = np.array([[[2, 0], [9, 1]], [[1, 1], [0, 255]]])  # 9 and 255 are no classes


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values)
    return powers / powers.sum(axis=axis, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray, axis: int = 1) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=axis)


def rows(logits: np.ndarray) -> list[np.ndarray]:
    """Return the class scores of every sample, or of every place of a map, one by one."""
    if logits.ndim == 2:
        return list(logits)
    n, _, h, w = logits.shape
    return [logits[i, :, y, x] for i in range(n) for y in range(h) for x in range(w)]


def hinton(s: np.ndarray, t: np.ndarray) -> float:
    terms = [kl(softmax(b / 4, 0), softmax(a / 2, 0), 0) for a, b in zip(rows(s), rows(t))]
    return 8 * float(np.mean(terms))


def soft_cross_entropy(s: np.ndarray, t: np.ndarray) -> float:
    terms = [-softmax(b / 3, 0) @ np.log(softmax(a / 2, 0)) for a, b in zip(rows(s), rows(t))]
    return float(np.mean(terms))


def jeffreys(s: np.ndarray, t: np.ndarray) -> float:
    p, q = softmax(s, 1), softmax(t, 1)
    return float((kl(p, q).mean() + kl(q, p).mean()) / 2)


def jensen_shannon(s: np.ndarray, t: np.ndarray) -> float:
    p, q = softmax(s, 1), softmax(t, 1)
    middle = (p + q) / 2
    return float((kl(p, middle) / 2 + kl(q, middle) / 2).mean())


def decoupled(s: np.ndarray, t: np.ndarray, labels: np.ndarray) -> float:
    """Equations 3, 4 and 7 of Zhao et al.: b is [p_target, 1 - p_target], p-hat the rest."""
    total, count, temperature = 0.0, 0, 3.0
    for a, b, label in zip(rows(s), rows(t), labels.flatten()):
        if label >= len(a):
            continue
        p, q = softmax(a / temperature, 0), softmax(b / temperature, 0)
        others = [c for c in range(len(a)) if c != label]
        target = kl(np.array([q[label], q[others].sum()]), np.array([p[label], p[others].sum()]), 0)
        rest = kl(q[others] / q[others].sum(), p[others] / p[others].sum(), 0)
        total += 1.5 * float(target) + 8 * float(rest)
        count += 1
    return temperature**2 * total / count


def relations(s: np.ndarray, t: np.ndarray) -> float:
    """Equations 8 to 10 of Huang et al., with Pearson's correlation from numpy itself."""
    p = np.array([softmax(row / 2, 0) for row in rows(s)])
    q = np.array([softmax(row / 2, 0) for row in rows(t)])
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T)])
    return float(4 * (2.0 * inter + 0.5 * intra))


def huber(s: np.ndarray, t: np.ndarray) -> float:
    gap = np.abs(s - t).flatten()
    return float(np.mean([d * d / 2 if d <= 0.7 else 0.7 * (d - 0.35) for d in gap]))


WEIGHT = np.array([[1.0, 0.0, 0.5], [1.0, 2.0, 0.0]])  # of joints


def joint_by_joint(s: np.ndarray, t: np.ndarray, weight: np.ndarray | None) -> float:
    """DistMSELoss: per joint the mean over samples and pixels, scaled, then over the joints."""
    total = 0.0
    for joint in range(s.shape[1]):
        a, b = (values[:, joint].reshape(len(values), -1) for values in (s, t))
        factor = 1.0 if weight is None else weight[:, joint, None]
        total += 0.5 * float(np.mean((a * factor - b * factor) ** 2))
    return total / s.shape[1]


def flow(s: np.ndarray, t: np.ndarray) -> float:
    """Yim et al., equation 1, on the section from the first two channels to the last three."""

    def matrix(values: np.ndarray) -> np.ndarray:
        one, two = values[:, :2], values[:, 2:]
        h, w = values.shape[2:]
        total = np.zeros((len(values), 2, values.shape[1] - 2))
        for y in range(h):
            for x in range(w):
                total += one[:, :, None, y, x] * two[:, None, :, y, x] / (h * w)
        return total

    return float(np.mean((matrix(s) - matrix(t)) ** 2))


def channel_wise(s: np.ndarray, t: np.ndarray) -> float:
    """Equations 4 and 5 of Shu et al."""
    n, c = s.shape[:2]
    total = 0.0
    for i in range(n):
        for k in range(c):
            p, q = softmax(s[i, k].flatten() / 4, 0), softmax(t[i, k].flatten() / 4, 0)
            total += 16 / c * float(kl(q, p, 0))
    return total / n


def generation(s: np.ndarray, t: np.ndarray) -> float:
    return float(((s - t) ** 2).sum() / len(s))


def pearson(s: np.ndarray, t: np.ndarray) -> float:
    """1 - r of each channel over all samples and places (Cao et al., equation 5)."""
    values = [np.corrcoef(s[:, k].flatten(), t[:, k].flatten())[0, 1] for k in range(s.shape[1])]
    return float(np.mean(1 - np.array(values)))


def attention(s: np.ndarray, t: np.ndarray) -> float:
    """Equation 2 of Zagoruyko and Komodakis, p = 2, without beta / 2."""
    total = 0.0
    for a, b in zip(s, t):
        one, two = (a**2).sum(axis=0).flatten(), (b**2).sum(axis=0).flatten()
        gap = one / np.linalg.norm(one) - two / np.linalg.norm(two)
        total += float(np.linalg.norm(gap))
    return total / len(s)


def sections(values: Any) -> Any:
    return values[:, :2], values[:, 2:]


FLAT, MAP = (4, 5), (2, 5, 2, 2)
CASES: dict[str, tuple[Callable[..., Any], Formula, tuple[int, ...]]] = {
    "soft label, kl": (lambda s, t: losses.soft_label(s, t, "kl", 2.0, 4.0), hinton, FLAT),
    "soft label, kl, map": (lambda s, t: losses.soft_label(s, t, "kl", 2.0, 4.0), hinton, MAP),
    "soft label, cross entropy": (
        lambda s, t: losses.soft_label(s, t, "cross_entropy", 2.0, 3.0),
        soft_cross_entropy,
        FLAT,
    ),
    "dml": (losses.dml, jeffreys, FLAT),
    "dml, map": (losses.dml, jeffreys, MAP),
    "js": (losses.js_div, jensen_shannon, FLAT),
    "js, map": (losses.js_div, jensen_shannon, MAP),
    "dkd": (
        lambda s, t: losses.dkd(s, t, paddle.to_tensor([1, 0, 4, 2]), 1.5, 8.0, 3.0),
        lambda s, t: decoupled(s, t, np.array([1, 0, 4, 2])),
        FLAT,
    ),
    "dkd, map": (
        lambda s, t: losses.dkd(s, t, paddle.to_tensor(LABELS), 1.5, 8.0, 3.0),
        lambda s, t: decoupled(s, t, LABELS),
        MAP,
    ),
    "dist": (lambda s, t: losses.dist(s, t, 2.0, 0.5, 2.0), relations, FLAT),
    "dist, map": (lambda s, t: losses.dist(s, t, 2.0, 0.5, 2.0), relations, MAP),
    "l1": (losses.l1, lambda s, t: float(np.mean(np.abs(s - t))), MAP),
    "l2": (losses.l2, lambda s, t: float(np.mean((s - t) ** 2)), MAP),
    "smooth l1": (lambda s, t: losses.smooth_l1(s, t, 0.7), huber, MAP),
    "dist mse": (losses.dist_mse, lambda s, t: joint_by_joint(s, t, None), (2, 3, 4, 3)),
    "dist mse, masked": (
        lambda s, t: losses.dist_mse(s, t, paddle.to_tensor(WEIGHT)),
        lambda s, t: joint_by_joint(s, t, WEIGHT),
        (2, 3, 4, 3),
    ),
    "fsp": (lambda s, t: feature_losses.fsp(sections(s), sections(t)), flow, (2, 5, 3, 2)),
    "cwd": (feature_losses.cwd, channel_wise, (2, 3, 3, 2)),
    "mgd": (feature_losses.mgd, generation, MAP),
    "pkd": (feature_losses.pkd, pearson, (2, 3, 3, 2)),
    "attention": (feature_losses.attention, attention, (2, 3, 3, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_value_and_gradient_are_those_of_the_formula(case: Any) -> None:
    ours, formula, shape = case
    rng = np.random.default_rng(sum(shape))
    student, teacher = rng.normal(0, 1.5, shape), rng.normal(0, 1.5, shape)
    given = paddle.to_tensor(student, stop_gradient=False)
    loss = ours(given, paddle.to_tensor(teacher))
    assert loss.shape == []
    assert float(loss) == pytest.approx(formula(student, teacher), rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(
        given.grad.numpy(), slope(formula, student, teacher), rtol=2e-5, atol=2e-8
    )


def slope(formula: Formula, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Differentiate by central differences."""
    step, gradient = 1e-5, np.zeros_like(student)
    for place in np.ndindex(*student.shape):
        moved = np.zeros_like(student)
        moved[place] = step
        gap = formula(student + moved, teacher) - formula(student - moved, teacher)
        gradient[place] = gap / (2 * step)
    return gradient


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equal_networks_have_nothing_to_learn(case: Any) -> None:
    ours, formula, shape = case
    values = np.random.default_rng(1).normal(0, 1.5, shape)
    given = paddle.to_tensor(values, stop_gradient=False)
    ours(given, paddle.to_tensor(values)).backward()
    gradient = given.grad.numpy()
    assert np.isfinite(gradient).all()
    softened_apart = ours in (CASES["soft label, kl"][0], CASES["soft label, kl, map"][0])
    if not softened_apart and formula is not soft_cross_entropy:  # those have two temperatures
        np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_extreme_scores_stay_finite_in_single_precision() -> None:
    sure = paddle.to_tensor([[200.0, -200.0, 0.0]], "float32", stop_gradient=False)
    other = paddle.to_tensor([[-200.0, 200.0, 0.0]], "float32")
    label = paddle.to_tensor([0])
    for loss in (
        losses.soft_label(sure, other),
        losses.dml(sure, other),
        losses.js_div(sure, other),
        losses.dkd(sure, other, label),
        losses.dist(sure, other),
    ):
        sure.clear_gradient()
        loss.backward(retain_graph=True)
        assert np.isfinite(float(loss))
        assert np.isfinite(sure.grad.numpy()).all()
    assert float(losses.js_div(sure, other)) == pytest.approx(np.log(2), rel=1e-6)
    dead = paddle.zeros([1, 2, 3, 3])
    dead.stop_gradient = False
    for loss in (
        feature_losses.pkd(dead, paddle.rand([1, 2, 3, 3])),
        feature_losses.attention(dead, paddle.rand([1, 2, 3, 3])),
    ):
        dead.clear_gradient()
        loss.backward()
        assert np.isfinite(dead.grad.numpy()).all()


def test_a_map_without_labels_teaches_nothing_decoupled() -> None:
    student = paddle.rand([1, 3, 2, 2])
    label = paddle.full([1, 2, 2], 255, "int64")
    assert float(losses.dkd(student, paddle.rand([1, 3, 2, 2]), label)) == 0.0


def test_flow_leaves_the_section_its_widths() -> None:
    matrix = feature_losses.fsp_matrix(paddle.ones([2, 3, 4, 5]), paddle.ones([2, 7, 4, 5]) * 2)
    assert matrix.shape == [2, 3, 7]
    np.testing.assert_allclose(matrix.numpy(), 2.0, rtol=1e-6)
