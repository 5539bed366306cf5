"""What validation trains: transformers from 0.1M to 124M parameters and other models, on text, images and tables."""

from .registry import UnknownTarget, target, targets
from .target import Metric, Target
from .width import at_width

__all__ = ["Metric", "Target", "UnknownTarget", "at_width", "target", "targets"]
