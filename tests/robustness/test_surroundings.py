"""What a tool is started in: no home, closed streams, a reader that has gone, another locale."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import files
from core.settings.files import appearing, drafting, replacing, scratch, write_text
from tests.robustness.conftest import ROOT

HEAD = "import os, sys\nfrom pathlib import Path\nfrom core import cli\n"


def run(
    code: str, cwd: Path, shell: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, started by a shell that redirects its streams."""
    (cwd / "tool.py").write_text(HEAD + code)
    return subprocess.run(
        ["bash", "-c", f'"$0" tool.py {shell}; exit ${{PIPESTATUS[0]}}', sys.executable],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("home", ["file", "missing"])
def test_a_home_that_cannot_be_written(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / home if home == "missing" else tmp_path / "file"
    code = (
        "from core.settings.startup import load_paddle\n"
        "def main():\n    load_paddle()\n    print(os.path.expanduser('~'), Path.home().is_dir())\n"
        "cli.run(main)\n"
    )
    (tmp_path / "tmp").mkdir()
    done = run(code, tmp_path, HOME=str(place), TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/tmp/")
    assert done.stdout.endswith(" True\n")
    assert f"HOME: {place} cannot be written" in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []  # it goes with the process
    with scratch():
        pass


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_files_do_not_take_the_place_of_closed_streams(tmp_path: Path, closed: str) -> None:
    code = (
        "import logging\n"
        "def main():\n"
        "    with open('opened', 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        print('out')\n        logging.warning('log')\n"
        "        for number in (1, 2):\n            os.write(number, b'from C++')\n"
        "    Path('done').touch()\n"
        "cli.run(main)\n"
    )
    done = run(code, tmp_path, closed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert (tmp_path / "opened").read_text() == ""
    assert ("out" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize("lines", [1, 100_000])
def test_nothing_is_said_where_nobody_reads(tmp_path: Path, lines: int) -> None:
    code = (
        "import time\n"
        "def main():\n"
        "    time.sleep(0.5)\n"  # until the reader has ended
        f"    for n in range({lines}):\n        print(n)\n"
        "cli.run(main)\n"
    )
    done = run(code, tmp_path, "| true")
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


def test_a_pipe_to_another_process_that_breaks_is_a_defect_of_ours(tmp_path: Path) -> None:
    code = "def main():\n    raise BrokenPipeError(32, 'Broken pipe')\ncli.run(main)\n"
    assert "Traceback" in run(code, tmp_path).stderr


def test_an_output_that_is_full(tmp_path: Path) -> None:
    code = "cli.run(lambda: print('x'))\n"
    done = run(code, tmp_path, ">/dev/full")
    said = "error: a file or the output: cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)
    # what is told in between, inside of code that blames its own files
    code = "cli.run(lambda: [cli.tell('x' * 3000) for _ in range(9)])\n"
    done = run(code, tmp_path, ">/dev/full")
    said = "error: standard output: cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("variables", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_names_that_are_no_text_are_printed(tmp_path: Path, variables: dict[str, str]) -> None:
    code = (
        "import logging\n"
        "from core.training.hooks import LogFile\n"
        "class Engine:\n    save_dir = Path('.')\n"
        "def main():\n"
        "    hook = LogFile()\n    hook.before_training(Engine)\n"
        r"    logging.info('see %s', 'b\udcff\u732b')" + "\n"
        "    hook.after_training(Engine)\n"
        r"    print('p\udcff')" + "\n"
        "cli.run(main)\n"
    )
    done = run(code, tmp_path, PYTHONUTF8="0", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "p\\udcff\n"
    assert "Logging error" not in done.stderr
    assert "see b\\udcff猫" in (tmp_path / "train.log").read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("known", [True, False])  # what /proc tells
def test_what_is_written_has_the_permissions_that_the_user_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if not known:
        monkeypatch.setattr(files, "_mask_of_process", lambda: None)

    def modes() -> list[int]:
        return [stat.S_IMODE(each.stat().st_mode) for each in sorted(tmp_path.iterdir())]

    def write() -> None:
        write_text(tmp_path / "a", "x")
        for number, make in enumerate((replacing, appearing)):
            with make(tmp_path / f"b{number}") as folder:
                (folder / "file").touch()
        with drafting(tmp_path / "c") as draft:
            draft.touch()

    before = os.umask(0o027)
    try:
        write()
        assert modes() == [0o640, 0o750, 0o750, 0o640]
        os.umask(0o002)
        write()
        assert modes()[:2] == [0o640, 0o750]  # which were there before
        for each in tmp_path.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        write()
        assert modes() == [0o664, 0o775, 0o775, 0o664]
        assert os.umask(before) == 0o002
    finally:
        os.umask(before)
