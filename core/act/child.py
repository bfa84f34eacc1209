"""The process in which PaddleSlim works: started, asked, and gone afterwards with all its files."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from core.errors import ExportError
from core.settings.files import scratch
from core.settings.home import own_module
from core.settings.processes import search_path, tethered
from core.settings.versions import require
from core.task import Arrays

LOG, FLOAT = "log.txt", "float"  # files in the worker's folder; the second with two endings
Fill = Callable[[Path], None]
_log = logging.getLogger(__name__)


class Child:
    """A worker that does one thing after another, see `core.act.worker`.

    Args:
        process: Process of the worker.
        connection: Connection to the worker.
        folder: Its working directory.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], connection: Connection, folder: Path
    ) -> None:
        self._process, self._connection, self._folder = process, connection, folder

    def call(
        self, command: str, *arguments: Any, batches: Callable[[], Iterable[Arrays]] | None = None
    ) -> Any:
        """Have a method of the worker called, and return its answer.

        Args:
            command: Name of the method.
            *arguments: Plain values and arrays.
            batches: Starts anew through batches, as often as the worker asks.

        Raises:
            ExportError: It failed, or the process has ended.
        """
        try:
            self._connection.send((command, arguments))
            while True:
                kind, value = self._connection.recv()
                if kind == "done":
                    return value
                if kind == "failed":
                    raise ExportError(f"paddleslim: {command} failed: {value}")
                for batch in batches() if batches else ():
                    self._connection.send(batch)
                self._connection.send(None)
        except (EOFError, ConnectionError) as error:
            raise ExportError(f"paddleslim: {self._epitaph()}") from error

    def _epitaph(self) -> str:
        status = self._process.wait()
        text = (self._folder / LOG).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"its process {how}: {(lines or ['it said nothing'])[-1]}"


@contextlib.contextmanager
def started(fill: Fill) -> Iterator[Child]:
    """Start a worker in a folder of its own; both are gone when the block ends, however it does.

    Args:
        fill: Puts the files into the folder that the worker begins with.
    """
    require("paddleslim", "compression without a model's code")
    with scratch() as folder, contextlib.ExitStack() as stack:
        fill(folder)
        ours, theirs = Pipe()
        stack.enter_context(ours)
        log = stack.enter_context(open(folder / LOG, "wb"))
        # only programs of Paddle's old IR are what PaddleSlim can edit
        extra = {"PYTHONPATH": search_path(), "FLAGS_enable_pir_api": "0"}
        # it works alone, whatever processes this one is of
        own = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
        process = subprocess.Popen(
            tethered([sys.executable, "-m", own_module("core.act.worker"), str(theirs.fileno())]),
            cwd=folder,
            env={**own, **extra},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
        theirs.close()
        _log.debug("paddleslim works in process %d", process.pid)
        try:
            yield Child(process, ours, folder)
        finally:
            process.kill()
            process.wait()
