"""How far long work is: bars on terminals, lines in logs elsewhere, never a change of the work."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from core.settings import progress as module
from core.settings.progress import counting, progress


@pytest.fixture
def told(caplog, monkeypatch):
    """What the log says, if every piece of work takes half a minute."""
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 30000, 30))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    return lambda: [record.getMessage() for record in caplog.records]


def test_without_a_terminal_there_are_lines_with_the_time_left(told):
    assert list(progress([3, 4, 5], "count", unit="item")) == [3, 4, 5]
    assert told() == ["count: 1 of 3, left 0:01:00", "count: 2 of 3, left 0:00:30"]


def test_of_an_unknown_number_the_line_tells_the_time_spent(told):
    assert list(progress(iter("ab"), "read")) == ["a", "b"]
    assert told() == ["read: 1 done in 0:00:30", "read: 2 done in 0:01:00"]


def test_several_pieces_may_be_done_at_once(told):
    with counting("write", 10) as count:
        count(4)
        count(6)
    assert told() == ["write: 4 of 10, left 0:00:45"]


def test_lines_are_rare(caplog):
    caplog.set_level(logging.INFO)
    assert len(list(progress(range(1000), "count"))) == 1000
    assert not caplog.records


def test_hidden_is_silent(told, capsys):
    assert list(progress([1, 2], "count", hidden=True)) == [1, 2]
    assert not told()
    assert not capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar_that_logs_do_not_break(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        for number in progress(range(3), "measure", unit="layer"):
            logging.getLogger().warning("said %d", number)
        after = logging.getLogger().handlers[:]
    finally:
        logging.getLogger().removeHandler(handler)
    said = terminal.getvalue()
    assert "measure:" in said
    assert "layer" in said
    assert all(f"said {number}\n" in said for number in range(3))
    assert handler in after


def test_an_error_inside_comes_through():
    def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(progress(broken(), "read"))
