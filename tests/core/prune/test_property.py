"""Random networks lose random channels; what is left must compute what it computed before.

The reference is the whole network with the columns of weights set to zero that read a channel that
goes: no slicing takes part in it. It says nothing of channels that are felt otherwise than
through such a weight (`prune_oracle.felt` tells how): cuts of those are only run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paddle.nn import Layer
from paddle.static import InputSpec

from core.graph.cost import count_macs, count_parameters
from core.prune.cut import ChannelEdit, apply_edit, plan_edit
from core.prune.pruner import Cut, Pruner
from core.prune.structure.analysis import Analysis
from core.prune.structure.labels import Array
from tests.core.prune.oracle import felt, random_keep, run, run_silenced, train_one_step
from tests.networks.random_prunable import FIXED, Random, randomize

EXAMPLES = int(os.environ.get("PRUNE_EXAMPLES", "60"))
BATCH = 2


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> Iterator[None]:
    """Round so little that equal means equal to nine digits."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype(before)


def cut_at_random(model: Layer, specs: list[InputSpec], rng: np.random.Generator) -> Cut:
    asked = []

    def plan(analysis: Analysis) -> Array:
        asked.append(random_keep(analysis, rng, (0.1, 0.5, 0.9)))
        return asked[-1]

    cut = Pruner(model, specs).cut(plan)
    if not any(isinstance(layer, FIXED) for layer in model.sublayers()):
        assert len(asked) == 1  # the first cut fits, for no code holds numbers of its own
    return cut


def macs(model: Layer, specs: list[InputSpec]) -> int:
    """Count, with sizes that are computed from others replaced by numbers."""
    computed = [each for each in model.sublayers() if getattr(each, "size", None) == "computed"]
    for layer in computed:
        layer.size = "fixed"
    counted = count_macs(model, [tuple(spec.shape) for spec in specs], specs)
    for layer in computed:
        layer.size = "computed"
    return counted


def state(model: Layer) -> dict[str, Array]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_equal(found: list[Array], wanted: list[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(found: list[Array], wanted: list[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * max(1, np.abs(other).max()))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="PRUNE_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data(), depth=st.integers(1, 8), seed=st.integers(0, 1000))
def test_a_pruned_network_is_the_whole_one_with_channels_silenced(
    data: st.DataObject, depth: int, seed: int
) -> None:
    chosen: list[Any] = []

    def choose(values: Sequence[Any]) -> Any:
        chosen.append(data.draw(st.sampled_from(list(values))))
        return chosen[-1]

    model = Random(choose, depth)
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    specs = [InputSpec([BATCH, 3, 8, 6], "float64", "x")]
    x = paddle.to_tensor(rng.normal(size=[BATCH, 3, 8, 6]))
    before, whole, tensors = run(model, x), state(model), list(map(id, model.parameters()))

    cut = cut_at_random(model, specs, rng)
    after = run(model, x)
    assert [part.shape for part in after] == [part.shape for part in before]
    assert cut.parameters[1] == count_parameters(model)
    assert cut.macs[1] == macs(model, specs)

    replayed = iter(chosen)
    fresh = Random(lambda _: next(replayed), depth)
    apply_edit(fresh, ChannelEdit.from_record(json.loads(json.dumps(cut.edit.to_record()))))
    assert fresh.set_state_dict(model.state_dict()) == ([], [])
    assert_equal(run(fresh, x), after)
    train_one_step(fresh, x)

    cut.undo()
    assert list(map(id, model.parameters())) == tensors
    now = state(model)
    assert now.keys() == whole.keys()
    assert_equal(list(now.values()), list(whole.values()))
    assert_equal(run(model, x), before)
    train_one_step(model, x)

    spared = cut.keep.copy()
    spared[felt(cut.analysis)] = True
    silenced = run_silenced(model, cut.analysis, spared, x)
    apply_edit(model, plan_edit(model, cut.analysis, spared))
    assert_close(run(model, x), silenced)
