"""Check that the libraries are of the tested versions before anything else goes wrong."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

from core.errors import ConfigError

_STAND_INS = {"paddlepaddle": "paddlepaddle-gpu"}  # the GPU build has a name of its own


def check_versions() -> None:
    """Compare what is installed with what `pyproject.toml` asks for.

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
            raise ConfigError(f"{requirement.name}: not installed; run `make install`")
        if not requirement.specifier.contains(found, prereleases=True):
            raise ConfigError(
                f"{requirement.name}: version {found} is installed, TriSlim is tested with "
                f"{requirement.specifier}; run `make install`"
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
