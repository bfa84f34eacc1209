"""Loading waits for what runs, and what runs waits for loading."""

from __future__ import annotations

import threading
import time

from core.runtimes.turns import Turns


def test_nothing_runs_while_a_model_is_loaded() -> None:
    turns, lock = Turns(), threading.Lock()
    running = loading = most = 0
    wrong: list[str] = []

    def run() -> None:
        nonlocal running, most
        for _ in range(50):
            with turns.running():
                with lock:
                    running += 1
                    most = max(most, running)
                    if loading:
                        wrong.append("runs while something is loaded")
                time.sleep(0.0005)
                with lock:
                    running -= 1

    def load() -> None:
        nonlocal loading
        for _ in range(20):
            with turns.alone():
                with lock:
                    loading += 1
                    if running or loading > 1:
                        wrong.append("loads beside something else")
                time.sleep(0.0005)
                with lock:
                    loading -= 1

    threads = [threading.Thread(target=work) for work in (run, run, run, load, load)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)  # nobody waits for ever
    assert wrong == []
    assert most > 1  # runs go side by side


def test_runs_that_follow_each_other_do_not_keep_a_model_from_being_loaded() -> None:
    turns, order = Turns(), list[str]()
    leave, asked = threading.Event(), threading.Event()

    def first() -> None:
        with turns.running():
            asked.set()
            leave.wait(60)
            order.append("first")

    def load() -> None:
        with turns.alone():
            order.append("load")

    def second() -> None:
        with turns.running():
            order.append("second")

    threads = [threading.Thread(target=work) for work in (first, load, second)]
    threads[0].start()
    assert asked.wait(60)
    threads[1].start()
    while not turns._waiting:
        time.sleep(0.001)
    threads[2].start()
    time.sleep(0.1)  # for it to run, if it could
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first", "load", "second"]


def test_an_error_lets_the_others_go_on() -> None:
    turns = Turns()
    for way in (turns.alone, turns.running):
        try:
            with way():
                raise ValueError
        except ValueError:
            pass
    with turns.alone():
        pass
    with turns.running(), turns.running():
        pass
