"""Check that the libraries are of the tested versions before anything else goes wrong."""

from __future__ import annotations

import importlib.metadata
from types import MappingProxyType

from packaging.requirements import Requirement

from core.errors import ConfigError
from core.settings.home import INSTALLED

# libraries that the package does not name for Python 3.13, and the tested versions
BY_HAND = MappingProxyType({"paddleclas": "2.6.0", "paddleslim": "2.6.0"})
_STAND_INS = {"paddlepaddle": "paddlepaddle-gpu"}  # the GPU build has a name of its own


def check_versions() -> None:
    """Compare the installed packages with the requirements of `pyproject.toml`.

    Raises:
        ConfigError: A library is missing or of another version.
    """
    try:
        wanted = importlib.metadata.requires("trislim") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("trislim: not installed; run `make install`") from error
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(requirement.name)
        if found is None:
            raise ConfigError(f"{requirement.name}: not installed; run {_remedy(requirement)}")
        if not requirement.specifier.contains(found, prereleases=True):
            raise ConfigError(
                f"{requirement.name}: version {found} is installed, TriSlim is tested with "
                f"{requirement.specifier}; run {_remedy(requirement)}"
            )


def _remedy(requirement: Requirement) -> str:
    """Return the command that installs a library, in a checkout or beside the package."""
    wanted = f"{requirement.name}{requirement.specifier}"
    return f"`pip install '{wanted}'`" if INSTALLED else "`make install`"


def require(name: str, purpose: str) -> None:
    """Refuse to go on without a library that is not installed with TriSlim on every Python.

    Args:
        name: Package of `BY_HAND`.
        purpose: Setting or step that needs it; begins the message.

    Raises:
        ConfigError: It is not installed.
    """
    if installed_version(name) is None:
        version = BY_HAND[name]
        raise ConfigError(
            f"{purpose}: needs {name}, whose requirements no pip can fulfil on Python 3.13, though "
            f"it runs there; run: pip install --no-deps {name}=={version}"
        )


def installed_version(name: str) -> str | None:
    """Return the installed version of a library, or of the build that stands in for it."""
    for candidate in (name, _STAND_INS.get(name)):
        try:
            if candidate:
                return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
