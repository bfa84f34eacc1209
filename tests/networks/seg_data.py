"""Folders of pictures and label maps."""

from __future__ import annotations

import numpy as np

from core.settings.config import read
from tasks.seg import Config

RNG = np.random.default_rng(4)


def config_for(root, **sections):
    sections.setdefault("model", {"num_classes": 3})
    sections["data"] = {"root": str(root), "num_workers": 0, **sections.get("data", {})}
    return read(Config, sections)
