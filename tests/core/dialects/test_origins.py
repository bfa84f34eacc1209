"""Errors of translated files begin with the keys of those files."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.dialects.files import DIALECTS
from core.dialects.origins import in_their_words, told_by
from core.errors import ConfigError, DataError, ExportError
from core.settings.config import load_yaml

FILES = sorted((Path(__file__).parent / "files").glob("[!a]*.yml"))
ORIGINS = {
    "model.name": "Arch.name",
    "augment": "DataLoader.ops",
    "seed": "Global.seed",
    "strategies.1": "strategies.cut.",
    "strategies.1.criterion": "pruners.p.criterions",
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.name: no network", "Arch.name: no network"),
        ("seed: the seed and model.name: no", "Global.seed: the seed and Arch.name: no"),
        ("augment.flip: expected 1", "DataLoader.ops (augment.flip): expected 1"),
        ("strategies.1 (prune): too late", "strategies.cut (prune): too late"),
        ("strategies.1.target_ratio: 2", "strategies.cut.target_ratio: 2"),
        ("strategies.1.criterion: no x", "pruners.p.criterions: no x"),
        ("strategies.10.criterion: no x", "strategies.10.criterion: no x"),
        ("data/model.name: not a file", "data/model.name: not a file"),
        ("model.name_of: unknown key", "model.name_of: unknown key"),
    ],
)
def test_paths_are_those_of_the_file(ours: str, theirs: str) -> None:
    assert in_their_words(ours, ORIGINS) == theirs
    assert in_their_words(ours, {}) == ours


def test_each_problem_and_each_kind_of_error() -> None:
    with pytest.raises(ConfigError) as caught, told_by(ORIGINS):
        raise ConfigError("model.name: a", "seed: b")
    assert caught.value.problems == ("Arch.name: a", "Global.seed: b")
    with pytest.raises(DataError, match=r"^Arch\.name: gone"), told_by(ORIGINS):
        raise DataError("model.name: gone")
    with pytest.raises(ExportError, match=r"^model\.name: x"), told_by(ORIGINS):
        raise ExportError("model.name: x")  # tells of a file, not of a setting


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_origin_is_a_key_that_such_a_file_may_have(file: Path) -> None:
    content = load_yaml(file)
    [dialect] = [each for each in DIALECTS if each.matches(content)]
    found = dialect.translate(content)
    assert found.origins or found.distill  # a teacher has a message of its own
    for theirs in found.origins.values():
        assert theirs.partition(".")[0] in dialect.keys
