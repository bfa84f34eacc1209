"""Milliseconds per layer: the one-layer models are the layers they claim to be, and the table."""

from __future__ import annotations

import json
import logging
import math
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from core.errors import ExportError, FileError
from core.runtimes import latency_table as lookup_module
from core.runtimes.formats import format_of
from core.runtimes.latency_table import (
    LatencyTable,
    clock_for,
    measure_layer,
    model_ms,
    model_run,
    shortest_ms,
)
from core.runtimes.layer_model import LayerShape, write_layer_model
from core.runtimes.predictor import load_predictor
from core.targets.names import BACKENDS

DENSE = LayerShape("conv2d", 6, 8, (9, 7), (3, 3), (2, 2), (1, 1))
SHAPES = [
    DENSE,
    LayerShape("conv2d", 6, 4, (5, 8), (1, 3), (1, 2), (0, 1)),
    LayerShape("conv2d", 4, 6, (9, 9), (3, 3), (1, 1), (2, 1), (2, 1)),
    LayerShape("conv2d", 4, 4, (6, 6), (3, 3), (2, 2), (0, 1, 1, 2)),
    LayerShape("conv2d", 6, 9, (5, 5), (3, 3), (1, 1), (1, 1), groups=3),
    LayerShape("conv2d", 8, 8, (6, 6), (3, 3), (1, 1), (1, 1), groups=8),
    LayerShape("conv2d", 4, 8, (6, 6), (3, 3), (1, 1), (1, 1), groups=4),
    LayerShape("conv2d_transpose", 6, 4, (5, 4), (3, 3), (2, 2), (1, 1)),
    LayerShape("conv2d_transpose", 6, 4, (5, 4), (3, 2), (2, 1), (1, 0), groups=2),
    LayerShape("conv2d_transpose", 4, 4, (5, 5), (3, 3), (2, 2), (1, 1), groups=4),
    LayerShape("conv2d_transpose", 4, 8, (5, 5), (3, 3), (2, 2), (1, 1), groups=4),
    LayerShape("matmul", 6, 10, (5, 1)),
    LayerShape("matmul", 6, 10, (1, 1)),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_copy_computes_the_layer(shape, backend, tmp_path):
    write_layer_model(shape, 3, tmp_path, "onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    if format_of(backend) == "paddle":
        write_layer_model(shape, 3, tmp_path, "paddle")
    x = np.random.default_rng(7).normal(size=shape.input_shape).astype("float32")
    got = load_predictor(tmp_path, backend, own=True).run(x)
    seen = []
    for index in range(3):
        weight, bias = weights[f"weight_{index}"], weights[f"bias_{index}"]
        full = reference(shape, x.astype("float64"), weight)
        if shape.kind != "matmul":
            assert full.shape[2:] == shape.output_size
        axes = (0,) if shape.kind == "matmul" else (0, 2, 3)
        seen.append(full.mean(axes) + bias)
        np.testing.assert_allclose(got[f"mean_{index}"].ravel(), seen[-1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(seen[0], seen[1])
    assert not np.allclose(seen[1], seen[2])


def reference(shape, x, weight):
    """The layer without its bias, one multiplication after the other, from the definition."""
    if shape.kind == "matmul":
        return np.stack([sum(row[i] * weight[i] for i in range(shape.in_channels)) for row in x])
    top, bottom, left, right = padding = shape.pads
    inside, outside = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    if shape.kind == "conv2d_transpose":
        return scattered(shape, x, weight, padding, inside, outside)
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)))
    (kh, kw), (sh, sw), (dh, dw) = shape.kernel, shape.stride, shape.dilation
    rows = range(0, padded.shape[1] - dh * (kh - 1), sh)
    columns = range(0, padded.shape[2] - dw * (kw - 1), sw)
    out = np.zeros((1, shape.out_channels, len(rows), len(columns)))
    for channel in range(shape.out_channels):
        first = channel // outside * inside
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                window = padded[first : first + inside, row::dh, column::dw][:, :kh, :kw]
                out[0, channel, i, j] = (window * weight[channel]).sum()
    return out


def scattered(shape, x, weight, padding, inside, outside):
    top, bottom, left, right = padding
    (kh, kw), (sh, sw) = shape.kernel, shape.stride
    _, _, height, width = x.shape
    full = np.zeros((shape.out_channels, (height - 1) * sh + kh, (width - 1) * sw + kw))
    for channel in range(shape.in_channels):
        first = channel // inside * outside
        for i in range(height):
            for j in range(width):
                spot = full[first : first + outside, i * sh : i * sh + kh, j * sw : j * sw + kw]
                spot += x[0, channel, i, j] * weight[channel]
    return full[None, :, top : full.shape[1] - bottom, left : full.shape[2] - right]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "conv"}, r"^kind: no layer 'conv' \(did you mean 'conv2d'"),
        ({"in_channels": 0}, r"^conv2d 0->8 .*: sizes must be 1 or more"),
        ({"padding": (0, -1)}, "padding 0 or more"),
        ({"groups": 4}, "groups must divide the channels"),
        ({"kernel": (13, 3)}, "the kernel is larger than the padded input"),
        ({"kind": "matmul"}, "a matmul has channels and rows, nothing else"),
    ],
)
def test_impossible_layers(settings, message):
    given = {field: getattr(DENSE, field) for field in DENSE.__dataclass_fields__}
    with pytest.raises(ExportError, match=message):
        LayerShape(**{**given, **settings})


def test_the_name_of_a_shape_tells_everything():
    given = {field: getattr(DENSE, field) for field in DENSE.__dataclass_fields__}
    changes = {
        **{"in_channels": 4, "out_channels": 4, "size": (7, 9), "kernel": (3, 2)},
        **{"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2},
        "kind": "conv2d_transpose",
    }
    assert set(changes) == set(given)
    names = {str(LayerShape(**{**given, key: value})) for key, value in changes.items()}
    assert len({str(DENSE), *names}) == 1 + len(changes)
    same = LayerShape(**{**given, "padding": (1, 1, 1, 1)})
    assert str(same) == str(DENSE)


class FakeClock:
    """Time passes only while something runs; each run takes what its script says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, seconds):
        """Return what to run, and the list of runs that were made."""
        made = []

        def once():
            self.now += seconds(len(made))
            made.append(self.now)

        return once, made


def test_the_shortest_run_counts_and_the_first_does_not():
    clock = FakeClock()
    steady, made = clock.run(lambda index: 0.001 if index == 0 else 0.010 + 0.002 * (index % 2))
    (got,) = shortest_ms([steady], clock)
    assert got == pytest.approx(10)
    assert len(made) == 6  # one unseen, five at least


def test_runs_take_turns_until_the_budget_is_spent():
    clock = FakeClock()
    (one, made_one), (other, made_other) = clock.run(lambda _: 1e-3), clock.run(lambda _: 2e-3)
    assert shortest_ms([one, other], clock, least_seconds=0.0295) == pytest.approx([1, 2])
    assert len(made_one) == len(made_other) == 11  # ten turns of 3 ms, after one unseen
    assert all(a < b for a, b in zip(made_one, made_other))
    assert all(b < a for a, b in zip(made_one[1:], made_other))


def test_a_run_that_the_clock_missed_does_not_count():
    clock = FakeClock()
    run, _ = clock.run(lambda index: 0.0 if index == 3 else 0.010)
    assert shortest_ms([run], clock) == pytest.approx([10])


def test_a_clock_that_stands_still_ends():
    assert shortest_ms([lambda: None], lambda: 0.0, least_seconds=1e-4) == [0.0]


def test_a_layer_is_what_more_copies_of_it_cost(monkeypatch):
    clock, sizes = FakeClock(), []

    def load(folder, backend, threads, own):
        copies = len(onnx.load(folder / "model.onnx").graph.output)
        sizes.append((copies, backend, threads))
        return Runner(clock, 0.5e-3 + 0.2e-3 * copies)

    monkeypatch.setattr(lookup_module, "load_predictor", load)
    monkeypatch.setattr(lookup_module, "clock_for", lambda threads: clock)
    assert measure_layer(DENSE, "openvino", 2) == pytest.approx(0.2)
    assert sizes == [(1, "openvino", 2), (3, "openvino", 2)]


class Runner:
    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def run(self, *arrays):
        assert [array.shape for array in arrays] == [DENSE.input_shape]
        self.clock.now += self.seconds


def test_the_clock_of_one_thread_does_not_count_waiting():
    if clock_for(1) is time.perf_counter:
        assert "clock_gettime" not in time.get_clock_info("process_time").implementation
        return
    clock = clock_for(1)
    begin, wall = clock(), time.perf_counter()
    time.sleep(0.05)
    assert clock() - begin < time.perf_counter() - wall - 0.02
    assert clock_for(2) is time.perf_counter


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_measurements(backend, tmp_path):
    lookup = LatencyTable(backend, cache=tmp_path / "layers.json")
    small, large = (LayerShape("conv2d", c, c, (28, 28), (3, 3), padding=(1, 1)) for c in (8, 64))
    # 64 times the multiplications; 16 times if the small one is filled up to a block of 16
    assert 0 < lookup.predict([small]) < lookup.predict([large]) < 1000
    write_layer_model(large, 1, tmp_path, format_of(backend))
    x = np.zeros(large.input_shape, "float32")
    (ms,) = model_ms([model_run(tmp_path, [x], backend, 1)])
    assert 0 < ms < 1000
    with pytest.raises(ExportError, match=r"^inputs: expected 1 arrays, got 2"):
        model_ms([model_run(tmp_path, [x, x], backend, 1)])


def test_what_a_runtime_refuses_names_the_layer(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"^conv2d 6->8 .*: cannot be measured: .*openvino"):
        measure_layer(DENSE, "openvino", 1)


class Counting:
    """Measures by a rule, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, shape, backend, threads):
        self.asked.append((str(shape), backend, threads))
        return shape.out_channels / 10 + threads


OTHER = LayerShape("matmul", 6, 4, (1, 1))


def test_each_shape_is_measured_once():
    measure = Counting()
    lookup = LatencyTable("paddle", 2, measure=measure)
    assert lookup.predict([DENSE, OTHER, DENSE]) == pytest.approx(2.8 + 2.4 + 2.8)
    assert lookup.predict([OTHER]) == pytest.approx(2.4)
    assert lookup.predict([]) == 0
    assert measure.asked == [(str(DENSE), "paddle", 2), (str(OTHER), "paddle", 2)]


def test_the_cache_serves_the_next_lookup(tmp_path):
    cache = tmp_path / "below" / "layers.json"
    first = LatencyTable("paddle", cache=cache, measure=Counting()).predict([DENSE, OTHER])
    again = Counting()
    assert LatencyTable("paddle", cache=cache, measure=again).predict([DENSE, OTHER]) == first
    assert again.asked == []
    assert [path.name for path in cache.parent.iterdir()] == ["layers.json"]


def test_backends_and_threads_share_a_file_but_no_numbers(tmp_path):
    cache = tmp_path / "layers.json"
    pairs = [("paddle", 1), ("paddle", 2), ("openvino", 1)]
    for backend, threads in pairs:
        measure = Counting()
        LatencyTable(backend, threads, cache, measure).predict([DENSE])
        assert measure.asked == [(str(DENSE), backend, threads)]
    for backend, threads in pairs:
        measure = Counting()
        assert LatencyTable(backend, threads, cache, measure).predict([DENSE]) == 0.8 + threads
        assert measure.asked == []


def test_two_lookups_at_once_lose_nothing(tmp_path):
    cache = tmp_path / "layers.json"
    left, right = (LatencyTable("paddle", cache=cache, measure=Counting()) for _ in range(2))
    left.predict([DENSE])
    right.predict([OTHER])
    (table,) = json.loads(cache.read_text())["tables"]
    assert set(table["milliseconds"]) == {str(DENSE), str(OTHER)}


def test_what_was_measured_before_an_interruption_is_kept(tmp_path):
    cache, counting = tmp_path / "layers.json", Counting()

    def interrupted(shape, backend, threads):
        if shape == OTHER:
            raise KeyboardInterrupt
        return counting(shape, backend, threads)

    with pytest.raises(KeyboardInterrupt):
        LatencyTable("paddle", cache=cache, measure=interrupted).predict([DENSE, OTHER])
    again = Counting()
    LatencyTable("paddle", cache=cache, measure=again).predict([DENSE, OTHER])
    assert again.asked == [(str(OTHER), "paddle", 1)]


@pytest.mark.parametrize("change", ["cpu", "packages"])
def test_another_machine_is_not_believed_but_kept(tmp_path, caplog, change):
    cache = tmp_path / "layers.json"
    LatencyTable("paddle", cache=cache, measure=Counting()).predict([DENSE])
    content = json.loads(cache.read_text())
    (foreign,) = content["tables"]
    foreign["machine"][change] = {"cpu": "abacus", "packages": {"paddlepaddle": "1.0"}}[change]
    cache.write_text(json.dumps(content))
    measure = Counting()
    with caplog.at_level(logging.INFO):
        LatencyTable("paddle", cache=cache, measure=measure).predict([DENSE])
    assert "measured on another machine or with other versions, not used" in caplog.text
    assert str(cache) in caplog.text
    assert len(measure.asked) == 1
    tables = json.loads(cache.read_text())["tables"]
    assert len(tables) == 2
    assert foreign in tables


def test_an_older_version_of_the_file_is_measured_again(tmp_path, caplog):
    cache = tmp_path / "layers.json"
    cache.write_text('{"format_version": 0}')
    with caplog.at_level(logging.INFO):
        LatencyTable("paddle", cache=cache, measure=Counting()).predict([DENSE])
    assert "format_version 0, expected 1" in caplog.text
    assert len(json.loads(cache.read_text())["tables"]) == 1


def test_a_newer_version_of_the_file_stays(tmp_path):
    (tmp_path / "layers.json").write_text('{"format_version": 99}')
    with pytest.raises(ExportError, match=r"format_version: 99, of a newer TriSlim.*remove it"):
        LatencyTable("paddle", cache=tmp_path / "layers.json", measure=Counting())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: text.replace('"threads"', '"thread"'),
        lambda text: text.replace(": 1.8", ": -1"),
        lambda text: text.replace(": 1.8", ": NaN"),
        lambda text: text.replace(": 1.8", ': "fast"'),
    ],
)
def test_a_broken_cache_is_named(tmp_path, damage):
    cache = tmp_path / "layers.json"
    LatencyTable("paddle", cache=cache, measure=Counting()).predict([DENSE])
    broken = damage(cache.read_text())
    assert broken != cache.read_text()
    cache.write_text(broken)
    with pytest.raises(ExportError, match=r"layers\.json: not a table .*remove it") as caught:
        LatencyTable("paddle", cache=cache)
    assert str(caught.value).startswith(str(cache))


def test_a_cache_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "layers.json"
    with pytest.raises(FileError, match=r"layers\.json: cannot be written"):
        LatencyTable("paddle", cache=below, measure=Counting()).predict([DENSE])
    with pytest.raises(ExportError, match=rf"^{tmp_path}: cannot be read"):
        LatencyTable("paddle", cache=tmp_path)


def test_a_failed_write_leaves_the_old_cache(tmp_path, monkeypatch):
    cache = tmp_path / "layers.json"
    lookup = LatencyTable("paddle", cache=cache, measure=Counting())
    lookup.predict([DENSE])
    before = cache.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FileError, match=r"layers\.json: cannot be written: No space left"):
        lookup.predict([OTHER])
    assert cache.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["layers.json"]


def test_settings_are_checked_before_anything_is_measured():
    with pytest.raises(ExportError, match=r"^backend: no backend 'padle' \(did you mean 'paddle'"):
        LatencyTable("padle")
    with pytest.raises(ExportError, match=r"^threads: expected 1 or more, got 0"):
        LatencyTable("paddle", 0)


def test_predictions_add_up_exactly():
    lookup = LatencyTable("paddle", measure=lambda *_: 0.1)
    assert lookup.predict([DENSE] * 10) == 1.0
    assert not math.isclose(lookup.predict([DENSE] * 9), 1.0)
