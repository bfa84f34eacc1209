"""What the whole chain asks trainings for, and the table that it makes of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure.whole_chain import courses, section
from core.settings.config import load_yaml, override
from core.training.recipe import read_recipe

SLIM = Path(__file__).resolve().parents[2] / "configs" / "slim"


def test_each_training_is_one_that_its_recipe_knows() -> None:
    asked = list(courses([0.05], [0.5], Path("student"), Path("work/large_float")))
    assert [course.suffix for course in asked] == ["5", "width_50", "taught"]
    assert [course.teacher.name for course in asked] == ["student", "student", "large_float"]
    assert asked[2].label == "int8, under large"
    strategies: list[dict[str, Any]] = []
    for course in asked:
        changed = override(load_yaml(SLIM / f"{course.recipe}.yml"), course.overrides)
        recipe = read_recipe(changed, 30, has_teacher=True)
        strategies.append({step.kind: step.config for step in recipe.steps})
    by_macs, by_width, taught = strategies
    assert (by_macs["prune"].target_ratio, by_macs["prune"].pruned_ratio) == (0.05, None)
    assert (by_width["prune"].target_ratio, by_width["prune"].pruned_ratio) == (None, 0.5)
    assert set(taught) == {"qat", "distill"}
    assert {each["qat"].target for each in strategies} == {"openvino"}


def row(**values: Any) -> dict[str, Any]:
    return {"macs": 2e6, "parameters": 3e6, "input": [1, 3, 8, 8], **values}


def test_files_of_others_stand_beside_ours_where_they_exist() -> None:
    sizes = {"onnxruntime": 4000, "openvino": 4000}
    entry = {
        "network": "net",
        "metric": "AP",
        "calibration_images": 7,
        "chain": {
            "float": row(bytes=sizes),
            "NNCF": {"bytes": {"openvino": 1000}, "fails": ""},
            "PaddleSlim": {"bytes": {}, "fails": "not done after 9 s"},
            "int8": row(bytes=sizes, epochs=4, minutes=5.2, command="train it"),
        },
        "measured": {
            "avx2": {
                "float": _measured({"onnxruntime": 0.5, "openvino": 0.5}, 6.0),
                "NNCF": _measured({"openvino": 0.4}, 3.0),
                "PaddleSlim": _measured({}, 3.0),
                "int8": _measured({"onnxruntime": 0.5, "openvino": 0.49}, 2.0),
            }
        },
        "date": "2026-11-28",
        "environment": {"logical_cores": 2, "cpu": "one", "cpu_instructions": ["avx2"]},
    }
    lines = list(section("chain_net", entry))
    assert "| NNCF | openvino | 1 (4.0x) | 0.4000 (-10.00) | 3.00 (2.0x) |" in lines
    assert "| int8 | openvino | 4 (1.0x) | 0.4900 (-1.00) | 2.00 (3.0x) |" in lines
    assert sum(line.startswith("| NNCF") for line in lines) == 1  # its costs are those of float
    assert "| int8 | 4 | 5 | 2.0 | 3.000 |" in lines
    assert "train it" in lines
    assert "\nPaddleSlim: not done after 9 s." in lines
    assert not any("NNCF:" in line or line.startswith("| PaddleSlim") for line in lines)


def _measured(values: dict[str, float], ms: float) -> dict[str, Any]:
    return {"values": {"validation": values}, "ms": dict.fromkeys(values, ms)}
