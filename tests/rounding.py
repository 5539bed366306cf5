"""Rounding errors to order: what a program does beside them tells what it owes to rounding."""

from __future__ import annotations

import numpy as np


def disturbance(seed: int):
    """Rounding errors of a part in 10^15 at every value."""
    random = np.random.default_rng(seed)

    def one(x):
        return np.asarray(x) * (1 + 1e-15 * random.uniform(-1, 1, np.shape(x)))

    return lambda found: [one(x) for x in found] if isinstance(found, list) else one(found)
