"""Programs by name: the catalogue's, a file's, tuned AdamW (`adamw@TASK`), a run's (`RUN:best`, `RUN:123`), a transform
of one, `cautious(lion)`, `clip(runs/1:best, max_norm=0.5)`, or two of them by role, `momentum for matrix else adamw`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from inspect import signature
from pathlib import Path
from shlex import quote

from ..discovered import load, names
from ..discovered.catalogue import SUFFIX
from ..dsl import Program, ProgramError, did_you_mean
from ..dsl.errors import quoted
from ..dsl.layout import comma_parts
from ..dsl.parameter import ROLES
from ..dsl.program import routed
from ..dsl.transforms import TRANSFORMS
from .find import find_of
from .ledger import Child, Ledger, LedgerError

ADAMW_ON = "adamw@"
ROWS_IN_ALL = "rows in all"  # of the run, where it was re-scored: a note in the files of the hall of fame
_CALL = re.compile(r"(\w+)\((.*)\)", re.DOTALL)


def load_any(name_or_path: str | os.PathLike[str]) -> Program:
    """The program that a name stands for, or that a file holds.

    `lion` is a catalogued program; what ends in `.opt` or holds a `/` is a file, as every `os.PathLike` is.
    `adamw@bytes` is AdamW as tuned on that task for its AdamW curve, at the task's budget. `RUN:best` is the
    first of the run's hall of fame (before re-scoring, and where the run went on after it, the fittest row),
    `RUN:3` row 3 at its best learning rate. `cautious(NAME)` is a transform of a program, with options as in Python.
    `NAME for ROLES else NAME` gives parameters of some roles the first program and all others the second, as headers
    have it. Raises ValueError, LookupError or LedgerError with one line.

    >>> load_any("cautious(lion, scale=mean_eps)").name
    'cautious_lion'
    >>> [(part.name, part.roles) for part in load_any("momentum for matrix else adamw").parts()]
    [('momentum_for_matrix', ('matrix',)), ('adamw', ())]
    """
    if not isinstance(name_or_path, str):
        return load(name_or_path)
    name = name_or_path
    if not name.strip():
        raise ProgramError("the name of a program is missing; stepsmith list shows those of the catalogue")
    if _is_run(name) or _is_run(name.rpartition(":")[0]):  # whose folder may be called anything
        return _of_run(name)
    if route := _route(name):
        return _routed(*route)
    if called := _CALL.fullmatch(name.strip()):
        return _transformed(*called.groups())
    if re.match(r"\s*\w+\(", name) and not Path(name).exists():
        raise ProgramError(f"{quoted(name)}: a ) is missing at the end")
    where = tuned_on(name)
    return _of_run(name) if where is None else _tuned(where)


def tuned_on(name: str) -> str | None:
    """The task of `adamw@TASK`, where that is the whole name: a file's path may hold commas, spaces and brackets.

    >>> tuned_on("adamw@my tasks (2)/mine.py:Mine"), tuned_on("cautious(adamw@bytes)")
    ('my tasks (2)/mine.py:Mine', None)
    """
    return name.removeprefix(ADAMW_ON) if name.startswith(ADAMW_ON) and not _route(name) else None


def _route(name: str) -> tuple[str, str, str] | None:
    """Of `A for ROLES else B` the three, unless that stands inside the brackets of a transform."""
    begin, end = _outermost(name, " for "), _outermost(name, " else ")
    if begin is None or end is None or end < begin or Path(name).exists():
        return None
    return name[:begin].strip(), name[begin + 5 : end], name[end + 6 :].strip()


def _outermost(text: str, word: str) -> int | None:
    """Where a word stands first outside of brackets; None where it does not."""
    places = (m.start() for m in re.finditer(re.escape(word), text))
    return next((i for i in places if text.count("(", 0, i) == text.count(")", 0, i)), None)


def _routed(rule: str, roles: str, other: str) -> Program:
    """The first program for parameters of these roles, the second for all others."""
    wanted = [role.strip() for role in roles.split(",")]
    for role in wanted:
        if role not in ROLES:
            raise ProgramError(f"unknown role {quoted(role)}; {did_you_mean(role, ROLES)}")
    program, fallback = load_any(rule), load_any(other)
    if program.fallback is not None:
        raise ProgramError(f"{rule} has a route already: else {program.fallback.name}")
    ordered = tuple(role for role in ROLES if role in wanted)
    program = replace(program, name=f"{program.name}_for_{'_'.join(ordered)}", roles=ordered, doc="")
    # Read once more from its text, so that what no header may say is refused as there.
    return Program.parse(str(routed([program, fallback])))


def program_names(text: str) -> list[str]:
    """The names of programs between commas; those between roles, and inside brackets, are part of a name.

    >>> program_names("muon, lion for matrix, head else adamw, cautious(lion, scale=mean_eps)")
    ['muon', 'lion for matrix, head else adamw', 'cautious(lion, scale=mean_eps)']
    """
    found: list[str] = []
    for part in comma_parts(text):
        if found and _outermost(found[-1], " for ") is not None and _outermost(found[-1], " else ") is None:
            found[-1] += f", {part}"
        else:
            found.append(part)
    return found


def _tuned(where: str) -> Program:
    """AdamW as tuned on a task; torch is imported for this alone."""
    from ..evaluator.curve import curve_of
    from ..proxies import task

    tuned = task(where)
    return curve_of(tuned).point(tuned.steps).run().program


def _of_run(name: str) -> Program:
    """The program of a run, or of the catalogue where the name is no run's."""
    folder, colon, which = name.rpartition(":")
    if _is_run(name):
        raise LedgerError(f"{name} is a run, not a program; name one of its programs, as in {quote(f'{name}:best')}")
    if Path(name).is_dir() and name not in names():
        raise LedgerError(f"{name} is neither a program nor a run: it holds no ledger.sqlite; a search makes one")
    if name.endswith(".json"):
        raise LedgerError(f"{name} is a record, not a program; name the find itself: {Path(name).stem}")
    if not colon and "/" in name and not name.endswith(SUFFIX) and not Path(name).exists():
        raise LedgerError(f"there is neither a file nor a run {name}")
    if not colon or name.endswith(SUFFIX) or Path(name).exists():
        return load(name)
    if which == "best" and (shown := _shown(Path(folder))):
        return load(shown)
    _, row = run_row(name)
    return Program.parse(row.best_text)


def _is_run(folder: str) -> bool:
    return bool(folder) and os.path.isfile(os.path.join(folder, "ledger.sqlite"))


def run_row(name: str) -> tuple[Path, Child]:
    """The run folder and the row that `RUN:best` or `RUN:CHILD` names; best is the first of the hall of fame.

    Raises:
        LedgerError: There is no such run or row.
    """
    folder, _, which = name.rpartition(":")
    if not Path(folder).is_dir() or not folder:
        raise LedgerError(f"there is no run folder {folder or name}; a program of a run is RUN:best or RUN:CHILD")
    best = _shown(Path(folder)) if which == "best" else None
    shown = _noted(best, "row") if best else None if which == "best" else which
    with Ledger.reading(Path(folder)) as ledger:
        if shown is None:
            row = ledger.best()
            if row is None:
                raise LedgerError(f"{folder}: no program has come through all stages yet")
        else:
            row = ledger.child(int(shown)) if shown.isdecimal() and len(shown) < 19 else None  # as SQLite counts
            if row is None:
                last = max(ledger.count() - 1, 0)
                raise LedgerError(f"{folder}: no child {quoted(which)}; write best, or a number from 0 to {last}")
    return Path(folder), row


def decay_of(name: str) -> str:
    """The decay shape that its search trained a program on: a find's, or a run's; else the one tuned for AdamW.

    That of a transform is its program's.

    >>> decay_of("Fading-Lion"), decay_of("cautious(fading_lion)"), decay_of("lion")
    ('constant_linear', 'constant_linear', 'tuned')
    """
    from ..evaluator.fitness import TUNED

    folder, _, _ = name.rpartition(":")
    if inside := _CALL.fullmatch(name.strip()):
        return decay_of(program_names(inside[2])[0])
    if find := find_of(name):
        config = find.config
    elif _is_run(folder):
        with Ledger.reading(Path(folder)) as ledger:
            config = json.loads(ledger.meta()["config"])
    else:
        config = {}
    return str(config.get("decay", TUNED))  # searches of older versions had no other


def _shown(run: Path) -> Path | None:
    """The file of the first of the hall of fame; None where there is none, or the ledger beside it has rows that were
    not re-scored, or is another run's.
    """
    best = run / "best" / "1.opt"
    if not best.is_file():
        return None
    if not _is_run(str(run)):
        return best
    number, rows = _noted(best, "row"), _noted(best, ROWS_IN_ALL)
    with Ledger.reading(run) as ledger:
        row = ledger.child(int(number)) if number else None
        if rows not in (None, str(ledger.count())):  # older versions did not note it
            return None
    return best if row is not None and Program.parse(row.best_text) == load(best) else None


def _noted(best: Path, what: str) -> str | None:
    """A number in the notes of a file of the hall of fame."""
    noted = re.search(rf"^# {what}: (\d+)$", best.read_text("utf-8"), re.MULTILINE)
    return noted[1] if noted else None


def _transformed(transform: str, inside: str) -> Program:
    """A transform of the program that the first argument names."""
    if transform not in TRANSFORMS:
        raise ProgramError(f"unknown transform {quoted(transform)}; {did_you_mean(transform, TRANSFORMS)}")
    inner, *options = program_names(inside)
    known = list(signature(TRANSFORMS[transform]).parameters)[1:]
    chosen: dict[str, str | int | float] = {}
    for option in options:
        name, _, value = (part.strip() for part in option.partition("="))
        if name not in known or not value:
            raise ProgramError(f"{transform} takes no {quoted(option.strip())}; options: {', '.join(known) or 'none'}")
        chosen[name] = _option(transform, name, value)
    return TRANSFORMS[transform](load_any(inner), **chosen)


def _option(transform: str, name: str, text: str) -> str | int | float:
    """An option's value: text where the transform takes text, else a number."""
    if signature(TRANSFORMS[transform]).parameters[name].annotation == "str":
        return text
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        raise ProgramError(f"{transform}: {name} is a number, not {quoted(text)}") from None
