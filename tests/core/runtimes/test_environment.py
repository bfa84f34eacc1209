"""The environment of a measurement."""

from __future__ import annotations

import paddle

from core.runtimes.environment import environment


def test_environment_names_what_matters():
    found = environment()
    assert found["packages"]["paddlepaddle"] == paddle.__version__
    assert found["cores"] >= 1
