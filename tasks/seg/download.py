"""Fetch a data set that its config knows the address of."""

from __future__ import annotations

import logging
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from core.errors import DataError
from core.files import appearing
from tasks.seg.config import DataConfig

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
    with tempfile.TemporaryDirectory() as folder, appearing(root) as draft:
        content = _unpack(_fetch(url, Path(folder)), Path(folder, "content"), url)
        for item in _folder_with(content, data.train_list, url).iterdir():
            shutil.move(item, draft)


def _fetch(url: str, folder: Path) -> Path:
    from paddle.utils.download import get_path_from_url

    try:
        return Path(get_path_from_url(url, str(folder), decompress=False))
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        raise DataError(
            f"data.download: {url} cannot be downloaded ({error}). Without a network, put the data "
            "into data.root by hand"
        ) from error


def _unpack(archive: Path, folder: Path, url: str) -> Path:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
        else:
            raise DataError(f"data.download: {url} is neither a zip nor a tar file")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"data.download: {url} cannot be unpacked: {error}") from error
    return folder


def _folder_with(content: Path, list_name: str, url: str) -> Path:
    """Return the folder in the archive that holds the list of training images."""
    if (content / list_name).is_file():
        return content
    for folder in sorted(content.iterdir()):
        if (folder / list_name).is_file():
            return folder
    raise DataError(f"data.download: {url} holds no {list_name} (data.train_list)")
