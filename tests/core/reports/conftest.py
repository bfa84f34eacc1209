"""Figures of a row, as tests of the zoo have them."""

from tests.core.zoo.conftest import result

__all__ = ["result"]
