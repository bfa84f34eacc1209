"""Remember which model files a runtime has opened and run here, so that they are tried out once.

Empty files below the cache folder (`core.settings.download.cache_folder`), each named by a digest
of the model's files, the runtime and its version. The digests that come with a model say nothing of
this: whoever writes a file that ends the process can write a digest that fits.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path

from core.settings.digests import digest_of
from core.settings.download import cache_folder
from core.targets.names import Backend


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
