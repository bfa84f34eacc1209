"""Training of exported models: what is learned, what is written, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.act.auto_compression import AutoCompression
from core.act.config import StaticPtqConfig
from core.act.files import FileLayout
from core.act.session import open_session
from core.act.source import open_source
from core.act.trained import TRAINED
from core.errors import ConfigError, DataError, ExportError, RejectedError, TrainingError
from core.settings.config import read
from core.targets.names import DEFAULT_TARGET
from core.workflows.comparison_table import MeasuredMetric
from tests.core.act.conftest import images, places

CONFIG: dict[str, Any] = {
    "Global": {"model_dir": "given below", "calibration_batches": 2},
    "Distillation": {"loss": "l2"},
    "QuantAware": {},
    "TrainConfig": {
        "train_iter": 6,
        "eval_iter": 3,
        "logging_iter": 1,
        "learning_rate": 0.05,
        "optimizer_builder": {"optimizer": {"type": "Momentum"}},
    },
}


def batches(scale: float = 1.0) -> list[dict[str, np.ndarray]]:
    return [{"image": batch} for (batch,) in images(3, scale=scale)]


def test_training_under_itself(
    exported: Path, tmp_path: Path, unchanged: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    # float, before, twice during, the file, PaddleSlim's model on the grids of the file
    metrics = iter([0.5, 0.4, 0.45, 0.48, 0.48, 0.47])
    made = AutoCompression(
        *(exported, batches()),
        save_dir=tmp_path / "int8",
        config=CONFIG,
        eval_callback=lambda run: next(metrics),
    ).compress()
    assert [row.metric for row in made.rows] == [0.5, 0.4, 0.48, 0.48]
    assert made.best_step == 6
    for text in ("step 1/6 distill_l2(level) ", "step 3: metric 0.4500, best 0.4500 after step 3"):
        assert text in caplog.text
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert (tmp_path / "int8" / "model.pdmodel").is_file()
    assert all(each.relative < each.effect / 10 for each in made.exported.differences)


def test_files_that_are_refused_are_kept_with_the_training(exported: Path, tmp_path: Path) -> None:
    settings = {**CONFIG, "TrainConfig": {**CONFIG["TrainConfig"], "train_iter": 1}}
    metrics = iter([0.5, 0.4, 0.45, 0.3, 0.45])  # the file is worse than its model
    act = AutoCompression(
        *(exported, batches()),
        save_dir=tmp_path / "int8",
        config=settings,
        eval_callback=lambda run: next(metrics),
        metric=MeasuredMetric(images=1000),
    )
    with pytest.raises(RejectedError, match=r"^int8, paddle: metric of the file is 0\.3000, of"):
        act.compress()
    assert not (tmp_path / "int8").exists()
    assert (tmp_path / "int8.rejected" / "model.pdmodel").is_file()
    before = open_source(exported).graph.weights
    after = open_source(tmp_path / "int8.rejected" / TRAINED).graph.weights
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_the_float_model_itself_is_never_replaced(exported: Path) -> None:
    for overwrite, message in ((False, "holds an earlier export"), (True, "holds the float model")):
        with pytest.raises((ConfigError, ExportError), match=message):
            AutoCompression(
                exported, batches(), save_dir=exported, config=CONFIG, overwrite=overwrite
            )


def test_training_with_one_grid_for_a_weight(exported: Path, tmp_path: Path) -> None:
    config = {**CONFIG, "QuantAware": {"weight_quantize_type": "abs_max"}}
    made = AutoCompression(exported, batches(), save_dir=tmp_path / "int8", config=config)
    exported_to = made.compress().exported
    assert all(each.relative < each.effect / 10 for each in exported_to.differences)


def test_training_moves_the_student_towards_the_teacher(exported: Path) -> None:
    from core.act.config import read_act
    from core.act.training import Training

    source, data = open_source(exported), batches()
    source.graph.rename(places(source)[1].tensor, "tmp_0")  # as Paddle calls what is new
    groups = [("l2", 1.0, ("level",))]
    with open_session(source, places(source)) as session:
        run = Training(session, read_act(CONFIG), groups, None)
        run.calibrate(data)
        teacher = session.run_float(data[0]["image"])["level"]
        start = {name: tensor.numpy() for name, tensor in run._weights.items()}
        # the gradient is that of the function: compare with a difference along it
        feeds, nodes, names = {"image": data[0]["image"]}, ["level"], list(start)
        session.child.call("observe", feeds, nodes)
        ones = {"level": np.ones_like(teacher)}
        slopes = session.child.call("gradients", feeds, ones, names)
        shifted = {**start, "head.bias": start["head.bias"] + 0.25}
        first = session.run(data[0]["image"])["level"].sum()
        session.child.call("load_weights", shifted)
        found = (session.run(data[0]["image"])["level"].sum() - first) / 0.25
        assert float(slopes["head.bias"].sum()) == pytest.approx(float(found), rel=1e-3)
        for name, tensor in run._weights.items():  # a student that is off
            tensor.set_value(start[name] * 1.5)
        session.child.call("load_weights", run._arrays())
        terms = [sum(each.values()) for each in run.steps(data, 30)]
        assert min(terms[-3:]) < 0.1 * terms[0]
        np.testing.assert_array_equal(session.run_float(data[0]["image"])["level"], teacher)
        good = run.state()
        run._weights["head.weight"].set_value(start["head.weight"] * float("nan"))
        session.child.call("load_weights", run._arrays())
        with pytest.raises(TrainingError, match=r"distill_l2\(level\): is nan in step 31"):
            next(run.steps(data, 40))
        model = run.restore(good)
        assert np.isfinite(model.session.run(data[0]["image"])["level"]).all()


def test_pact_learns_where_tensors_are_clipped(exported: Path) -> None:
    from core.act.config import read_act
    from core.act.programs import threshold_of
    from core.act.training import Training

    source, data = open_source(exported), batches()
    config = read_act({**CONFIG, "QuantAware": {"use_pact": True}})
    with open_session(source, places(source)) as session:
        run = Training(session, config, [("l2", 1.0, ("level",))], None)
        run.calibrate(data)
        ends, first = run.state().scales, [each["image"] for each in data]
        names = {name: threshold_of(name) for name in ends}
        assert set(names.values()) < set(run._weights)
        for name, threshold in names.items():  # they begin where calibration ended
            assert float(run._weights[threshold]) == pytest.approx(ends[name], rel=1e-6)
        # with half of the range, nothing beyond it is seen; the gradient is that of the function
        half = np.array([ends["image"] / 2], np.float32)
        run._weights[names["image"]].set_value(half)
        assert run.evaluated() == session.run
        assert run.state().scales["image"] == pytest.approx(float(half[0]), rel=1e-6)
        answer = session.run(first[0])["level"]
        clipped = session.run(np.minimum(first[0], half))["level"]
        np.testing.assert_allclose(clipped, answer, rtol=1e-6)
        assert np.abs(answer - session.run_float(first[0])["level"]).max() > 0.01
        session.child.call("observe", {"image": first[0]}, ["level"])
        ones = {"level": np.ones_like(answer)}
        slopes = session.child.call("gradients", {"image": first[0]}, ones, [names["image"]])
        more, less = (
            session.run_float(np.minimum(first[0], half + step))["level"].sum()
            for step in (0.01, -0.01)
        )
        assert slopes[names["image"]].item() == pytest.approx((more - less) / 0.02, rel=0.1)
        for name, end in ends.items():
            run._weights[names[name]].set_value(np.array([end / 2], np.float32))
        session.child.call("load_weights", run._arrays())
        before = float(run._weights[names["image"]])
        terms = [sum(each.values()) for each in run.steps(data, 30)]
        assert abs(float(run._weights[names["image"]]) - before) > 1e-3
        assert np.mean(terms[-3:]) < terms[0]
        model = run.restore(run.state())
        assert model.graph.weights.keys() == source.graph.weights.keys()


def test_the_window_forgets_calibration(exported: Path) -> None:
    from core.act.config import read_act
    from core.act.training import Training

    source, data = open_source(exported), batches()
    given = {"activation_quantize_type": "range_abs_max", "window_size": 3}
    with open_session(source, places(source)) as session:
        run = Training(session, read_act({**CONFIG, "QuantAware": given}), [], lambda *a: {})
        run.calibrate(batches(scale=2.0))
        begin, seen = run.state().scales["image"], []
        for each in (*data, *data):
            session.child.call("observe", each, ["level"])
            seen.append(run.state().scales["image"])
        largest = [float(each["image"].max()) for each in data]
        assert seen[0] == pytest.approx(begin, rel=1e-6)
        assert seen[-1] == pytest.approx(max(largest), rel=1e-6)
        assert begin > 1.5 * seen[-1]


def test_files_of_pact_and_windows(exported: Path, tmp_path: Path) -> None:
    given = {"use_pact": True, "activation_quantize_type": "range_abs_max"}
    given |= {"quantize_op_types": ["conv2d", "depthwise_conv2d", "matmul"], "onnx_format": False}
    made = AutoCompression(
        *(exported, batches()),
        save_dir=tmp_path / "int8",
        config={**CONFIG, "QuantAware": given},
        layout=FileLayout(("paddle", "onnx"), DEFAULT_TARGET),
    ).compress()
    assert all(each.relative < each.effect / 10 for each in made.exported.differences)
    with pytest.raises(ExportError, match="is quantized already"):
        open_source(tmp_path / "int8")


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        ({"Distillation": {"node": ["lvel"]}}, batches(), "Distillation.node: .*'level'"),
        ({"Global": {"input_name": "x"}}, batches(), r"Global.input_name: .*\['image'\], got x"),
        (
            {},
            [{"image": np.zeros((1, 3, 9, 9), "float32")}],
            "^train_dataloader: the model's input",
        ),
        ({}, [], "^train_dataloader: yields no batch"),
    ],
)
def test_errors_before_anything_runs(
    exported: Path, tmp_path: Path, change: dict[str, Any], data: Any, message: str
) -> None:
    config = {key: {**value, **change.get(key, {})} for key, value in CONFIG.items()}
    with pytest.raises((ConfigError, DataError), match=message):
        AutoCompression(exported, data, save_dir=tmp_path / "int8", config=config).compress()
    assert not (tmp_path / "int8").exists()


def test_no_teacher_and_no_loss(exported: Path, tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "Distillation"}
    with pytest.raises(ConfigError, match="Distillation: required"):
        AutoCompression(exported, batches(), save_dir=tmp_path / "int8", config=config)


def test_the_observer_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'mse'\?"):
        read(StaticPtqConfig, {"observer": "mes"})
