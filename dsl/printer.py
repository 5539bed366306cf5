"""Program to text, such that parsing the text gives the program back exactly.

Unnamed temporaries that are used once, by the next statement that could, print nested; every other unnamed
value gets a name. Numbers print as the shortest text that reads back to the same float.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from .ops import OPS, Kind
from .program import FIRST, MAX_DEPTH, RESERVED, Arg, Const, Program, Statement, T

_COMPARE, _SUM, _PRODUCT, _FACTOR, _ATOM = range(5)
_LEVEL = {"add": _SUM, "subtract": _SUM, "multiply": _PRODUCT, "divide": _PRODUCT, "negative": _FACTOR}
_LEVEL |= {name: _COMPARE for name in ("less", "less_equal", "greater", "greater_equal")}


class _Text(NamedTuple):
    text: str
    level: int
    depth: int = 1


def text(program: Program, name: str | None = None) -> str:
    r"""The program's text; `name` replaces its name. Its doc is printed before it as a comment.

    >>> from stepsmith.dsl import Program
    >>> print(text(Program.parse("def f(w,g,m,lr): \n  m=interp(g,m,.9)\n  return lr*(m-g),m")), end="")
    def f(w, g, m, lr):
        m = interp(g, m, 0.9)
        return lr * (m - g), m
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in program.doc.split("\n") if program.doc)
    names = name_slots(program)
    body = "".join(f"    {line}\n" for line in _Body(program, names).lines())
    return f"{comment}def {name or program.name}({', '.join(_header(program, names))}):\n{body}"


def _number(value: float) -> str:
    return repr(float(value))


def _header(program: Program, names: dict[int, str]) -> list[str]:
    parts = ["w", "g"]
    for index, state in enumerate(program.states):
        note = "" if state.kind is Kind.TENSOR else f": {state.kind}"
        parts.append(names[FIRST + index] + note)
    parts.append("lr" if program.lr is None else f"lr={_number(program.lr)}")
    for index, value in enumerate(program.hypers):
        parts.append(f"{names[program.first_hyper + index]}={_number(value)}")
    mentioned = {a for s in program.statements for a in (s.target, *s.args)} | set(program.returns)
    parts += [RESERVED[slot] for slot in range(T, len(RESERVED)) if slot in mentioned]
    return parts


def name_slots(program: Program) -> dict[int, str]:
    """A printable, unique name for every slot: its own, or one made up (s0, h0, t0, ...)."""
    names: dict[int, str] = dict(enumerate(RESERVED))
    slots = range(FIRST, 1 + max([FIRST - 1 + len(program.states) + len(program.hypers)]
                                 + [s.target for s in program.statements]))  # fmt: skip
    taken = set(RESERVED) | set(OPS) | {program.name_of(s) for s in slots}
    for slot in slots:
        own = program.name_of(slot)
        if own and own not in names.values():
            names[slot] = own
            continue
        letter = "s" if slot < program.first_hyper else "h" if slot < program.first_local else "t"
        number = 0
        while f"{letter}{number}" in taken:
            number += 1
        names[slot] = f"{letter}{number}"
        taken.add(names[slot])
    return names


class _Body:
    """Rebuilds expressions from statements with a stack of values that wait for their one reader."""

    def __init__(self, program: Program, names: dict[int, str]) -> None:
        self.program, self.names = program, names
        reads = Counter(a for s in program.statements for a in s.args if isinstance(a, int))
        reads.update(a for a in program.returns if isinstance(a, int))
        writes = Counter(s.target for s in program.statements)
        self.nestable = {
            s.target
            for s in program.statements
            if s.target >= program.first_local
            and not program.name_of(s.target)
            and s.op != "identity"
            and reads[s.target] == writes[s.target] == 1
        }
        self.waiting: list[tuple[int, _Text]] = []
        self.done: list[str] = []

    def lines(self) -> list[str]:
        for statement in self.program.statements:
            args = self._take(statement.args)
            shown = self._shown(statement, args)
            if statement.target in self.nestable and shown.depth < MAX_DEPTH:
                self.waiting.append((statement.target, shown))
            else:
                self._flush()
                self.done.append(f"{self.names[statement.target]} = {shown.text}")
        ends = self._take(self.program.returns)
        self._flush()
        self.done.append("return " + ", ".join(end.text for end in ends))
        return self.done

    def _flush(self) -> None:
        self.done += [f"{self.names[slot]} = {shown.text}" for slot, shown in self.waiting]
        self.waiting.clear()

    def _take(self, args: tuple[Arg, ...]) -> list[_Text]:
        """The texts of the arguments; the last ones come off the stack as long as they are on its top."""
        texts: list[_Text] = []
        for arg in reversed(args):
            if isinstance(arg, Const):
                texts.append(_Text(_number(arg.value), _FACTOR if arg.value < 0 else _ATOM))
            elif self.waiting and self.waiting[-1][0] == arg:
                texts.append(self.waiting.pop()[1])
            else:
                texts.append(_Text(self.names[arg], _ATOM))
        return texts[::-1]

    def _shown(self, statement: Statement, args: list[_Text]) -> _Text:
        row = OPS[statement.op]
        if row.name == "identity":
            return args[0]
        depth = 1 + max((a.depth for a in args), default=0)
        level = _LEVEL.get(row.name)
        if level is None or (row.name == "negative" and isinstance(statement.args[0], Const)):
            return _Text(f"{row.name}({', '.join(a.text for a in args)})", _ATOM, depth)
        if row.name == "negative":
            return _Text(f"-{_wrap(args[0], _FACTOR)}", _FACTOR, depth)
        left = _wrap(args[0], level + (level == _COMPARE))
        return _Text(f"{left} {row.symbol} {_wrap(args[1], level + 1)}", level, depth)


def _wrap(shown: _Text, least: int) -> str:
    return shown.text if shown.level >= least else f"({shown.text})"
