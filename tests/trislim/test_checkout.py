"""In a checkout `trislim.core` is `core`: one module under two names, whichever comes first."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("core.settings.config", "trislim.core.settings.config"),
        ("trislim.core.settings.config", "core.settings.config"),
        ("trislim.core.errors", "core.errors"),
        ("trislim.tasks", "tasks"),
    ],
)
def test_a_module_is_loaded_once(first: str, second: str) -> None:
    code = (
        "import importlib, sys, trislim\n"
        "one, two = (importlib.import_module(name) for name in sys.argv[1:])\n"
        "assert one is two\n"
        "assert one.__name__ == one.__spec__.name == sys.argv[1].removeprefix('trislim.')\n"
        "files = [m.__file__ for n, m in sys.modules.items() if n.startswith('core.')]\n"
        "assert len(set(files)) == len(files)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, first, second],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_classes_are_the_same() -> None:
    one = importlib.import_module("trislim.core.errors")
    two = importlib.import_module("core.errors")
    assert one.ConfigError is two.ConfigError


def test_what_is_not_there_is_said_to_be_absent() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"trislim\.core\.none"):
        importlib.import_module("trislim.core.none")
