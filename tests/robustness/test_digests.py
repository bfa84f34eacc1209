"""Every bit of every file counts: a change of one is noticed, and the file is named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml

from core.errors import CheckpointError, UserError
from core.export.package import export
from core.runtimes.description import read_description
from core.runtimes.predictor import load_predictor
from core.task import build_task
from core.training import checkpoint

FLIPS = 60  # of each file
Read = Callable[[Path], object]


def read_checkpoint(folder: Path) -> object:
    weights = checkpoint.weights_path(folder)
    return checkpoint.load_weights(weights, checkpoint.load_description(weights))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    task = build_task("outside.toy", {"data": {"root": str(folder / "data")}, "synthetic": {}})
    paddle.seed(0)
    export(task, task.build_model(), folder / "out", ("paddle", "onnx"))
    return folder / "out"


@pytest.fixture(params=["best_model", "latest", "export"])
def whole(
    request: pytest.FixtureRequest, tmp_path: Path, squeezed: Any, exported: Path
) -> tuple[Path, Read]:
    """A folder of files, copied, and what reads them."""
    source = exported if request.param == "export" else squeezed[1] / request.param
    shutil.copytree(source, tmp_path / "copy")
    return tmp_path / "copy", read_description if source == exported else read_checkpoint


def damages(content: bytes, seed: str) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        yield content[:cut]
    yield content + b"\0"
    yield content[: len(content) // 2] + content[len(content) // 2 + 1 :]
    lines = content.splitlines(keepends=True)
    if content.isascii() and len(lines) > 3:  # a text that lost its end, or a line
        yield from (b"".join(lines[:count]) for count in range(1, len(lines), 3))
        # but for the line with the digest, which users may take out
        yield from (b"".join(lines[:at] + lines[at + 1 :]) for at in range(2, len(lines), 3))


def test_every_change_of_a_file_is_noticed(whole: tuple[Path, Read]) -> None:
    folder, read = whole
    read(folder)
    names = {path.name for path in folder.iterdir()}
    assert len(names) >= 3
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for damaged in damages(content, path.name):
            path.write_bytes(damaged)
            with pytest.raises(UserError) as caught:
                read(folder)
            said = str(caught.value)
            assert said.startswith(str(path)), said
            assert "\n" not in said
        path.write_bytes(content)
        read(folder)


def test_a_truncated_file_of_weights_is_not_run(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    params = tmp_path / "copy" / "model.pdiparams"
    params.write_bytes(params.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"model\.pdiparams: is not as it was written"):
        load_predictor(tmp_path / "copy")


def test_files_from_before_there_were_digests_still_load(
    exported: Path, squeezed: Any, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "export")
    path = tmp_path / "export" / "deploy.yml"
    older = yaml.safe_load(path.read_text())
    del older["digest"], older["files"]
    path.write_text(yaml.safe_dump(older))
    assert read_description(tmp_path / "export").digest == ""

    shutil.copytree(squeezed[1] / "best_model", tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    older = json.loads(path.read_text())
    del older["digest"], older["files"]
    path.write_text(json.dumps(older))
    (tmp_path / "model" / "model.safetensors").unlink()  # it had Paddle's file alone
    _, model = checkpoint.restore(tmp_path / "model")
    _, same = checkpoint.restore(squeezed[1] / "best_model")
    for name, value in model.state_dict().items():
        assert (value.numpy() == same.state_dict()[name].numpy()).all()


def test_whoever_edits_a_description_is_told_what_to_do(squeezed: Any, tmp_path: Path) -> None:
    shutil.copytree(squeezed[1] / "best_model", tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(path.read_text().replace('"epoch": 3', '"epoch": 4'))
    with pytest.raises(CheckpointError, match='take out its entry "digest"'):
        checkpoint.load_description(tmp_path / "model")
    edited = json.loads(path.read_text())
    del edited["digest"]
    path.write_text(json.dumps(edited))
    assert checkpoint.load_description(tmp_path / "model").epoch == 4
