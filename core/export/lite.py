"""Paddle Lite's file `model.nb`, made of Paddle's files by its converter, `Opt`.

`paddlelite` has wheels for CPython 3.8 and 3.10 only and needs nothing else, so the converter runs
in whatever interpreter has it. It is always a process of its own: `Opt` prints on standard output
and aborts the whole process where it meets an operator that Paddle Lite does not know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from core.errors import ExportError
from core.settings.files import scratch
from core.settings.processes import last_words, lines_of, tethered

VARIABLE = "TRISLIM_LITE_PYTHON"
PACKAGE = "paddlelite==2.13rc0"
TARGETS = "arm"
LIMIT_SECONDS = 600.0
_INTERPRETERS = ("python3.10", "python3.8")  # versions with wheels of Paddle Lite
_IMPORT = "from paddlelite.lite import Opt\n"
_CONVERT = (
    _IMPORT
    + """\
import sys
model, params, targets, output = sys.argv[1:]
opt = Opt()
opt.set_model_file(model)
opt.set_param_file(params)
opt.set_valid_places(targets)
opt.set_model_type("naive_buffer")
opt.set_optimize_out(output)
opt.run()
"""
)
# the kernel of an operator of the file: kind, name, target, precision and layout
_KERNEL = re.compile(rb"([a-z0-9_]+)/[a-z0-9_]+/\d+/(\d+)/\d+")
_INT8 = b"2"


def convert(
    model: Path, params: Path, targets: str = TARGETS, seconds: float = LIMIT_SECONDS
) -> bytes:
    """Return the content of a `.nb` file.

    Args:
        model: Program of Paddle's old IR.
        params: Its weights.
        targets: As `Opt` calls them: arm, x86, opencl, several with spaces between.
        seconds: After which the converter is stopped.

    Raises:
        ExportError: No interpreter has paddlelite, or the model cannot be converted.
    """
    python = find_python()
    with scratch() as folder:
        stem = Path(folder, "model")
        files = [str(path.resolve()) for path in (model, params)]
        try:
            done = _run(python, seconds, _CONVERT, *files, targets, str(stem))
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"lite: the converter of {python} was not done after {seconds:g} s"
            ) from error
        made = stem.with_suffix(".nb")
        if done.returncode == 0 and made.is_file():
            return made.read_bytes()
    spoken = [line for line in lines_of(done) if line.startswith("Error")]
    reason = (spoken or lines_of(done) or [last_words(done)])[-1]
    raise ExportError(f"lite: the model cannot be converted for {targets}: {reason}")


def find_python() -> str:
    """Return an interpreter that can import paddlelite.

    That is the one that `TRISLIM_LITE_PYTHON` names, or else this one, or one on the path.

    Raises:
        ExportError: There is none; the message says how to make one.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if _has_converter(named):
            return named
        raise ExportError(f"{VARIABLE}: {named} cannot import paddlelite; {_advice(named)}")
    for python in (sys.executable, *filter(None, map(shutil.which, _INTERPRETERS))):
        if _has_converter(python):
            return python
    raise ExportError(
        f"format: lite needs {PACKAGE}, for CPython 3.8 or 3.10 only, and no interpreter has it; "
        f"run: python3.10 -m venv lite && lite/bin/python -m pip install {PACKAGE} && "
        f"export {VARIABLE}=$PWD/lite/bin/python"
    )


def int8_operators(content: bytes) -> Counter[str]:
    """Count the operators of a `.nb` file that compute in int8, by kind."""
    found = _KERNEL.findall(content)
    kinds = (kind.decode() for kind, precision in found if precision == _INT8)
    return Counter(kind for kind in kinds if not kind.startswith("calib"))


def _advice(python: str) -> str:
    return f"run: {python} -m pip install {PACKAGE} (CPython 3.8 or 3.10)"


def _has_converter(python: str) -> bool:
    try:
        return _run(python, LIMIT_SECONDS, _IMPORT).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(python: str, seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    # another interpreter must not see the libraries that were set up for this one
    mine = ("PYTHONPATH", "PYTHONHOME")
    variables = {name: value for name, value in os.environ.items() if name not in mine}
    with scratch() as nowhere:  # -c imports from where it stands
        return subprocess.run(
            tethered([shutil.which(python) or python, "-c", *arguments]),
            env=variables,
            cwd=nowhere,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
