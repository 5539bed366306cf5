"""Finds as a person keeps and replays them: progress, what came out, and whether it is what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..discovered import load
from ..evaluator.dispatcher import Dispatcher
from ..search.find import Find, Scored, finds, keep, measured, read_find
from ..search.found import run_row
from ..search.replay import BREEDS, differences, replay, where
from .live import LiveView
from .session import Interrupts, say

if TYPE_CHECKING:
    from rich.console import Console


def run_keep(source: str, name: str, about: str, dispatcher: Dispatcher, console: Console) -> None:
    """Puts the row that `RUN:best` or `RUN:CHILD` names on the shelf."""
    run, row = run_row(source)
    try:
        path = keep(run, row.child, name, about, dispatcher, tell=lambda text: say(console, text))
    finally:
        dispatcher.executor.close()
    say(console, f"\n{path.read_text('utf-8')}")
    for line in lines(read_find(name)):
        say(console, line)
    say(console, f"wrote {path} and {path.with_suffix('.json').name}")


def run_replay(name: str, folder: Path, dispatcher: Dispatcher, console: Console) -> bool:
    """Replays a find, or scores it again where the same seed gives other rows; whether it is as recorded."""
    find, other = read_find(name), {}
    try:
        other = differences(find)
        if other:
            for what, (there, here) in other.items():
                say(console, f"{what}: {there} there, {here} here")
            if set(other) & set(BREEDS):
                say(console, f"to make its rows again: {where(find)}")
            return _scored_again(name, find, dispatcher, console)
        return _made_again(find, folder, dispatcher, console)
    finally:
        dispatcher.executor.close()


def origin(name: str) -> list[str]:
    """Where a program came from, if it is a find; no lines for others."""
    return ["origin", *(f"  {line}" for line in lines(read_find(name)))] if name in finds() else []


def lines(find: Find) -> list[str]:
    """What a person wants to know of where a find came from."""
    shown = [
        f"found by   seed {find.seed}, row {find.child}, after {find.steps:,} training steps"
        + (f", at {find.commit[:12]}" if find.commit else ""),
        f"lineage    {' -> '.join(str(a.child) for a in find.lineage)}, from {', '.join(find.config['start'])}",
        f"simplified by {', '.join(dict.fromkeys(find.rules)) or 'nothing'}",
        f"in the search {find.fitness:.3f}, on its own seeds",
    ]
    shown += [f"family     {family}" for family in find.families]
    return shown + [f"{s.task}: {s.interval} on {len(s.seeds)} unseen seeds" for s in find.scores]


def _made_again(find: Find, folder: Path, dispatcher: Dispatcher, console: Console) -> bool:
    say(console, f"searching from seed {find.seed} up to row {find.child}, {find.steps:,} training steps, in {folder}")
    with LiveView(console) as view, Interrupts():
        found = replay(find, folder, dispatcher, view)
    program = "the same program" if found.same_program else "another program"
    fitness = "none" if found.row.fitness is None else repr(found.row.fitness)
    say(console, f"row {find.child}: {program}, fitness {fitness}, recorded {find.fitness!r}")
    return found.same_program and found.same_fitness


def _scored_again(name: str, find: Find, dispatcher: Dispatcher, console: Console) -> bool:
    """Whether every seed gives what was recorded; elsewhere it may round otherwise."""
    scores = measured(load(name), find.config, dispatcher, lambda text: say(console, text))
    for there, here in zip(find.scores, scores, strict=True):
        say(console, f"{there.task}: recorded {there.interval}, here {here.interval}{_same(there, here)}")
    return scores == find.scores


def _same(there: Scored, here: Scored) -> str:
    return ", the same on every seed" if there == here else ""
