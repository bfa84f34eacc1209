"""Configs of teachers: those of their task with two more keys."""

from __future__ import annotations

from typing import Any

from core.distill.teacher import TEACHING, WEIGHTS, TeachingConfig
from core.settings.config import read


def without_teaching(settings: dict[str, Any]) -> dict[str, Any]:
    """Check what a config says of teaching, if anything, and return the rest."""
    read(TeachingConfig, settings.get(TEACHING, {}))
    return {key: value for key, value in settings.items() if key not in (WEIGHTS, TEACHING)}
