"""The other processes of a training on this host: which of them died, and of what."""

from __future__ import annotations

import logging
import os
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
_EXIT_CODE = 49  # of the fields of /proc/PID/stat behind the name
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """One of the processes that `python -m paddle.distributed.launch` started."""

    rank: int
    pid: int
    host: str


def watch_others(peers: Sequence[Peer], rank: int) -> None:
    """Say in one line which other process of this host died, and end with it (Linux).

    A launcher that is killed leaves its processes running: they are asked to end, as by SIGTERM.

    Args:
        peers: All processes.
        rank: Of this one.
    """
    (mine,) = (peer for peer in peers if peer.rank == rank)
    others = [peer for peer in peers if peer.host == mine.host and peer.rank != rank]
    parent = os.getppid()
    if _is_launcher(parent):
        others.append(Peer(_LAUNCHER, parent, mine.host))
    if others and hasattr(os, "pidfd_open"):
        threading.Thread(target=_watch, args=(others,), daemon=True).start()


def ending(status: int) -> str:
    """Say how a process ended, by the status that `wait` would return."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"
    return f"ended with status {os.WEXITSTATUS(status)}; see what it says itself"


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
        _log.error("rank %d (process %d) %s", peer.rank, peer.pid, ending(status))
    time.sleep(GRACE_SECONDS)
    if word is not None:
        sys.stderr.write(f"{word}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(own)
