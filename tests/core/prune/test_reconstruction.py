"""Layers of a cut network fitted to what they made before, against least squares by NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.errors import DataError
from core.network import layer_fitting
from core.network.batch_norms import reestimate
from core.prune.cut import ChannelEdit, apply_edit, plan_edit
from core.prune.reconstruction import mend, note
from core.prune.structure.labels import Array
from tests.networks.equalized import Depthwise, randomize
from tests.networks.rules import analyze

SPECS = [InputSpec([1, 3, 6, 6], "float32", "image")]
TASK: Any = SimpleNamespace(deploy_model=lambda model, _ending: model, input_spec=lambda: SPECS)


def images(count: int, seed: int) -> list[list[paddle.Tensor]]:
    rng = np.random.default_rng(seed)
    return [[paddle.to_tensor(rng.normal(0.3, 1, [count, 3, 6, 6]), "float32")] for _ in range(2)]


def edit_without(model: nn.Layer, weight: str, gone: list[int]) -> ChannelEdit:
    """Return the cut that takes output channels of a weight away."""
    analysis = analyze(model, SPECS)
    keep: Array = analysis.keep_all()
    keep[analysis.weights[weight][0][gone]] = False
    return plan_edit(model, analysis, keep)


def answer(model: nn.Layer, batches: list[list[paddle.Tensor]]) -> Array:
    return np.concatenate([model(*inputs).numpy() for inputs in batches])


def test_channels_that_others_can_stand_for_are_not_missed() -> None:
    """Halves of a convolution are alike, so the layer behind them needs only one."""
    paddle.seed(0)
    model = nn.Sequential(
        *(nn.Conv2D(3, 6, 3, padding=1), nn.ReLU()),
        *(nn.Conv2D(6, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)),
    )
    for tensor in (model[0].weight, model[0].bias):
        tensor.set_value(np.concatenate([tensor.numpy()[:3]] * 2))
    model.eval()
    data, others = images(64, 1), images(8, 2)
    whole = answer(model, others)
    edit = edit_without(model, "0.weight", [0, 4, 5])
    before = note(TASK, model, data)
    apply_edit(model, edit)
    cut = answer(model, others)
    assert mend(model, edit, before, data) == 3
    mended = answer(model, others)
    assert np.abs(mended - whole).max() < 0.05 * np.abs(cut - whole).max()


def test_weights_and_means_are_those_of_least_squares() -> None:
    model = randomize(Depthwise(), spread=0.3)
    data = images(40, 1)
    edit = edit_without(model, "expand.0.weight", [1, 5, 6, 7])
    before, whole = note(TASK, model, data), {}
    for path, layer in model.named_sublayers():
        layer.register_forward_post_hook(
            lambda _l, _i, output, path=path: whole.setdefault(path, []).append(output.numpy())
        )
    answer(model, data)
    wanted = {path: np.concatenate(found) for path, found in whole.items()}
    old = {path: tensor.numpy().astype(np.float64) for path, tensor in model.state_dict().items()}
    apply_edit(model, edit)
    assert mend(model, edit, before, data) == 5
    whole.clear()
    answer(model, data)
    made = {path: np.concatenate(found) for path, found in whole.items()}
    kept = edit.kept["expand.0.weight"][0]
    for path, channels in (("expand.1", kept), ("depthwise.1", kept), ("project", slice(None))):
        means = made[path].mean((0, 2, 3)), wanted[path][:, channels].mean((0, 2, 3))
        np.testing.assert_allclose(*means, atol=2e-5 * np.abs(wanted[path]).max())

    read = np.moveaxis(made["depthwise"], 1, -1).reshape(-1, len(kept)).astype(np.float64)
    right = np.moveaxis(wanted["project"], 1, -1).reshape(len(read), -1)
    read, right = read - read.mean(0), right - right.mean(0)
    start = old["project.weight"][:, kept, 0, 0].T
    damping = np.sqrt(0.01 * np.square(read).sum() / len(kept)) * np.eye(len(kept))
    rows = np.concatenate([read, damping])
    expected = np.linalg.lstsq(rows, np.concatenate([right, damping @ start]), rcond=None)[0]
    found = model.project.weight.numpy()[:, :, 0, 0].T
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_other_images_are_answered_more_as_by_the_whole_network() -> None:
    data, others = images(40, 1), images(40, 9)
    errors = {}
    for fitted in (False, True):
        model = randomize(Depthwise(), spread=0.5)
        whole = answer(model, others)
        edit = edit_without(model, "expand.0.weight", [0, 3, 4])
        before = note(TASK, model, data)
        apply_edit(model, edit)
        if fitted:
            mend(model, edit, before, data)
        else:
            reestimate(model, data)
        errors[fitted] = np.square(answer(model, others) - whole).mean()
    assert errors[True] < 0.7 * errors[False]


def test_places_are_fewer_where_layers_make_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = randomize(Depthwise()), images(10, 1)
    made = 6 + 12 + 12 + 6 + 4  # values of all layers at a place
    for values, places in ((2**28, 36), (20 * made * 7 + 1, 7), (1, 1)):
        monkeypatch.setattr(layer_fitting, "SAMPLED", values)
        before = note(TASK, model, data)
        assert {len(each) for each in before.samples.values()} == {20 * places}
    edit = edit_without(model, "expand.0.weight", [0, 3])
    apply_edit(model, edit)
    assert mend(model, edit, before, data) == 5


def test_shared_weights_and_layers_that_run_twice_stay() -> None:
    class Twice(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Conv2D(3, 4, 1), nn.Conv2D(4, 4, 1)
            self.one, self.other = nn.Conv2D(4, 4, 1), nn.Conv2D(4, 4, 1)
            self.other.weight = self.one.weight

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.other(self.one(self.again(self.again(self.first(x)))))

    paddle.seed(0)
    model = Twice()
    model.eval()
    before = note(TASK, model, images(8, 1))
    assert list(before.samples) == ["first"]


def test_images_that_are_not_finite_are_refused() -> None:
    model = randomize(Depthwise())
    with pytest.raises(DataError, match=r"stem\.1: expected finite outputs"):
        note(TASK, model, [[paddle.full([1, 3, 6, 6], float("nan"))]])
