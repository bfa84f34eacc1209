"""Fetch a data set that its config knows the address of."""

from __future__ import annotations

import logging
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from core.errors import DataError, DownloadError
from core.settings.download import fetch
from core.settings.files import appearing, scratch
from tasks.seg.config import DataConfig

LIMIT_BYTES = 10**12  # largest archive
_CHUNK = 1 << 20
# besides broken data: encryption, unknown compression and names that no file can have
_UNPACKING_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError),
)
log = logging.getLogger(__name__)


def ensure_downloaded(data: DataConfig) -> None:
    """Download and unpack `data.download` to `data.root`, unless that exists; all or nothing.

    Raises:
        DataError: It cannot be fetched or unpacked, or holds no list of training images.
        FileError: `data.root` cannot be written.
    """
    root, url = Path(data.root), data.download
    if root.exists() or url is None:
        return
    log.info("downloading %s to %s", url, root)
    with scratch() as folder, appearing(root) as draft:
        content = _unpack(_fetch(url, folder), folder / "content", url)
        for item in _folder_with(content, data.train_list, url).iterdir():
            shutil.move(item, draft)


def _fetch(url: str, folder: Path) -> Path:
    try:
        return fetch(url, folder, LIMIT_BYTES)
    except DownloadError as error:
        raise DataError(
            f"data.download: {error}. Without a network, put the data into data.root by hand"
        ) from error


def _unpack(archive: Path, folder: Path, url: str) -> Path:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed_tar:
                _extract_tar(packed_tar, folder)
        else:
            raise DataError(f"data.download: {url} is neither a zip nor a tar file")
    except _UNPACKING_ERRORS as error:
        raise DataError(f"data.download: {url} cannot be unpacked: {error}") from error
    return folder


def _extract_tar(packed: tarfile.TarFile, folder: Path) -> None:
    """Write files and folders; a link becomes a copy of the file it leads to in the archive.

    No link is ever made, so nothing can be written through one. Python's own filters, which older
    releases lack, are not needed.
    """
    top = os.path.abspath(folder)
    os.makedirs(top, exist_ok=True)
    for member in packed:
        target = Path(os.path.abspath(os.path.join(top, member.name)))
        if not target.is_relative_to(top):
            raise tarfile.TarError(f"{member.name} lies outside the archive's folder")
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        try:
            source = packed.extractfile(member)
        except KeyError as error:
            raise tarfile.TarError(f"{member.name} is a link to nothing in the archive") from error
        if source is None:
            raise tarfile.TarError(f"{member.name} is neither a file nor a link to one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    # tarfile takes a header that it cannot read for the end, which is a block of zeros
    assert packed.fileobj is not None
    packed.fileobj.seek(packed.offset)
    if packed.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.TarError("it is corrupt in the middle")
    while packed.fileobj.read(_CHUNK):
        pass  # the checksum is compared at the very end


def _folder_with(content: Path, list_name: str, url: str) -> Path:
    """Return the folder in the archive that holds the list of training images."""
    if (content / list_name).is_file():
        return content
    for folder in sorted(content.iterdir()):
        if (folder / list_name).is_file():
            return folder
    raise DataError(f"data.download: {url} holds no {list_name} (data.train_list)")
