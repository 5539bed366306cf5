"""How much memory a device has left for this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_UNBOUNDED = 2**63 - 1


def available(device: torch.device | str) -> int:
    """Bytes that can still be allocated on a device.

    On a GPU what the driver calls free, and what torch holds and does not use. On a CPU what the system calls
    available, or what a cgroup or a bound on this process leaves where that is less.

    >>> available("cpu") > 0
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return max(0, min([_system(), _bound(), *(limit - used for limit, used in _limits())]))


def _system() -> int:
    """MemAvailable; without one (not Linux) no bound."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNBOUNDED
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), _UNBOUNDED)


def _bound() -> int:
    """What this process may still take where its memory is bounded; see `Processes`."""
    if not sys.platform.startswith("linux"):
        return _UNBOUNDED
    import resource

    bound, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if bound == resource.RLIM_INFINITY:
        return _UNBOUNDED
    lines = Path("/proc/self/status").read_text().splitlines()
    return bound - next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes used) of each cgroup that this process is in, of either version."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, used, cached = _CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        folder = PurePosixPath(path.lstrip("/"))
        for part in (folder, *folder.parents):
            numbers = [_number(root / part / name) for name in (limit, used)]
            if None not in numbers:
                yield numbers[0] or 0, max(0, (numbers[1] or 0) - _stat(root / part / "memory.stat", cached))


def _number(path: Path) -> int | None:
    """A file's number; None for a file that is missing or says max."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(path: Path, name: str) -> int:
    """A line of memory.stat: pages of files can be given back."""
    try:
        pairs = (line.split() for line in path.read_text().splitlines())
        return next((int(number) for key, number in pairs if key == name), 0)
    except (OSError, ValueError):
        return 0
