"""Channels of activations evened out: the float model stays what it is, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import Layer
from paddle.nn import functional as F
from paddle.static import InputSpec

from core.errors import DataError
from core.graph.free_batch import trace_graph
from core.network.channels import ChannelShuffle, ChannelSplit
from core.quant.apply import apply_quantization
from core.quant.balance import balance, channel_reach
from core.quant.choices import ObserverKind
from core.quant.grid_plan import GridPlan
from core.quant.quantizers import Rounding
from core.quant.selection import select_layers
from tests.networks.equalized import randomize

SPECS = [InputSpec([None, 3, 16, 16], "float32", "image")]
FAR = 200.0


def pictures(count: int = 2) -> list[list[paddle.Tensor]]:
    rng = np.random.default_rng(3)
    return [[paddle.to_tensor(rng.normal(size=(4, 3, 16, 16)), "float32")] for _ in range(count)]


def conv(inputs: int, outputs: int, size: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2D(inputs, outputs, size, padding=size // 2, groups=groups, bias_attr=False)
    return nn.Sequential(layer, nn.BatchNorm2D(outputs))


class Fused(Layer):
    """Branches that are added, split, shuffled and scaled up, as in high-resolution networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 8, 3), conv(8, 8, 3, groups=8)
        self.split, self.shuffle = ChannelSplit([4, 4]), ChannelShuffle()
        self.inner, self.coarse = conv(4, 4), conv(8, 8)
        self.depthwise, self.pointwise = conv(8, 8, 3, groups=8), conv(8, 6)
        self.head = nn.Conv2D(6, 2, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.stem(x))
        kept, changed = self.split(x)
        mixed = self.shuffle(kept, F.relu(self.inner(changed)))
        coarse = F.relu(self.coarse(F.max_pool2d(self.down(x), 2)))
        total = F.relu(2 * mixed + F.interpolate(coarse, scale_factor=2, mode="nearest"))
        return self.head(F.relu(self.pointwise(self.depthwise(total))))


def even_out(model: Layer, batches: list[list[paddle.Tensor]], kept: Sequence[str] = ()) -> int:
    return balance(model, trace_graph(model, SPECS, model), SPECS, batches, kept)


def stretch(model: Fused) -> None:
    """Let a channel of the sum reach far beyond the others, and count for as much as they do."""
    scales = np.ones(8, np.float32)
    scales[6] = FAR
    weight = model.depthwise[0].weight
    weight.set_value(weight.numpy() / scales.reshape(-1, 1, 1, 1))
    for values in (model.coarse[1].weight, model.coarse[1].bias):
        values.set_value(values.numpy() * scales)


@pytest.fixture
def model() -> Fused:
    made = randomize(Fused(), spread=0.2)
    stretch(made)
    made.eval()
    return made


def answers(model: Layer, batches: list[list[paddle.Tensor]]) -> np.ndarray:
    with paddle.no_grad():
        return np.concatenate([model(*inputs).numpy() for inputs in batches])


def test_the_float_model_answers_as_before(model: Fused) -> None:
    before, shares = answers(model, pictures()), []
    weight = model.depthwise[0].weight.numpy()
    shares.append(_spread(model))
    assert even_out(model, pictures()) > 4
    shares.append(_spread(model))
    np.testing.assert_array_equal(answers(model, pictures()), before)
    assert (model.depthwise[0].weight.numpy() != weight).any()
    assert shares[0] > 100
    assert shares[1] < 12


def test_layers_that_are_kept_answer_as_before(model: Fused) -> None:
    """Their channels tie those that are added to them; others are scaled all the same."""
    before, weights = _of_coarse(model), model.pointwise[0].weight.numpy()
    assert even_out(model, pictures(), kept=["coarse", "nowhere"]) > 0
    np.testing.assert_array_equal(_of_coarse(model), before)
    assert (model.pointwise[0].weight.numpy() != weights).any()


def _of_coarse(model: Fused) -> np.ndarray:
    seen: list[np.ndarray] = []
    handle = model.coarse.register_forward_post_hook(lambda *call: seen.append(call[2].numpy()))
    answers(model, pictures())
    handle.remove()
    return np.concatenate(seen)


@pytest.mark.parametrize("observer", ["abs_max", "mse"])
def test_rounding_loses_less(observer: ObserverKind) -> None:
    errors = []
    for balanced in (False, True):
        model = randomize(Fused(), spread=0.2)
        stretch(model)
        model.eval()
        wanted = answers(model, pictures())
        if balanced:
            even_out(model, pictures())
        rounding = Rounding()
        choice = select_layers(model, rounding, ("Conv2D",), ())
        apply_quantization(model, choice, rounding, pictures(), observer, GridPlan())
        found = answers(model, pictures())
        errors.append(float(np.mean((found - wanted) ** 2) / np.var(wanted)))
    assert errors[1] < errors[0] / 5


def _spread(model: Fused) -> float:
    """Return how much farther the farthest channel of the sum reaches than the middle one."""
    far = channel_reach(model, pictures())["depthwise.0.weight"].largest
    return float(far.max() / np.median(far))


def test_channels_that_are_tied_are_scaled_alike(model: Fused) -> None:
    """What is kept by the split is the even channels of the shuffle, and added to."""
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    even_out(model, pictures())
    scale = {
        name: before[f"{name}.1.weight"] / dict(model.named_sublayers())[name][1].weight.numpy()
        for name in ("stem", "inner", "coarse")
    }
    np.testing.assert_array_equal(scale["coarse"][0::2], scale["stem"][:4])
    np.testing.assert_array_equal(scale["coarse"][1::2], scale["inner"])
    read = model.depthwise[0].weight.numpy() / before["depthwise.0.weight"]
    np.testing.assert_array_equal(read[:, 0, 0, 0], scale["coarse"])
    for each in scale.values():
        np.testing.assert_array_equal(np.exp2(np.rint(np.log2(each))), each)  # powers of two
    np.testing.assert_array_equal(model.head.bias.numpy(), before["head.bias"])


class Gated(Layer):
    """Nothing may be scaled in front of a function that is not homogeneous, or of the output."""

    def __init__(self, gate: Callable[[paddle.Tensor], paddle.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.gate = nn.Conv2D(3, 4, 1), nn.Conv2D(4, 4, 1), gate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.gate(self.first(x))
        return self.second(y) + y


@pytest.mark.parametrize(
    "gate",
    [
        F.sigmoid,
        F.hardswish,
        lambda y: y * F.sigmoid(y),
        lambda y: y + 1.0,
        lambda y: y.transpose([0, 1, 3, 2]),
        lambda y: F.softmax(y, 1),
        F.relu,  # which ends in the output
    ],
)
def test_what_is_tied_to_a_fixed_end_stays(gate: Callable[[paddle.Tensor], paddle.Tensor]) -> None:
    model = randomize(Gated(gate))
    model.first.weight.set_value(
        model.first.weight * paddle.to_tensor([1.0, 1, 1, 99]).reshape([4, 1, 1, 1])
    )
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    assert even_out(model, pictures()) == 0
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


class WithHead(Layer):
    """A head that only training, or only evaluation, has reads what may be scaled."""

    def __init__(self, in_training: bool) -> None:
        super().__init__()
        self.in_training = in_training
        self.body, self.depthwise = conv(3, 6), nn.Conv2D(6, 6, 3, groups=6, bias_attr=False)
        self.tail, self.extra = nn.Conv2D(6, 2, 1), nn.Conv2D(6, 2, 1)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        y = F.relu(self.body(x))
        main = self.tail(self.depthwise(y))
        return (main, self.extra(y)) if self.training == self.in_training else (main,)


@pytest.mark.parametrize("in_training", [True, False])
def test_heads_of_one_mode_alone_go_on_as_before(in_training: bool) -> None:
    model = randomize(WithHead(in_training), spread=0.2)
    scales = paddle.to_tensor([1.0, 1, 1, 1, 1, 300])
    model.body[1].weight.set_value(model.body[1].weight * scales)
    for layer in model.sublayers():
        layer.eval()  # norms: their statistics would move
    model.training = in_training
    image = pictures()[0][0]
    with paddle.no_grad():
        before = [each.numpy() for each in model(image)]
        model.training = False
        assert even_out(model, pictures()) > 0
        model.training = in_training
        after = [each.numpy() for each in model(image)]
    assert len(after) == 2
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one, other)


def test_no_data_is_an_error(model: Fused) -> None:
    with pytest.raises(DataError, match="calibration: no data"):
        even_out(model, [])
