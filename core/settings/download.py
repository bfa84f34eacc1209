"""Fetch one file by its URL: whole or not at all, kept by the URL, never unpacked."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from tqdm import tqdm

from core.errors import DownloadError
from core.settings.digests import digest_of
from core.settings.files import appearing

CACHE = "TRISLIM_CACHE"  # environment variable: where weights are kept
_CHUNK = 1 << 20
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and to wait for the next bytes
_DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")
_log = logging.getLogger(__name__)


def is_url(text: str) -> bool:
    """Tell whether a setting means something to fetch."""
    return text.startswith(("http://", "https://"))


def cache_folder() -> Path:
    """Return where fetched weights are kept: `$TRISLIM_CACHE`, or `~/.cache/trislim`."""
    named = os.environ.get(CACHE)
    return Path(named) if named else Path(os.path.expanduser("~"), ".cache", "trislim")


def file_name(url: str) -> str:
    """Return the name of the file that a URL ends in; empty if it has none."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return "" if name in (".", "..") else re.sub(r"[^\w.+-]", "_", name)[-100:]


def fetch(
    url: str, folder: Path, limit_bytes: int, check: Callable[[Path], object] = lambda path: None
) -> Path:
    """Fetch a file, unless it is there from an earlier time.

    Args:
        url: Address of `http` or `https`. With `#sha256=DIGITS` at its end the file must have this
            digest.
        folder: Folder to keep it in. A subfolder is named by a digest of the URL, so that files of
            equal name do not collide.
        limit_bytes: A larger file is refused.
        check: Called with the file before it is put in place; refuses it by an exception.

    Raises:
        DownloadError: It cannot be fetched whole, is too large or has another digest.
        FileError: It cannot be written.
    """
    address, wanted = _split(url)
    place = folder / hashlib.sha256(address.encode()).hexdigest()[:16]
    target = place / (file_name(address) or "file")
    if target.is_file():
        if wanted in (None, digest_of(target)):
            return target
        _log.warning("%s: is not what %s asks for; fetched again", target, url)
        shutil.rmtree(place, ignore_errors=True)
    _log.info("downloading %s to %s", address, target)
    with appearing(place) as draft:
        found = _receive(address, draft / target.name, limit_bytes)
        if wanted not in (None, found):
            raise DownloadError(f"{address}: expected a file of sha256 {wanted}, it has {found}")
        check(draft / target.name)
    return target


def _split(url: str) -> tuple[str, str | None]:
    """Return the address and the digest asked for."""
    address, hash_sign, note = url.partition("#")
    try:
        parts = urlsplit(address)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        whole = False
    if not whole:
        raise DownloadError(f"{url}: expected an address like https://host/file.pdparams")
    digest = _DIGEST.fullmatch(note)
    if hash_sign and digest is None:
        raise DownloadError(f"{url}: expected #sha256= and 64 digits behind the address")
    return address, digest[1].lower() if digest else None


def _receive(address: str, path: Path, limit_bytes: int) -> str:
    """Write the content of an address to a file; return its digest."""
    digest, count = hashlib.sha256(), 0
    try:
        # asked for as it is: what is packed for the way could grow to any size
        plain = {"Accept-Encoding": "identity"}
        with requests.get(address, headers=plain, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code != requests.codes.ok:
                raise DownloadError(f"{address}: cannot be fetched: HTTP {answer.status_code}")
            size = answer.headers.get("Content-Length", "")
            announced = int(size) if size.isdecimal() else None
            _check_size(address, announced or 0, limit_bytes)
            with (
                open(path, "wb") as file,
                tqdm(total=announced, unit="B", unit_scale=True, disable=None) as bar,
            ):
                for chunk in answer.iter_content(_CHUNK):
                    count += len(chunk)
                    _check_size(address, count, limit_bytes)
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
    except requests.RequestException as error:
        reason = " ".join(str(error).split())[:300]
        raise DownloadError(f"{address}: cannot be fetched: {reason}") from error
    if "Content-Encoding" not in answer.headers and announced not in (None, count):
        raise DownloadError(f"{address}: ended after {count} of {announced} bytes")
    return digest.hexdigest()


def _check_size(address: str, count: int, limit_bytes: int) -> None:
    if count > limit_bytes:
        raise DownloadError(f"{address}: is larger than {limit_bytes / 1e9:g} GB, the limit here")
