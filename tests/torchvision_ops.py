"""Lets torchvision, and so timm's models, be imported beside a CPU build of torch.

PyPI's torchvision is built for CUDA. Its compiled ops do not load beside a CPU build of torch, and it then fails at the
import because it describes two of them that are not there. No model of timm calls them; declared, they are enough.
"""

import importlib.util

import pytest
import torch

_library = torch.library.Library("torchvision", "FRAGMENT")


def declare_ops() -> None:
    """Declares what torchvision describes, unless its own is there."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def timm_or_skip():
    """timm, whole; or the test is skipped where it, or a torchvision that fits torch, is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("timm's models need torchvision, which is not installed")
    declare_ops()
    return pytest.importorskip("timm", reason="timm is not installed")
