"""Steps of a row: which commands, from which weights, into which folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.zoo.steps import ZooPlaces, ZooStep, float_home, missing_data
from tests.core.zoo.conftest import Plan, make_row


def named(steps: list[ZooStep]) -> dict[str, ZooStep]:
    return {step.name: step for step in steps}


def test_a_quantized_row_trains_exports_evaluates_and_measures(
    plan: Plan, places: ZooPlaces
) -> None:
    row = make_row(overrides=("data.root={data}/x",), slim_overrides=("train.epochs=2",))
    steps = named(plan(row))
    assert list(steps) == [
        "train float",
        "train compressed",
        "export float",
        *(f"evaluate float in {each}" for each in ("paddle", "onnxruntime", "openvino")),
        "export compressed",
        *(f"evaluate compressed in {each}" for each in ("paddle", "onnxruntime", "openvino")),
        "benchmark",
    ]
    home = float_home(row, row.scales["small"], places)
    assert home.parent == places.floats
    words = steps["train compressed"].words
    assert f"model.pretrained={home}/float/best_model" in words
    assert f"data.root={places.data}/x" in words
    assert "train.epochs=2" in words
    assert "train.epochs=2" not in steps["train float"].words
    assert steps["export compressed"].words[0] == "qat_export.py"
    # the steps that follow measure both, beside the float files
    assert steps["export compressed"].words[-2:] == ("--no_metric", "--no_latency")
    assert steps["export float"].words[0] == "export_model.py"
    assert steps["benchmark"].words[-3:] == ("--threads", "1,all", "--operators")
    assert steps["benchmark"].words[2:4] == (
        f"{home}/float_exported",
        f"{places.row}/compressed_exported",
    )


def test_the_rounding_of_each_layer_is_measured_where_the_scale_asks_for_it(
    plan: Plan, places: ZooPlaces
) -> None:
    step = named(plan(make_row(sensitivity=0.25)))["sensitivity of layers"]
    assert step.words[:2] == ("sensitivity.py", "--quant")
    assert step.words[step.words.index("--eval_rate") + 1] == "0.25"
    assert step.output == places.row / "sensitivity"
    assert step.needs == ("train compressed",)
    assert "sensitivity of layers" not in named(plan(make_row(("prune",), sensitivity=0.25)))
    with pytest.raises(ValueError, match="sensitivity: expected a number above 0, up to 1"):
        make_row(sensitivity=2.0)


def test_weights_that_are_there_are_not_trained(plan: Plan) -> None:
    steps = named(plan(make_row(overrides=("a.b=1",)), Path("w.pdparams")))
    assert "train float" not in steps
    assert "model.pretrained=w.pdparams" in steps["train compressed"].words
    assert steps["export float"].words[-4:] == ("-c", make_row().config, "-o", "a.b=1")
    taught = named(plan(make_row(("distill_qat",), "float"), Path("w.pdparams")))
    words = taught["train compressed"].words
    assert words[words.index("--distill_config") + 1] == make_row().config
    assert "teacher.weights=w.pdparams" in words
    assert steps["export float"].files == (Path(make_row().config), Path("w.pdparams"))


def test_a_pruned_row_is_exported_in_float_and_a_distilled_one_starts_anew(plan: Plan) -> None:
    pruned = named(plan(make_row(("prune",))))
    assert pruned["export compressed"].words[0] == "export_model.py"
    distilled = named(plan(make_row(("distill",), "float")))
    words = distilled["train compressed"].words
    assert words[words.index("--distill_config") + 1].endswith("/float/best_model")
    assert not any(word.startswith("model.pretrained") for word in words)


def test_a_float_row_has_no_compression(plan: Plan) -> None:
    steps = named(plan(make_row(())))
    assert not [name for name in steps if "compressed" in name]
    assert len([w for w in steps["benchmark"].words if w.endswith("_exported")]) == 1


def test_rows_share_the_float_model_that_they_train_alike(places: ZooPlaces) -> None:
    def home(**scale: object) -> Path:
        row = make_row(**scale)  # type: ignore[arg-type]
        return float_home(row, row.scales["small"], places)

    one = home(overrides=("a=1",), slim_overrides=("x=1",))
    assert one == home(overrides=("a=1",), slim_overrides=("x=2",))
    assert one != home(overrides=("a=2",))
    assert one != home(overrides=("a=1",), float_overrides=("b=1",))
    assert home(overrides=("a=1",)) != home(float_overrides=("a=1",))


def test_missing_data_says_what_to_put_where(places: ZooPlaces) -> None:
    scale = make_row(data={"{data}/flowers": "class folders"}).scales["small"]
    said = missing_data(scale, places)
    assert said == f"{places.data}/flowers: is missing; put there: class folders"
    (places.data / "flowers").mkdir(parents=True)
    assert missing_data(scale, places) == ""
