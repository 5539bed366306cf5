"""Finds as a person keeps and replays them: progress, what came out, and whether it is what was recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..discovered import load
from ..evaluator.dispatcher import Dispatcher
from ..search.find import Find, Scored, read_find
from ..search.keep import keep, measured
from ..search.programs import run_row
from ..search.replay import differences, replay, where
from ..search.run import BREEDS, Progress, Stop
from .live import LiveView
from .origin import lines
from .session import Interrupts, say

if TYPE_CHECKING:
    from rich.console import Console


_REPLAY = ".venv/bin/stepsmith replay"  # of the checkout it is run in, whatever is on the path


def run_keep(source: str, name: str, about: str, dispatcher: Dispatcher, console: Console) -> None:
    """Puts the row that `RUN:best` or `RUN:CHILD` names on the shelf."""
    try:
        run, row = run_row(source)
        path = keep(run, row.child, name, about, dispatcher, tell=lambda text: say(console, text))
    finally:
        dispatcher.executor.close()
    say(console, f"\n{path.read_text('utf-8')}")
    for line in lines(read_find(name)):
        say(console, line)
    say(console, f"wrote {path} and {path.with_suffix('.json').name}")


def run_replay(name: str, folder: Path, dispatcher: Dispatcher, console: Console) -> bool:
    """Replays a find, or scores it again where the same seed gives other rows; whether it is as recorded."""
    try:
        find = read_find(name)
        other = differences(find)
        if not other:
            return _made_again(find, folder, dispatcher, console)
        for what, (there, here) in other.items():
            say(console, f"{what}: {there} there, {here} here")
        bred_alike = not set(other) & set(BREEDS)
        again = "the machine and the versions named first" if bred_alike else where(find, f"{_REPLAY} {name}")
        say(console, f"the same rows come with: {again}")
        seeds = sum(len(score.seeds) for score in find.scores)
        say(console, f"here the find is scored again, which takes some minutes: {seeds} runs and more, on two cores")
        return _scored_again(name, find, dispatcher, console)
    finally:
        dispatcher.executor.close()


def _made_again(find: Find, folder: Path, dispatcher: Dispatcher, console: Console) -> bool:
    say(console, f"searching from seed {find.seed} up to row {find.child}, {find.steps:,} training steps, in {folder}")
    with LiveView(console) as view, Interrupts() as interrupted:

        def progress(now: Progress) -> None:
            view(now)
            if interrupted.count:
                raise Stop

        found = replay(find, folder, dispatcher, progress)
    if found is None:
        say(console, "interrupted: all closed rounds are saved; the same command goes on from there")
        sys.exit(130)
    program = "the same program" if found.same_program else "another program"
    fitness = "none" if found.row.fitness is None else repr(found.row.fitness)
    say(console, f"row {find.child}: {program}, fitness {fitness}, recorded {find.fitness!r}")
    return found.same_program and found.same_fitness


def _scored_again(name: str, find: Find, dispatcher: Dispatcher, console: Console) -> bool:
    """Whether intervals meet; where versions or machines differ, no number need be the same."""
    scores = measured(load(name), find.config, dispatcher, lambda text: say(console, text))
    for there, here in zip(find.scores, scores, strict=True):
        same = ", the same on every seed" if there == here else ""
        say(console, f"{there.task}: recorded {there.interval}, here {here.interval}{same}")
    return all(_meet(*pair) for pair in zip(find.scores, scores, strict=True))


def _meet(one: Scored, other: Scored) -> bool:
    return max(one.interval.low, other.interval.low) <= min(one.interval.high, other.interval.high)
