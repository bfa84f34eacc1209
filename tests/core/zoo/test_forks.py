"""Tools in forks of one process: each has a state, a log and a status of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.errors import UserError
from core.zoo.forks import ForkServer, fork_server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks exist on POSIX systems only")
SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as started:
        yield started


def ran(server: ForkServer, folder: Path, code: str, *arguments: str) -> tuple[int, str]:
    """Run a tool with some code; return its status and what it said."""
    folder.mkdir(exist_ok=True)
    (folder / "tool.py").write_text(code)
    log = folder / "tool.log"
    status = server.run([str(folder / "tool.py"), *arguments], log)
    return status, log.read_text()


def wait_for(file: Path) -> str:
    end = time.monotonic() + SECONDS
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < end, f"{file} was not written"
        time.sleep(0.02)
    return file.read_text()


def test_a_tool_has_its_arguments_and_its_own_log(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 'beside the tool'")
    code = (
        "import os, sys, beside\n"
        "assert __name__ == '__main__'\n"
        "print(sys.argv[1:], beside.VALUE, sys.stdin.read() == '')\n"
        "os.write(2, b'from C\\n')\n"
    )
    status, said = ran(server, tmp_path, code, "a b", "-c")
    assert status == 0
    assert sorted(said.splitlines()) == ["['a b', '-c'] beside the tool True", "from C"]
    assert Path(ran(server, tmp_path, "import os; print(os.getcwd())")[1].strip()) == Path.cwd()


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import sys; sys.exit(2)", 2, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('a word')", 1, ""),
        ("raise ValueError('a defect')", 1, "ValueError: a defect"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
    ],
)
def test_the_status_is_that_of_the_tool(
    code: str, status: int, said: str, server: ForkServer, tmp_path: Path
) -> None:
    found, log = ran(server, tmp_path, code)
    assert found == status
    assert said in log


def test_a_fork_that_cannot_note_its_modules_is_not_the_server(
    server: ForkServer, tmp_path: Path
) -> None:
    """It ends at once, and what the server needs for the next tool is still there."""
    code = (
        "import sys\n"
        "class Names(dict):\n"
        "    def __iter__(self): raise RuntimeError('changed')\n"
        "sys.modules = Names()\n"
    )
    for _ in range(2):
        assert ran(server, tmp_path, code)[0] == 0
    assert ran(server, tmp_path, "print('next')") == (0, "next\n")


def test_nothing_but_modules_is_left_for_the_next(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('cannot be loaded here')")
    code = (
        "import sys\n"
        "names = 'paddle', 'poplib', 'openvino', 'broken'\n"
        "known = [each for each in names if each in sys.modules]\n"
        "print(known, getattr(sys, 'mark', None), len(sys.argv))\n"
        "import openvino, poplib\n"
        "sys.mark = 'left'\n"
        "sys.modules['broken'] = poplib\n"
    )
    assert ran(server, tmp_path, code, "x") == (0, "['paddle'] None 2\n")
    assert ran(server, tmp_path, code) == (0, "['paddle', 'poplib'] None 1\n")


def test_modules_of_the_working_directory_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    with fork_server() as server:
        assert ran(server, tmp_path / "elsewhere", "import json; print(json.__name__)")[0] == 0


def test_a_server_that_has_ended_is_one_line(tmp_path: Path) -> None:
    with fork_server() as server:
        assert ran(server, tmp_path, "") == (0, "")
        assert server._process is not None
        server._process.kill()
        server._process.wait()
        tool, log = tmp_path / "tool.py", tmp_path / "log"
        with pytest.raises(UserError, match=rf"^{tool}: the process that starts tools has ended"):
            server.run([str(tool)], log)


def test_a_tool_ends_with_its_server(tmp_path: Path) -> None:
    code = "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
    pid = tmp_path / "pid"
    with fork_server() as server:

        def run() -> None:
            with pytest.raises(UserError):
                ran(server, tmp_path / "t", code + "time.sleep(600)", str(pid))

        thread = threading.Thread(target=run)
        thread.start()
        tool = psutil.Process(int(wait_for(pid)))
        assert server._process is not None
        server._process.kill()
        thread.join(SECONDS)
        assert not thread.is_alive()
    psutil.wait_procs([tool], timeout=SECONDS)
    assert not tool.is_running()


def test_a_tool_may_finish_when_its_starter_is_asked_to_end(tmp_path: Path) -> None:
    """As trainings do: they save, and end with a status of their own."""
    code = (
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "def end(number, frame):\n"
        "    (folder / 'ended').write_text(str(number))\n"
        "    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "(folder / 'begun').write_text('1')\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "tool.py").write_text(code)
    start = (
        "import sys, pathlib\n"
        "from core.settings.signals import raising\n"
        "from core.zoo.forks import fork_server\n"
        "with raising(), fork_server() as server:\n"
        "    server.run([sys.argv[1], sys.argv[2]], pathlib.Path(sys.argv[2]) / 'log')\n"
    )
    command = [sys.executable, "-c", start, str(tmp_path / "tool.py"), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(tmp_path / "begun")
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
    assert (tmp_path / "ended").read_text() == str(int(signal.SIGTERM))


def test_a_server_without_a_tool_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)  # may not even be called
    with fork_server():
        pass
