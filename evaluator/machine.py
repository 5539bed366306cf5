"""What a result depends on besides the program and the seed: the kind of device, and the versions that compute."""

from __future__ import annotations

import platform

import numpy as np

from ..dsl.to_population import engine_name


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
        "engine": engine_name(),
        "machine": kind,
    }
