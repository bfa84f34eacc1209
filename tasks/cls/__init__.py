"""Image classification with the networks of PaddleClas."""

from tasks.cls.config import Config
from tasks.cls.task import Task

__all__ = ["Config", "Task"]
