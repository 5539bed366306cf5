"""A find: a program of a run that stands on the shelf `discovered/found`, with the record of where it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..discovered import catalogue, names
from ..discovered.catalogue import SUFFIX
from ..discovered.families import families
from ..dsl import Program
from ..dsl.simplify import explain, simplify
from ..evaluator.dispatcher import Dispatcher
from ..evaluator.fitness import Trial
from ..evaluator.statistics import Interval, geometric_interval
from ..evaluator.trials import scores
from ..proxies.whole_file import replace_file
from .elites import HELD_OUT_FACTORS, fresh_seeds
from .ledger import Child, Ledger, LedgerError

SHELF = "found"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class FindError(ValueError):
    """What cannot be put on the shelf, or replayed, in one line."""


class Ancestor(BaseModel):
    """A row on the way from a start program to the find, as its ledger has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    child: int
    edit: str
    program: str
    fitness: float | None


class Scored(BaseModel):
    """The printed program on seeds that the search never used: speedup over tuned AdamW, a number a seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    seeds: tuple[int, ...]
    speedups: tuple[float, ...]
    factor: float = 1.0  # on the peak learning rate, for a task of another size; other seeds chose it

    @property
    def interval(self) -> Interval:
        """The geometric mean with its interval at 95%."""
        return geometric_interval(self.speedups)


class Find(BaseModel):
    """What `stepsmith replay` needs to make a find again, and what was known of it when it was kept.

    Attributes:
        config: Of the run; `starts` are the texts of its start programs.
        environment: Search version, op list, libraries and kind of machine.
        commit: Of the code that ran; "" where it was no checkout.
        child: The row; `children` and `steps` are those that the run had by then.
        fitness: What the search saw, on its own seeds.
        lineage: From the start program to the row.
        rules: What simplified the row's program to the find, in order.
        families: That `identify` names.
        scores: Of the find as printed.
        validations: Against tuned AdamW on targets, as `stepsmith validate` writes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    config: dict[str, Any]
    starts: tuple[str, ...]
    environment: dict[str, str]
    commit: str
    seed: int
    child: int
    children: int
    steps: int
    fitness: float
    lineage: tuple[Ancestor, ...]
    rules: tuple[str, ...]
    families: tuple[str, ...]
    scores: tuple[Scored, ...]
    validations: tuple[dict[str, Any], ...] = ()


def shelf() -> Path:
    """The folder of finds, in the package."""
    return Path(catalogue.__file__).parent / SHELF


def finds(folder: Path | None = None) -> list[str]:
    """The names of all finds."""
    return sorted(path.stem for path in (folder or shelf()).glob("*.json"))


def read_find(name: str, folder: Path | None = None) -> Find:
    """The record of a find.

    Raises:
        FindError: There is none of that name, or it is damaged.
    """
    path = (folder or shelf()) / f"{name}.json"
    if not path.is_file():
        raise FindError(f"there is no find {name!r}; on the shelf: {', '.join(finds(folder)) or 'none yet'}")
    try:
        return Find.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        said = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise FindError(f"{path} cannot be read ({said}); put back the file as it was committed") from None


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

    The simplified program is scored as printed, on fresh seeds of the search's tasks and of its held-out tasks.

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
    """
    if not _NAME.fullmatch(name):
        raise FindError(f"{name!r} is no name for a find: small letters, digits and _, as in fading_adamw")
    if name in names():
        raise FindError(f"{name!r} is on the shelf already; choose another name")
    with Ledger.reading(run) as ledger:
        row, meta = ledger.child(child), ledger.meta()
        if row is None:
            raise LedgerError(f"{run}: no child {child}; write a number from 0 to {max(ledger.count() - 1, 0)}")
        lineage = _lineage(ledger, row)
        so_far = [c.steps for c in ledger.children() if c.child <= child]
    if row.fitness is None:
        raise FindError(f"row {child} of {run} has no fitness: it was dropped on the way ({row.reason or 'an alias'})")
    written = Program.parse(row.final or row.program)
    program = replace(simplify(written), name=name)
    tell(f"row {child}: {len(written.statements)} statements, {len(program.statements)} simplified")
    rules = tuple(step.rule for part in written.parts() for step in explain(part))
    config = json.loads(meta["config"])
    find = Find(
        config=config, starts=tuple(json.loads(meta["starts"])),
        environment={n: v for n, v in meta.items() if n not in ("config", "starts", "commit", "format", "looks")},
        commit=meta.get("commit", ""), seed=config["seed"], child=child, children=len(so_far), steps=sum(so_far),
        fitness=row.fitness, lineage=lineage, rules=rules,
        families=tuple(map(str, families(program))), scores=measured(program, config, dispatcher, tell),
    )  # fmt: skip
    return write_find(name, about, program, find, folder)


def write_find(name: str, about: str, program: Program, find: Find, folder: Path | None = None) -> Path:
    """Writes a find's program and record; gives the program's file."""
    where = folder or shelf()
    where.mkdir(parents=True, exist_ok=True)
    commit = f" of {find.commit[:7]}" if find.commit else ""
    doc = f"{about}\nSource: Stepsmith's search, seed {find.seed}, row {find.child}{commit}."
    path = where / f"{name}{SUFFIX}"
    replace_file(where / f"{name}.json", find.model_dump_json(indent=1) + "\n")
    replace_file(path, str(replace(program, doc=doc)))
    return path


def measured(
    program: Program, config: dict[str, Any], dispatcher: Dispatcher, tell: Callable[[str], None] = lambda text: None
) -> tuple[Scored, ...]:
    """The speedups of a program, from its printed text, on the tasks of a search and those that it held out."""
    program = Program.parse(str(program))
    pick, show = fresh_seeds(0)
    own = list(dict.fromkeys(config["stages"][-1]["tasks"]))
    found = []
    for task in [*own, *config["held_out"]]:
        tell(f"scoring on {len(show)} fresh seeds of {task}")
        factor = 1.0 if task in own else _factor(dispatcher, program, task, pick[:2])
        tried = program if factor == 1 else program.with_lr(program.peak * factor)
        [score] = scores(dispatcher, [tried], Trial((task,), seeds=show))
        found.append(Scored(task=task, seeds=show, speedups=score.speedups[0], factor=factor))
    return tuple(found)


def _factor(dispatcher: Dispatcher, program: Program, task: str, seeds: Sequence[int]) -> float:
    """The factor on the learning rate that picking seeds prefer on a task the search never saw."""
    [moved] = scores(dispatcher, [program], Trial((task,), seeds=tuple(seeds), lr_factors=HELD_OUT_FACTORS))
    return moved.program.peak / program.peak


def _lineage(ledger: Ledger, row: Child) -> tuple[Ancestor, ...]:
    """From the first row to this one."""
    rows = [row]
    while (parent := rows[-1].parent) is not None:
        above = ledger.child(parent)
        if above is None:
            break
        rows.append(above)
    return tuple(Ancestor(child=r.child, edit=r.edit, program=r.program, fitness=r.fitness) for r in reversed(rows))
