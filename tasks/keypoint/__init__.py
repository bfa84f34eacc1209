from tasks.keypoint import own_data
from tasks.keypoint.config import Config
from tasks.keypoint.task import Task

__all__ = ["Config", "Task", "own_data"]
