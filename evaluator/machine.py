"""What a result depends on besides the program and the seed: the kind of device, and the versions that compute."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path

import numpy as np

from ..dsl.to_population import engine_name

_KINDS = (".py", ".c", ".lark", ".opt", ".toml", ".jsonl")
_FLOORS = ("dsl", "discovered", "proxies", "evaluator")


@cache
def source_digest() -> dict[str, str]:
    """A hash of the code and data that a score depends on: another version may score otherwise.

    >>> len(source_digest()["stepsmith"])
    12
    """
    root = Path(__file__).parents[1]
    files = sorted(path for floor in _FLOORS for path in (root / floor).rglob("*") if path.suffix in _KINDS)
    whole = hashlib.blake2b(digest_size=6)
    for path in files:
        whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return {"stepsmith": whole.hexdigest()}


def machine(device: str = "cpu") -> dict[str, str]:
    """Versions and the kind of machine: two workers whose facts are equal give equal results on a device.

    >>> sorted(machine())
    ['engine', 'machine', 'numpy', 'torch']
    """
    import torch

    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device != "cpu":
        kind += f", {torch.cuda.get_device_name(device) if torch.cuda.is_available() else 'a GPU elsewhere'}"
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "engine": engine_name(device),
        "machine": kind,
    }
