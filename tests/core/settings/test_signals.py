"""Signals that ask to end: what they are raised as, and what is left of them afterwards."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from core.settings.signals import (
    ENDING,
    WORDS,
    Terminated,
    asking,
    held_back,
    interruption,
    number_of,
    raising,
)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_raised_and_the_handler_of_before_comes_back(number: int) -> None:
    before = signal.getsignal(number)
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # it would wait, and kill us

    def get() -> None:
        with raising():
            signal.raise_signal(number)
            time.sleep(1.0)

    with pytest.raises(KeyboardInterrupt) as caught:
        get()
    assert number_of(caught.value) == number
    assert signal.getsignal(number) == before


def test_what_is_behind_an_error_is_found() -> None:
    for number in WORDS:
        assert number_of(interruption(number)) == number
    for text, number in (
        ("(External) KeyboardInterrupt: \n", signal.SIGINT),
        (f"(External) Terminated: {int(signal.SIGTERM)}\n", signal.SIGTERM),
        ("(External) out of something", None),
    ):
        assert number_of(OSError(text)) == number
    wrapped = ValueError("x")
    wrapped.__cause__ = Terminated(signal.SIGTERM)
    assert number_of(wrapped) == signal.SIGTERM
    assert number_of(ValueError("x")) is None


def test_what_was_to_be_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert signal.SIGHUP not in asking()
        with raising():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_wait_while_they_are_held_back() -> None:
    order: list[object] = []

    def look() -> None:
        order.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    def get() -> None:
        with raising():
            with held_back(signal.SIGTERM):
                inside = threading.Thread(target=look)
                inside.start()
                inside.join()
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # not another thread
                order.append("still here")
            order.append("never")

    with pytest.raises(Terminated):
        get()
    assert order == [{signal.SIGTERM}, "still here"]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
