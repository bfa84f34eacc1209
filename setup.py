"""Build the package: the folders of a checkout under the one import name `trislim`.

In a checkout `core` and `tasks` are packages of their own. Installed they would be names that many
projects have, so the wheel holds them as `trislim.core` and `trislim.tasks`, beside `trislim.tools`
and `trislim.configs`, and the imports in its files say so. An editable install is the checkout.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

PACKAGE = "trislim"
FOLDERS = ("core", "tasks", "tools", "configs")


def under_one_name(source: str, file: str) -> str:
    """Return a module's text with `trislim.` in front of what it imports from the folders.

    Raises:
        ValueError: `import core.x` and then `core` used as a name, which would be another.
    """
    tree = ast.parse(source)
    places, bound = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and _is_own(node.module or ""):
            places.append((node.lineno, node.col_offset + len("from ")))
        elif isinstance(node, ast.Import):
            own = [each for each in node.names if _is_own(each.name)]
            places += [(each.lineno, each.col_offset) for each in own]
            bound |= {each.name.partition(".")[0] for each in own if not each.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in bound:
            raise ValueError(f"{file}:{node.lineno}: {node.id} is trislim.{node.id} in the package")
    lines = source.splitlines(keepends=True)
    for number, column in sorted(places, reverse=True):
        line = lines[number - 1]
        if not line[column:].startswith(FOLDERS):
            raise ValueError(f"{file}:{number}: an import that is not understood")
        lines[number - 1] = f"{line[:column]}{PACKAGE}.{line[column:]}"
    return "".join(lines)


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in FOLDERS


class UnderOneName(build_py):
    """Copies the modules into the wheel, with their imports changed."""

    def build_module(self, module: str, module_file: str, package: str) -> object:
        """Copy one module."""
        done = super().build_module(module, module_file, package)
        built = Path(self.get_module_outfile(self.build_lib, package.split("."), module))
        text = built.read_text(encoding="utf-8")
        built.write_text(under_one_name(text, module_file), encoding="utf-8")
        return done


def main() -> None:
    """Let setuptools build what it is asked for."""
    editable = "editable_wheel" in sys.argv
    folders = FOLDERS[:3] if editable else FOLDERS
    found = find_namespace_packages(
        include=[pattern for each in folders for pattern in (each, f"{each}.*")],
        exclude=["*.__pycache__"],
    )
    if editable:
        setup(packages=[PACKAGE, *found])
        return
    setup(
        packages=[PACKAGE, *(f"{PACKAGE}.{each}" for each in found)],
        package_dir={f"{PACKAGE}.{each}": each for each in FOLDERS},
        package_data={f"{PACKAGE}.{each}": ["*.yml", "*.jinja"] for each in found},
        cmdclass={"build_py": UnderOneName},
    )


if __name__ == "__main__":
    main()
