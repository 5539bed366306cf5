"""From a run to the shelf: a row's program, simplified, its numbers named, scored as printed, kept with its record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..discovered import names
from ..discovered.arguments import with_named_constants, with_named_numbers
from ..discovered.catalogue import SUFFIX
from ..discovered.families import families
from ..dsl import Program
from ..dsl.simplify import explain, simplify
from ..evaluator.dispatcher import Dispatcher
from ..evaluator.fitness import TUNED, Trial
from ..evaluator.trials import scores
from ..proxies.whole_file import replace_file
from .elites import fresh_seeds, held_out_scores
from .find import Ancestor, Find, FindError, Scored, finds, shelf
from .ledger import Child, Ledger, LedgerError
from .statements import hypers_of

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OTHERS = ("config", "starts", "commit", "format", "looks", "asked")  # of what a ledger says of its run
_LOOK = 0  # re-scorings of a run count from 1, so that no seed of a find is one of theirs


def keep(
    run: Path,
    child: int,
    name: str,
    about: str,
    dispatcher: Dispatcher,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Puts a row of a run on the shelf: its simplified program as text, and the record; gives the program's file.

    Positive numbers that the search drew become hyperparameters, as published rules have theirs, so that whoever trains
    with the find can set them and every tuning moves them (`with_named_numbers`). The program is scored as printed, on
    fresh seeds of the search's tasks and of its held-out tasks.

    Args:
        run: The run's folder.
        child: The row.
        name: Of the find: small letters, digits and _.
        about: What the rule is, in one line.
        dispatcher: What trains.
        folder: In place of the package's shelf.
        tell: Is told of progress, a line each.

    Raises:
        FindError: The name is taken or is none, or the row came through no last stage.
        LedgerError: There is no such run.
        OSError: The shelf cannot be written; said before anything trains.
    """
    where = folder or shelf()
    _check(name, about, where)
    with Ledger.reading(run) as ledger:
        row, meta = ledger.child(child), ledger.meta()
        if row is None:
            raise LedgerError(f"{run}: no child {child}; write a number from 0 to {max(ledger.count() - 1, 0)}")
        lineage = _lineage(ledger, row)
        steps = ledger.steps(child)
    if row.fitness is None or not row.scored:
        raise FindError(f"row {child} of {run} did not come through all stages: {row.reason or 'an alias'}")
    written = Program.parse(row.best_text)
    simple = simplify(written)
    program = replace(with_named_numbers(simplify(with_named_constants(simple))), name=name)
    named = set[str]().union(*map(hypers_of, program.parts())).difference(*map(hypers_of, simple.parts()))
    tell(f"row {child}: {len(written.statements)} statements, {len(program.statements)} simplified")
    tell(f"numbers that became hyperparameters: {', '.join(sorted(named)) or 'none'}")
    rules = tuple(step.rule for part in written.parts() for step in explain(part))
    config = json.loads(meta["config"])
    find = Find(
        config=config, starts=tuple(json.loads(meta["starts"])),
        environment={n: v for n, v in meta.items() if n not in _OTHERS},
        commit=meta.get("commit", ""), seed=config["seed"], child=child, steps=steps,
        fitness=row.fitness, lineage=lineage, rules=rules,
        families=tuple(map(str, families(program))), scores=measured(program, config, dispatcher, tell),
    )  # fmt: skip
    return _write(name, about, program, find, where)


def _check(name: str, about: str, where: Path) -> None:
    """Before anything trains."""
    if not _NAME.fullmatch(name):
        raise FindError(f"{name!r} is no name for a find: small letters, digits and _, as in fading_adamw")
    if name in names() or name in finds(where):
        raise _taken(name, where)
    if not about.strip() or "\n" in about:
        raise FindError("--about says in one line what the rule is")
    where.mkdir(parents=True, exist_ok=True)
    replace_file(where / f"{name}.part", "")  # the shelf can be written
    (where / f"{name}.part").unlink()


def _taken(name: str, where: Path) -> FindError:
    program = where / f"{name}{SUFFIX}"
    if program.exists() and not program.with_suffix(".json").exists():
        return FindError(f"{program} has no record beside it, as a keep that is killed leaves it; remove it, or wait")
    return FindError(f"{name!r} is on the shelf already; choose another name")


def _write(name: str, about: str, program: Program, find: Find, where: Path) -> Path:
    """The program first, which takes the name: another may have taken it since it was checked, minutes ago."""
    commit = f" of {find.commit[:7]}" if find.commit else ""
    doc = f"{about}\nSource: Stepsmith's search, seed {find.seed}, row {find.child}{commit}."
    path = where / f"{name}{SUFFIX}"
    try:
        replace_file(path, str(replace(program, doc=doc)), new=True)
    except FileExistsError:
        raise _taken(name, where) from None
    replace_file(path.with_suffix(".json"), find.model_dump_json(indent=1) + "\n")
    return path


def measured(
    program: Program, config: dict[str, Any], dispatcher: Dispatcher, tell: Callable[[str], None] = lambda text: None
) -> tuple[Scored, ...]:
    """The speedups of a program, from its printed text, on the tasks of a search and those that it held out."""
    program = Program.parse(str(program))
    _, show = fresh_seeds(_LOOK)
    own, decay = list(dict.fromkeys(config["stages"][-1]["tasks"])), config.get("decay", TUNED)
    found = []
    for task in [*own, *config["held_out"]]:
        tell(f"scoring on {len(show)} fresh seeds of {task}")
        if task in own:
            [score] = scores(dispatcher, [program], Trial((task,), seeds=show, decay=decay), tell)
        else:
            [score] = held_out_scores(dispatcher, [program], task, _LOOK, decay, tell)
        factor = score.program.peak / program.peak
        found.append(Scored(task=task, seeds=show, speedups=score.speedups[0], factor=factor))
    return tuple(found)


def _lineage(ledger: Ledger, row: Child) -> tuple[Ancestor, ...]:
    """From the first row to this one."""
    rows = [row]
    while (parent := rows[-1].parent) is not None:
        above = ledger.child(parent)
        if above is None:
            break
        rows.append(above)
    return tuple(Ancestor(child=r.child, edit=r.edit, program=r.program, fitness=r.fitness) for r in reversed(rows))
