"""Watch the other processes of a training on this host: which of them died, and why."""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.settings.signals import WORDS

GRACE_SECONDS = 2.0  # in which this process may end by itself, with words of its own
_PROC = Path("/proc")
_LAUNCHER = -1  # in the place of a rank
_EXIT_CODE = 49  # its place among the fields of /proc/PID/stat behind the name
_TAIL = 1 << 16  # bytes of a log that are read
_MOST_CHARACTERS = 500  # longest line of a log that is shown
# our own line, or the last one of a traceback
_DEATH = re.compile(r"error: |([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit)\b")
_PREFIX = re.compile(r"error: (rank \d+: )?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """One of the processes that `python -m paddle.distributed.launch` started.

    The launcher shows what the first one says alone; `log` is the file that it has the others write
    to, empty where there is none.
    """

    rank: int
    pid: int
    host: str
    log: str = ""


def watch_others(peers: Sequence[Peer], rank: int) -> None:
    """Say in one line which other process of this host died, and end with it (Linux).

    A launcher that is killed leaves its processes running: they are asked to end, as by SIGTERM.

    Args:
        peers: All processes.
        rank: Rank of this process.
    """
    (mine,) = (peer for peer in peers if peer.rank == rank)
    others = [peer for peer in peers if peer.host == mine.host and peer.rank != rank]
    parent = os.getppid()
    if _is_launcher(parent):
        others.append(Peer(_LAUNCHER, parent, mine.host))
    if others and hasattr(os, "pidfd_open"):
        threading.Thread(target=_watch, args=(others,), daemon=True).start()


def own_log() -> str:
    """Return the file that this process writes its errors to; empty if that is no file (Linux)."""
    try:
        path = os.readlink(_PROC / "self" / "fd" / "2")
    except OSError:
        return ""
    return path if os.path.isfile(path) else ""


def ending(status: int, log: str = "") -> str:
    """Say how a process ended, by the status that `wait` would return, and its log."""
    where = f"; see {log}" if log else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
        return f"was killed by {name}{hint}{where}"
    words = last_words(log) if log else ""
    said = f": {words}" if words else ""
    return f"ended with status {os.WEXITSTATUS(status)}{said}{where or '; see what it says itself'}"


def last_words(log: str) -> str:
    """Return the line of a log with the error that ended a process; empty if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(os.path.getsize(log) - _TAIL, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    found = [line for line in text.splitlines() if _DEATH.match(line)]
    return _PREFIX.sub("", found[-1])[:_MOST_CHARACTERS] if found else ""


def _watch(peers: Sequence[Peer]) -> None:
    poll, watched = select.poll(), {}
    for peer in peers:
        try:
            descriptor = os.pidfd_open(peer.pid)
        except OSError as error:
            _log.debug("rank %d cannot be watched: %s", peer.rank, error)
            continue
        watched[descriptor] = peer
        poll.register(descriptor, select.POLLIN)
    while watched:
        for descriptor, _ in poll.poll():
            peer = watched.pop(descriptor)
            poll.unregister(descriptor)
            status = _status_of(peer.pid)
            os.close(descriptor)
            if peer.rank == _LAUNCHER:
                _log.error("the launcher (process %d) has ended", peer.pid)
                os.kill(os.getpid(), signal.SIGTERM)
            elif status:
                _end_after(peer, status)


def _is_launcher(pid: int) -> bool:
    try:
        return b"paddle.distributed" in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _status_of(pid: int) -> int | None:
    """Return the status of a process that has ended, while its parent has not asked for it."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[_EXIT_CODE])


def _end_after(peer: Peer, status: int) -> None:
    own = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
    word = WORDS.get(own - 128)
    if word is None:
        _log.error("rank %d (process %d) %s", peer.rank, peer.pid, ending(status, peer.log))
    time.sleep(GRACE_SECONDS)
    if word is not None:
        sys.stderr.write(f"{word}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(own)
