"""Coordinate descent over the settings of a program: one at a time, on a grid without edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .settings import DECAYS, NO_CLIP, WARMUPS, Range, Ranges, Settings

#: A change counts when it lowers the loss by more than this, in nats (Wen et al. 2025, arXiv:2509.02046).
ACCEPTED = 3e-3
_FACTOR = 2.0  # between neighbours on the grid of a number; its root once nothing is accepted any more
_LAST_WARMUP = 0.8  # share of a run that may warm up
_FIRST_CLIP = 1.0  # the neighbour of no clipping
_WIDE = ("eps", "max_norm")  # numbers that matter by orders of magnitude
# What is moved first; others follow in the order in which they are written.
_ORDER = ("lr", ".lr", "schedule.decay", "weight_decay", "schedule.warmup", "beta", "beta1", "beta2")

Measure = Callable[[Sequence[Settings]], Sequence[float]]


def descend(
    start: Settings, loss: float, measure: Measure, ranges: Ranges, runs: int, accepted: float = ACCEPTED
) -> list[tuple[float, Settings]]:
    """Moves one setting after another to its better neighbour while that lowers the loss by more than `accepted`.

    A number's neighbours are twice and half of it (of a rate, of 1 minus it), so that no best value lies on an edge: a
    move that was accepted is repeated from where it led with the factor squared, then with the factor itself. When a
    round over all settings accepts nothing, the factor between neighbours becomes its square root. Ends when `runs`
    runs were taken, or neighbours are 5% apart.

    Args:
        start: Settings to begin with.
        loss: Theirs, in nats.
        measure: Gives the loss of each of several settings.
        ranges: Which settings are moved, and which of them are rates.
        runs: How many may be measured.
        accepted: The acceptance step in nats.

    Returns:
        Every (loss, settings) that was measured, in order.

    >>> def bowl(some):
    ...     return [(s["lr"] - 8) ** 2 + (s["beta"] - 0.99) ** 2 for s in some]
    >>> from .settings import Range
    >>> tried = descend({"lr": 1.0, "beta": 0.9}, 49.0, bowl, {"lr": Range(1, 2), "beta": Range(0.1, 0.2, True)}, 40)
    >>> len(tried), min(tried, key=lambda pair: pair[0])[1]["lr"]
    (23, 8.0)
    """
    walk = _Walk(start, loss, measure, ranges, runs, accepted)
    while walk.left:
        before = walk.moves
        for name in walk.names():
            walk.along(name)
        if walk.moves == before and not walk.narrow():
            break
    return walk.tried


class _Walk:
    def __init__(
        self, start: Settings, loss: float, measure: Measure, ranges: Ranges, runs: int, accepted: float
    ) -> None:
        self.best, self.loss, self.measure, self.ranges = start, loss, measure, ranges
        self.left, self.accepted, self.factor, self.moves = runs, accepted, _FACTOR, 0
        self.tried: list[tuple[float, Settings]] = []
        self.known = {_frozen(start)}

    def names(self) -> list[str]:
        """The settings that move, in their order."""
        movable = [n for n in self.best if n in self.ranges or n.startswith("schedule.")]
        return sorted(movable, key=_place)

    def narrow(self) -> bool:
        """Halves the grid's distances, in octaves; False where they are too small to matter."""
        self.factor **= 0.5
        return self.factor > 1.05

    def along(self, name: str) -> None:
        """Tries both neighbours of a setting, and goes on in the direction that is accepted."""
        sides = [s for way in (1, -1) if (s := self._neighbour(name, way, self.factor)) is not None]
        direction = self._step(sides)
        factor = self.factor**2  # a best value far away is worth few runs
        while direction is not None and self.left:
            further = self._neighbour(name, direction, factor)
            if self._step([further] if further else []) is None:
                if factor == self.factor:
                    return
                factor = self.factor

    def _neighbour(self, name: str, way: int, factor: float) -> tuple[int, Settings] | None:
        value = moved(self.best[name], name, way, factor, self.ranges.get(name))
        near = {**self.best, name: value}
        return None if value == self.best[name] or _frozen(near) in self.known else (way, near)

    def _step(self, sides: Sequence[tuple[int, Settings]]) -> int | None:
        """The direction of the best of some neighbours, where it is accepted."""
        sides = sides[: self.left]
        if not sides:
            return None
        self.left -= len(sides)
        losses = list(self.measure([near for _, near in sides]))
        self.tried += zip(losses, (near for _, near in sides), strict=True)
        self.known |= {_frozen(near) for _, near in sides}
        loss, (way, near) = min(zip(losses, sides, strict=True), key=lambda pair: pair[0])
        if not loss < self.loss - self.accepted:
            return None
        self.best, self.loss, self.moves = near, loss, self.moves + 1
        return way


def _place(name: str) -> int:
    """In `_ORDER`; a fallback's learning rate comes with the rule's own, since it trains parameters of its own."""
    known = ".lr" if name.endswith(".lr") else name
    return _ORDER.index(known) if known in _ORDER else len(_ORDER)


def moved(value: float | str, name: str, way: int, factor: float, span: Range | None) -> float | str:
    """A setting's neighbour, in the direction `way`; itself where there is none.

    A decay that leaves its range `span` below is 0, and the neighbour of 0 is the middle of the range.

    >>> moved(0.9, "beta1", 1, 2.0, Range(0.1, 0.2, rate=True)), moved(0.2, "weight_decay", -1, 2.0, Range(0.01, 1.0))
    (0.95, 0.1)
    """
    if isinstance(value, str):
        return DECAYS[(DECAYS.index(value) + way) % len(DECAYS)]
    if name == "schedule.warmup":
        known = [*WARMUPS, *(w for w in (2 * value,) if WARMUPS[-1] < w <= _LAST_WARMUP)]
        return min((w for w in known if (w - value) * way > 0), key=lambda w: abs(w - value), default=value)
    if span is not None and span.rate:
        return max(0.0, 1 - _short((1 - value) * factor**-way))
    if name.endswith("weight_decay") and span is not None:
        if value == 0:
            return _short((span.low * span.high) ** 0.5) if way > 0 else value
        return 0.0 if value * factor**way < span.low else _short(value * factor**way)
    if name.endswith("max_norm") and value == NO_CLIP:
        return _FIRST_CLIP if way < 0 else value
    return _short(value * (factor ** (4 if name.endswith(_WIDE) else 1)) ** way)


def _short(value: float) -> float:
    """Four digits: what is left out is not worth a run."""
    return float(f"{value:.4g}")


def _frozen(settings: Mapping[str, float | str]) -> tuple[tuple[str, float | str], ...]:
    return tuple(sorted(settings.items()))
