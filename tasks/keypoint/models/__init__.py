from tasks.keypoint.models.config import ModelConfig
from tasks.keypoint.models.network import HeatmapNetwork, build_network
from tasks.keypoint.models.weights import published_url

__all__ = [
    "HeatmapNetwork",
    "ModelConfig",
    "build_network",
    "published_url",
]
