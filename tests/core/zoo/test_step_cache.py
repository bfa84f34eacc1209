"""A step is done as long as nothing has changed that decides its result."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import FileError
from core.zoo.step_cache import STATE, StepCache, code_digest
from core.zoo.steps import ZooPlaces, ZooStep


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "c.yml"
    file.write_text("a: 1\n")
    return file


def chain(home: Path, config: Path) -> tuple[ZooStep, ZooStep]:
    first = ZooStep("first", ("one.py", str(home / "one")), home, home / "one", files=(config,))
    second = ZooStep("second", ("two.py",), home, home / "two", needs=("first",))
    return first, second


def finish(cache: StepCache, *steps: ZooStep) -> None:
    for step in steps:
        cache.key(step)
        step.home.mkdir(exist_ok=True)
        step.output.write_text("done")
        cache.note(step, 3.0)


def state(
    places: ZooPlaces, config: Path, code: str = "code", data: tuple[Path, ...] = ()
) -> list[bool]:
    cache = StepCache(places, code, data)
    return [cache.is_done(step) for step in chain(places.row, config)]


def test_what_is_done_stays_done(places: ZooPlaces, config: Path) -> None:
    finish(StepCache(places, "code"), *chain(places.row, config))
    assert state(places, config) == [True, True]
    config.write_text("{a: 1}  # written otherwise\n")
    assert state(places, config) == [True, True]


def test_a_change_undoes_the_step_and_those_that_need_it(places: ZooPlaces, config: Path) -> None:
    steps = chain(places.row, config)
    finish(StepCache(places, "code"), *steps)
    assert state(places, config, code="other code") == [False, False]
    config.write_text("a: 2\n")
    assert state(places, config) == [False, False]
    config.write_text("a: 1\n")
    steps[1].output.unlink()
    assert state(places, config) == [True, False]


def test_a_data_set_counts(places: ZooPlaces, config: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "1.png").write_bytes(b"1")
    finish(StepCache(places, "code", [root]), *chain(places.row, config))
    assert state(places, config, data=(root,)) == [True, True]
    (root / "2.png").write_bytes(b"2")
    assert state(places, config, data=(root,)) == [False, False]


def test_a_step_that_was_begun_is_known(places: ZooPlaces, config: Path) -> None:
    first, _ = chain(places.row, config)
    cache = StepCache(places, "code")
    finish(cache, first)
    cache.note(first, None)
    assert not cache.is_done(first)
    assert cache.was_begun(first)
    assert cache.seconds(first) == 3.0  # of the time before
    assert not StepCache(places, "other").was_begun(first)


def test_a_moved_folder_is_still_done(tmp_path: Path, places: ZooPlaces, config: Path) -> None:
    finish(StepCache(places, "code"), *chain(places.row, config))
    places.row.rename(tmp_path / "moved")
    other = ZooPlaces(
        tmp_path / "moved", *(places.floats, places.data, places.drawn, places.recipes)
    )
    assert state(other, config) == [True, True]


@pytest.mark.parametrize("text", ["{", "[]", '{"first": 1}', '{"first": {"took": "x"}}'])
def test_a_state_that_is_none_is_one_line(places: ZooPlaces, config: Path, text: str) -> None:
    places.row.mkdir()
    (places.row / STATE).write_text(text)
    with pytest.raises(FileError, match=rf"{STATE}: .*remove it$"):
        state(places, config)


def test_code_counts_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = code_digest([tmp_path])
    (tmp_path / "a.md").write_text("1")
    assert code_digest([tmp_path]) == before
    (tmp_path / "a.py").write_text("2")
    assert code_digest([tmp_path]) != before
