"""What validation trains: transformers from 0.1M to 124M parameters and other models, on text, images and tables."""

from .registry import UnknownTarget, target, targets
from .target import Metric, Target

__all__ = ["Metric", "Target", "UnknownTarget", "target", "targets"]
