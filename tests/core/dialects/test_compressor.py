"""Files of the 1.x Compressor in our own words; every key acts, is put aside, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.dialects.compressor import translate
from core.dialects.files import translated
from core.dialects.foreign import Translation
from core.errors import ConfigError
from core.training.recipe import read_recipe

FILES = Path(__file__).parent / "files"
TWICE = (FILES / "compressor_twice.yml").read_text(encoding="utf-8")
QUANTIZED = (FILES / "compressor_quantized.yml").read_text(encoding="utf-8")
DISTILLED = (FILES / "compressor_distilled.yml").read_text(encoding="utf-8")
SENSITIVE = (FILES / "compressor_sensitive.yml").read_text(encoding="utf-8")
SEARCHED = (FILES / "compressor_searched.yml").read_text(encoding="utf-8")


def read(text: str, *overrides: str) -> Translation:
    found, left = translated(yaml.safe_load(text), overrides)
    assert found is not None
    assert not left
    return found


def test_two_cuts_in_the_order_that_the_compressor_lists() -> None:
    found = read(TWICE)
    cut = {"kind": "prune", "criterion": "l1_norm", "pruned_params": [".*_sep_weights"]}
    assert found.recipe == {
        "epochs": 120,
        "strategies": [
            {**cut, "start_epoch": 0, "target_ratio": 0.1},
            {**cut, "start_epoch": 10, "target_ratio": 0.1},
        ],
    }
    assert (found.save_dir, found.resume) == ("./checkpoints/", "auto")
    assert found.unused == ("strategies.first.metric_name", "strategies.second.metric_name")
    both = read(TWICE.replace("compress_pass", "compressor")).recipe
    assert both == found.recipe
    assert [step.start for step in read_recipe(both, 120, False).steps] == [0, 10]


def test_quantization_exports_at_its_end_and_goes_on() -> None:
    found = read(QUANTIZED)
    [step] = found.recipe["strategies"]
    assert step == {
        "kind": "qat",
        "start_epoch": 0,
        "weight_bits": 8,
        "activation_bits": 8,
        "weight_quantize_type": "abs_max",
        "activation_quantize_type": "range_abs_max",
    }
    assert found.recipe["exports"] == [
        {"after_epoch": 11, "save_dir": f"./output/{folder}", "form": form, "ending": "quan.tmp_2"}
        for folder, form in (("float", "float"), ("int8", "int8"), ("mobile", "lite"))
    ]
    recipe = read_recipe(found.recipe, 20, False)
    assert (recipe.steps[0].start, recipe.steps[0].end) == (0, 20)
    assert found.unused == ("version",)
    none = QUANTIZED.replace("./output/float", "None").replace("./output/mobile", "null")
    assert [each["form"] for each in read(none).recipe["exports"]] == ["int8"]


def test_distillers_become_terms() -> None:
    found = read(DISTILLED)
    [step] = found.recipe["strategies"]
    assert (step["kind"], step["end_epoch"]) == ("distill", 130)
    assert step["losses"] == [
        {"kind": "fsp", "student": ["s.a", "s.b"], "teacher": ["t.a", "t.b"], "weight": 1.0},
        {"kind": "fsp", "student": ["s.c", "s.d"], "teacher": ["t.c", "t.d"], "weight": 1.0},
        {
            "kind": "l2",
            "student": "fc_0.tmp_0",
            "teacher": "fc_1.tmp_0",
            "adapter": False,
            "weight": 1.0,
        },
        {
            "kind": "soft_label",
            "form": "cross_entropy",
            "student": "student.tmp_1",
            "teacher": "teacher.tmp_1",
            "student_temperature": 2.0,
            "teacher_temperature": 3.0,
            "weight": 0.001,
        },
    ]
    assert found.layers == {"student.tmp_1": "head"}
    assert found.variables
    read_recipe(found.recipe, 150, True)


def test_sensitive_pruning_and_the_search() -> None:
    found = read(SENSITIVE)
    [step] = found.recipe["strategies"]
    assert step == {
        "kind": "prune",
        "criterion": "l1_norm",
        "pruned_params": ["conv*"],
        "start_epoch": 1,
        "allocation": "sensitive",
        "target_ratio": 0.5,
        "delta_rate": 0.1,
        "num_steps": 2,
        "eval_rate": 0.2,
        "metric_name": "top1",
        "sensitivities_file": "s.data",
    }
    assert found.settings == {"model": {"pretrained": "./trained"}, "train": {"eval_every": 5}}
    found = read(SEARCHED)
    [step] = found.recipe["strategies"]
    assert step == {
        "kind": "prune",
        "criterion": "l1_norm",
        "pruned_params": ["*"],
        "start_epoch": 2,
        "allocation": "search",
        "target_ratio": 0.49,
        "search_steps": 20,
        "search_cooling": 0.9,
        "search_temperature": 10.24,
        "metric_name": "top5",
        "max_ratio": 0.4,
    }
    assert found.unused == ("controllers.sa.max_iter_number",)
    for text in (SENSITIVE, SEARCHED):
        read_recipe(read(text).recipe, 200, False)


def test_overrides_of_its_own_keys_and_what_nobody_asks_for() -> None:
    changed = read(TWICE, "strategies.first.target_ratio=0.3", "compress_pass.epoch=40")
    assert changed.recipe["epochs"] == 40
    assert changed.recipe["strategies"][0]["target_ratio"] == 0.3
    one = read(TWICE, "compress_pass.strategies=[first]")
    assert len(one.recipe["strategies"]) == 1
    assert "strategies.second" in one.unused
    assert translated({"strategies": [{"kind": "prune"}]}, ["a=1"]) == (None, ["a=1"])


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            TWICE,
            "compress_pass.epochs=3",
            "compress_pass.epochs: unknown key (did you mean 'epoch'?",
        ),
        (TWICE, "compress_pass.epoch=null", "compress_pass.epoch: required, but not given"),
        (TWICE, "compress_pass.epoch=x", "compress_pass.epoch: expected int, got str"),
        (TWICE, "compressor={epoch: 3}", "compress_pass: compressor says the same"),
        (
            TWICE,
            "compress_pass.strategies=[frst]",
            "compress_pass.strategies.0: no strategy 'frst'",
        ),
        (TWICE, "strategies.first=3", "strategies.first: expected a mapping, got int"),
        (TWICE, "strategies.first.class=Uniform", "strategies.first.class: no class 'Uniform'"),
        (TWICE, "strategies.first.pruner=q", "strategies.first.pruner: no pruner 'q'"),
        (TWICE, "strategies.first.ratio=1", "strategies.first.ratio: unknown key"),
        (TWICE, "strategies.first.target_ratio=x", "strategies.first.target_ratio: expected float"),
        (TWICE, "pruners.p.pruning_axis={'*': 1}", "pruners.p.pruning_axis.*: expected 0, filters"),
        (TWICE, "pruners.p.criterions={a: l1_norm, b: fpgm}", "pruners.p.criterions: several"),
        (TWICE, "pruners.p.criterions={conv*: l1_norm}", "strategies.first.pruned_params: the"),
        (TWICE, "pruners.p.class=Pruner", "pruners.p.class: no class 'Pruner'"),
        (TWICE, "include=[x.yaml]", "include: files are not put together"),
        (TWICE, "quantizers={q: 1}", "quantizers: write their settings into"),
        (QUANTIZED, "strategies.q.end_epoch=-1", "strategies.q.end_epoch: expected an epoch from"),
        (QUANTIZED, "strategies.q.end_epoch=21", "strategies.q.end_epoch: expected an epoch from"),
        (QUANTIZED, "strategies.q.save_in_nodes=[conv]", "strategies.q.save_in_nodes: a graph beg"),
        (QUANTIZED, "strategies.q.weight_bit=8", "strategies.q.weight_bit: unknown key"),
        (
            DISTILLED,
            "distillers.fsp.student_pairs=[[a, b]]",
            "distillers.fsp.student_pairs: expect",
        ),
        (
            DISTILLED,
            "distillers.fsp.student_pairs=[[a]]",
            "distillers.fsp.student_pairs.0: expecte",
        ),
        (
            DISTILLED,
            "distillers.l2.teacher_feature_map=null",
            "distillers.l2.teacher_feature_map: r",
        ),
        (DISTILLED, "distillers.soft.student_temperature=0", "distillers.soft.student_temperature"),
        (DISTILLED, "distillers.l2.class=L3", "distillers.l2.class: no class 'L3'"),
        (DISTILLED, "strategies.d.distillers=[]", "strategies.d.distillers: names no distiller"),
        (DISTILLED, "strategies.d.distillers=[x]", "strategies.d.distillers.0: no distiller 'x'"),
        (DISTILLED, "layers=[1]", "layers: expected a mapping, got list"),
        (SEARCHED, "strategies.a.retrain_epoch=5", "strategies.a.retrain_epoch: plans are ranked"),
        (SEARCHED, "strategies.a.init_tokens=[1]", "strategies.a.init_tokens: a search begins"),
        (SEARCHED, "strategies.a.min_ratio=0.6", "strategies.a.max_ratio: expected 0 < min_ratio"),
        (SEARCHED, "controllers.sa.class=X", "controllers.sa.class: no class 'X'"),
        (SEARCHED, "strategies.a.controller=x", "strategies.a.controller: no controller 'x'"),
    ],
)
def test_refused_with_the_path_in_the_file(text: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, override)
    assert str(caught.value).startswith(message)


def test_order_of_strategies_is_held_to_the_rules() -> None:
    """In 1.x quantization must come last; here too."""
    content: Any = yaml.safe_load(TWICE)
    content["strategies"]["q"] = yaml.safe_load(QUANTIZED)["strategies"]["q"]
    del content["strategies"]["q"]["save_out_nodes"]
    content["compress_pass"]["strategies"] = ["q", "second"]
    recipe = translate(content).recipe
    with pytest.raises(ConfigError, match=r"^strategies\.1 \(prune\): channels cannot be removed"):
        read_recipe(recipe, 120, False)
