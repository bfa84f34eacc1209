from tasks.keypoint.config import Config
from tasks.keypoint.task import Task

__all__ = ["Config", "Task"]
