"""The wheel: everything under one import name, at work in an empty folder."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from core.settings.plugins import load_plugin
from core.training.checkpoint import load_description, restore

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("core", "tasks", "tools", "configs", "trislim")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
FOREIGN = re.compile(r"^\s*(from|import) (core|tasks|tools|configs)\b", re.MULTILINE)
SECONDS = 300  # that a process may take on a busy machine
TRAP = "raise ImportError('not a module of TriSlim')\n"
PLUGIN = """\
from dataclasses import dataclass
from trislim.core.strategy import Phase, Strategy, StrategyConfig

class Listen(Strategy):
    Config = StrategyConfig
    phase = Phase.LOSS

    def attach(self, model, context):
        print(f"listens to {context.task.name}")
"""
RECIPE = """\
epochs: 2
strategies:
- {kind: 'core.prune.strategy:Prune', start_epoch: 1, target_ratio: 0.2, calibration_samples: 0}
- {kind: 'listening:Listen', start_epoch: 0}
"""
SMALL = ("-o", "train.steps_per_epoch=1", "-o", "synthetic.train_images=32", "-o",
         "synthetic.val_images=8", "-o", "train.batch_size=8")  # fmt: skip
SCRIPT = """\
import shlex, sys
from trislim.commands import main
for command in sys.argv[1:]:
    sys.argv = ["trislim", *shlex.split(command)]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trislim_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_of(folder: Path) -> set[str]:
    files = (file for ending in ("py", "yml", "jinja") for file in folder.rglob(f"*.{ending}"))
    return {file.relative_to(folder).as_posix() for file in files}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, as pip would unpack it."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=ignore)
    for file in FILES:
        shutil.copy(ROOT / file, source / file)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder from which nothing of a checkout can be imported, as modules of its names fail."""
    for name in ("core", "tasks", "tools", "benchmarks"):
        (tmp_path / f"{name}.py").write_text(TRAP, encoding="utf-8")
    return tmp_path


@contextlib.contextmanager
def started(site: Path, folder: Path, *script: str) -> Iterator[subprocess.Popen[str]]:
    """Start Python on a script in a folder, which comes first on Python's path, then the wheel."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-u", "script.py", *script],
        cwd=folder,
        env={**own, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_imports_are_put_under_one_name() -> None:
    source = (
        "import core.settings.startup  # first\n"
        "import core.errors as errors, os\n"
        "from core import cli\n"
        "if cli:\n    from tasks.cls import (\n        Task,\n    )\n"
        "from cores import core\nfrom . import core\nimport paddle.core\ntext = 'import core'\n"
    )
    assert load_setup().under_one_name(source, "x.py") == (
        "import trislim.core.settings.startup  # first\n"
        "import trislim.core.errors as errors, os\n"
        "from trislim.core import cli\n"
        "if cli:\n    from trislim.tasks.cls import (\n        Task,\n    )\n"
        "from cores import core\nfrom . import core\nimport paddle.core\ntext = 'import core'\n"
    )


def test_a_name_that_would_change_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x\.py:2: core is trislim\.core in the package"):
        load_setup().under_one_name("import core.errors\ncore.errors.UserError\n", "x.py")
    with pytest.raises(ValueError, match=r"x\.py:1: an import that is not understood"):
        load_setup().under_one_name("from  core import cli\n", "x.py")


def test_everything_is_under_one_name(site: Path) -> None:
    [info] = site.glob("*.dist-info")
    assert {path.name for path in site.iterdir()} == {"trislim", info.name}
    for part in PARTS[:4]:
        here, there = files_of(site / "trislim" / part), files_of(ROOT / part)
        assert here == there
        assert here
    texts = {file: file.read_text(encoding="utf-8") for file in site.rglob("*.py")}
    assert [file for file, text in texts.items() if FOREIGN.search(text)] == []
    assert "Apache License" in next(info.rglob("LICENSE")).read_text(encoding="utf-8")
    assert "trislim = trislim.commands:main" in (info / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text(encoding="utf-8")


@pytest.mark.chain
def test_training_in_an_empty_folder(site: Path, empty: Path) -> None:
    (empty / "listening.py").write_text(PLUGIN, encoding="utf-8")
    (empty / "own.yml").write_text(RECIPE, encoding="utf-8")
    words = f"train -c cls/demo.yml --slim own.yml --save_dir run {shlex.join(SMALL)}"
    with started(site, empty, words) as process:
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert "listens to cls" in said
    assert "command: trislim train -c cls/demo.yml --slim own.yml" in said
    assert (empty / "demo_data" / "cls" / "train").is_dir()
    description = load_description(empty / "run" / "latest")
    assert description is not None
    assert [kind for kind, _ in description.edits] == ["core.prune.strategy:Prune"]
    load_plugin("trislim.core.prune.strategy:Prune")
    task, model = restore(empty / "run" / "latest")  # in a checkout
    assert task.name == "cls"
    assert sum(each.size for each in model.parameters()) < sum(
        each.size for each in task.build_model().parameters()
    )


@pytest.mark.chain
def test_demo_begins_in_an_empty_folder(site: Path, empty: Path) -> None:
    with started(site, empty, "demo") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = list(itertools.takewhile(lambda line: "drawing a data set" not in line, lines))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=SECONDS)
    assert said[:2] == [
        "\n",
        "$ trislim train -c cls/demo.yml --save_dir output/demo/cls --overwrite\n",
    ]
    assert process.returncode == 128 + signal.SIGTERM, rest


def test_image_gets_what_the_wheel_is_built_from() -> None:
    """The image itself is built where there is Docker; here its files are looked at."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    copied = [word for word in copied if not word.startswith(("-", "/"))]
    assert set(copied) == {*PARTS, *FILES, "constraints.txt"}
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {word[1:] for word in sent if word.startswith("!")} == set(copied)
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    [wanted] = re.findall(r"^paddlepaddle(==\S+)$", tested, re.M)
    assert f"paddlepaddle-gpu{wanted} " in "\n".join(lines)
