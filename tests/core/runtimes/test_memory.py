"""Peak memory of a process."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from core.runtimes import memory


def test_the_peak_of_memory_on_windows(monkeypatch, tmp_path):
    class Process:
        def memory_info(self):
            return SimpleNamespace(rss=5, peak_wset=7_000_000)

    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(memory.psutil, "Process", Process)
    assert memory._peak_bytes() == 7_000_000
