"""Exported models in PaddleSlim's hands: what is read, what is found, what is left behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from core.act import static_ptq
from core.act.auto_compression import AutoCompression
from core.act.config import OP_TYPES, StaticPtqConfig
from core.act.files import FileLayout, write
from core.act.session import check_batch, open_session, samples_of
from core.act.source import Source, never_negative, open_source
from core.act.trained import TRAINED
from core.errors import ConfigError, DataError, ExportError, RejectedError, TrainingError
from core.export.package import export
from core.settings.config import read
from core.targets.names import DEFAULT_TARGET
from core.task import build_task
from core.workflows.comparison_table import MeasuredMetric


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model of the toy task: conv, ReLU, mean, linear layer."""
    folder = tmp_path_factory.mktemp("toy")
    paddle.seed(0)
    settings = {"data": {"root": str(folder / "data")}, "model": {"width": 8, "dropout": 0.3}}
    task = build_task("outside.toy", settings)
    model = task.build_model()
    model.norm._mean.set_value(paddle.rand([8]))  # so that folding shows
    export(task, model, folder / "float")
    return folder / "float"


def images(count: int = 4, size: int = 4, scale: float = 1.0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.random((size, 3, 8, 8)).astype("float32") * scale] for _ in range(count)]


def places(source: Source, never: tuple[str, ...] = ()) -> Any:
    return source.choose(OP_TYPES, never, True, "never_quantize")


@pytest.fixture
def unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that nothing of PaddleSlim leaks into this process, its folder or its temporary one."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    before = paddle.get_flags(["FLAGS_enable_pir_api"]), {n: getattr(F, n) for n in F.__all__}
    yield
    assert paddle.in_dynamic_mode()
    assert (paddle.get_flags(["FLAGS_enable_pir_api"]), {n: getattr(F, n) for n in F.__all__}) == (
        before
    )
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "here").iterdir())


def alive(number: int) -> bool:
    return os.path.exists(f"/proc/{number}")


def test_what_is_no_exported_float_model(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent: no such folder.*export the float model first"):
        open_source("absent")
    (tmp_path / "model.pdparams").write_bytes(b"")
    with pytest.raises(ExportError, match=r"holds a checkpoint.*tools/export_model.py"):
        open_source(tmp_path)
    with pytest.raises(ConfigError, match=r"model_filename: .*did you mean 'model.pdmodel'\?"):
        open_source(exported, "model.pdmodl", "model.pdiparams")
    with pytest.raises(ConfigError, match="params_filename: required beside the other one"):
        open_source(exported, "model.pdmodel")
    (tmp_path / "json").mkdir()
    for name in ("model.json", "model.pdiparams"):
        (tmp_path / "json" / name).write_bytes(b"{}")
    for place in (tmp_path / "json", tmp_path / "json" / "model.json"):
        with pytest.raises(ExportError, match=r"model\.json: .*new IR.* FLAGS_enable_pir_api=0"):
            open_source(place)


def test_a_model_under_other_names(exported: Path, tmp_path: Path) -> None:
    for ours, theirs in (("model.pdmodel", "__model__"), ("model.pdiparams", "__params__")):
        (tmp_path / theirs).write_bytes((exported / ours).read_bytes())
    source = open_source(tmp_path)
    assert source.description is None
    assert [place.layer for place in places(source)] == ["conv", "head"]
    source.graph.rename("level", "save_infer_model/scale_0")
    source.graph.outputs[:] = ["save_infer_model/scale_0"]
    source.name_outputs(build_task("outside.toy", {"data": {"root": "x"}}))
    assert source.graph.outputs == ["level"]


def test_layers_and_variables_by_name(exported: Path) -> None:
    source = open_source(exported)
    assert [place.layer for place in places(source)] == ["conv", "head"]
    assert [place.layer for place in places(source, ("he*",))] == ["conv"]
    with pytest.raises(ConfigError, match=r"never_quantize: 'haed' .*did you mean 'head'\?"):
        places(source, ("haed",))
    with pytest.raises(ConfigError, match=r"no layer of .* is left"):
        places(source, ("*",))
    with pytest.raises(ConfigError, match=r"node: .* 'levle' \(did you mean 'level'\?\)"):
        source.check_node("levle", "node")
    conv, head = places(source)
    positive = never_negative(source.graph)
    assert conv.tensor == "image"
    assert (conv.tensor in positive, head.tensor in positive) == (False, True)  # behind a ReLU
    assert source.nodes() == ["level"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([np.zeros((1, 3, 8, 9), "float32")], r"takes float32 \[-1, 3, 8, 8\].*got float32 \[1, 3"),
        ([np.zeros((1, 3, 8, 8), "int64")], "got int64"),
        ([np.full((1, 3, 8, 8), np.nan, "float32")], "not finite, for 'image'"),
        ([], "an array for each input"),
    ],
)
def test_a_batch_that_does_not_fit(exported: Path, batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^reader: .*{message}"):
        check_batch(open_source(exported), batch, "reader")


def test_what_is_never_negative_may_have_a_grid_from_zero_on(exported: Path) -> None:
    source = open_source(exported)
    chosen = places(source)
    scales = {place.tensor: 2.0 for place in chosen}
    table = source.table(chosen, scales, per_channel=True)
    assert [(entry.weight, entry.input.signed) for entry in table] == [
        ("conv.weight", True),  # reads the image
        ("head.weight", False),  # reads means of what a ReLU makes
    ]
    scales[chosen[1].tensor] = 0.0
    with pytest.raises(ExportError, match=r"head: expected a grid for its input .* got 0\.0"):
        source.table(chosen, scales, per_channel=True)


def test_static_quantization(exported: Path, tmp_path: Path, unchanged: None) -> None:
    source, data = open_source(exported), images()
    (tmp_path / "int8").mkdir()
    with open_session(source, places(source)) as session:
        process = session.child._process.pid
        config = StaticPtqConfig(observer="abs_max")
        scales, table = static_ptq.calibrate(session, lambda: iter(data), config)
        largest = max(float(batch.max()) for (batch,) in data)
        assert scales["image"] == pytest.approx(largest, rel=1e-6)
        narrow, _ = static_ptq.calibrate(
            session, lambda: iter(images(scale=0.5)), StaticPtqConfig(observer="percentile")
        )
        assert 0 < narrow["image"] <= largest / 2 * 1.001
        model = static_ptq.settle(session, scales, table)
        samples = samples_of(source, data, "images")
        made = write(
            model, tmp_path / "int8", FileLayout(("paddle", "onnx"), DEFAULT_TARGET, None), samples
        )
        assert alive(process)
    assert not alive(process)
    assert {each.runtime for each in made.differences} == {"paddle", "onnxruntime", "openvino"}
    for each in made.differences:  # the same grids: far nearer than two roundings would be
        assert each.relative is not None
        assert each.effect is not None
        assert each.relative < each.effect / 10
    assert made.file_bytes["model.pdiparams"] < made.float_bytes["model.pdiparams"]


def test_layers_without_a_bias(tmp_path: Path) -> None:
    """What they make is read by the next layer, and put out."""
    paddle.seed(0)
    task = build_task("outside.toy", {"data": {"root": str(tmp_path / "data")}})
    plain = {"padding": 1, "bias_attr": False}
    model = nn.Sequential(nn.Conv2D(3, 8, 3, **plain), nn.Conv2D(8, 4, 3, **plain))
    export(task, model, tmp_path / "float")
    source, data = open_source(tmp_path / "float"), images()
    (tmp_path / "int8").mkdir()
    with open_session(source, places(source)) as session:
        config = StaticPtqConfig(observer="abs_max")
        found = static_ptq.calibrate(session, lambda: iter(data), config)
        wanted, rounded = session.run_float(*data[0])["level"], session.run(*data[0])["level"]
        assert 0 < np.abs(rounded - wanted).max() < 0.05 * np.abs(wanted).max()
        model = static_ptq.settle(session, *found)
        write(model, tmp_path / "int8", FileLayout(("paddle",), DEFAULT_TARGET, None), data[:2])


def test_grids_of_another_model_are_noticed(exported: Path, tmp_path: Path) -> None:
    source, data = open_source(exported), images()
    with open_session(source, places(source)) as session:
        config = StaticPtqConfig(observer="abs_max")
        scales, _ = static_ptq.calibrate(session, lambda: iter(data), config)
        wrong = source.table(session.places, {n: s * 8 for n, s in scales.items()}, True)
        model = static_ptq.settle(session, scales, wrong)
        with pytest.raises(ExportError, match=r"output 'level' of the int8 file .* 64 images"):
            write(
                model,
                tmp_path,
                FileLayout(("paddle",), DEFAULT_TARGET, None),
                samples_of(source, data, "x"),
                lambda count: samples_of(source, images(16), "x", count),
            )
        with pytest.raises(ExportError, match=r"^paddleslim: quantize failed: .*algo"):
            session.child.call("quantize", {"algo": "nonsense"}, batches=lambda: [])


def test_a_killed_process_and_ctrl_c(exported: Path, unchanged: None) -> None:
    source = open_source(exported)
    with open_session(source, places(source)) as session:
        session.child._process.kill()
        with pytest.raises(ExportError, match="paddleslim: its process was killed by signal 9"):
            session.run_float(*images(1)[0])
    context = open_session(source, places(source))
    number = context.__enter__().child._process.pid
    assert alive(number)
    stop = KeyboardInterrupt()
    assert not context.__exit__(KeyboardInterrupt, stop, None)
    assert not alive(number)


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
