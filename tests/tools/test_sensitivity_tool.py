"""`tools/sensitivity.py` as a user calls it: JSON, table, picture, groups, wrong calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


PLUGIN = ("--plugin", "outside.toy")


def call(*words: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "tests" / "plugins"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    config = ROOT / "tests" / "plugins" / "outside" / "toy" / "demo.yml"
    done = call(
        *("tools/train.py", "-c", config, "-o", f"data.root={folder / 'data'}"),
        *("-o", "train.epochs=1", "-o", "model.width=8", "--save_dir", folder / "run"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "run" / "best_model"


@pytest.mark.chain
def test_it_measures_draws_and_reuses(weights: Path, tmp_path: Path) -> None:
    words = ("tools/sensitivity.py", *PLUGIN, "--weights", weights, "--save_dir", tmp_path)
    done = call(*words, "--delta_rate", 0.25)
    assert done.returncode == 0, done.stderr
    assert "-25%" in done.stdout
    assert "conv" in done.stdout
    [measured] = json.loads((tmp_path / "sensitivities.json").read_text())["measurements"]
    assert measured["metric"] == "mae"
    assert measured["curves"]["conv"]["ratios"] == [0.25, 0.5, 0.75]
    assert cv2.imread(str(tmp_path / "sensitivity.png")).shape[2] == 3
    again = call(*words, "--delta_rate", 0.25)
    assert "1 of them measured before" in again.stderr
    # a recipe finds them too, whatever it rounds to
    step = {"kind": "prune", "target_ratio": 0.5, "allocation": "sensitive", "delta_rate": 0.25}
    step |= {"sensitivities_file": str(tmp_path / "sensitivities.json"), "round_to": 4}
    (tmp_path / "recipe.yml").write_text(json.dumps({"strategies": [step]}))
    done = call(
        *("tools/train.py", "-c", weights.parent / "config.yml", "--save_dir", tmp_path / "run"),
        *("-o", f"model.pretrained={weights}", "--slim", tmp_path / "recipe.yml"),
    )
    assert done.returncode == 0, done.stderr
    assert "sensitivity of 1 groups, 1 of them measured before" in done.stderr


@pytest.mark.chain
def test_it_lists_groups_and_what_stays(weights: Path) -> None:
    done = call("tools/sensitivity.py", *PLUGIN, "--weights", weights, "--print_groups")
    assert done.returncode == 0, done.stderr
    assert "channels that can be cut" in done.stdout
    assert "channels that stay" in done.stdout
    assert "head" in done.stdout


@pytest.mark.chain
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--params", "covn*"], "error: --params: 'covn*' matches no weight"),
        (["--delta_rate", "0"], "expected a number above 0"),
        (["--delta_rate", "1"], "expected a number above 0 and below 1"),
        (["--criterion", "l1"], "invalid choice: 'l1'"),
    ],
)
def test_wrong_calls(weights: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = call(
        *("tools/sensitivity.py", *PLUGIN, "--weights", weights, "--save_dir", tmp_path, *options)
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.chain
def test_a_broken_file_and_a_folder_that_cannot_be_written(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "sensitivities.json").write_text("{")
    words = ("tools/sensitivity.py", *PLUGIN, "--weights", weights, "--save_dir")
    done = call(*words, tmp_path)
    assert done.returncode == 2
    assert "sensitivities.json: not a file of sensitivities" in done.stderr
    curve = '{"a": {"ratios": [0.5], "losses": [NaN]}}'
    entry = f'{{"fingerprint": "f", "metric": "m", "baseline": 1, "curves": {curve}}}'
    (tmp_path / "sensitivities.json").write_text(f'{{"format": 1, "measurements": [{entry}]}}')
    done = call(*words, tmp_path)
    assert done.returncode == 2
    assert "losses: expected a number for each ratio, got [nan]" in done.stderr
    entry = '{"fingerprint": "f", "metric": "m", "baseline": NaN, "curves": {}}'
    (tmp_path / "sensitivities.json").write_text(f'{{"format": 1, "measurements": [{entry}]}}')
    done = call(*words, tmp_path)
    assert done.returncode == 2
    assert "baseline: expected a number, got nan" in done.stderr
    done = call(*words, "/proc/nowhere")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


@pytest.mark.chain
def test_rounding_of_each_layer(call_tool: Any, weights: Path, tmp_path: Path) -> None:
    words = (
        *PLUGIN,
        "--quant",
        "--weights",
        weights,
        "--save_dir",
        tmp_path / "s",
        "--batch_size",
        2,
    )
    status, said = call_tool("sensitivity.py", *words, "--num_calib", 8, "--target", "paddle")
    assert status == 0, said
    assert re.search(r"mae: 0\.\d{4} in float, 0\.\d{4} quantized", said)
    [measured] = json.loads((tmp_path / "s" / "quant_sensitivities.json").read_text())[
        "measurements"
    ]
    assert measured["layers"].keys() == {"conv", "head"}
    for path, cost in measured["layers"].items():
        assert f"│ {path} " in said
        assert f"{cost['error']:.2e}" in said
    assert cv2.imread(str(tmp_path / "s" / "quant_sensitivities.png")).shape[2] == 3
    status, said = call_tool("sensitivity.py", *words, "--num_calib", 8, "--target", "paddle")
    assert "sensitivity of 2 layers, 2 of them measured before" in said


@pytest.mark.chain
def test_what_int8_makes_faster(call_tool: Any, weights: Path, tmp_path: Path) -> None:
    words = (*PLUGIN, "--quant", "--weights", weights, "--save_dir", tmp_path, "--speed_control")
    status, said = call_tool("sensitivity.py", *words, "--params", "head")
    assert status == 0, said
    assert re.search(r"openvino: \d+\.\d\d ms in float", said)
    [line] = [line for line in said.splitlines() if line.startswith("never_quantize: ")]
    assert set(yaml.safe_load(line)["never_quantize"]) <= {"conv", "head"}


@pytest.mark.chain
def test_quantized_weights_are_calibrated_already(
    call_tool: Any, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "qat.yml").write_text("strategies: [{kind: qat}]")
    given = ("-o", f"model.pretrained={weights}", "--slim", tmp_path / "qat.yml")
    run = (*PLUGIN, "-c", weights.parent / "config.yml", "--save_dir", tmp_path / "q", *given)
    status, said = call_tool("train.py", *run)
    assert status == 0, said
    words = (
        *PLUGIN,
        "--quant",
        "--weights",
        tmp_path / "q" / "best_model",
        "--save_dir",
        tmp_path / "s",
    )
    status, said = call_tool("sensitivity.py", *words, "--num_calib", 8)
    assert status == 2
    assert "--num_calib: these weights are quantized already" in said
    status, said = call_tool("sensitivity.py", *words)
    assert status == 0, said
    assert "sensitivity of 2 layers" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quant", "--delta_rate", "0.1"], "unrecognized arguments: --delta_rate"),
        (["--observer", "mse"], "unrecognized arguments: --observer"),
        (["--quant", "--observer", "mes"], "did you mean 'mse'?"),
        (["--quant", "--target", "tensort"], "did you mean 'tensorrt'?"),
        (["--quant", "--target", "tensorrt", "--speed_control"], "tensorrt cannot be measured"),
        (["--quant", "--params", "haed"], "params: 'haed' matches nothing"),
        (["--print_groups", "--params", "x"], "--params: has no effect on --print_groups"),
        (["--print_groups", "--delta_rate", "0.1"], "--delta_rate: has no effect on --print_g"),
    ],
)
def test_wrong_calls_of_rounding(
    call_tool: Any, weights: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    given = (*PLUGIN, "--weights", weights, "--save_dir", tmp_path / "s", *options)
    status, said = call_tool("sensitivity.py", *given)
    assert (status, message in said) == (2, True), said
    assert not (tmp_path / "s").exists()
