"""Replay: a find's search run again up to its row, where the same version computes alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..dsl import Program
from ..evaluator.dispatcher import Dispatcher
from .config import ConfigError
from .find import Find, FindError
from .ledger import Child
from .run import Progress, Stop, create_run, environment, run_search, stored_config

#: What must be as recorded for a seed to breed the same children.
BREEDS = ("search_version", "ops")


@dataclass(frozen=True)
class Replayed:
    """The row that the search made again, beside the recorded one."""

    row: Child
    same_program: bool
    same_fitness: bool


def differences(find: Find) -> dict[str, tuple[str, str]]:
    """What is not as it was: name -> there, here; empty where the same rows come out.

    Raises:
        FindError: This version knows no such configuration.
    """
    try:
        here = environment(stored_config(find.config))
    except (ConfigError, LookupError) as error:
        raise FindError(f"its configuration does not hold here: {error}; {where(find)}") from None
    return {n: (find.environment.get(n, "?"), v) for n, v in here.items() if find.environment.get(n) != v}


def where(find: Find) -> str:
    """Which version to replay a find on."""
    if not find.commit:
        return "the version that found it is not recorded"
    changed = ", which had changes that were not committed" if find.commit.endswith("+") else ""
    return f"git checkout {find.commit.rstrip('+')[:12]}{changed}"


def replay(
    find: Find, folder: Path, dispatcher: Dispatcher, progress: Callable[[Progress], None] = lambda p: None
) -> Replayed:
    """Runs the search from its seed in a new run folder until the find's row is folded.

    Raises:
        FindError: The seed breeds other children here, or so few that the row is not among them.
        LedgerError: The folder holds a run already.
    """
    if other := [name for name in differences(find) if name in BREEDS]:
        raise FindError(f"its {' and '.join(other)} differ here; {where(find)}")
    config = stored_config(find.config)
    ledger = create_run(folder, config, starts=[Program.parse(text) for text in find.starts])

    def until_it(now: Progress) -> None:
        progress(now)
        if ledger.count() > find.child:
            raise Stop

    try:
        run_search(ledger, config, dispatcher, progress=until_it)
        row, count = ledger.child(find.child), ledger.count()
    finally:
        ledger.close()
    if row is None:
        raise FindError(f"the search ended after {count} rows, before row {find.child}; {where(find)}")
    return Replayed(row, row.program == find.lineage[-1].program, row.fitness == find.fitness)
