"""The power law that tuned AdamW's final loss follows in the data: L(D) = alpha * D^-exponent + floor.

A rival's loss is read off it as the data that AdamW would need (Wen et al., Fantastic Pretraining Optimizers, 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEEPEST = 2.0  # exponents are sought from 0 to here; language models have 0.1 to 0.5
LOWEST, HIGHEST = 1 / 32, 32.0  # a speedup is clipped to these
COARSE = np.linspace(0, STEEPEST, 41)
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PowerLaw:
    """L(D) = alpha * D^-exponent + floor, alpha >= 0, in nats.

    The exponent 0 stands for straight lines in log D, L(D) = floor - alpha * log D, where floor is the loss at D = 1.
    """

    alpha: float
    exponent: float
    floor: float

    def loss(self, data: float) -> float:
        """The law's loss at `data`."""
        return float(self._alone().loss(data)[0])

    def data_for(self, loss: float) -> float:
        """The data at which the law reaches a loss: inf at or below the floor.

        A flat law (alpha = 0) has 0 above its floor.

        >>> law = PowerLaw(alpha=2.0, exponent=0.5, floor=1.0)
        >>> law.data_for(2.0), law.data_for(1.0)
        (4.0, inf)
        """
        return float(self._alone().data_for(np.asarray([loss]))[0])

    def speedup(self, loss: float, data: float) -> float:
        """The law's data for a loss over the data that the loss took, clipped to [1/32, 32].

        >>> law = PowerLaw(alpha=2.0, exponent=0.5, floor=1.0)
        >>> law.speedup(2.0, 2.0), law.speedup(0.5, 2.0)
        (2.0, 32.0)
        """
        return float(self._alone().speedup(np.asarray([loss]), data)[0])

    def _alone(self) -> PowerLaws:
        return PowerLaws(*(np.asarray([value], float) for value in (self.alpha, self.exponent, self.floor)))


@dataclass(frozen=True)
class PowerLaws:
    """N power laws at once; fields, losses and results have shape (N,). Methods are those of `PowerLaw`."""

    alpha: np.ndarray
    exponent: np.ndarray
    floor: np.ndarray

    def loss(self, data: float) -> np.ndarray:
        """Each law's loss at `data`."""
        return self.floor + self.alpha * np.where(self.exponent > 0, data**-self.exponent, -np.log(data))

    def data_for(self, loss: np.ndarray) -> np.ndarray:
        """The data at which each law reaches its loss."""
        line = self.exponent == 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            above = (loss - self.floor) / self.alpha  # x / 0 is inf above a flat law, -inf or NaN elsewhere
            power = np.where(above > 0, above, 0.0) ** (-1 / np.where(line, 1.0, self.exponent))
            straight = np.exp(-np.where(np.isnan(above), -np.inf, above))
        return np.where(line, straight, power)

    def speedup(self, loss: np.ndarray, data: float | np.ndarray) -> np.ndarray:
        """Each law's data for its loss over `data`, clipped to [1/32, 32]; 1 for the loss of a flat law itself.

        `data` is one number, or one a law.
        """
        found = np.clip(self.data_for(loss) / data, LOWEST, HIGHEST)
        return np.where((self.alpha == 0) & np.isclose(loss, self.floor, rtol=0, atol=1e-9), 1.0, found)


def fit_power_law(data: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """The least-squares power law through losses at two or more horizons, with exponents in [0, 2].

    Two horizons do not tell an exponent: they get the straight line in log D, exponent 0, as do losses that bend the
    other way. Losses that do not fall under any exponent get the flat law at their mean.

    Args:
        data: Tokens, steps or multiples of a horizon: any unit, positive and distinct. Shape (H,).
        losses: Final losses in nats, one a horizon. Shape (H,).

    Raises:
        ValueError: Fewer than two horizons, horizons that are equal or not positive, losses that are not finite.

    >>> law = fit_power_law([1, 2, 4, 8], [3.529, 3.409, 3.322, 3.262])
    >>> round(law.exponent, 3), round(law.floor, 3), round(law.speedup(3.464, 1), 2)
    (0.493, 3.112, 1.41)
    """
    laws = fit_power_laws(data, np.asarray(losses, float)[None])
    return PowerLaw(float(laws.alpha[0]), float(laws.exponent[0]), float(laws.floor[0]))


def fit_power_laws(data: Sequence[float], losses: np.ndarray) -> PowerLaws:
    """`fit_power_law` for N rows of losses at once. Shapes: (H,) and (N, H).

    For each exponent alpha and floor are a regression in closed form (variable projection), so that what is left is a
    search in one number: a grid, then golden section between the neighbours of its best.

    >>> laws = fit_power_laws([1, 4, 16], np.array([[3.0, 2.0, 1.5], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0]]))
    >>> laws.exponent.round(3).tolist(), laws.floor.round(3).tolist()
    ([0.5, 0.0, 0.0], [1.0, 3.0, 1.0])
    """
    horizons = np.asarray(data, float)
    _check(horizons, losses)
    middle = np.exp(np.log(horizons).mean())
    scaled = np.log(horizons / middle)  # so that D^-exponent is neither huge nor tiny in any unit
    mean = losses.mean(1, keepdims=True)
    exponent = _best_exponents(scaled, losses - mean) if len(horizons) > 2 else np.zeros(len(losses))
    basis = _basis(scaled, exponent)
    centred = basis - basis.mean(1, keepdims=True)
    slope = np.maximum((centred * (losses - mean)).sum(1), 0) / (centred**2).sum(1)
    level = mean[:, 0] - slope * basis.mean(1)
    # From level + slope * basis back to alpha and floor.
    line = exponent == 0
    divisor = np.where(line, 1.0, exponent)
    alpha = slope / divisor * middle**exponent
    floor = np.where(line, level + slope * np.log(middle), level - slope / divisor)
    return PowerLaws(alpha, np.where(alpha > 0, exponent, 0.0), np.where(alpha > 0, floor, mean[:, 0]))


def _check(horizons: np.ndarray, losses: np.ndarray) -> None:
    if losses.shape[1:] != horizons.shape or len(horizons) < 2:
        raise ValueError(f"a power law needs one loss at each of two or more horizons; got {losses.shape[-1]} losses "
                         f"at {horizons.size} horizons")  # fmt: skip
    if not (np.isfinite(horizons).all() and (horizons > 0).all() and len(set(horizons.tolist())) == len(horizons)):
        raise ValueError(f"horizons must be positive, finite and distinct; got {horizons.tolist()}")
    if not np.isfinite(losses).all():
        raise ValueError("losses must be finite; count a diverged run as the loss at initialisation")


def _basis(log_data: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """(D^-e - 1) / e, and -log D at e = 0, which it tends to. Shapes: (H,) and (N,) to (N, H)."""
    e = exponent[:, None]
    return np.where(e > 0, np.expm1(-e * log_data) / np.where(e > 0, e, 1.0), -log_data)


def _best_exponents(log_data: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """The exponent with the least squares for each row of losses around their mean. Shapes: (H,), (N, H) to (N,)."""

    def explained(exponent: np.ndarray) -> np.ndarray:
        x = _unit(_basis(log_data, exponent))
        return np.maximum((x * centred).sum(1), 0)  # alpha < 0 explains nothing

    grid = np.maximum(centred @ _unit(_basis(log_data, COARSE)).T, 0)  # (N, E)
    best = COARSE[grid.argmax(1)]
    width = COARSE[1]
    low, high = np.maximum(best - width, 0), np.minimum(best + width, STEEPEST)
    for _ in range(25):  # to 6e-7
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        to_left = explained(left) >= explained(right)
        low, high = np.where(to_left, low, left), np.where(to_left, right, high)
    found = (low + high) / 2
    at_edge = explained(best) >= explained(found)  # golden section does not reach the ends of the range
    return np.where(at_edge, best, found)


def _unit(basis: np.ndarray) -> np.ndarray:
    """Rows less their means, of length 1."""
    centred = basis - basis.mean(1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)
