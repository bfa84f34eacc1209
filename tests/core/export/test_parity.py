"""Comparison of exports with the eager model: samples, limits, decisions."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export import parity
from core.graph.program import Graph
from core.graph.trace import trace
from core.task import build_task


def test_real_samples_are_compared_where_there_are_some(tmp_path):
    settings = {"data": {"root": str(tmp_path / "data")}, "synthetic": {"val_images": 6}}
    task = build_task("outside.toy", settings)
    drawn = parity.real_batches(task, task.input_spec())
    assert not (tmp_path / "data").exists()  # exporting draws no data set
    dataset = task.build_dataset("val")
    read = parity.real_batches(task, task.input_spec())
    assert [batch[0].shape[0] for batch in drawn] == [1, 1, 2]
    assert [batch[0].shape[0] for batch in read] == [1, 1, 2]
    np.testing.assert_array_equal(
        read[0][0][0], dataset.sample(0, np.random.default_rng(0))["image"]
    )
    again = parity.real_batches(task, task.input_spec())
    for one, other in zip(read, again):
        np.testing.assert_array_equal(one[0], other[0])


def test_no_data_set_is_fetched_to_compare(task, monkeypatch):
    asked = []
    monkeypatch.setattr(task, "build_dataset", asked.append)
    assert len(parity.real_batches(task, task.input_spec())) == 3
    assert asked == []


def test_samples_are_fitted_to_fixed_sizes(task):
    spec = [InputSpec([3, 3, 5, 13], "float32", "image")]
    ((batch,),) = parity.real_batches(task, spec)
    assert batch.shape == (3, 3, 5, 13)
    np.testing.assert_array_equal(batch[..., 8:], batch[..., :5])


class Answers:
    """Stands for a predictor."""

    backend = "onnxruntime"

    def __init__(self, outputs):
        self.run = lambda *arrays: outputs


class Fixed(nn.Layer):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self):
        return {name: paddle.to_tensor(value) for name, value in self.outputs.items()}


def check(expected, answers, decided=()):
    return parity.check(Fixed(expected), [expected], [Answers(answers)], [[]], decided)


class Level(nn.Layer):
    """Subtracts a large number from the input: the last bit of that is most of what is left."""

    def __init__(self, large):
        super().__init__()
        self.large = large

    def forward(self, image):
        return {"level": image - self.large}


@pytest.mark.parametrize(
    ("large", "off", "limit"),
    [(99.9, 9e-4, "7.6e-04"), (0.0, 1.1e-4, "1.0e-04"), (99.99, 1.1e-3, "1.0e-03")],
    ids=["within ten times the last bit", "well conditioned", "never above the ceiling"],
)
def test_a_network_that_magnifies_rounding_may_differ_more(large, off, limit):
    batch = [np.float32([100, 100])]
    expected = parity.run_eager(Level(large), batch)
    largest = expected["level"].max()
    for share, passes in ((off * 0.8, True), (off, False)):
        answers = Answers({"level": expected["level"] + np.float32([0, share * largest])})
        if passes:
            assert parity.check(Level(large), [expected], [answers], [batch])
            continue
        with pytest.raises(ExportError, match=f"at most {limit} wanted"):
            parity.check(Level(large), [expected], [answers], [batch])


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (np.float32([1, 2, 4.1]), "differs by 2.5e-02 of the largest, at most 1.0e-04 wanted"),
        (np.float32([1, 2, np.nan]), "differs by inf of the largest"),
        (np.float32([[1, 2, 4]]), r"is float32 \[1, 3\], expected float32 \[3\]"),
        (np.int64([1, 2, 4]), "is int64"),
    ],
)
def test_differences_name_runtime_output_and_numbers(got, message):
    expected = {"level": np.float32([1, 2, 4])}
    assert check(expected, {"level": np.float32([1, 2, 4.0001])})
    with pytest.raises(ExportError, match=f"^onnxruntime: output 'level' .*{message}"):
        check(expected, {"level": got})


def test_decisions_are_compared_by_share():
    labels = np.arange(200)
    one, many = labels.copy(), labels.copy()
    one[0], many[:3] = 7, 7
    (difference,) = check({"labels": labels}, {"labels": one})
    assert difference.agreement == 0.995
    with pytest.raises(ExportError, match=r"'labels' of the exported model 98.50% of elements"):
        check({"labels": labels}, {"labels": many})
    points = labels.astype(np.float32)
    jumped = points.copy()
    jumped[0] = 50
    assert check({"p": points}, {"p": jumped}, decided=["p"])
    with pytest.raises(ExportError):
        check({"p": points}, {"p": jumped})


def test_a_model_that_explodes_is_named():
    with pytest.raises(ExportError, match=r"^p: the eager model itself"):
        check({"p": np.float32([np.inf])}, {"p": np.float32([1])})


class Peak(nn.Layer):
    def forward(self, image):
        best = image.flatten(1).argmax(axis=1, keepdim=True)
        return {"place": best.astype("float32") * 0.5, "score": image.max()}


def test_outputs_behind_an_argmax_are_known():
    spec = [InputSpec([None, 1, 4, 4], "float32", "image")]
    graph = Graph.from_trace(trace(Peak(), spec))
    assert parity.deciding_outputs(graph) == ["place"]


def test_many_samples_come_in_few_batches(task, monkeypatch):
    free = task.input_spec()
    assert [len(batch[0]) for batch in parity.many_batches(task, free, 64)] == [64]
    monkeypatch.setattr(parity, "AT_ONCE", 10 * free[0].shape[1] * 64)
    batches = parity.many_batches(task, free, 24)
    assert [len(batch[0]) for batch in batches] == [10, 10, 4]
    assert len({batch[0].tobytes() for batch in batches}) == 3  # other images each
    fixed = [InputSpec([5, *free[0].shape[1:]], free[0].dtype, free[0].name)]
    assert [len(batch[0]) for batch in parity.many_batches(task, fixed, 24)] == [5, 5, 5, 5]
    single = [InputSpec([1, *free[0].shape[1:]], free[0].dtype, free[0].name)]
    assert len(parity.many_batches(task, single, 6)) == 6
