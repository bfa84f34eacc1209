"""TriSlim makes vision models small and fast: `load` a model, quantize it, export it.

`trislim.core`, `trislim.tasks` and `trislim.tools` are the folders of the same names; a plugin
imports from `trislim.core`, in a checkout and where the package is installed. Importing `trislim`
loads no Paddle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trislim import checkout

if TYPE_CHECKING:
    from trislim.models import ExportedModel, Model, load, train

__all__ = ["ExportedModel", "Model", "load", "train"]

checkout.give_folders_their_names()


def __getattr__(name: str) -> Any:
    """Import what needs Paddle when it is asked for, after a look at the versions.

    Raises:
        ConfigError: A library is missing or of a wrong version.
    """
    if name not in __all__:
        raise AttributeError(f"module 'trislim' has no attribute {name!r}")
    from core.settings.versions import check_versions

    check_versions()
    from core.settings.startup import load_paddle

    load_paddle()
    from trislim import models

    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
