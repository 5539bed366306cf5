"""Learning-rate schedules: multipliers of the peak, one per step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..dsl.errors import did_you_mean

# Share of the steps after the warm-up over which "constant_linear" decays.
_COOLDOWN = 0.2

# Shape -> multiplier at x in [0, 1), the share of the decay gone by; 1 at x = 0 and 0 at x = 1.
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: 1.0 - x,
    "cosine": lambda x: 0.5 * (1.0 + np.cos(np.pi * x)),
    "constant_linear": lambda x: np.minimum(1.0, (1.0 - x) / _COOLDOWN),
}


def schedule(steps: int, warmup: float = 0.05, decay: str = "linear") -> np.ndarray:
    """Linear warm-up to 1, then a full decay: step `steps`, one past the last, would have multiplier 0.

    With k = round(warmup * steps) the first k steps are 1/k, 2/k, ..., 1. A step i >= k is
    decay((i - p) / (steps - p)) with p = max(k - 1, 0), the step of the peak. None is 0, so none is wasted.

    Args:
        steps: Length of the run, at least 1.
        warmup: Share of the steps that warm up, in [0, 1].
        decay: "linear", "cosine" or "constant_linear" (constant, then linear over the last fifth).

    Returns:
        (steps,) float64 multipliers in (0, 1].

    Raises:
        ValueError: An unknown decay, no steps, or a warm-up outside [0, 1].

    >>> schedule(5, warmup=0.4).tolist()
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if decay not in DECAYS:
        raise ValueError(f"unknown decay {decay!r}: {did_you_mean(decay, DECAYS)}")
    if steps < 1 or not 0.0 <= warmup <= 1.0:
        raise ValueError(f"a schedule needs steps >= 1 and warmup in [0, 1], not {steps} and {warmup}")
    rising = round(warmup * steps)
    peak = max(rising - 1, 0)
    step = np.arange(steps)
    falling = DECAYS[decay](np.maximum(step - peak, 0) / (steps - peak))
    return np.where(step < rising, (step + 1) / max(rising, 1), falling)
