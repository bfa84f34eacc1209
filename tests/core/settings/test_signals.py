"""Signals that ask to end, raised in a process of their own."""

from __future__ import annotations

from tests.alone import run_alone


def test_signals_in_a_process_of_their_own() -> None:
    run_alone("tests/core/settings/signals_alone.py")
