"""Answers of teachers that are kept on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.distill.teacher import Teacher, read_teacher
from core.errors import ConfigError
from tests.networks.students import Watch, classifier, make_engine, train_alone


def test_answers_are_kept_on_disk_where_nothing_is_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = classifier(tmp_path, 4)
    train_alone(settings, tmp_path / "teacher")
    teachers = [read_teacher(str(tmp_path / "teacher" / "latest"))]
    asked = []
    answer = Teacher.outputs
    monkeypatch.setattr(Teacher, "outputs", lambda *args: asked.append(1) or answer(*args))
    steps = [{"kind": "distill", "cache": True, "losses": [{"kind": "soft_label"}]}]
    seen = []
    for _ in range(2):
        watch = Watch()
        make_engine(settings, tmp_path / "out", steps, teachers, [watch]).train(overwrite=True)
        seen.append(watch.terms)
    # of 4 batches of 4, the first epoch asked for two; the second epoch mixes known pictures anew
    assert len(asked) == 2
    files = sorted((tmp_path / "out" / "teacher_cache").rglob("*.npz"))
    assert len(files) == 8
    assert seen[0] == seen[1]

    uncached = Watch()
    steps = [{"kind": "distill", "losses": [{"kind": "soft_label"}]}]
    make_engine(settings, tmp_path / "plain", steps, teachers, [uncached]).train()
    for with_cache, without in zip(seen[0], uncached.terms):
        assert with_cache == pytest.approx(without, rel=1e-4)

    files[0].write_bytes(files[0].read_bytes()[:-40])
    middle = bytearray(files[1].read_bytes())
    middle[len(middle) // 2] ^= 255
    files[1].write_bytes(bytes(middle))
    with np.load(files[2]) as content:
        other = {key: value + 1 for key, value in content.items() if value.dtype.kind == "f"}
        np.savez(files[2], sha256=content["sha256"], **other)
    steps[0]["cache"] = True
    again = Watch()
    with caplog.at_level(logging.WARNING):
        make_engine(settings, tmp_path / "out", steps, teachers, [again]).train(overwrite=True)
    broken = [record for record in caplog.records if "broken, made anew" in record.getMessage()]
    assert {record.args[0] for record in broken} == set(files[:3])
    assert again.terms[0] == pytest.approx(seen[0][0], rel=1e-4)
    assert not list((tmp_path / "out" / "teacher_cache").rglob("*.draft"))


def test_no_cache_of_what_is_never_seen_twice(
    toy_settings: Any, teacher: str, tmp_path: Path
) -> None:
    steps = [{"kind": "distill", "cache": True}]
    with pytest.raises(ConfigError, match=r"^distill\.cache: .* at random \(image differs"):
        make_engine(toy_settings(), tmp_path / "out", steps, [read_teacher(teacher)]).train()
