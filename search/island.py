"""An island: one population that ages and restarts by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from .fittest import front
from .member import Member
from .structures import Structures


@dataclass
class Island:
    """Members, oldest first; one that is older than the last `size` dies. `best`, `structures` and `front` survive that
    and restarts; the latter has the members so far that are shorter than all fitter ones.
    """

    starts: Sequence[Member]
    size: int
    members: deque[Member] = field(default_factory=deque)
    best: Member | None = None
    front: list[Member] = field(default_factory=list)
    structures: Structures = field(default_factory=Structures)
    best_round: int = 0  # when `best` came, or the last restart was
    restarts: int = 0

    def __post_init__(self) -> None:
        self.members = deque(self.starts, maxlen=self.size)

    def add(self, member: Member, round_: int) -> None:
        """The newest member."""
        self.members.append(member)
        self.structures.add(member)
        self.front = front(sorted([*self.front, member], key=lambda m: (-m.fitness, m.statements)))
        if self.best is None or member.fitness > self.best.fitness:
            self.best, self.best_round = member, round_

    def restart_if_stuck(self, round_: int, patience: int) -> None:
        """After `patience` rounds without a better program: from the best so far and from the starts in turn."""
        if round_ - self.best_round < patience:
            return
        self.restarts += 1
        anew = [self.best] if self.best is not None and self.restarts % 2 else self.starts
        self.members = deque(anew, maxlen=self.size)
        self.best_round = round_
