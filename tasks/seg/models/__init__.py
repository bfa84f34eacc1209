"""Networks of PaddleSeg by name, with the facts that compression needs."""

from tasks.seg.models.build import build_network
from tasks.seg.models.heads import Heads, find_heads
from tasks.seg.models.published import published_url

__all__ = ["Heads", "build_network", "find_heads", "published_url"]
