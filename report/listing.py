"""What there is to name: programs, tasks, targets, ops, inputs and codecs, each list read off its table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ..discovered import Entry, entries
from ..dsl.codecs import CODECS
from ..dsl.cost import state_floats
from ..dsl.matrix_ops import REDUCED
from ..dsl.ops import OPS, SPACES
from ..dsl.program import MOST_REPEATS, ORACLES, RESERVED, RESERVED_KINDS
from ..dsl.syntax import CALLABLE
from ..evaluator.curve import NoCurve, curve_of
from ..proxies import task, tasks
from ..proxies.targets import targets
from ..search.find import SHELF, FindError, read_find

_INDENT = " " * 15


def listing() -> str:
    """Several lines for `stepsmith list`."""
    sections = {
        "programs": map(_program, entries()),
        "tasks": map(_task, tasks()),
        "targets of stepsmith validate": _targets(),
        "op spaces": _spaces(),
        "other ops, which programs may call and no search writes": _other_ops(),
        "inputs of a program, named in its header": _inputs(),
        "state codecs, written m: int8": _codecs(),
    }
    return "".join(f"{title}\n" + textwrap.indent("\n".join(lines), "  ") + "\n" for title, lines in sections.items())


def _program(entry: Entry) -> str:
    kind = "schedule" if entry.program.schedule else f"{state(entry)} state"
    scored = _scored(entry.name) if entry.shelf == SHELF else ""
    return f"{entry.name:14} {kind:11} {entry.cost.statements:2} statements  {entry.description}{scored}"


def _scored(name: str) -> str:
    """What a find scored on each task; a record that cannot be read leaves the rest of the list alone."""
    try:
        found = read_find(name).scores
    except FindError as error:
        return f" ({error})"
    return " Speedup: " + ", ".join(f"{score.task} {score.interval.mean:.2f}" for score in found) + "."


def state(entry: Entry) -> str:
    """Floats kept per parameter; of a matrix of 1024 x 1024 where they depend on its shape.

    >>> found = {e.name: e for e in entries()}
    >>> state(found["adamw"]), state(found["adafactor"]), state(found["sgd"])
    ('2', '0.002', '0')
    """
    floats = 0.0 if entry.cost.state else state_floats(entry.program)
    return f"{floats:.1g}" if floats > 1e-4 else f"{entry.cost.state}"


def _task(name: str) -> str:
    shown = task(name)
    notes = [f"held out: {', '.join(shown.held_out)}"] if shown.held_out else []
    try:
        curve_of(shown)
    except NoCurve:
        notes.append(f"no AdamW curve yet: stepsmith tune {name}")
    return "; ".join([f"{name:18} {shown.steps} steps of {shown.batch}", *notes])


def _targets() -> Iterator[str]:
    yield textwrap.fill(" ".join(targets()), 98, break_on_hyphens=False)


def _spaces() -> Iterator[str]:
    for space in SPACES.values():
        yield f"{space.name:14} {len(space.ops)} ops: {space.doc.splitlines()[0]}"
        yield textwrap.fill(" ".join(space.ops), 98, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _other_ops() -> Iterator[str]:
    written = {op for space in SPACES.values() for op in space.ops}
    other = [op for op in OPS if op in CALLABLE and op not in written]
    yield from (f"{op:18} {OPS[op].doc}".rstrip() for op in other)
    along = sorted({row.name.partition(":")[0] for row in OPS.values() if row.axis})
    yield f"along an axis, as in mean(g, fan_in): {' '.join(along)}; axes {' '.join(REDUCED)}"
    yield f"repeat N: ... end  runs the lines between N times, at most {MOST_REPEATS}"


def _inputs() -> Iterator[str]:
    for slot, (name, kind) in enumerate(zip(RESERVED, RESERVED_KINDS, strict=True)):
        yield f"{name:14} {kind}" + (f"; an oracle, with its period: {name}: every 10" if slot in ORACLES else "")


def _codecs() -> Iterator[str]:
    for name, codec in CODECS.items():
        number = f"({codec.number})" if codec.number else ""
        yield f"{name + number:22} {codec.doc}"
