"""Scratch tensors kept from one step to the next.

A step of a population needs some tens of megabytes of intermediates. Fresh from the allocator they would cost
a page fault per 4 KiB every step, more than the arithmetic in them; kept, they also stay where a CUDA graph
expects them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Workspace:
    """Named scratch tensors of one dtype and device. Whoever asks for a name again gets the same memory."""

    def __init__(self, like: Tensor) -> None:
        self.dtype, self.device = like.dtype, like.device
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The tensor of this name, uninitialised at first use."""
        found = self._tensors.get(name)
        if found is None:
            found = self._tensors[name] = torch.empty(shape, dtype=self.dtype, device=self.device)
        return found

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name as it was left."""
        return self._tensors[name]

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def constant(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of this name, made at first use and never written."""
        found = self._tensors.get(name)
        if found is None:
            found = self._tensors[name] = make().to(self.device)
        return found


# Training and validation batches of a few tasks, whole slices and rests; the longest unused goes first.
_KEPT = 12
# One per thread, because two threads must not write the same scratch.
_local = threading.local()


def workspace(owner: Hashable, like: Tensor, *shape: int) -> Workspace:
    """This thread's workspace for an owner, a dtype, a device and the shapes that fix all others."""
    kept: dict[Hashable, Workspace] = _local.__dict__.setdefault("kept", {})
    key = (owner, like.dtype, like.device, shape)
    found = kept.pop(key, None) or Workspace(like)  # put back as the newest
    kept[key] = found
    if len(kept) > _KEPT:
        del kept[next(iter(kept))]
    return found


def release_scratch(device: torch.device) -> int:
    """Forgets this thread's workspaces on a type of device; how many bytes that frees."""
    kept: dict[Hashable, Workspace] = _local.__dict__.get("kept", {})
    gone = [key for key, each in kept.items() if each.device.type == device.type]
    return sum(kept.pop(key).bytes for key in gone)


@contextmanager
def apart() -> Iterator[Callable[[], int]]:
    """A block whose workspaces are made anew and gone after it; gives what says how many bytes they take.

    >>> with apart() as taken:
    ...     _ = workspace("model", torch.zeros(1), 3)("x", 3, 5)
    ...     taken()
    60
    """
    before = _local.__dict__.get("kept", {})
    kept: dict[Hashable, Workspace] = {}
    _local.kept = kept
    try:
        yield lambda: sum(each.bytes for each in kept.values())
    finally:
        _local.kept = before
