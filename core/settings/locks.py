"""Locks on files and folders, which the kernel releases when a process ends, in whichever way.

Where a file system knows no such locks, a lock file counts as held as long as the process that it
names exists; a process on another host always counts, since it cannot be checked.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from core.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 1.0  # seconds: others hold a lock for moments, to tidy up
# seconds that the readers of a killed training may outlive it, and hold what it held
INHERITED = 5.0
_PAUSE = 0.02
_PROC_LOCKS = Path("/proc/locks")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Process of a lock's holder, as the lock's file names it; 0: unknown."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "another process"

    def ended(self) -> bool:
        """Tell whether the process is known to have ended."""
        if not self.pid or self.host != socket.gethostname():
            return False
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


class Lock:
    """An exclusive lock: a file that names this process, gone when it is released.

    Args:
        file: The lock file; its folder is there.
        what: Name of the locked thing, for messages.
        wait: Wait for another process, however long it takes.

    Raises:
        FileError: Another process holds it, or the file cannot be written.
    """

    def __init__(self, file: Path, what: Path, wait: bool = False) -> None:
        self._file = file
        begin, told = time.monotonic(), False
        try:
            while (descriptor := _take(file)) is None:
                holder, waited = _read(file), time.monotonic() - begin
                if not wait and waited > (INHERITED if holder.ended() else PATIENCE):
                    raise FileError(
                        f"{what}: in use by {holder}; wait until that has ended, or name another "
                        "folder"
                    )
                if waited > PATIENCE and not told:
                    told = True
                    _log.info("%s: waiting for %s", what, holder)
                time.sleep(_PAUSE)
            self._descriptor = descriptor
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(_this_process())).encode(), 0)
            except BaseException:
                self.release()
                raise
        except OSError as error:
            raise FileError(f"{what}: cannot be written: {error.strerror or error}") from error

    def release(self) -> None:
        """Remove the file, and let others lock."""
        try:
            if is_at(self._descriptor, self._file):
                self._file.unlink()
        except OSError as error:  # it is free as soon as it is closed
            _log.debug("%s: cannot be removed: %s", self._file, error)
        unlock(self._descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Held:
    """A lock on a file or folder that stays; it lasts as long as this object, or until `end`.

    Args:
        descriptor: File descriptor that is open and locked; None where there are no locks.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._unlock: Callable[[], object] = lambda: None
        if descriptor is not None:
            self._unlock = weakref.finalize(self, unlock, descriptor)

    def end(self) -> None:
        """Let others lock, now."""
        self._unlock()


def hold(folder: Path) -> Held | None:
    """Lock a folder that was just made; None if another process took it away meanwhile.

    Raises:
        OSError: It cannot be opened.
    """
    if fcntl is None:
        return Held(None)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if try_lock(descriptor) is not False and is_at(descriptor, folder):
        return Held(descriptor)
    os.close(descriptor)
    return None


def use(file: Path) -> Held | None:
    """Take a shared lock on a file; None if another process holds it alone, or has replaced it.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(file, os.O_RDONLY)
    if try_lock(descriptor, shared=True) is False or not is_at(descriptor, file):
        os.close(descriptor)
        return None
    return Held(descriptor)


def claim(file: Path) -> Held | None:
    """Take an exclusive lock on a file, so that it can be replaced; None if others use it.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(file, os.O_RDWR)
    if try_lock(descriptor) is False:
        os.close(descriptor)
        return None
    return Held(descriptor)


def user_of(file: Path) -> Holder:
    """Return a process that uses a file, as the kernel lists it (Linux).

    Raises:
        OSError: There is no such file.
    """
    about = os.stat(file)
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    if _PROC_LOCKS.is_file():
        for line in _PROC_LOCKS.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if "FLOCK" in words and device in words:
                return Holder(int(words[words.index(device) - 1]), socket.gethostname())
    return Holder(0, "")


def try_lock(descriptor: int, shared: bool = False) -> bool | None:
    """Lock an open file or folder; False: another has it, None: there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def unlock(descriptor: int) -> None:
    """Unlock and close; processes that were forked meanwhile hold nothing then either."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError as error:
            _log.debug("cannot be unlocked: %s", error)
    os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether a path still leads to an open file or folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _take(file: Path) -> int | None:
    """Return the descriptor of the locked file; None if another process has it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        state = try_lock(descriptor)
        if state is None:
            holder = _read(file)
            state = not holder.pid or holder.ended()
        if state and is_at(descriptor, file):  # else its holder has removed it meanwhile
            return descriptor
        os.close(descriptor)
        if not state:
            return None


def _read(file: Path) -> Holder:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Holder(int(content["pid"]), str(content["host"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(0, "")


def _this_process() -> Holder:
    return Holder(os.getpid(), socket.gethostname())
