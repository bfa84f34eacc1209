"""Every block of the documents is what it says: commands, settings, Python, JSON; links lead on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.dialects.files import translated
from core.distill.teacher import TeachingConfig
from core.settings.config import load_yaml, merge, read
from core.training.recipe import read_recipe
from core.training.run import read_run
from core.workflows.run_plan import RunFiles, read_plan
from core.zoo.rows import read_row
from tests.docs.command_lines import check
from tests.docs.pages import (
    FOLLOWED,
    INSTALLING,
    LANGUAGES,
    ROOT,
    Block,
    Command,
    blocks,
    commands,
    pages,
)

PAGES = pages()
OWN_DATA = ("docs/classification.md", "docs/segmentation.md", "docs/keypoint.md")
TRANSLATED = {
    "README_zh.md": "README.md",
    **{page.replace("docs/", "docs/zh/"): page for page in OWN_DATA},
}
PARTS_OF = {  # config that the settings of a block are a part of
    "tasks/cls/README.md": ("configs/cls/demo.yml",),
    "tasks/keypoint/README.md": ("configs/keypoint/lite_hrnet_18_256x192_coco.yml",),
    "tasks/seg/README.md": (
        "configs/seg/deeplabv3p_resnet50_os8_cityscapes_1024x512.yml",
        "configs/seg/stdc1_seg_cityscapes_1024x512.yml",
    ),
}
COMPRESSOR = ROOT / "tests/core/dialects/files/compressor_distilled.yml"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_all_pages_are_looked_at() -> None:
    wanted = {"README.md", "docs/quantize.md", "docs/own_data.md", "tasks/seg/README.md"}
    assert {*wanted, *OWN_DATA, *TRANSLATED} <= set(PAGES)
    assert "docs/results.md" not in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_each_block_says_its_language(page: str) -> None:
    wrong = [str(each) for each in blocks(page) if each.language not in LANGUAGES]
    assert wrong == []


def test_every_page_with_something_to_run_is_followed() -> None:
    """A translation has the blocks of its original, which is followed in its place."""
    shown = {page for page in PAGES if any(map(runs, blocks(page, "bash", "python")))}
    assert shown - set(TRANSLATED) == set(FOLLOWED)


def runs(block: Block) -> bool:
    """Tell whether a reader runs anything of a block."""
    if block.needs or block.language == "python":
        return not block.needs
    return any(each.program not in INSTALLING for each in commands(block))


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_read(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (each for block in blocks(page, "bash") for each in commands(block)):
        try:
            check(command)
        except SystemExit:
            pytest.fail(f"{command.block}: {command.text}\n{capsys.readouterr().err}")


def test_a_wrong_command_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    block = Block("page", 1, "bash", "")
    for text in (
        "python tools/ptq.py --wights run",
        "trislim train --save_dirs x",
        "python -m paddle.distributed.launch --gpus 0 tools/train.py -c x.yml --slim",
    ):
        with pytest.raises(SystemExit):
            check(Command(block, text))
    for text, error in (
        ("python tools/train.py -c configs/cls/nothing.yml", AssertionError),
        ("make nothing", AssertionError),
        ("for each in; do", AssertionError),
        ("python tools/train.py -c configs/cls/demo.yml --slim nothing", Exception),
        ("python3 tools/train.py -c x.yml", ValueError),
    ):
        with pytest.raises(error):
            check(Command(block, text))


def read_settings(block: Block, base: str | None, folder: Path) -> None:
    """Read a block of YAML as the code reads such files.

    Args:
        block: Of YAML.
        base: Config that the block is a part of; None where it stands alone.
        folder: For a file of the block.
    """
    content: Any = yaml.safe_load(block.text)
    if "strategies" in content:
        taught = any(each["kind"] == "distill" for each in content["strategies"])
        steps = read_recipe(content, 100, taught).steps
        assert len(steps) == len(content["strategies"])
    elif "published" in content:
        (folder / "row.yml").write_text(block.text, encoding="utf-8")
        assert read_row(folder / "row.yml").title == content["title"]
    elif "distill" in content:
        teacher = folder / "teacher.yml"
        beside = (ROOT / "configs/keypoint" / content["_base_"]).as_posix()
        teacher.write_text(yaml.safe_dump({**content, "_base_": beside}), encoding="utf-8")
        student = ROOT / "configs/keypoint/lite_hrnet_18_256x192_coco.yml"
        assert len(read_plan(RunFiles(str(student), None, [str(teacher)])).teachers) == 1
        assert read(TeachingConfig, content["distill"]).losses
    elif "layers" in content:
        found, left = translated({**load_yaml(COMPRESSOR), **content}, [])
        assert found is not None
        assert left == []
    else:
        assert base is not None, f"{block}: which config is it a part of?"
        read_run(merge(load_yaml(ROOT / base), content))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml", "json")])
def test_settings_are_read(page: str, tmp_path: Path) -> None:
    if page in OWN_DATA or page in TRANSLATED:
        return  # test_guides reads these beside the data that they are about
    shown = blocks(page, "yaml")
    bases = PARTS_OF.get(page, (None,) * len(shown))
    assert len(bases) == len(shown)
    for block, base in zip(shown, bases):
        read_settings(block, base, tmp_path)
    for block in blocks(page, "json"):
        json.loads(block.text)


@pytest.mark.parametrize(("page", "chosen"), [("prune", {"target_ratio": 0.5}), ("quantize", {})])
def test_defaults_that_a_page_shows_are_the_defaults(page: str, chosen: Mapping[str, Any]) -> None:
    [shown] = [block for block in blocks(f"docs/{page}.md", "yaml") if "strategies" in block.text]
    [entry] = yaml.safe_load(shown.text)["strategies"]
    bare = {"kind": entry["kind"], "start_epoch": 0, **chosen}
    recipes = [read_recipe({"strategies": [each]}, 10, False) for each in (entry, bare)]
    assert recipes[0].steps[0].config == recipes[1].steps[0].config


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_snippets_are_python(page: str) -> None:
    for block in blocks(page, "python"):
        compile(block.text, str(block), "exec")


@pytest.mark.parametrize(("page", "original"), TRANSLATED.items())
def test_a_translation_has_the_same_blocks(page: str, original: str) -> None:
    shown = [without_comments(block) for block in blocks(page, *LANGUAGES[:4])]
    assert shown == [without_comments(block) for block in blocks(original, *LANGUAGES[:4])]


@pytest.mark.parametrize(("page", "original"), TRANSLATED.items())
def test_a_translation_has_the_same_parts(page: str, original: str) -> None:
    """As many headings, points of lists and rows of tables; the same options and files in each."""
    translated, written = (outline(name) for name in (page, original))
    assert [kind for kind, _ in translated] == [kind for kind, _ in written]
    for (kind, names), (_, wanted) in zip(translated, written):
        assert names == wanted, f"{page}: {kind}"


def outline(page: str) -> list[tuple[str, set[str]]]:
    """Return headings, points of lists and rows of tables, with the options and files in them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    found = re.findall(r"^(#+ |- |\|)(.*(?:\n  \S.*)*)", text, re.M)
    named = r"`(--\w+|\w+\.(?:yml|csv|png|json|html|safetensors|pdparams|onnx|nb|xml|bin))"
    return [(mark.strip(), set(re.findall(named, rest))) for mark, rest in found]


def without_comments(block: Block) -> tuple[str, str]:
    """Return language and text of a block; comments may be in another language."""
    lines = [re.sub(r"(^|\s+)#.*$", "", line) for line in block.text.splitlines()]
    needed = f"# needs\n{block.text}" if block.needs else ""
    return block.language, "\n".join(line for line in lines if line) + needed[:7]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    text = re.sub(r"^ *```.*?^ *```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        aim = (file.parent / path).resolve() if path else file
        assert aim.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(aim.read_text(encoding="utf-8")), f"{page}: {target}"
