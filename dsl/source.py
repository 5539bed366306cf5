"""What lowerings of a program to source text share: names of values, guards of costly ones, texts of helpers."""

from __future__ import annotations

import ast
import hashlib
import keyword
import linecache
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from .flow import Flow
from .kind import Kind
from .ops import OPS
from .program import FIRST, Arg

Guard = tuple[tuple[Arg, bool], ...]  # single numbers, and whether each must be other than 0
HEAVY = 50  # cost of a row from which it is worth asking whether its result is read at this step


@cache
def helpers(file: str) -> dict[str, str]:
    """The text of each function in a file of helpers, by name."""
    text = resources.files(__package__).joinpath(file).read_text("utf-8")
    functions = (x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef))
    return {f.name: ast.get_source_segment(text, f) or "" for f in functions}


def called_helpers(file: str, lines: Sequence[str]) -> list[str]:
    """The texts of the functions that these lines call, and of those that these call, for a file of its own."""
    known = helpers(file)
    wanted: list[str] = []
    todo = list(lines)
    while todo:
        line = todo.pop()
        called = [name for name in known if name not in wanted and re.search(rf"\b{name}[(,)]", line)]
        wanted += called
        todo += [known[name] for name in called]
    return [text for name, text in known.items() if name in wanted]


def executed(text: str, title: str, module: str, **given: Any) -> dict[str, Any]:
    """The names that a generated text defines, made by executing exactly it, with `given` names at hand.

    Tracebacks and triton.jit find the text under a file name made of the title.

    >>> executed("def double(x): return 2 * x", "an example", __name__)["double"](4)
    8
    """
    file = f"<{title} {hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    scope: dict[str, Any] = {"__name__": module, **given}
    exec(compile(text, file, "exec"), scope)  # our own text, made from the op table
    return scope


def choose_names(live: Flow, inputs: Mapping[int, str], hypers: Mapping[int, str], taken: set[str]) -> dict[Arg, str]:
    """A Python name for every value, its own where that is free; `inputs` and `hypers` are named already."""
    names: dict[Arg, str] = {slot: name for slot, name in inputs.items()}
    taken = taken | set(hypers.values())
    for value in range(FIRST, live.first_node + len(live.nodes)):
        if value in hypers:
            names[value] = hypers[value]
            continue
        wanted = live.labels.get(value) or f"t{value - live.first_node}"
        name, number = wanted, 1
        while name in taken or keyword.iskeyword(name):
            number += 1
            name = f"{wanted}{number}"
        taken.add(name)
        names[value] = name
    return names


def early_numbers(live: Flow) -> set[Arg]:
    """Single numbers that depend on no tensor."""
    early: set[Arg] = set()
    for number, node in enumerate(live.nodes, live.first_node):
        inputs = [a for a in node.args if isinstance(a, int)]
        known = all(a in early or (a < live.first_node and live.kind(a) is Kind.GLOBAL) for a in inputs)
        if known and node.kind is Kind.GLOBAL:
            early.add(number)
    return early


def guards_of(live: Flow, early: set[Arg]) -> dict[int, Guard]:
    """Value -> the conditions under which it is read, where it is costly to make or made from such.

    A choice by one number, as `every` makes, reads one of its branches alone.
    """
    if not any(OPS[n.op].needs_matrix and OPS[n.op].cost >= HEAVY for n in live.nodes):
        return {}
    uses: dict[Arg, list[Guard]] = {}
    for end in (live.update, *(e for _, e in live.states)):
        uses.setdefault(end, []).append(())
    guards: dict[int, Guard] = {}
    for number in reversed(range(live.first_node, live.first_node + len(live.nodes))):
        node = live.nodes[number - live.first_node]
        own = _common(uses.get(number, [()])) if node.kind is not Kind.GLOBAL else ()
        if own:
            guards[number] = own
        chooses = node.op == "where" and node.args[0] in early
        same = chooses and live.kind(node.args[1]) is live.kind(node.args[2]) is node.kind
        for position, arg in enumerate(node.args):
            branch = ((node.args[0], position == 1),) if same and position else ()
            uses.setdefault(arg, []).append((*own, *branch))
    return guards


def _common(guards: Sequence[Guard]) -> Guard:
    """The conditions with which all begin."""
    shared = []
    for each in zip(*guards, strict=False):
        if any(one != each[0] for one in each):
            break
        shared.append(each[0])
    return tuple(shared)
