from tasks.keypoint.models.config import ModelConfig, published_url
from tasks.keypoint.models.network import HeatmapNetwork, build_network

__all__ = ["HeatmapNetwork", "ModelConfig", "build_network", "published_url"]
