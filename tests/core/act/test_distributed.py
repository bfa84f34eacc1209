"""Several processes train an exported model as one does with the same global batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from core.export.package import export
from core.runtimes.predictor import load_predictor
from core.task import build_task
from tests.core.training.test_distributed import ROOT, launch

# each process has an image whose activations are the largest, so that grids are the same everywhere
SCRIPT = """
import json, sys
import numpy as np
from core.training.distributed import initialize
from core.act.auto_compression import AutoCompression
from core.act.config import OP_TYPES, read_act
from core.act.session import open_session
from core.act.source import open_source
from core.act.training import Training

rank, world = initialize()
rng = np.random.default_rng(0)
largest = 4 * rng.random((1, 3, 8, 8))
batches = []
for _ in range(5):
    whole = np.concatenate([largest, largest, rng.random((2, 3, 8, 8))]).astype("float32")
    batches.append({"image": whole[rank::world]})
optimizer = {"optimizer": {"type": "Momentum"}}
config = {
    "Global": {"model_dir": "float", "calibration_batches": 2},
    "Distillation": {"loss": "l2"},
    "QuantAware": {},
    "TrainConfig": {"train_iter": 8, "eval_iter": 4, "learning_rate": 0.05,
                    "optimizer_builder": optimizer},
}
source = open_source("float")
places = source.choose(OP_TYPES, (), True, "never_quantize")
with open_session(source, places) as session:
    run = Training(session, read_act(config), [("l2", 1.0, ("level",))], None)
    run.calibrate(batches)
    for name, tensor in run._weights.items():  # a student that is off
        tensor.set_value(tensor * 1.5)
    session.child.call("load_weights", run._arrays())
    for _ in run.steps(batches, 8):
        pass
    state = run.state()
np.savez(f"state_{world}_{rank}.npz", rate=run.rate, **state.weights, **{
    f"scale of {name}": value for name, value in state.scales.items()
})
measured = []
def metric(run):
    measured.append(rank)
    return 0.5 - len(measured) / 100
made = AutoCompression(
    "float", batches, save_dir=f"int8_{world}", config=config, eval_callback=metric
).compress()
with open(f"rows_{world}_{rank}.json", "w") as file:
    json.dump({"measured": measured, "rows": [row.metric for row in made.rows],
               "files": made.exported is not None, "best": made.best_step}, file)
"""


def test_two_processes_train_an_exported_model(tmp_path: Path) -> None:
    paddle.seed(0)
    settings = {"data": {"root": str(tmp_path / "data")}, "model": {"width": 8}}
    task = build_task("outside.toy", settings)
    export(task, task.build_model(), tmp_path / "float")
    (tmp_path / "both.py").write_text(SCRIPT)
    alone = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'plugins'}", "PATH": ""}
    command = [sys.executable, "both.py"]
    subprocess.run(command, cwd=tmp_path, env=alone, check=True, capture_output=True, timeout=240)
    launch([str(tmp_path / "both.py")], tmp_path)
    one, first, second = (read(tmp_path / f"state_{name}.npz") for name in ("1_0", "2_0", "2_1"))
    assert any(name.startswith("scale of") for name in one)
    for name, value in one.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    rows = {name: read_rows(tmp_path / f"rows_{name}.json") for name in ("2_0", "2_1")}
    assert rows["2_1"]["measured"] == []
    assert not rows["2_1"]["files"]
    assert rows["2_0"]["files"]
    assert rows["2_1"]["rows"] == rows["2_0"]["rows"][:3] == [0.49, 0.48, 0.48]
    assert rows["2_1"]["best"] == rows["2_0"]["best"] == 0
    answers = [
        load_predictor(tmp_path / f"int8_{world}").run(np.ones((1, 3, 8, 8), np.float32))["level"]
        for world in (1, 2)
    ]
    np.testing.assert_allclose(*answers, rtol=1e-4)


def read(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


def read_rows(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
