"""Files and folders that are there whole or not at all, whatever happens while they are written.

What a killed process leaves behind has names of ours: `.NAME.trislim-...` beside what it wrote, and
`.trislim-scratch-...` in the folder for temporary files. The next one that writes there removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import FileError
from core.settings.locks import Lock, hold, is_at, try_lock, unlock

_OURS = re.compile(r"\.(?P<name>.+)\.trislim-(?P<kind>lock|partial|old|draft|drawing)(-\w+)?")
_SCRATCH = ".trislim-scratch-"
_PAUSE = 0.005  # seconds
ROOM = 64 << 20  # bytes: with so many a disk is not full
_LONGEST = 200  # bytes of a name; file systems take 255
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a fresh folder to fill, which takes the place of `folder` when the block ends well.

    The two change places at once. Where a file system cannot do that, the replaced folder is
    renamed first and removed last; `present` puts it back if the process was killed in between.

    Raises:
        FileError: Something cannot be written, another process is replacing the folder, or there
            is something else than a folder; what was there stays.
    """
    folder = Path(os.path.realpath(folder))
    check_replaceable(folder)
    try:
        if not folder.parent.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
        with Lock(sibling(folder, "lock"), folder):
            tidy(folder.parent)
            _put_back(folder)
            partial = sibling(folder, "partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
                _flush_to_disk(partial)
                partial.chmod(_mode_of(folder, 0o777))
                _put_in_place(partial, folder)
            finally:
                _put_back(folder)
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = f"{error.strerror or error}{_free_space(error, folder.parent)}"
        raise FileError(f"{folder}: cannot be written: {reason}") from error


def _free_space(error: OSError, parent: Path) -> str:
    """Return how much is free, where a disk is full: that of temporary files may be another."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    places = dict.fromkeys((str(parent), tempfile.gettempdir()))
    free = (f"{shutil.disk_usage(place).free / 1e6:,.0f} MB in {place}" for place in places)
    return f" (free: {', '.join(free)})"


def check_replaceable(folder: Path) -> None:
    """Refuse what cannot be replaced by a folder.

    Raises:
        FileError: It is there, and is no folder or a place where a file system is mounted.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise FileError(f"{folder}: expected a folder, it is something else; move it away")
    if os.path.ismount(folder):
        raise FileError(f"{folder}: is a mounted file system; name a folder in it")


def present(folder: Path) -> Path:
    """Return where the content of a folder is.

    A folder that was set aside by a replacement that was cut off is put back; if it cannot be, it
    is read where it is.
    """
    whole = Path(os.path.realpath(folder))
    if whole.exists() or not whole.name:
        return folder
    parent = whole.parent if whole.parent.exists() else present(whole.parent)
    whole = parent / whole.name
    old = sibling(whole, "old")
    if old.is_dir():
        with contextlib.suppress(FileError, OSError), Lock(sibling(whole, "lock"), whole):
            _put_back(whole)
        whole = whole if whole.exists() else old
    return folder if folder.exists() or not whole.exists() else whole


def remove_folder(folder: Path) -> None:
    """Remove a folder if it is there; a process that is killed meanwhile leaves no half of it.

    Raises:
        FileError: It cannot be removed, or another process is replacing it.
    """
    folder = Path(os.path.realpath(folder))
    if not folder.exists():
        return
    check_replaceable(folder)
    try:
        with Lock(sibling(folder, "lock"), folder):
            waste = sibling(folder, "partial")
            shutil.rmtree(waste, ignore_errors=True)
            folder.rename(waste)
            shutil.rmtree(waste, ignore_errors=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be removed: {error.strerror or error}") from error


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a fresh folder to fill, which becomes `folder` when the block ends well.

    Of several processes that make the same folder at once, the first one's stays.

    Raises:
        FileError: Something cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tidy(folder.parent)
        with _held_folder(f"{sibling(folder, 'draft').name}-", folder.parent) as draft:
            yield draft
            draft.chmod(_mode_of(folder, 0o777))
            if not (folder.exists() and any(folder.iterdir())):
                draft.rename(folder)
    except OSError as error:
        if not (folder.is_dir() and any(folder.iterdir())):
            raise FileError(f"{folder}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for temporary files, gone afterwards; those of killed processes go first.

    Raises:
        FileError: It cannot be made, or a disk is full when something is written meanwhile.
    """
    with contextlib.ExitStack() as stack:
        try:
            top = Path(tempfile.gettempdir())
            for entry in os.scandir(top):
                if entry.name.startswith(_SCRATCH):
                    _remove_if_dead(Path(entry.path))
            folder = stack.enter_context(_held_folder(_SCRATCH, top))
        except OSError as error:
            where = error.filename or "TMPDIR"
            reason = error.strerror or error
            raise FileError(f"{where}: no temporary folder can be made: {reason}") from error
        try:
            yield folder
        except OSError as error:
            free = _free_space(error, top)
            if error.filename or not free or shutil.disk_usage(top).free > ROOM:
                raise  # of another disk, which whoever writes there can name
            raise FileError(f"a file cannot be written: {error.strerror}{free}") from error


@contextlib.contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which becomes `path` when the block ends well.

    The folder is there; the name has the same ending.

    Raises:
        OSError: Something cannot be written.
    """
    tidy(path.parent)
    with _held_folder(f"{sibling(path, 'draft').name}-", path.parent) as folder:
        draft = folder / path.name
        yield draft
        os.replace(draft, path)


def write_text(path: Path, text: str) -> None:
    """Write a small file, with its folder; it is there whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, with its folder; it is there whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = _open_draft(path)
        try:
            os.ftruncate(descriptor, 0)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.chmod(draft, _mode_of(path, 0o666))
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            unlock(descriptor)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def tidy(parent: Path) -> None:
    """Remove leftovers of killed processes beside the folders and files that they wrote."""
    with contextlib.suppress(OSError):  # a file that cannot be removed is in nobody's way
        ours = [found for name in os.listdir(parent) if (found := _OURS.fullmatch(name))]
        for found in ours:
            if found["kind"] in ("draft", "lock", "drawing"):
                _remove_if_dead(parent / found[0])
        for found in ours:
            target = parent / found["name"]
            lock = sibling(target, "lock")
            # where the target is missing, `old` is its content
            waste = found["kind"] == "partial" or (found["kind"] == "old" and target.exists())
            if waste and not lock.exists():
                with contextlib.suppress(FileError), Lock(lock, target):
                    shutil.rmtree(parent / found[0], ignore_errors=True)


def sibling(path: Path, kind: str) -> Path:
    """Return a name of our own beside a path: nobody else keeps anything there."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.parent / f".{name}.trislim-{kind}"


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places at once; False where the system cannot do that."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _put_in_place(partial: Path, folder: Path) -> None:
    if folder.exists() and not exchange(partial, folder):
        old = sibling(folder, "old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
    elif not folder.exists():
        partial.rename(folder)


def _put_back(folder: Path) -> None:
    """Clean up after an interrupted replacement; the caller has the lock."""
    old = sibling(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _remove_if_dead(path: Path) -> None:
    """Remove a file or folder that its process held a lock on, if that has ended."""
    if sys.platform == "win32":
        return  # it has no such locks, so nobody can tell
    try:
        if os.lstat(path).st_uid != os.geteuid():
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # it has just gone, or is nothing of ours
    try:
        if try_lock(descriptor) and is_at(descriptor, path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    finally:
        unlock(descriptor)


@contextlib.contextmanager
def _held_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """Make a folder that this process holds a lock on; it is gone afterwards, unless renamed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        held = hold(folder)
        if held is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.end()


def _open_draft(path: Path) -> tuple[int, Path]:
    """Open the file that becomes `path`; another process that writes the same has to wait."""
    draft = sibling(path, "draft")
    while True:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        state = try_lock(descriptor)
        if state is None:  # no locks here: a name that nobody else has
            os.close(descriptor)
            made, name = tempfile.mkstemp(prefix=f"{draft.name}-", dir=path.parent)
            return made, Path(name)
        if state and is_at(descriptor, draft):
            return descriptor, draft
        os.close(descriptor)
        time.sleep(_PAUSE)


def _mode_of(path: Path, usual: int) -> int:
    """Return the permissions of a path, or those that the user's mask leaves to a new one."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = _mask_of_process()
    if mask is None:  # asking for it sets it
        mask = os.umask(0o077)
        os.umask(mask)
    return usual & ~mask


def _mask_of_process() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)
    return None


def _flush_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
