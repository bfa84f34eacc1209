"""Image classification with the networks of PaddleClas."""

from tasks.cls import foreign, own_data
from tasks.cls.config import Config
from tasks.cls.task import Task

__all__ = ["Config", "Task", "foreign", "own_data"]
