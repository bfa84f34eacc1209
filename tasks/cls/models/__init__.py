"""Networks of the classification task."""

from tasks.cls.models.backbones import build_backbone, list_backbones, pretrained_url, stage_names

__all__ = ["build_backbone", "list_backbones", "pretrained_url", "stage_names"]
