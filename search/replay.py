"""Replay: a find's search run again up to its row, where the same version computes alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..dsl import Program
from ..evaluator.dispatcher import Dispatcher
from .config import ConfigError, SearchConfig
from .find import Find, FindError
from .ledger import Child, Ledger
from .run import (
    BREEDS,
    Progress,
    Stop,
    create_run,
    environment,
    open_run,
    run_search,
    start_programs,
    stored_config,
)


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


def where(find: Find, then: str = "") -> str:
    """How to have the version that a find was made by, which knew nothing of it yet; `then` is run there."""
    if not find.commit:
        return "the version that found it is not recorded"
    commit = find.commit.rstrip("+")[:12]
    changed = ", which had changes that were not committed" if find.commit.endswith("+") else ""
    made = f"git worktree add ../{commit} {commit} && cp -r discovered/found ../{commit}/discovered/"
    return f"{made} && cd ../{commit} && make venv{then and f' && {then}'}{changed}"


def replay(
    find: Find, folder: Path, dispatcher: Dispatcher, progress: Callable[[Progress], None] = lambda p: None
) -> Replayed | None:
    """Runs the search from its seed until the find's row is folded, or goes on with a folder where it was interrupted.

    None where `progress` ended it before, by raising Stop.

    Raises:
        FindError: The seed breeds other children here, or so few that the row is not among them, or the folder is
            another run's.
        LedgerError: The folder cannot be read or written.
    """
    if other := [name for name in differences(find) if name in BREEDS]:
        raise FindError(f"not as it was recorded: {' and '.join(other)}; {where(find)}")
    config, stopped = stored_config(find.config), False
    with closing(_begun(find, folder, config)) as ledger:

        def until_it(now: Progress) -> None:
            nonlocal stopped
            if ledger.count() > find.child:
                raise Stop
            stopped = True  # by what `progress` raises
            progress(now)
            stopped = False

        if ledger.count() <= find.child:
            run_search(ledger, config, dispatcher, progress=until_it)
        row, count = ledger.child(find.child), ledger.count()
    if row is None and stopped:
        return None
    if row is None:
        raise FindError(f"the search ended after {count} rows, before row {find.child}; {where(find)}")
    return Replayed(row, row.program == find.lineage[-1].program, row.fitness == find.fitness)


def _begun(find: Find, folder: Path, config: SearchConfig) -> Ledger:
    """The run of a replay: a new one, or the one that its folder holds."""
    if not (folder / "ledger.sqlite").exists():
        return create_run(folder, config, starts=[Program.parse(text) for text in find.starts])
    ledger, held, _ = open_run(folder)
    if held != config or [str(p) for p in start_programs(ledger)] != list(find.starts):
        ledger.close()
        raise FindError(f"{folder} holds another run; name another folder with --out")
    return ledger
