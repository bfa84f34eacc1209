"""Tools that run in forks of one process, which has loaded their libraries already.

At scale smoke, imports take two thirds of a step's time. A `ForkServer` is a process that loads
Paddle and forks for each tool; a tool that ends tells it which modules it has loaded, and the next
fork has them. Each tool still has a process of its own, and nothing else of the ones before.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from core.errors import UserError
from core.settings.files import scratch
from core.settings.home import own_module
from core.settings.processes import search_path, tethered

# their libraries may start threads when they are loaded, which no fork has
_NOT_SHARED = ("onnxruntime", "openvino")
_PR_SET_PDEATHSIG = 1


class ForkServer:
    """A process that has loaded the libraries of the tools, and runs each tool in a fork.

    It is started for the first tool.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a tool to its end; return its status, negative if a signal has ended it.

        If this process is asked to end, so is the tool, which may finish its work.

        Args:
            command: Path of the tool, and its arguments.
            log: File for all that it says.

        Raises:
            UserError: The server has ended.
        """
        if self._process is None:
            self._process = _start()
        asking, answering = self._process.stdin, self._process.stdout
        assert asking is not None
        assert answering is not None
        try:
            asking.write(json.dumps([list(command), str(log)]) + "\n")
            asking.flush()
            answer = answering.readline()
        except BrokenPipeError:
            answer = ""
        except BaseException as error:
            if type(error) is not KeyboardInterrupt:  # Ctrl-C reaches all processes
                self._process.terminate()
            self.close()
            raise
        if not answer:
            raise UserError(f"{command[0]}: the process that starts tools has ended; see {log}")
        return int(answer)

    def close(self) -> None:
        """End the server, once the tool that it runs has ended."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait()
        finally:
            self._process.kill()  # at the second signal, as this process ends at once


def _start() -> subprocess.Popen[str]:
    # nothing is imported from the working directory, which comes first
    start = f"import sys; del sys.path[0]; from {own_module(__name__)} import serve; serve()"
    return subprocess.Popen(
        tethered([sys.executable, "-c", start], signal.SIGTERM),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search_path()},
    )


@contextlib.contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Make a server, and end it."""
    server = ForkServer()
    try:
        yield server
    finally:
        server.close()


def serve() -> None:
    """Fork for each line on standard input, a command and a log; print the status of each tool."""
    from core.settings.startup import load_paddle

    running: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        for process in running:
            os.kill(process, number)
        if not running:
            sys.exit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the tool itself
    signal.signal(signal.SIGTERM, end)
    load_paddle()
    tried: set[str] = set()
    with scratch() as folder:
        names = folder / "modules"
        while line := sys.stdin.readline():
            command, log = json.loads(line)
            names.write_text("")
            server = os.getpid()
            gc.freeze()  # or the first collection in a fork would copy all memory
            process = os.fork()
            if process == 0:
                _become(command, log, server, names)
            running.append(process)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            running.clear()
            sys.stdout.write(f"{status}\n")
            sys.stdout.flush()
            loaded = [each for each in names.read_text().split() if each not in tried]
            # before the next line comes: whoever asks has something to note meanwhile
            tried.update(loaded)
            _load(loaded)


def _become(command: Sequence[str], log: str, server: int, names: Path) -> NoReturn:
    """Be a tool, in a fork, and exit; write names of the modules that it has loaded."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != server:
        os._exit(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for source, target in ((nowhere, 0), (said, 1), (said, 2)):
        os.dup2(source, target)
    before = set(sys.modules)
    sys.argv = list(command)
    sys.path.insert(0, str(Path(command[0]).parent))
    status = 1
    try:
        runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        try:
            # a copy first: threads of the tool may still import
            names.write_text("\n".join(name for name in list(sys.modules) if name not in before))
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            # as forks of `multiprocessing` do, for taking all libraries apart takes longer than
            # most tools; whatever happens, this is not the server, whose folder it would remove
            os._exit(status)


def _load(names: Sequence[str]) -> None:
    """Import modules, if they can be imported under these names."""
    for name in names:
        if name not in sys.modules and name.partition(".")[0] not in _NOT_SHARED:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
