"""A predictor that threads share answers as it does alone; an empty batch ends nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from core.errors import ExportError
from core.export.files import write_files
from core.graph.program import Graph
from core.graph.trace import trace
from core.runtimes.predictor import Predictor, load_as_written, load_predictor
from core.targets.names import BACKENDS
from tests.robustness.conftest import one_line

THREADS, RUNS = 12, 10


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    paddle.seed(0)
    layers: list[nn.Layer] = [nn.Conv2D(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2D(16, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2D(4), nn.Flatten(), nn.Linear(256, 5))
    model.eval()
    spec = InputSpec([None, 3, 24, 24], "float32", "image")
    write_files(Graph.from_trace(trace(model, [spec])), folder, ("paddle", "onnx"))
    return folder


def together(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """Do a piece of work in several threads at once; return what each came to."""
    found: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        try:
            found[number] = work(number)
        except BaseException as error:  # noqa: BLE001 - shown by the comparison
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def answers(predictor: Predictor, number: int) -> list[np.ndarray]:
    (name,) = (port.name for port in predictor.description.outputs)
    generator = np.random.default_rng(number)
    sizes = generator.integers(1, 4, RUNS)
    images = [generator.normal(size=(n, 3, 24, 24)).astype(np.float32) for n in sizes]
    return [predictor.run(image)[name] for image in images]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, list), one
        assert len(one) == len(other)
        for got, expected in zip(one, other):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_that_share_a_predictor_get_the_serial_answers(
    exported: Path, backend: Any
) -> None:
    predictor = load_predictor(exported, backend, own=True)
    wanted = [answers(predictor, number) for number in range(THREADS)]
    assert_same(together(lambda number: answers(predictor, number)), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_with_a_predictor_each_do_too(exported: Path, backend: Any) -> None:
    streams = [os.fstat(number) for number in (1, 2)]
    alone = load_predictor(exported, backend, own=True)
    wanted = [answers(alone, number) for number in range(4)]
    found = together(lambda n: answers(load_predictor(exported, backend, own=True), n), 4)
    assert_same(found, wanted)
    assert [os.fstat(number) for number in (1, 2)] == streams


EMPTY = [(0, 3, 24, 24), (1, 3, 0, 24), (0,)]


@pytest.mark.parametrize("backend", [*BACKENDS, "as written"])
@pytest.mark.parametrize("shape", EMPTY)
def test_an_empty_batch_is_one_line_in_every_runtime(
    exported: Path, backend: Any, shape: tuple[int, ...]
) -> None:
    if backend == "as written":
        predictor = load_as_written(exported, "paddle")
    else:
        predictor = load_predictor(exported, backend, own=True)
    with one_line() as said:
        predictor.run(np.zeros(shape, np.float32))
    assert said[0] == f"image: expected at least one image, got an empty array of {list(shape)}"
    answers(predictor, 0)  # it still works


def test_a_runtime_that_fails_is_one_line(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load_predictor(exported, "onnxruntime", own=True)
    image = np.zeros((1, 3, 24, 24), np.float32)
    wanted = predictor.run(image)
    session = predictor._session  # type: ignore[attr-defined]

    class Failing:
        def run(self, *_: object) -> None:
            raise RuntimeError("Exception from infer_request.cpp:75:\nshapes do not fit\n")

    monkeypatch.setattr(predictor, "_session", Failing())
    with pytest.raises(ExportError, match=r"^onnxruntime cannot run the model: shapes do not fit$"):
        predictor.run(image)
    monkeypatch.setattr(predictor, "_session", session)
    for name, array in predictor.run(image).items():  # it is not locked for ever
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("value", ["text", 1j, object()])
def test_what_is_no_number_is_one_line(exported: Path, value: Any) -> None:
    predictor = load_predictor(exported, "onnxruntime", own=True)
    with pytest.raises(ExportError, match=r"^image: expected numbers, float32: "):
        predictor.run(np.full((1, 3, 24, 24), value, object))
    ports = [type(port)(port.name, port.shape, "") for port in predictor.description.inputs]
    object.__setattr__(predictor.description, "inputs", tuple(ports))
    with pytest.raises(ExportError, match=r"^image: expected numbers, got an array of object"):
        predictor.run(np.full((1, 3, 24, 24), value, object))
