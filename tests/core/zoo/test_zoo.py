"""The zoo as a whole: rows that cannot run do not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from core.errors import UserError
from core.zoo import zoo as module
from core.zoo.rows import PUBLISHED
from core.zoo.zoo import Zoo
from tests.core.zoo.conftest import ROOT, make_row


def shown(zoo: Zoo) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(zoo.table())
    return captured.get()


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    rows = {
        "good": make_row(()),
        "bad": make_row((), data={"{data}/flowers": "class folders"}),
        "far": make_row((), weights=PUBLISHED),
    }
    return Zoo(rows, "small", tmp_path / "data", tmp_path / "zoo")


def test_the_table_says_what_is_done_and_fetches_nothing(zoo: Zoo) -> None:
    text = shown(zoo)
    assert "0 of 6 steps" in text
    assert "flowers: is missing; put there: class folders" in text
    assert "can run; its published weights are fetched then" in text


def test_names_of_rows_can_be_copied_from_a_narrow_table(tmp_path: Path) -> None:
    name = "lite_hrnet_30_distill_qat_pact"
    console = Console(width=60)
    with console.capture() as captured:
        console.print(Zoo({name: make_row(())}, "small", tmp_path, tmp_path).table())
    assert name in captured.get()


def test_a_scale_that_a_row_has_not(tmp_path: Path) -> None:
    zoo = Zoo({"good": make_row(())}, "full", tmp_path, tmp_path)
    with pytest.raises(UserError, match="has no scale full; it has small"):
        zoo.plan("good")


def test_two_processes_do_not_reproduce_into_one_folder(zoo: Zoo) -> None:
    code = (
        "import sys; from pathlib import Path; from core.zoo.zoo import Zoo\n"
        "with Zoo({}, 'small', Path(), Path(sys.argv[1])).held(): print('held')"
    )
    command = [sys.executable, "-c", code, str(zoo.folder.parent)]
    with zoo.held():
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert f"FileError: {zoo.folder}: in use by process" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "held\n", done.stderr


def test_other_rows_go_on(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def locate(task: object, wanted: bool) -> Path:
        raise UserError("cannot be fetched")

    def run_steps(steps: object, *rest: object) -> None:
        raise UserError("train float: ended with status 2")

    monkeypatch.setattr(module, "locate", locate)
    monkeypatch.setattr(module, "run_steps", run_steps)
    results, failures = zoo.reproduce(2, (), lambda name, text: told.append(f"{name}: {text}"))
    assert results == []
    assert failures["far"] == "cannot be fetched"
    assert failures["good"] == "train float: ended with status 2"
    assert failures["bad"].endswith("flowers: is missing; put there: class folders")
    assert sorted(told) == sorted(f"{name}: {text}" for name, text in failures.items())


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("scale", ["small", "smoke"])  # in a new process, in a fork
def test_a_step_ends_when_its_reproduction_is_asked_to(scale: str, tmp_path: Path) -> None:
    """It may finish what it is at, as trainings do; no other step follows."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").write_text(
        "import pathlib, signal, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def end(number, frame):\n"
        "    (folder / 'ended').write_text(str(number))\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "(folder / 'begun').write_text('1')\n"
        "time.sleep(600)\n"
    )
    start = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from core.settings.signals import raising\n"
        "from core.zoo import zoo\n"
        "from tests.core.zoo.conftest import make_row\n"
        "place, scale = Path(sys.argv[1]), sys.argv[2]\n"
        "zoo.TOP = place\n"
        "row = make_row(())\n"
        "rows = {'row': replace(row, scales={scale: row.scales['small']})}\n"
        "def tell(name, text):\n"
        "    with open(place / 'told', 'a') as file:\n"
        "        print(text, file=file)\n"
        "with raising():\n"
        "    zoo.Zoo(rows, scale, place, place / 'zoo').reproduce(1, (), tell)\n"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(tmp_path), scale],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
        assert (tmp_path / "ended").read_text() == str(int(signal.SIGTERM))
        told = (tmp_path / "told").read_text().splitlines()
        assert [line.partition(" ")[0] for line in told] == ["train"]  # no word of a failure
    finally:
        process.kill()
        process.wait()
