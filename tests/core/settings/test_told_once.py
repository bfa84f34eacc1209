"""What several steps find alike is said once; everything else as often as it is said."""

from __future__ import annotations

import logging

import pytest

from core import cli
from core.settings.told_once import ONCE

log = logging.getLogger("some.step")


def test_the_same_text_is_said_once_by_a_tool(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def main() -> None:
        for count in (3, 3, 4):
            log.info("left out %d files", count, extra=ONCE)
            log.info("step done")

    with pytest.raises(SystemExit):
        cli.run(main)
    said = [line.partition("INFO ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        *("left out 3 files", "step done", "step done"),
        *("left out 4 files", "step done"),
    ]
