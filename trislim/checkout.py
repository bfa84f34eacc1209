"""Give the folders of a checkout the names that they have where the package is installed.

There `core` is `trislim.core` and nothing else, as building the package writes it (`setup.py`). In
a checkout a module must not be loaded under both names, as then each class of it existed twice:
here `trislim.core` is another name of the module `core`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FOLDERS = ("core", "tasks", "tools")
_HERE = Path(__file__).resolve().parent
INSTALLED = (_HERE / FOLDERS[0]).is_dir()
TOP = _HERE if INSTALLED else _HERE.parent  # that the folders lie in
_PREFIX = f"{__name__.rpartition('.')[0]}."


class OtherName(MetaPathFinder, Loader):
    """Finds `trislim.core...` as the module `core...`, which is loaded once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(_PREFIX)
        if name == fullname or name.partition(".")[0] not in FOLDERS:
            return None
        own = importlib.util.find_spec(name)
        return None if own is None else ModuleSpec(fullname, self, loader_state=own)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(spec.name.removeprefix(_PREFIX))

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module, which has been run, as it was before its second name was found."""
        spec = sys.modules[module.__name__].__spec__
        if spec is not None and spec.loader is self:
            module.__spec__ = spec.loader_state


def give_folders_their_names() -> None:
    """Let `trislim.core`, `trislim.tasks` and `trislim.tools` be imported from a checkout."""
    if not INSTALLED and not any(isinstance(each, OtherName) for each in sys.meta_path):
        sys.meta_path.insert(0, OtherName())  # before what would load the files a second time
