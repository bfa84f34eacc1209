"""Show how far long work is and how long it still takes: a bar on a terminal, log lines elsewhere.

As in training: a pipe or a file gets no bar, but a sign of life every half a minute.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

T = TypeVar("T")
LOG_SECONDS = 30.0
_log = logging.getLogger(__name__)


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    unit: str = "it",
    hidden: bool = False,
) -> Generator[T, None, None]:
    """Go through items, and show how many were worked on.

    Args:
        items: Items that take some time each.
        what: Name of the work, for the bar and the log.
        total: How many there are, where they do not tell themselves.
        unit: Name of one item.
        hidden: Show nothing.
    """
    known = len(items) if total is None and isinstance(items, Sized) else total
    with counting(what, known, unit, hidden) as count:
        for item in items:
            yield item
            count(1)


@contextlib.contextmanager
def counting(
    what: str, total: int | None = None, unit: str = "it", hidden: bool = False
) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many more pieces of work are done; see `progress`."""
    shown = True if hidden else None  # None: where there is no terminal
    with contextlib.ExitStack() as opened:
        bar = opened.enter_context(
            tqdm(total=total, desc=what, unit=unit, leave=False, dynamic_ncols=True, disable=shown)
        )
        if not bar.disable:
            opened.enter_context(logging_redirect_tqdm())
        begin = last = time.monotonic()
        done = 0

        def count(more: int) -> None:
            nonlocal done, last
            done += more
            bar.update(more)
            now = time.monotonic()
            if bar.disable and not hidden and now - last >= LOG_SECONDS and done != total:
                last = now
                _log.info("%s", _line(what, done, total, now - begin))

        yield count


def _line(what: str, done: int, total: int | None, seconds: float) -> str:
    """Return a line of the log."""
    if not total:
        return f"{what}: {done} done in {_clock(seconds)}"
    left = _clock(seconds / max(done, 1) * max(total - done, 0))
    return f"{what}: {done} of {total}, left {left}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
