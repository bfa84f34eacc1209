"""Steps run once, in order; failures say why; interrupted trainings are resumed."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import FileError, UserError
from core.settings.config import read
from core.zoo import reproduction
from core.zoo.changes import Changes, LayerChange
from core.zoo.reproduction import ZooResult, collect, run_steps
from core.zoo.step_cache import StepCache
from core.zoo.steps import ZooPlaces, ZooStep, float_home
from tests.core.zoo.conftest import Plan, make_row

TOOL = """
import json, pathlib, sys
words = sys.argv[1:]
log = pathlib.Path(__file__).with_name("calls.txt")
with open(log, "a") as file:
    file.write(" ".join([pathlib.Path(__file__).name, *words]) + chr(10))
if "fail" in words:
    print("error: the reason")
    sys.exit(2)
if "--save" in words:
    out = pathlib.Path(words[words.index("--save") + 1])
    rows = []
    if "--backend" not in words:
        for folder in words[1:words.index("--save")]:
            for backend in ("paddle", "onnxruntime", "openvino"):
                rows.append({"model": folder, "backend": backend, "mean_ms": 2.0, "size_mb": 1.0,
                             "speedup": 0.5, "times_ms": [2.0], "threads": 1})
    out.write_text(json.dumps({"top1": 0.5, "rows": rows, "environment": {"cpu": "x"}}
                              if rows else {"top1": 0.5}))
else:
    out = pathlib.Path(words[words.index("--save_dir") + 1])
    (out / "latest").mkdir(parents=True, exist_ok=True)
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("train", "export_model", "qat_export", "eval", "benchmark"):
        (folder / f"{name}.py").write_text(TOOL)
    return folder


def calls(tools: Path) -> list[str]:
    file = tools / "calls.txt"
    return file.read_text().splitlines() if file.exists() else []


def run(steps: list[ZooStep], places: ZooPlaces, tools: Path) -> list[str]:
    told: list[str] = []
    locks = {step.home: threading.Lock() for step in steps}
    run_steps(steps, StepCache(places, "code"), locks, tools, told.append)
    return told


def test_a_row_runs_once_and_its_figures_are_kept(
    plan: Plan, places: ZooPlaces, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = (LayerChange("conv", "Conv", 8, 6, True), LayerChange("new", "Gemm", None, 4, False))
    changes = Changes(({"kind": "prune", "target_ratio": 0.5},), (9, None), (1, 2), layers)
    asked: list[Path] = []

    def read_changes(*folders: Path) -> Changes:
        asked.extend(folders)
        return changes

    monkeypatch.setattr(reproduction, "read_changes", read_changes)
    row = make_row()
    steps = plan(row)
    run(steps, places, tools)
    assert len(calls(tools)) == len(steps) == 11
    assert run(steps, places, tools) == [f"{step.name}: done before" for step in steps]
    assert len(calls(tools)) == 11
    result = collect("demo", row, "small", steps, StepCache(places, "code"), places)
    assert asked == [
        places.row / "compressed",
        float_home(row, row.scales["small"], places) / "float_exported",
        places.row / "compressed_exported",
    ]
    assert result.pictures["compressed"] == str(places.row / "compressed_predictions.png")
    assert f"--pictures {result.pictures['compressed']}" in "\n".join(calls(tools))
    assert result.metric("compressed", "openvino") == 0.5
    assert result.metric("compressed", "lite") is None
    measured = result.measured("float", "paddle")
    assert measured is not None
    assert measured["mean_ms"] == 2.0
    assert result.commands["benchmark"].startswith("python tools/benchmark.py --model_dir ")
    assert read(ZooResult, json.loads((places.row / "result.json").read_text())) == result
    assert result.threads() == [1]
    assert result.measured("float", "paddle", threads=2) is None
    files = result.files()
    assert [file.name for file in files] == [
        f"demo, compressed in {each}" for each in ("paddle", "onnxruntime", "openvino")
    ]
    assert {(file.size_mb, file.latency_ms, file.drop) for file in files} == {(1.0, 2.0, 0.0)}


def test_what_no_step_has_made_stays(plan: Plan, places: ZooPlaces, tools: Path) -> None:
    steps = plan(make_row())
    own = steps[0].output / "of a user.txt"
    own.parent.mkdir(parents=True)
    own.write_text("precious")
    with pytest.raises(FileError, match=r"was not written by this step; move it, or name"):
        run(steps, places, tools)
    assert own.read_text() == "precious"
    assert calls(tools) == []


def test_figures_of_a_folder_that_was_moved(
    plan: Plan, places: ZooPlaces, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "read_changes", lambda *_: None)
    row = make_row()
    steps = plan(row)
    run(steps, places, tools)
    benchmark = places.row / "benchmark.json"
    text = benchmark.read_text()
    benchmark.write_text(text.replace(str(places.row), "/an/old/place"))
    result = collect("demo", row, "small", steps, StepCache(places, "code"), places)
    assert {each["model"] for each in result.benchmark} == {"float", "compressed"}
    for spoilt in ("{}", "[]", text.replace("compressed_exported", "other")):
        benchmark.write_text(spoilt)
        with pytest.raises(FileError, match=r"benchmark\.json: is not what benchmark writes"):
            collect("demo", row, "small", steps, StepCache(places, "code"), places)


def test_a_failure_has_the_end_of_the_log_and_is_run_again(
    plan: Plan, places: ZooPlaces, tools: Path
) -> None:
    steps = plan(make_row(slim_overrides=("fail",)))
    with pytest.raises(UserError) as error:
        run(steps, places, tools)
    log = places.row / "logs" / "train_compressed.log"
    assert str(error.value) == (
        f"train compressed: ended with status 2: error: the reason (log: {log})"
    )
    before = len(calls(tools))
    with pytest.raises(UserError):
        run(steps, places, tools)
    assert len(calls(tools)) == before + 1


def test_an_interrupted_training_is_resumed_and_another_one_removed(
    plan: Plan, places: ZooPlaces, tools: Path
) -> None:
    steps = plan(make_row(()))
    cache = StepCache(places, "code")
    cache.note(steps[0], None)
    (steps[0].output / "latest").mkdir(parents=True)
    run(steps, places, tools)
    assert calls(tools)[0].endswith(" --resume")
    (steps[0].output / "old").mkdir()
    changed = plan(make_row((), float_overrides=("a=1",)))
    assert changed[0].output != steps[0].output  # of another training
    locks = {step.home: threading.Lock() for step in steps}
    other = StepCache(places, "other code")
    with pytest.raises(FileError, match=r": holds a training from before code, .* --overwrite"):
        run_steps(steps, other, locks, tools, lambda text: None)
    assert (steps[0].output / "old").exists()
    run_steps(steps, other, locks, tools, lambda text: None, overwrite=True)
    assert not calls(tools)[len(steps)].endswith(" --resume")
    assert not (steps[0].output / "old").exists()


def test_rows_at_the_same_time_train_a_float_model_once(
    plan: Plan, places: ZooPlaces, tools: Path
) -> None:
    steps = plan(make_row(()))
    locks = {step.home: threading.Lock() for step in steps}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            cache = StepCache(places, "code")
            pool.submit(run_steps, steps, cache, locks, tools, lambda text: None)
    assert len([call for call in calls(tools) if call.startswith("train.py")]) == 1


def test_trainings_alone_are_launched(
    plan: Plan, places: ZooPlaces, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def note(command: list[str], log: object) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(reproduction, "run_beside", note)
    steps = plan(make_row(()))
    locks = {step.home: threading.Lock() for step in steps}
    tell, launch = (lambda text: None), ["--gpus", "0,1"]
    run_steps(steps, StepCache(places, "code"), locks, tools, tell, launch)
    launched = ["-m", "paddle.distributed.launch", "--gpus", "0,1", str(tools / "train.py")]
    assert commands[0][1:6] == launched
    assert all("-m" not in command for command in commands[1:])
