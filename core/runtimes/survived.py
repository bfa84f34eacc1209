"""Try model files out once, in a process of their own, and remember what a runtime has survived.

Marks are empty files below the cache folder (`core.settings.download.cache_folder`), each named by
a digest of the model's files, the runtime and its version. The digests that come with a model say
nothing of this: whoever writes a file that ends the process can write a digest that fits.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from core.errors import ExportError
from core.settings.digests import digest_of
from core.settings.download import cache_folder
from core.settings.processes import last_words, run_module
from core.targets.names import Backend

TRIAL_SECONDS = 600.0
UNUSABLE = 3  # status of `core.runtimes.trial` that says in its last line why


def try_out_once(folder: Path, backend: Backend, files: Sequence[Path]) -> None:
    """Open and run a model in a process of its own, unless that went well before.

    Raises:
        ExportError: As `try_out`.
    """
    try:
        if is_known(backend, files):
            return
    except OSError as error:
        raise ExportError(f"{error.filename}: cannot be read: {error.strerror}") from error
    try_out(folder, backend, files[0])
    remember(backend, files)


def try_out(folder: Path, backend: Backend, file: Path) -> None:
    """Open and run a model in a process of its own.

    Args:
        folder: Folder of the model.
        backend: Runtime.
        file: Named in the message.

    Raises:
        ExportError: The runtime refuses it, or its process was killed or went on for ever.
    """
    where = str(folder.resolve())
    try:
        done = run_module("core.runtimes.trial", where, backend, seconds=TRIAL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"{file}: {backend} cannot load it: not done after {TRIAL_SECONDS:g} s"
        ) from error
    if done.returncode == 0:
        return
    if done.returncode == UNUSABLE:
        said = done.stdout.strip().rpartition("\n")[2]
        raise ExportError(said.replace(str(folder.resolve()), str(folder)))
    raise ExportError(
        f"{file}: {backend} cannot load it: the process that tried it out ended: {last_words(done)}"
    )


def is_known(backend: Backend, files: Sequence[Path]) -> bool:
    """Tell whether a runtime has survived these files on this machine."""
    return _mark(backend, files).is_file()


def remember(backend: Backend, files: Sequence[Path]) -> None:
    """Note that a runtime has survived these files; where nothing can be written, they are not."""
    mark = _mark(backend, files)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark(backend: Backend, files: Sequence[Path]) -> Path:
    version = importlib.import_module(backend).__version__
    words = [backend, version, *(digest_of(file) for file in files)]
    return cache_folder() / "survived" / hashlib.sha256(" ".join(words).encode()).hexdigest()
