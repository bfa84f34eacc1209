"""Which threads may load or run models at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """Lets models be loaded one at a time, and none while Paddle Inference runs another.

    It crashes the process in one of some hundred times otherwise, whichever models these are. And
    loading mutes the whole process.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = self._waiting = 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nothing runs; nothing begins until the block is left."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: self._running == 0)
                yield
            finally:
                self._waiting -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run beside others, once nothing is loaded or waits to be."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting == 0)
            self._running += 1
        try:
            yield
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()


TURNS = Turns()  # of this process
