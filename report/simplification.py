"""A simplification on the screen or as markdown: the program after every step, and what made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl import Program
from ..dsl.simplify import Step, explain

if TYPE_CHECKING:
    from ..evaluator.shorten import Shortening


def simplification(program: Program, level: str = "algebraic", markdown: bool = False) -> str:
    r"""Every step from a program to the shortest, for each part of a program with a route.

    >>> rule = Program.parse("def f(w, g, m, lr):\n  u = m / sqrt(m * m)\n  return lr * u, interp(g, m, 0.9)")
    >>> print(simplification(rule, "exact"), end="")
    f: 5 statements, 1 state
    def f(w, g, m, lr):
        u = m / sqrt(m * m)
        return lr * u, interp(g, m, 0.9)
    <BLANKLINE>
    5 statements after numbers folded and exact identities (exact, bit for bit)
    def f(w, g, m, lr):
        u = m / sqrt(square(m))
        m = interp(g, m, 0.9)
        return lr * u, m
    """
    if program.schedule:
        return f"{program.name} is a schedule, and left as it is\n{program}"
    parts = [(part, explain(part, level)) for part in program.parts()]
    return "\n".join(_lines(parts, markdown)) + "\n"


def _lines(parts: Sequence[tuple[Program, list[Step]]], markdown: bool) -> Iterator[str]:
    for number, (part, steps) in enumerate(parts):
        if number:
            yield ""
        count = len(part.states)
        title = f"{part.name}: {_statements(part)}, {count} state{'' if count == 1 else 's'}"
        yield f"## {title}" if markdown else title
        yield from _text(part, markdown)
        if not steps:
            yield ""
            yield "nothing to simplify"
        for step in steps:
            yield ""
            how = "bit for bit" if step.level == "exact" else f"differs by {step.difference:.1g} on the probe"
            title = f"{_statements(step.program)} after {step.rule} ({step.level}, {how})"
            yield f"### {title}" if markdown else title
            yield from _text(step.program, markdown)


def empirical(found: Shortening, markdown: bool = False) -> str:
    """What the empirical level did: the program at its learning rate, every step, and what stays."""
    spent = "; the budget ended, more --runs decide more" if found.spent else ""
    lines = ["", f"empirical level, {found.runs} training runs{spent}; from this program at its best learning rate:"]
    lines += _text(found.original, markdown)
    for step in found.steps:
        title = f"{_statements(step.program)} after {step}"
        lines += ["", f"### {title}" if markdown else title, *_text(step.program, markdown)]
    stays = [v for v in found.tried if not v.goes]
    lines += ["", "what stays:" if stays else "nothing more was tried", *(f"- {v}" for v in stays)]
    return "\n".join(lines) + "\n"


def _statements(program: Program) -> str:
    return f"{len(program.statements)} statement{'' if len(program.statements) == 1 else 's'}"


def _text(program: Program, markdown: bool) -> Iterator[str]:
    fence = ["```python"] if markdown else []
    yield from ["", *fence] if markdown else []
    yield from str(replace(program, doc="")).rstrip().splitlines()
    yield from ["```"] if markdown else []
