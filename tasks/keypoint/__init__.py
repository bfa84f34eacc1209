from tasks.keypoint import foreign, own_data
from tasks.keypoint.config import Config
from tasks.keypoint.task import Task

__all__ = ["Config", "Task", "foreign", "own_data"]
