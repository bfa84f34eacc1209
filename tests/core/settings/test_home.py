"""Names of modules and configs, in a checkout and where the package is installed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from core.settings import home

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def installed(tmp_path: Path) -> ModuleType:
    """The module as it lies in an installed package, with two others beside it."""
    folder = tmp_path / "site" / "trislim"
    for name in ("core/settings/home.py", "core/strategy.py", "tasks/cls/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    name = "trislim.core.settings.home"
    spec = importlib.util.spec_from_file_location(name, folder / "core/settings/home.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["core.strategy", "trislim.core.strategy"])
def test_modules_of_this_project(name: str, installed: ModuleType) -> None:
    assert home.own_module(name) == "core.strategy"
    assert installed.own_module(name) == "trislim.core.strategy"


@pytest.mark.parametrize("name", ["tasks", "tasks.cls"])
def test_packages_of_this_project(name: str, installed: ModuleType) -> None:
    assert home.own_module(name) == name
    assert installed.own_module(name) == f"trislim.{name}"


@pytest.mark.parametrize(
    "name",
    [
        "outside.toy",
        "core.none",
        "trislim.core.none",
        "tasks.depth",
        "cores",
        "core./etc",
        "core.",
        "",
    ],
)
def test_other_names_stay(name: str, installed: ModuleType) -> None:
    assert home.own_module(name) == name
    assert installed.own_module(name) == name


def test_where_modules_are_imported_from(installed: ModuleType, tmp_path: Path) -> None:
    assert home.IMPORTED_FROM == ROOT
    assert tmp_path / "site" == installed.IMPORTED_FROM


def test_own_config_goes_before_the_one_that_comes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cls/demo.yml", "configs/cls/demo.yml"):
        assert home.find_config(name) == ROOT / "configs" / "cls" / "demo.yml"
    assert home.find_config("configs/none.yml") == Path("configs/none.yml")
    assert home.find_config("../configs/cls/demo.yml") == Path("../configs/cls/demo.yml")
    assert home.find_config(tmp_path / "demo.yml") == tmp_path / "demo.yml"
    (tmp_path / "cls").mkdir()
    (tmp_path / "cls" / "demo.yml").touch()
    assert home.find_config("cls/demo.yml") == Path("cls/demo.yml")


def test_known_configs_are_named_as_they_are_given() -> None:
    known = home.known_configs()
    assert {"cls/demo.yml", "slim/qat.yml", "seg/base/camvid.yml"} < set(known)
    assert all((ROOT / "configs" / name).is_file() for name in known)


def test_a_name_that_no_file_system_takes_is_no_module_of_ours() -> None:
    assert home.own_module(f"tasks.{'x' * 3000}") == f"tasks.{'x' * 3000}"
