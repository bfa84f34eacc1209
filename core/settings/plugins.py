"""Code from outside that the user names on the command line; a file cannot name any."""

from __future__ import annotations

import importlib

from core.errors import ConfigError
from core.settings.home import own_module


def load_plugin(text: str) -> str:
    """Import a module of strategies or the package of a task, so that files may refer to it.

    Args:
        text: `package.module`, or `package.module:Name`, of which `Name` is then checked too.

    Raises:
        ConfigError: There is none.
    """
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *([name] if colon else [])]
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"--plugin: expected MODULE or MODULE:NAME, got {text!r}")
    try:
        found = importlib.import_module(own_module(module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"--plugin: no module {module!r} on Python's path") from error
    if colon and not hasattr(found, name):
        raise ConfigError(f"--plugin: {module} has no {name!r}")
    return text
