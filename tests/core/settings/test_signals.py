"""Signals that ask to end, raised in a process of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from core.settings.signals import renew
from tests.alone import run_alone


def test_signals_in_a_process_of_their_own() -> None:
    run_alone("tests/core/settings/signals_alone.py")


def test_paddle_may_be_loaded_in_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(renew).result()  # handlers of signals are the main thread's
