"""Calibration: images without labels; gradients, against the Jacobian of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from outside import toy
from paddle import nn

from core.errors import ConfigError, DataError
from core.quant import calibration
from core.quant.calibration import (
    BATCH,
    few_of,
    first_batches,
    folder_images,
    run_back,
    training_images,
)
from core.quant.post_training import PtqConfig, quantize_after_training
from core.task import Task


def write(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    toy.draw_images(folder, count, seed=0)
    for file in folder.iterdir():
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), size))
    return folder


class Two(nn.Layer):
    """A layer of two outputs, the second of which is an index without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        made = self.last(nn.functional.tanh(self.first(x)))
        return made, made.argmax(-1)


def test_squared_gradients_are_those_of_all_outputs_in_the_mean() -> None:
    paddle.seed(0)
    model, rng = Two(), np.random.default_rng(0)
    model.train()
    model.first.bias.stop_gradient = True
    image = rng.normal(size=[1, 4]).astype("float32")
    found = []

    def listen(_layer: nn.Layer, inputs: tuple[paddle.Tensor]) -> None:
        inputs[0].register_hook(lambda gradient: found.append(gradient.numpy()))

    handle = model.last.register_forward_pre_hook(listen)
    count = 4000
    run_back(model, [[paddle.to_tensor(np.repeat(image, count, 0))]])
    handle.remove()
    [gradients] = found
    exact = np.square(model.last.weight.numpy()).sum(1)  # d output / d input, [inputs, outputs]
    np.testing.assert_allclose(np.square(gradients).mean(0), exact, rtol=0.15)
    assert model.training
    assert [p.stop_gradient for p in model.parameters()] == [False, True, False, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_large_images_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    paddle.seed(0)
    model, sizes = Two(), []
    model.first.register_forward_pre_hook(lambda _l, inputs: sizes.append(inputs[0].shape[0]))
    for values, wanted in ((8, [2, 2, 1]), (3, [1] * 5), (100, [5])):
        monkeypatch.setattr(calibration, "VALUES_BACK", values)
        sizes.clear()
        run_back(model, [[paddle.rand([5, 4])]])
        assert sizes == wanted


@pytest.mark.parametrize(
    ("shape", "few"),
    [([8, 3, 8, 8], 48), ([1, 3, 128, 96], 48), ([2, 3, 160, 128], 28), ([8, 3, 256, 192], 24),
     ([1, 3, 1024, 2048], 24), ([8, 5], 48)],
)  # fmt: skip
def test_of_larger_images_fewer_do(shape: list[int], few: int) -> None:
    assert few_of([paddle.empty(shape)]) == few


def test_the_first_batches_are_read_once_unless_they_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "few_of", lambda _inputs: 4)
    read = []

    def batches() -> Any:
        for number in range(5):
            read.append(number)
            yield [paddle.full([2, 3], number)]

    for limit, passes in ((12, 1), (11, 4)):
        monkeypatch.setattr(calibration, "IN_MEMORY", limit)
        read.clear()
        few = first_batches(batches)
        for _ in range(3):
            assert [int(inputs[0][0, 0]) for inputs in few()] == [0, 1]
        assert read == [0, 1] * passes


def test_what_cannot_be_run_back_is_told() -> None:
    class Index(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return x.argmax(-1)

    with pytest.raises(ConfigError, match="observer: output_mse wants gradients"):
        run_back(Index(), [[paddle.rand([5, 4])]])
    with pytest.raises(DataError, match="calibration: no data"):
        run_back(Two(), [])


def test_the_training_split_is_read_without_its_labels(task: Task) -> None:
    calibration = training_images(task, 10)
    batches = [inputs[0] for inputs in calibration()]
    assert [batch.shape for batch in batches] == [[8, 3, 8, 8], [2, 3, 8, 8]]
    again = [inputs[0] for inputs in calibration()]
    for one, other in zip(batches, again):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert sum(inputs[0].shape[0] for inputs in training_images(task, 500)()) == 16


def test_a_folder_without_labels_suffices(task: Task, tmp_path: Path) -> None:
    folder = write(tmp_path / "pictures", 12, (20, 30))
    (folder / "below").mkdir()
    (folder / "000.png").rename(folder / "below" / "a.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    calibration = folder_images(task, folder, 100)
    [whole] = [inputs for inputs in calibration() if len(inputs[0]) == BATCH]
    rest = list(calibration())[1:]
    assert len(whole[0]) + sum(len(inputs[0]) for inputs in rest) == 12
    assert len(calibration.skipped) == 1
    assert "broken.jpg: not an image" in calibration.skipped[0]
    read = [
        task.preprocess(cv2.imread(str(f))[..., ::-1])[0]["image"] for f in folder.rglob("*.png")
    ]
    given = [image for inputs in (whole, *rest) for image in inputs[0].numpy()]
    np.testing.assert_array_equal(*(sorted(map(np.ndarray.tolist, each)) for each in (given, read)))
    made = quantize_after_training(task, task.build_model(), calibration, PtqConfig())
    assert made.layers == ("conv", "head")


def test_images_of_other_sizes_go_into_other_batches(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(self: Any, image: np.ndarray) -> Any:
        return {"image": image.astype(np.float32).transpose(2, 0, 1) / 255}, None

    monkeypatch.setattr(toy.Task, "preprocess", whole)
    folder = write(tmp_path / "a", 4)
    for index, size in enumerate([(8, 8), (10, 8), (10, 8), (8, 12)]):
        cv2.imwrite(str(folder / f"{index:03d}.png"), np.full((*size, 3), 99, np.uint8))
    shapes = [inputs[0].shape for inputs in folder_images(task, folder, 9)()]
    assert sorted(shapes) == [[1, 3, 8, 8], [1, 3, 8, 12], [2, 3, 10, 8]]
    model = task.build_model()
    quantize_after_training(
        task, model, folder_images(task, folder, 9), PtqConfig(bias_correction=True)
    )


def test_few_sizes_wait_for_others(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all images were in memory, where each has a size of its own."""
    read = []

    def whole(self: Any, image: np.ndarray) -> Any:
        read.append(image.shape)
        return {"image": image.astype(np.float32).transpose(2, 0, 1) / 255}, None

    monkeypatch.setattr(toy.Task, "preprocess", whole)
    (tmp_path / "a").mkdir()
    for index in range(40):
        image = np.full((8 + index, 8, 3), 99, np.uint8)
        cv2.imwrite(str(tmp_path / "a" / f"{index}.png"), image)
    batches = iter(folder_images(task, tmp_path / "a", 40)())
    assert next(batches)[0].shape[0] == 1
    assert len(read) < 20  # the loader reads a few ahead, more of them on a busy machine
    assert len(list(batches)) == 39


def test_images_for_calibration_come_in_random_order(task: Task) -> None:
    in_order = [task.build_dataset("calibration").sample(i, None)["image"] for i in range(16)]
    calibration = training_images(task, 16)
    given = np.concatenate([inputs[0].numpy() for inputs in calibration()])
    places = [next(i for i, each in enumerate(in_order) if (each == one).all()) for one in given]
    assert sorted(places) == list(range(16))
    assert places != list(range(16))
