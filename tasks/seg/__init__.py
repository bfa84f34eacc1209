"""Semantic segmentation: networks of PaddleSeg, list files, mIoU."""

from tasks.seg import foreign, own_data
from tasks.seg.config import Config
from tasks.seg.task import Task

__all__ = ["Config", "Task", "foreign", "own_data"]
