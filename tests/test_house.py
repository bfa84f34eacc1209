"""The house: names that exist once, few loose modules, what imports have no rule for."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.strategy import KINDS

CORE = Path(__file__).resolve().parents[1] / "core"
MOST_LOOSE = 6
MOST_BYTES = 1_000_000  # of a file of the repository
MOST_LINES = 400  # of a file of tests
ACROSS = {  # tests of what several modules do together
    "act/test_distributed.py",
    "act/test_processors.py",
    "dialects/test_mutations.py",
    "export/int8/test_exporter_outputs.py",
    "export/int8/test_one_layer.py",
    "export/int8/test_rewritten.py",
    "export/onnx/test_operators.py",
    "export/onnx/test_operators_of_shapes.py",
    "export/test_formats.py",
    "prune/test_networks.py",
    "prune/test_peer.py",
    "prune/test_property.py",
    "reports/test_in_browser.py",
    "targets/test_overflow_programs.py",
}
TASKS = CORE.parent / "tasks"
ARRAYS = re.compile(
    r"(?<![.\w])(?:np\.)?(ndarray|Tensor|Tensors|Array|SizeArray|InputArrays|ArrayBatches|"
    r"TensorBatches|ModelInputs|CalibrationBatches|CalibrationArrays)\b"
)
SHAPE = re.compile(r"\[[^\]\n]*\](?!\()|any shape|scalar")  # [N, C, H, W], but no link
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


def test_tests_lie_where_their_modules_do() -> None:
    tests = Path(__file__).parent / "core"
    tested = [file.relative_to(tests) for file in sorted(tests.rglob("test_*.py"))]
    homes = [file.with_name(file.name.removeprefix("test_")) for file in tested]
    assert len(tested) > 100
    strays = {str(file) for file, home in zip(tested, homes) if not (CORE / home).is_file()}
    assert strays == ACROSS


def test_no_file_of_tests_is_long() -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in Path(__file__).parent.rglob("*.py")
    }
    assert len(lengths) > 200
    assert {file for file, lines in lengths.items() if lines > MOST_LINES} == set()


def test_every_folder_is_a_package() -> None:
    folders = {file.parent for file in CORE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_no_state_is_hidden_in_a_dictionary_of_a_layer() -> None:
    hidden = [
        f"{file.relative_to(CORE.parent)}:{node.lineno}"
        for file in sorted(CORE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "__dict__"
    ]
    assert hidden == []


Function = tuple[ast.FunctionDef, "ast.ClassDef | None"]


def public_functions(body: list[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[Function]:
    """Yield the public functions of a module, and the methods of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, owner


def arrays_in(function: ast.FunctionDef, own: set[str]) -> bool:
    """Tell whether a function takes or returns arrays, but for classes of its own module."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    hints = [each.annotation for each in every if each is not None] + [function.returns]
    found = [name for hint in hints if hint for name in ARRAYS.findall(ast.unparse(hint))]
    return any(name not in own for name in found)


def without_shapes(source: str, inherited: set[str]) -> list[str]:
    """Return the array functions of a module for which no docstring gives shapes.

    Args:
        source: Text of the module.
        inherited: Methods whose shapes a class of `core` gives for all that implement them.
    """
    module = ast.parse(source)
    own = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    found = []
    for function, owner in public_functions(module.body):
        said = ast.get_docstring(function)
        told = said is None and owner is not None and function.name in inherited
        places = [function, module] if owner is None else [function, owner, module]
        text = " ".join(ast.get_docstring(place) or "" for place in places)
        if arrays_in(function, own) and not told and not SHAPE.search(text):
            found.append(f"{owner.name}.{function.name}" if owner else function.name)
    return found


def test_functions_without_shapes_are_found() -> None:
    source = """
class Loss:
    def compute(self, x: Tensor) -> Tensor: ...
    def forward(self, x: "np.ndarray"): ...

def scale(x: np.ndarray) -> float:
    'Scale a map [H, W].'

def blur(x: list[np.ndarray]) -> None:
    'Blur maps.'

def count(x: int) -> int: ...
"""
    assert without_shapes(source, {"compute"}) == ["Loss.forward", "blur"]
    assert without_shapes("class Tensor:\n    def joined(self, x: Tensor): ...", set()) == []


def test_functions_of_arrays_give_their_shapes() -> None:
    inherited = {
        function.name
        for file in CORE.rglob("*.py")
        for function, owner in public_functions(ast.parse(file.read_text(encoding="utf-8")).body)
        if owner is not None and SHAPE.search(ast.get_docstring(function) or "")
    }
    missing = [
        f"{file.relative_to(CORE.parent)}: {name}"
        for folder in (CORE, TASKS)
        for file in sorted(folder.rglob("*.py"))
        for name in without_shapes(file.read_text(encoding="utf-8"), inherited)
    ]
    assert missing == []


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


def test_modules_are_named_in_texts_only_where_their_installed_name_is_looked_up() -> None:
    name = re.compile(r"(core|tasks|tools)(\.[a-z_]\w*)+(:\w+)?")
    looked_up = ("run_module", "own_module")
    found = []
    for path, source in modules("core", "tasks", "tools", "trislim"):
        tree = ast.parse(source)
        asked = {
            id(argument)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in looked_up
            for argument in node.args[:1]
        }
        found += [
            f"{path}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and name.fullmatch(node.value)
            and id(node) not in asked
        ]
    kinds = [f"core/strategy.py: {target}" for target in KINDS.values()]  # looked up there
    assert found == kinds


def test_every_tool_ends_as_all_do() -> None:
    ends = {path: source.rstrip().splitlines()[-1].strip() for path, source in modules("tools")}
    assert len(ends) > 8
    assert set(ends.values()) == {"cli.run(main)"}


def test_every_tool_is_short() -> None:
    lines = {path: len(source.splitlines()) for path, source in modules("tools")}
    assert {path: count for path, count in lines.items() if count >= 150} == {}


def test_no_output_of_a_tool_is_kept_in_the_repository() -> None:
    root = Path(__file__).parents[1]
    words = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no clone of the repository, so that nothing tells which files belong to it")
    files = [root / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 700
    endings = {".onnx", ".pdparams", ".pdiparams", ".safetensors"}
    places = {file for file in files if file.suffix in endings}
    assert {file for file in places if root / "tests" / "fixtures" not in file.parents} == set()
    assert {file for file in files if file.exists() and file.stat().st_size > MOST_BYTES} == set()
