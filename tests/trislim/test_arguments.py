"""Wrong arguments of the Python interface end in our errors, whatever they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trislim
from core.errors import ConfigError, FileError, UserError
from trislim.arguments import checked

Call = Callable[..., Any]
# nothing that any argument of any call can be
NONSENSE = [object(), 2 + 3j, b"x", "\0", type, lambda: 0, 10**400, [[object()]], {"a": [b"x"]}]
ARGUMENTS = {
    "load": ("path", "config", "overrides", "backend", "output"),
    "train": ("config", "slim", "save_dir", "overrides", "teachers", "resume", "overwrite"),
    "evaluate": ("share", "batch_size"),
    "quantize": ("images", "count", "target", "observer", "never_quantize", "nokey"),
    "prune": ("ratio", "criterion", "calibration_samples", "nokey"),
    "save": ("folder",),
    "export": ("folder", "formats", "ending", "input_shape", "overwrite"),
    "predict": ("image", "boxes"),
    "draw": ("image", "boxes"),
    "exported.evaluate": ("share", "batch_size"),
    "exported.predict": ("image", "boxes"),
    "benchmark": ("runs", "threads", "backends", "input_shape", "memory", "nokey"),
    "others": ("0",),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    """Every call of the interface, with what it needs beside the arguments that are tried."""
    from outside import toy  # noqa: F401 - the task

    from core.task import build_task

    place = tmp_path_factory.mktemp("arguments")
    settings = {"data": {"root": str(place / "data")}, "synthetic": {}, "model": {"width": 8}}
    task = build_task("outside.toy", settings)
    task.build_dataset("train")
    model = trislim.Model(task, task.build_model())
    model.network.eval()
    exported = model.export(place / "exported", formats=["onnx"])
    image = {"image": np.zeros((8, 8, 3), np.uint8)}
    short = {"runs": 1, "warmup": 0}
    return {
        "load": lambda **given: trislim.load(**{"path": place / "exported", **given}),
        "train": lambda **given: trislim.train(
            **{"config": {"task": "none"}, "save_dir": place / "run", **given}
        ),
        "evaluate": model.evaluate,
        "quantize": lambda **given: model.quantize(**{"count": 2, **given}),
        "prune": lambda **given: model.prune(**{"calibration_samples": 0, **given}),
        "save": model.save,
        "export": lambda **given: model.export(**{"folder": place / "out", **given}),
        "predict": lambda **given: model.predict(**{**image, **given}),
        "draw": lambda **given: model.draw(**{**image, **given}),
        "exported.evaluate": exported.evaluate,
        "exported.predict": lambda **given: exported.predict(**{**image, **given}),
        "benchmark": lambda **given: exported.benchmark(**{**short, **given}),
        "others": lambda **given: exported.benchmark(*given.values(), **short),
    }


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, names in ARGUMENTS.items() for name in names]
)
def test_nonsense_is_one_line(
    calls: dict[str, Call],
    call: str,
    name: str,
    value: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        calls[call](**{name: value})
    said = str(caught.value)
    assert said
    assert "\n" not in said
    assert len(said) < 1000
    assert not any(tmp_path.iterdir())


@checked
def everything(
    path: str | Path = "a",
    size: int = 1,
    share: float = 0.5,
    names: Sequence[str] = (),
    kind: Literal["paddle", "onnx"] | None = None,
    settings: str | Mapping[str, Any] = "a",
    sure: bool = False,
    *others: Path,
    **rest: Any,
) -> tuple[Any, ...]:
    """A function with arguments of each kind."""
    return path, size, share, names, kind, settings, sure, others, rest


def test_values_arrive_as_those_of_python() -> None:
    found = everything("b", np.int64(3), np.float32(0.5), ["x"], "onnx", {"a": 1}, True, Path("c"))
    assert found == ("b", 3, 0.5, ["x"], "onnx", {"a": 1}, True, (Path("c"),), {})
    assert [type(each) for each in found[1:3]] == [int, float]
    assert everything(share=1, names=("x", "y"), other=3)[2:4] == (1.0, ["x", "y"])
    assert everything.__doc__ == "A function with arguments of each kind."
    with pytest.raises(TypeError, match="multiple values for argument 'path'"):
        everything("a", path="b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": ""}, "path: expected a path, got ''"),
        ({"path": 3}, "path: expected a path, got 3"),
        ({"size": 1.5}, "size: expected a whole number, got 1.5"),
        ({"size": True}, "size: expected a whole number, got True"),
        ({"share": "half"}, "share: expected a number, got 'half'"),
        ({"names": "x"}, "names: expected a list, of a text each, got 'x'"),
        ({"names": ["x", 3]}, "names[1]: expected a text, got 3"),
        ({"kind": "onx"}, "kind: got 'onx' (did you mean 'onnx'?)"),
        ({"kind": 3}, "kind: expected paddle, onnx or None, got 3"),
        ({"settings": [1]}, "settings: expected a text or a mapping, got list"),
        ({"sure": "no"}, "sure: expected True or False, got 'no'"),
    ],
)
def test_what_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        everything(**given)
    assert str(caught.value) == said


def test_each_of_several() -> None:
    with pytest.raises(ConfigError, match=r"^others: expected a path, got 'c'"):
        everything("a", 1, 0.5, (), None, "a", False, Path("b"), "c")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=5,
            )
            for name in ("path", "size", "share", "names", "kind", "settings", "sure")
        },
    )
)
def test_whatever_comes_is_of_its_kind_or_refused(given: dict[str, Any]) -> None:
    try:
        path, size, share, names, kind, settings, sure, *_ = everything(**given)
    except ConfigError:
        return
    assert isinstance(path, str)
    assert path
    assert "\0" not in path
    assert [type(each) for each in (size, share, sure)] == [int, float, bool]
    assert all(isinstance(each, str) for each in names)
    assert kind in ("paddle", "onnx", None)
    assert isinstance(settings, (str, dict))
    assert given.get("share", 0.5) == share or math.isnan(share)


def test_paths_that_the_system_denies(tmp_path: Path) -> None:
    @checked
    def write(path: str) -> None:
        Path(path).write_text("x", encoding="utf-8")

    with pytest.raises(FileError, match=r"^/a{300}: File name too long$"):
        write("/" + "a" * 300)
    with pytest.raises(FileNotFoundError):  # what the system says of others is left to it
        write(str(tmp_path / "nowhere" / "x"))
