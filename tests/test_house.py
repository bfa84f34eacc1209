"""The house: names that exist once, few loose modules, what imports have no rule for."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

CORE = Path(__file__).resolve().parents[1] / "core"
MOST_LOOSE = 6
ALIAS = re.compile(r"_?[A-Z][a-z]\w*")  # names of classes and of types, not of constants


def names_of_types(source: str) -> Iterator[str]:
    """Yield the classes and the aliases of types that a module defines at its top."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            yield statement.name
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name) and ALIAS.fullmatch(target.id):
                    yield target.id


def test_names_of_types_are_classes_and_aliases() -> None:
    source = "class One: ...\n_Two = dict\nThree: type = int\nT = 1\nFOUR = 2\nfive = 3\n"
    assert list(names_of_types(source)) == ["One", "_Two", "Three"]


def test_a_class_name_exists_once() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for file in sorted(CORE.rglob("*.py")):
        for name in names_of_types(file.read_text(encoding="utf-8")):
            homes[name].append(file.relative_to(CORE.parent).as_posix())
    assert len(homes) > 100
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_few_modules_lie_loose() -> None:
    loose = {file.stem for file in CORE.glob("*.py")}
    assert loose >= {"task", "strategy", "errors", "cli"}
    assert len(loose) <= MOST_LOOSE, sorted(loose)


def test_every_folder_is_a_package() -> None:
    folders = {file.parent for file in CORE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of a module with the dotted name that is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def modules(*folders: str) -> Iterator[tuple[str, str]]:
    """Yield path and source of the modules in some folders of the project."""
    top = CORE.parent
    for folder in folders:
        for file in sorted((top / folder).rglob("*.py")):
            yield file.relative_to(top).as_posix(), file.read_text(encoding="utf-8")


def test_temporary_files_are_those_that_the_next_process_sweeps_up() -> None:
    users = [
        path
        for path, source in modules("core", "tasks", "tools")
        if any(name.startswith("tempfile.") for name, _ in calls(source))
    ]
    assert users == ["core/settings/files.py"]


def test_every_process_that_is_started_ends_with_the_one_that_starts_it() -> None:
    started = []
    for path, source in modules("core", "tasks", "tools"):
        for name, call in calls(source):
            if name in ("subprocess.run", "subprocess.Popen", "subprocess.check_output"):
                tethered = ast.unparse(call.args[0]).startswith("tethered(")
                started.append((path, tethered))
    assert len(started) >= 4
    assert [path for path, tethered in started if not tethered] == []


def test_every_tool_ends_as_all_do() -> None:
    ends = {path: source.rstrip().splitlines()[-1].strip() for path, source in modules("tools")}
    assert len(ends) > 8
    assert set(ends.values()) == {"cli.run(main)"}
