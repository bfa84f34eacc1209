"""Digests of files, and descriptions that notice if they were changed themselves.

A description (`model.json`, `deploy.yml`) lists the SHA-256 of the files beside it, and has one of
its own text, taken with zeros in its place. That is for damage, not against forgery: whoever writes
all files can write digests that fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

UNSEALED = "0" * 64
_CHUNK = 1 << 20


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digests_of(folder: Path, leave_out: Iterable[str]) -> dict[str, str]:
    """Return the digest of each file of a folder by its name, but for some."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: digest_of(path) for path in files if path.name not in set(leave_out)}


def changed_file(folder: Path, digests: Mapping[str, str]) -> Path | None:
    """Return the first file that is not as its digest says; files that are absent are not.

    Raises:
        OSError: One cannot be read.
    """
    for name, wanted in digests.items():
        path = folder / Path(name).name  # a description speaks of its own folder only
        if path.is_file() and digest_of(path) != wanted:
            return path
    return None


def seal(text: str) -> tuple[bytes, str]:
    """Put its digest into a text, in the place of the first `UNSEALED` in it; return both."""
    content = text.encode("utf-8")
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(UNSEALED.encode(), digest.encode(), 1), digest


def is_sealed(content: bytes, digest: str) -> bool:
    """Tell whether a content with this digest in it is as `seal` made it."""
    if len(digest) != len(UNSEALED):
        return False
    blank = content.replace(digest.encode(), UNSEALED.encode())
    return hashlib.sha256(blank).hexdigest() == digest
