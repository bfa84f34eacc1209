"""Checkpoints of which a part is missing or is something else: one line, and nothing goes on."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from core.act.source import open_source
from core.errors import CheckpointError, ExportError, UserError
from core.export import lite
from core.export.package import export
from core.network.weights import assign, load_arrays, save_arrays
from core.settings.config import merge
from core.task import build_task
from core.training import checkpoint
from tests.robustness.conftest import one_line, train

NAN, INF = float("nan"), float("inf")
ENTRIES: dict[str, Any] = {
    "nothing": None,
    "a text": "0.5",
    "texts": np.array(["a"] * 27),
    "bytes": b"\0" * 108,
    "a list": [[1.0, 2.0], [3.0]],
    "ragged": np.array([[1.0, 2.0], [3.0]], dtype=object),
    "objects": np.full((4, 3, 3, 3), None),
    "a mapping": {"weight": np.zeros((4, 3, 3, 3))},
    "complex": np.zeros((4, 3, 3, 3), "complex64"),
    "dates": np.zeros((4, 3, 3, 3), "datetime64[s]"),
    "not a number": np.full((4, 3, 3, 3), NAN, "float32"),
    "one infinity": np.r_[np.zeros(107), INF].reshape(4, 3, 3, 3).astype("float32"),
    "beyond float32": np.full((4, 3, 3, 3), 1e300),
    "another shape": np.zeros((4, 3, 3), "float32"),
    "whole numbers": np.zeros((4, 3, 3, 3), "int8"),
    "flags": np.zeros((4, 3, 3, 3), "bool"),
    "a list of text": ["x"] * 4,
    "a pair": ("name", "text"),
}


@pytest.fixture
def toy(tmp_path: Path) -> Any:
    return build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}, "synthetic": {}})


@pytest.mark.parametrize("name", ENTRIES)
def test_weights_that_are_no_numbers(toy: Any, tmp_path: Path, name: str) -> None:
    model = toy.build_model()
    good = {key: value.numpy() for key, value in model.state_dict().items()}
    with one_line() as said:
        assign(model, {**good, "conv.weight": ENTRIES[name]}, "file.pdparams")
    assert said[0].startswith("file.pdparams: ")
    assert "conv.weight" in said[0]
    for key, value in model.state_dict().items():  # nothing was loaded, not even the others
        np.testing.assert_array_equal(value.numpy(), good[key])
    # and as a file: it is refused when it is read, or when it is assigned
    content = pickle.dumps({**good, "conv.weight": ENTRIES[name]}, 4)
    (tmp_path / "w.pdparams").write_bytes(content)
    with one_line() as said:
        checkpoint.restore(tmp_path / "w.pdparams", toy)
    assert said[0].startswith(f"{tmp_path}/w.pdparams: ")


@pytest.mark.parametrize("key", [7, None, b"conv.weight", True, 0.5])
def test_names_that_are_no_text(toy: Any, tmp_path: Path, key: Any) -> None:
    good = {name: value.numpy() for name, value in toy.build_model().state_dict().items()}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({**good, key: np.zeros(3)}, 4))
    with one_line() as said:
        checkpoint.restore(tmp_path / "w.pdparams", toy)
    assert said[0].startswith(f"{tmp_path}/w.pdparams: ")


def test_whole_numbers_are_not_cut_to_fit() -> None:
    model = paddle.nn.Layer()
    model.register_buffer("count", paddle.to_tensor([1], "int32"))
    assign(model, {"count": np.array([7], "int64")}, "file")
    assert int(model.count) == 7
    with pytest.raises(CheckpointError, match=r"^file: count: has values that int32 cannot hold"):
        assign(model, {"count": np.array([2**32 + 7], "int64")}, "file")


@pytest.mark.parametrize("name", ["w.pdparams", "w.safetensors"])
def test_weights_that_are_no_file_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"cannot be read: a pipe, socket or device"):
        load_arrays(tmp_path / name)


def test_layers_that_start_anew_may_have_anything_in_the_file(toy: Any) -> None:
    model = toy.build_model()
    good = {key: value.numpy() for key, value in model.state_dict().items()}
    assign(model, {**good, "head.weight": None}, "file", ["head.*"])


def variants(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield a tree without each of its parts, and with something else in the place of each."""
    if path:
        for other in (None, -1, 10**9, 0.5, "x", "", [], {}, [None], True):
            if other != value or type(other) is not type(value):
                yield f"{path} = {other!r}", (path, other)
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = [(index, value[index]) for index in {0, len(value) - 1} if value]
    for key, each in items:
        yield f"without {(*path, key)}", ((*path, key), KeyError)
        yield from variants(each, (*path, key))


def changed(tree: Any, change: tuple[tuple[Any, ...], Any]) -> Any:
    tree, (path, value) = copy.deepcopy(tree), change
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    if value is KeyError:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return tree


def test_edits_that_are_not_whole(squeezed: Any, tmp_path: Path) -> None:
    source = squeezed[1] / "best_model"
    description = checkpoint.load_description(source)
    assert description is not None
    assert [kind for kind, _ in description.edits] == ["prune", "qat"]
    weights = load_arrays(source / checkpoint.WEIGHTS)
    task, whole = checkpoint.restore(source)
    image = paddle.randn([2, 3, 8, 8])
    wanted = whole(image).numpy()
    edits = json.loads(json.dumps(description.edits))
    refused = 0
    for name, change in variants(edits):
        damaged = replace(description, edits=changed(edits, change))
        checkpoint.save(tmp_path / "model", damaged, weights)
        try:
            _, model = checkpoint.restore(tmp_path / "model", task)
        except UserError as error:
            said = str(error)
            refused += 1
            if not said.startswith(f"{tmp_path}/model/model.") or "\n" in said:
                pytest.fail(f"{name}: {said}")
        else:  # then it means the same
            np.testing.assert_array_equal(model(image).numpy(), wanted, name)
    assert refused > 100


DESCRIBED = {"settings": {}, "task": 5, "edits": {}, "epoch": "3", "metrics": [], "format": None}


@pytest.mark.parametrize("key", DESCRIBED)
def test_descriptions_that_are_not_whole(squeezed: Any, tmp_path: Path, key: str) -> None:
    for value in (DESCRIBED[key], KeyError):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(squeezed[1] / "best_model", tmp_path / "model")
        path = tmp_path / "model" / "model.json"
        content = {**json.loads(path.read_text()), "digest": ""}
        if value is KeyError:
            del content[key]
        else:
            content[key] = value
        path.write_text(json.dumps(content))
        if value is KeyError and key not in ("task", "settings"):
            checkpoint.load_description(tmp_path / "model")  # it has a default
            continue
        with one_line() as said:
            checkpoint.restore(tmp_path / "model")
        assert said[0].startswith(str(path)) or key == "settings"
    for text in ("[]", "{", "[" * 100_000, "null", '{"task": 1e999}', '"x"', "\xff", ""):
        path.write_text(text, encoding="latin1")
        with one_line() as said:
            checkpoint.restore(tmp_path / "model")
        assert said[0].startswith(f"{path}: not ")  # JSON, a text, a description


@pytest.fixture(scope="module")
def interrupted(
    tmp_path_factory: pytest.TempPathFactory, squeezed: Any
) -> tuple[dict[str, Any], Path, list[Any]]:
    """A run that may go on, with every part that a state can have."""
    folder = tmp_path_factory.mktemp("interrupted")
    settings = merge(squeezed[0], {"train": {"epochs": 2, "ema_decay": 0.9}})
    settings["train"]["optimizer"] = {"kind": "adamw"}
    mutual = [{"kind": "mutual"}, {"kind": "outside.strategies:Listen"}]
    train(settings, folder / "run", *mutual)
    return merge(settings, {"train": {"epochs": 3}}), folder / "run", mutual


def without(state: Mapping[str, Any], path: tuple[Any, ...], empty: bool) -> dict[str, Any]:
    state = copy.deepcopy(dict(state))
    holder: Any = state
    for key in path[:-1]:
        holder = holder[key]
    if empty:
        holder[path[-1]] = type(holder[path[-1]])()
    else:
        del holder[path[-1]]
    return state


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Yield where a state can lose a part, and where one can be emptied."""
    if isinstance(value, (dict, list)):
        if value and path:
            yield path, True
        keys = value if isinstance(value, dict) else range(len(value))
        for key in list(keys)[:2] if len(path) > 1 else keys:
            yield (*path, key), False
            yield from parts(value[key], (*path, key))


def test_states_that_lost_a_part_do_not_resume(interrupted: Any, tmp_path: Path) -> None:
    settings, source, strategies = interrupted
    description = checkpoint.load_description(source / "latest")
    weights = load_arrays(source / "latest" / checkpoint.WEIGHTS)
    state = load_arrays(source / "latest" / checkpoint.TRAINING)
    assert {"optimizer", "ema", "windows"} <= state.keys()
    count = 0
    for path, empty in parts(state):
        # of one parameter: as if it had never had a gradient; and what a metric was is only shown
        if path[:1] == ("metrics",) or (path[0] == "optimizer" and len(path) > 2):
            continue
        if path[:2] == ("windows", "recipe") and len(path) > 3:  # saved before the key existed
            continue
        damaged = without(state, path, empty)
        checkpoint.save(tmp_path / "run" / "latest", description, weights, damaged)
        with pytest.raises(UserError) as caught:
            train(settings, tmp_path / "run", *strategies, resume=True)
        assert "\n" not in str(caught.value), (path, empty)
        count += 1
    assert count > 30
    checkpoint.save(tmp_path / "run" / "latest", description, weights, state)
    train(settings, tmp_path / "run", *strategies, resume=True)


def test_an_emptied_optimizer_is_named(interrupted: Any, tmp_path: Path) -> None:
    settings, source, strategies = interrupted
    description = checkpoint.load_description(source / "latest")
    weights = load_arrays(source / "latest" / checkpoint.WEIGHTS)
    state = load_arrays(source / "latest" / checkpoint.TRAINING)
    moment = next(name for name in state["optimizer"] if "moment1" in name)
    spoilt = copy.deepcopy(state["optimizer"])
    spoilt[moment]["conv.weight"] = spoilt[moment]["conv.weight"] * NAN
    for optimizer, message in (
        ({}, r"^train\.optimizer: the checkpoint has no state of adamw after its steps"),
        ({name: {} for name in state["optimizer"]}, r"^train\.optimizer: .* no state of adamw"),
        (spoilt, r"^train\.optimizer: .*'moment1\w*' of conv\.weight is not finite"),
    ):
        changed_state = {**state, "optimizer": optimizer}
        checkpoint.save(tmp_path / "run" / "latest", description, weights, changed_state)
        with pytest.raises(CheckpointError, match=message):
            train(settings, tmp_path / "run", *strategies, resume=True)


def test_states_of_before_resume_bit_for_bit(interrupted: Any, tmp_path: Path) -> None:
    settings, source, strategies = interrupted
    for name in ("new", "old"):
        shutil.copytree(source, tmp_path / name)
    latest = tmp_path / "old" / "latest"
    for new, old in ((checkpoint.WEIGHTS, checkpoint.FOR_PADDLE), (checkpoint.TRAINING,) * 2):
        old = old if old != new else checkpoint.OLD_TRAINING
        (latest / old).write_bytes(pickle.dumps(load_arrays(latest / new), 4))
        (latest / new).unlink()
    described = json.loads((latest / "model.json").read_text())
    del described["files"], described["digest"]
    (latest / "model.json").write_text(json.dumps(described))
    for name in ("new", "old"):
        train(settings, tmp_path / name, *strategies, resume=True)
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        one, two = ((tmp_path / each / "latest" / name).read_bytes() for each in ("new", "old"))
        assert one == two


FORMATS: list[Any] = [("paddle",), ("paddle", "onnx")]


@pytest.mark.parametrize("formats", FORMATS, ids=["paddle", "onnx"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["conv.weight", "norm._variance", "head.bias"])
def test_weights_that_are_not_finite_are_not_exported(
    toy: Any, tmp_path: Path, formats: Any, value: float, name: str
) -> None:
    model = toy.build_model()
    array = model.state_dict()[name].numpy()
    array.reshape(-1)[-1] = value
    model.state_dict()[name].set_value(array)
    with one_line() as said:
        export(toy, model, tmp_path / "out", formats)
    assert said[0] == f"{name}: 1 of {array.size} values are not finite"
    assert not (tmp_path / "out").exists()


def test_nor_for_paddle_lite_nor_in_int8(
    squeezed: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lite, "find_python", lambda: "python")
    task, model = checkpoint.restore(squeezed[1] / "best_model")
    for name in ("conv.weight", "norm.bias"):
        array = model.state_dict()[name].numpy()
        model.state_dict()[name].set_value(array * NAN)
        with pytest.raises(ExportError, match=rf"^{name}: .* values are not finite"):
            export(task, model, tmp_path / "out", ("paddle", "onnx", "lite"))
        model.state_dict()[name].set_value(array)
    # a model whose code is absent, on its way to int8
    made = export(toy, toy.build_model(), tmp_path / "float")
    params = made.folder / "model.pdiparams"
    params.write_bytes(params.read_bytes()[:-4] + np.float32(NAN).tobytes())
    (made.folder / "deploy.yml").unlink()
    with pytest.raises(ExportError, match=r"^\S+: 1 of \d+ values are not finite"):
        open_source(made.folder)


def test_a_checkpoint_that_is_not_finite_is_not_loaded(toy: Any, tmp_path: Path) -> None:
    state = {name: value.numpy() for name, value in toy.build_model().state_dict().items()}
    state["norm._mean"][1] = NAN
    checkpoint.save(tmp_path / "model", checkpoint.describe(toy), state)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: norm\._mean: 1 of 4 values are not finite"
    ):
        checkpoint.restore(tmp_path / "model")
    save_arrays(tmp_path / "alone.safetensors", state)
    with pytest.raises(CheckpointError, match=r"alone\.safetensors: norm\._mean: 1 of 4"):
        checkpoint.restore(tmp_path / "alone.safetensors", toy)
