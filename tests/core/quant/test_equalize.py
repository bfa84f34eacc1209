"""Equalization evens out ranges and changes no output; bias correction restores mean outputs."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec
from paddle.vision import models

from core.network.modes import evaluation_mode, training_mode
from core.quant.equalize import equalize
from tests.networks.equalized import Depthwise, randomize

SPECS = [InputSpec([None, 3, 16, 16], "float32", "image")]


def outputs(model, training=False, size=16):
    image = paddle.to_tensor(np.random.default_rng(9).normal(size=(2, 3, size, size)), "float32")
    paddle.seed(3)
    with training_mode(model) if training else evaluation_mode(model), paddle.no_grad():
        found = model(image)
    return [each.numpy() for each in (found if isinstance(found, (list, tuple)) else [found])]


def assert_same(before, after):
    assert len(before) == len(after)
    for one, other in zip(before, after):
        assert np.isfinite(one).all()
        assert np.ptp(one) > 0
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


def check(model, specs=SPECS, size=16, **options):
    """Equalize and return the pairs; outputs must stay."""
    before = outputs(model, size=size)
    found = equalize(model, specs, **options)
    assert_same(before, outputs(model, size=size))
    return found


def names(found):
    return [(each.first, each.second) for each in found]


def ranges(conv, norm, axis):
    """Return the largest magnitudes of a weight with its norm folded in, along an axis."""
    weight = conv.weight.numpy()
    if isinstance(norm, nn.BatchNorm2D):
        factor = norm.weight.numpy() / np.sqrt(norm._variance.numpy() + 1e-5)
        weight = weight * factor.reshape(-1, 1, 1, 1)
    return np.abs(weight).max(axis=tuple(each for each in range(4) if each != axis))


def chain(between, first=None, second=None):
    return nn.Sequential(first or nn.Conv2D(3, 8, 3), between, second or nn.Conv2D(8, 4, 3))


class Net(nn.Layer):
    """Two convolutions with some function of the first's output in between."""

    def __init__(self, between, out=8):
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 8, 1), nn.Conv2D(out, 8, 1)
        self.between = between

    def forward(self, image):
        return self.between(self, self.first(image))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_depthwise_triple_in_a_residual(norm, seed):
    model = randomize(Depthwise(norm), seed)

    def spreads():
        read = ranges(model.project, None, 1)
        layers = [ranges(block[0], block[1], 0) for block in (model.expand, model.depthwise)]
        return [np.log(each).std() for each in (*layers, read)]

    before = spreads()
    found = check(model)
    # the residual joins the outputs of stem and project, which have two readers or an addition
    assert names(found) == [
        ("expand.0.weight", "depthwise.0.weight"),
        ("depthwise.0.weight", "project.weight"),
    ]
    assert sum(spreads()) < 0.8 * sum(before)


def test_one_grid_per_weight_fits_better():
    """Rounding all weights to 8 bits, one grid each, costs less than before."""

    def error(model):
        exact, kept = outputs(model)[0], {n: p.numpy() for n, p in model.named_parameters()}
        for name, each in model.named_parameters():
            if each.ndim == 4:
                step = np.abs(kept[name]).max() / 127
                each.set_value(np.round(kept[name] / step) * step)
        rounded = outputs(model)[0]
        for name, each in model.named_parameters():
            each.set_value(kept[name])
        return np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2))

    for seed in range(3):
        model = randomize(
            nn.Sequential(
                Depthwise.block(nn.Conv2D(3, 6, 1), False),
                *[Depthwise.block(nn.Conv2D(6, 6, 3, groups=6), False), nn.Conv2D(6, 8, 1)],
            ),
            seed,
        )
        before = error(model)
        check(model)
        after = error(model)
        assert after < before


def test_pairs_and_triples_get_the_geometric_mean():
    """For chains the solution is known: all ranges of a channel become the same."""
    pair = randomize(chain(nn.ReLU()))
    first, second = pair[0].weight.numpy(), pair[2].weight.numpy()
    r1, r2 = np.abs(first).max((1, 2, 3)), np.abs(second).max((0, 2, 3))
    (found,) = check(pair, limit=1e6)
    np.testing.assert_allclose(found.scales, np.sqrt(r1 / r2), rtol=1e-5)
    np.testing.assert_allclose(
        np.abs(pair[0].weight.numpy()).max((1, 2, 3)), np.sqrt(r1 * r2), 1e-5
    )
    np.testing.assert_allclose(
        np.abs(pair[2].weight.numpy()).max((0, 2, 3)), np.sqrt(r1 * r2), 1e-5
    )

    depthwise = nn.Conv2D(8, 8, 3, groups=8)
    triple = randomize(
        nn.Sequential(nn.Conv2D(3, 8, 3), nn.ReLU(), depthwise, nn.ReLU(), nn.Conv2D(8, 4, 1)),
        spread=0.7,
    )
    ranges = [
        np.abs(triple[index].weight.numpy()).max(axis)
        for index, axis in ((0, (1, 2, 3)), (2, (1, 2, 3)), (4, (0, 2, 3)))
    ]
    wanted = np.cbrt(np.prod(ranges, axis=0))
    assert len(check(triple, limit=1e6)) == 2
    for index, axis in ((0, (1, 2, 3)), (2, (1, 2, 3)), (4, (0, 2, 3))):
        np.testing.assert_allclose(np.abs(triple[index].weight.numpy()).max(axis), wanted, 0.02)


def test_norms_are_divided_and_ranges_are_those_of_folded_weights():
    norms = nn.BatchNorm2D(8), nn.BatchNorm2D(4)
    model = randomize(
        nn.Sequential(nn.Conv2D(3, 8, 3), norms[0], nn.ReLU(), nn.Conv2D(8, 4, 3), norms[1])
    )

    kept = model[0].weight.numpy(), model[0].bias.numpy(), norms[1].weight.numpy()
    check(model, limit=1e6)
    for before, after in zip(kept, (model[0].weight, model[0].bias, norms[1].weight)):
        np.testing.assert_array_equal(before, after.numpy())
    out, into = ranges(model[0], norms[0], 0), ranges(model[3], norms[1], 1)
    np.testing.assert_allclose(out, into, rtol=1e-4)


THROUGH = {
    "nothing": nn.Identity(),
    "relu": nn.ReLU(),
    "leaky relu": nn.LeakyReLU(0.1),
    "prelu": nn.PReLU(8),
    "prelu of all": nn.PReLU(1),
    "max pooling": nn.MaxPool2D(3, 2, 1),
    "average pooling": nn.AvgPool2D(3, 2, 1),
    "norm and relu": nn.Sequential(nn.BatchNorm2D(8), nn.ReLU()),
    "old norm": nn.BatchNorm(8, act="relu"),
    "norm without shift": nn.BatchNorm2D(8, bias_attr=False),
    "upsampling": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "dropout": nn.Sequential(nn.ReLU(), nn.Dropout(0.3)),
    "dropout that scales": nn.Dropout(0.3, mode="downscale_in_infer"),
}


@pytest.mark.parametrize("case", THROUGH)
def test_what_may_be_between(case):
    model = randomize(chain(THROUGH[case]))
    assert names(check(model)) == [("0.weight", "2.weight")]


STOPPED = {
    "relu6": nn.ReLU6(),
    "hard swish": nn.Hardswish(),
    "swish": nn.Swish(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "norm before nothing to fold into": nn.Sequential(nn.ReLU(), nn.BatchNorm2D(8)),
    "norm without parameters": nn.BatchNorm2D(8, weight_attr=False, bias_attr=False),
    "instance norm": nn.InstanceNorm2D(8),
    "shuffle": nn.ChannelShuffle(2),
}


@pytest.mark.parametrize("case", STOPPED)
def test_what_may_not_be_between(case):
    model = randomize(chain(STOPPED[case]))
    weights = {name: each.numpy() for name, each in model.named_parameters()}
    assert check(model) == []
    for name, each in model.named_parameters():
        np.testing.assert_array_equal(each.numpy(), weights[name])


LAYERS = {
    "groups": (nn.Conv2D(3, 8, 3), nn.Conv2D(8, 6, 3, groups=2)),
    "groups first": (nn.Conv2D(3, 9, 3, groups=3), nn.Conv2D(9, 6, 3, stride=2)),
    "depthwise, more channels": (nn.Conv2D(3, 8, 1), nn.Conv2D(8, 24, 3, groups=8)),
    "transposed": (nn.Conv2DTranspose(3, 8, 2, 2), nn.Conv2DTranspose(8, 5, 2, 2)),
    "transposed in groups": (
        nn.Conv2DTranspose(3, 12, 2, groups=3),
        nn.Conv2DTranspose(12, 6, 2, groups=2),
    ),
    "no bias": (nn.Conv2D(3, 8, 3, bias_attr=False), nn.Conv2D(8, 6, 3, bias_attr=False)),
    "padding": (nn.Conv2D(3, 8, 3, padding=2), nn.Conv2D(8, 6, 3, padding=1)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_kinds_of_layers(case):
    first, second = LAYERS[case]
    model = randomize(chain(nn.ReLU(), first, second))
    (found,) = check(model, limit=1e6)
    assert len(found.scales) == first.weight.shape[0] or "transposed" in case
    assert np.abs(np.log(found.scales)).max() > 0.1
    # once more: nothing is left to do
    (again,) = check(model, limit=1e6)
    np.testing.assert_allclose(again.scales, 1, rtol=0.02)


def test_linear_layers_behind_global_pooling():
    model = randomize(
        nn.Sequential(
            *[nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.ReLU(), nn.AdaptiveAvgPool2D(1)],
            *[nn.Flatten(), nn.Linear(8, 7), nn.BatchNorm1D(7), nn.ReLU(), nn.Linear(7, 3)],
        )
    )
    assert names(check(model)) == [("0.weight", "5.weight"), ("5.weight", "8.weight")]
    # positions that become features are no channels
    model = randomize(nn.Sequential(nn.Conv2D(3, 8, 15), nn.Flatten(), nn.Linear(32, 3)))
    assert check(model) == []


def twice(self, x):
    return self.second(F.relu(x)) + x


def shared(self, x):
    return self.second(F.relu(self.second(F.relu(x))))


def returned(self, x):
    return self.second(F.relu(x)), x


def joined(self, x):
    return self.second(paddle.concat([x, x * x], axis=1))


def shifted(self, x):
    return self.second(x + 1.0)


def of_weight(self, x):
    return self.second(F.relu(x)) * self.second.weight.abs().max()


@pytest.mark.parametrize("between", [twice, shared, returned, shifted, of_weight])
def test_two_readers_and_shared_layers_stay(between):
    assert check(randomize(Net(between))) == []


def test_joined_channels_stay():
    assert check(randomize(Net(joined, out=16))) == []


def test_a_shared_first_layer_stays_and_a_shared_bias_too():
    class Siamese(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.left, self.right = (nn.Conv2D(3, 3, 1) for _ in range(3))

        def forward(self, image):
            return self.left(F.relu(self.conv(image))) + self.right(F.relu(self.conv(-image)))

    assert check(randomize(Siamese())) == []
    model = chain(nn.ReLU(), nn.Conv2D(3, 4, 1), nn.Conv2D(4, 4, 1))
    model[2].bias = model[0].bias
    assert check(randomize(model)) == []


class WithHead(nn.Layer):
    """In training a head reads what has one reader in evaluation."""

    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.out = nn.Conv2D(3, 6, 3), nn.Conv2D(6, 5, 3), nn.Conv2D(5, 4, 3)
        self.head = nn.Conv2D(6, 4, 1)

    def forward(self, image):
        x = F.relu(self.stem(image))
        y = self.out(F.relu(self.mid(x)))
        return [y, self.head(x)] if self.training else y


def test_heads_of_training_count_as_readers():
    model = randomize(WithHead())
    before = outputs(model, training=True)
    assert names(check(model)) == [("mid.weight", "out.weight")]
    assert_same(before, outputs(model, training=True))


def test_training_with_norms_gives_the_same_too():
    """The batch's own statistics are of a convolution that was not touched."""
    model = randomize(Depthwise(True))
    states = {name: each.clone() for name, each in model.named_buffers()}
    before = outputs(model, training=True)
    for name, each in model.named_buffers():
        each.set_value(states[name])
    check(model)
    assert_same(before, outputs(model, training=True))


def test_dead_channels_stay_and_faint_ones_are_limited():
    model = randomize(chain(nn.ReLU(), nn.Conv2D(3, 4, 1), nn.Conv2D(4, 4, 1)), spread=0.1)
    first, second = model[0].weight.numpy(), model[2].weight.numpy()
    first[0] = 0
    second[:, 1] = 0
    first[2] *= 1e-9
    model[0].weight.set_value(first)
    model[2].weight.set_value(second)
    (found,) = check(model, limit=8)
    np.testing.assert_array_equal(found.scales[:2], 1)
    assert found.scales[2] == 1 / 8
    assert found.scales[3] not in (1, 8)


@pytest.mark.parametrize(
    ("build", "least"),
    [
        (models.resnet18, 8),  # within each of the 8 blocks; between blocks is an addition
        (lambda **_: models.mobilenet_v1(scale=0.25, num_classes=10), 26),  # 27 convolutions, fc
        (lambda **_: models.mobilenet_v2(scale=0.25, num_classes=10), 1),  # ReLU6 nearly everywhere
    ],
)
def test_well_known_networks(build, least):
    model = build(num_classes=10)
    rng = np.random.default_rng(0)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            low = 0.3 if name.endswith(("weight", "variance")) else -0.3
            tensor.set_value(rng.uniform(low, 1.5, tensor.shape).astype(np.float32))
    model.eval()
    specs = [InputSpec([None, 3, 64, 64], "float32", "image")]
    assert len(check(model, specs, size=64)) >= least
