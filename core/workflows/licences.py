"""Licences as the header of a model card names them on Hugging Face's Hub."""

from __future__ import annotations

from core.errors import ConfigError

OTHER = "other"
# https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = frozenset(
    [
        "afl-3.0",
        "agpl-3.0",
        "apache-2.0",
        "artistic-2.0",
        "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "c-uda",
        "cc",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "cdla-sharing-1.0",
        "creativeml-openrail-m",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "isc",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "lgpl-lr",
        "lppl-1.3c",
        "mit",
        "mpl-2.0",
        "ms-pl",
        "ncsa",
        "odbl",
        "odc-by",
        "ofl-1.1",
        "openrail",
        "openrail++",
        "osl-3.0",
        "other",
        "pddl",
        "postgresql",
        "unknown",
        "unlicense",
        "wtfpl",
        "zlib",
    ]
)
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-+")


def check_licence(licence: str) -> None:
    """Refuse text that is no identifier of a licence, such as `apache-2.0` or `other`.

    Raises:
        ConfigError: It is none.
    """
    if not licence or not set(licence.lower()) <= _ALLOWED:
        raise ConfigError(
            "card: expected the licence of the weights as Hugging Face names it, such as "
            f"apache-2.0, cc-by-4.0 or other, got {licence!r}"
        )


def licence_fields(licence: str) -> dict[str, str]:
    """Return the header's lines about a licence; the Hub takes one it does not list as `other`."""
    name = licence.lower()
    return {"license": name} if name in HUB_LICENCES else {"license": OTHER, "license_name": name}
