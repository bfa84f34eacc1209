"""Signals that ask to end, raised in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.settings.loading import TOOLS
from core.settings.signals import WORDS, Terminated, number_of, renew
from tests.alone import run_alone


def test_signals_in_a_process_of_their_own() -> None:
    run_alone("tests/core/settings/signals_alone.py")


def test_a_signal_is_told_by_its_number_in_every_python() -> None:
    assert str(Terminated(signal.SIGTERM)) == "15"


def test_paddle_may_be_loaded_in_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(renew).result()  # handlers of signals are the main thread's


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("(External) KeyboardInterrupt: \n\nAt:\n  a.py(1): backward\n", signal.SIGINT),
        ("(External) Terminated: 15\n\nAt:\n  a.py(1): backward\n", signal.SIGTERM),
        # Paddle 3.3
        (
            "(External) \n{\n    ==== Error message in backward of GradNodePyLayer_X(0x1)====\n"
            "    KeyboardInterrupt: <EMPTY MESSAGE>\n    \n    At:\n}",
            signal.SIGINT,
        ),
        (
            "(External) \n{\n    ==== Error message in backward of X(0x1)====\n    Terminated: 1\n",
            1,
        ),
        ("(External) ValueError: KeyboardInterrupt\n", None),
        ("(External) \n{\n    ==== Error ====\n    ValueError: Terminated: 15\n", None),
    ],
)
def test_what_paddle_makes_of_a_signal_in_a_backward_pass(text: str, number: int | None) -> None:
    assert number_of(OSError(text)) == number
    assert number_of(ValueError(text)) is None


ENDS_ITSELF = "import os, signal, sys; sys.argv[0] = {command!r}; import core.settings.startup; \
os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)"


@pytest.mark.parametrize("command", [str(TOOLS / "train.py"), "trislim train"])
def test_ctrl_c_while_a_tool_is_loading_ends_it_without_a_word(command: str) -> None:
    ended = _end_itself(command)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_programs_that_import_us_keep_their_ctrl_c() -> None:
    assert _end_itself("own.py").stderr.endswith("KeyboardInterrupt\n")


def _end_itself(command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", ENDS_ITSELF.format(command=command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


LOADS_C_CODE = """
import os, signal, sys, time
from core import cli
from core.settings import signals

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("numpy._core"):  # asked for by C code of scipy
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
            time.sleep({seconds})
            print("waited", flush=True)

def main():
    import numpy
    sys.meta_path.insert(0, Finder())
    from scipy.integrate import _lsoda
    time.sleep(10)

signals._MOST_SECONDS = 1.0
cli.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_while_c_code_is_loaded(number: int) -> None:
    """NumPy's C code prints an error that it meets in Python, and makes an ImportError of it."""
    done = _load_c_code(number, 0.1)
    assert (done.returncode, done.stdout) == (128 + number, "waited\n")
    assert done.stderr == f"{WORDS[number]}\n"


def test_a_signal_does_not_wait_for_ever() -> None:
    done = _load_c_code(signal.SIGTERM, 30.0)
    assert done.returncode in (1, 128 + signal.SIGTERM)  # as the library makes of it
    assert done.stdout == ""


def _load_c_code(number: int, seconds: float) -> subprocess.CompletedProcess[str]:
    code = LOADS_C_CODE.format(number=int(number), seconds=seconds)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=TOOLS.parent
    )
