"""Live dataflow of a program: single-assignment nodes, dead code gone, equal expressions shared, repeats unrolled.

Every reader of programs but printer and mutation works on a Flow: meaning, keys, analysis and the lowerings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from .kind import Kind
from .kinds import result_kind, start_kinds
from .ops import OPS
from .program import END, FIRST, LR, REPEAT, TWO_POINT, Arg, Const, G, Program, Statement, T


class Node(NamedTuple):
    """value = op(*args); an argument is a value number or a constant."""

    op: str
    args: tuple[Arg, ...]
    kind: Kind


@dataclass(frozen=True)
class Flow:
    """Live single-assignment form.

    Values are numbered as slots are: reserved inputs, states from FIRST, hyperparameters, then node i as
    `first_node + i`. `states` lists the live states (by index in the program) with their new values.
    """

    nodes: tuple[Node, ...]
    update: Arg
    states: tuple[tuple[int, Arg], ...]
    kinds: dict[int, Kind]  # of inputs and states
    first_node: int
    hypers: dict[int, float]  # value number -> default
    labels: dict[int, str]  # value number -> the program's name for it, where it has one

    def kind(self, arg: Arg) -> Kind:
        """The kind of a value."""
        if isinstance(arg, Const):
            return Kind.GLOBAL
        return self.kinds[arg] if arg < self.first_node else self.nodes[arg - self.first_node].kind

    def node(self, arg: Arg) -> Node | None:
        """The node that makes a value; None for a number or an input."""
        return self.nodes[arg - self.first_node] if isinstance(arg, int) and arg >= self.first_node else None

    def reads(self, value: int) -> bool:
        """Whether live code reads this input."""
        return any(value in n.args for n in self.nodes) or value in (self.update, *(e for _, e in self.states))


def flow(program: Program, expand: bool = False) -> Flow:
    r"""The live dataflow of a program; with `expand`, rows that other rows spell are replaced by those.

    >>> p = Program.parse("def f(w, g, m, v, lr):\n  m = interp(g, m, .9)\n  v = g * g\n  return lr * m, m, v")
    >>> [n.op for n in flow(p).nodes], [index for index, _ in flow(p).states]
    (['interp', 'multiply'], [0])
    """
    maker = _Maker(program, expand)
    value: dict[int, Arg] = {}

    def read(arg: Arg) -> Arg:
        return value.get(arg, arg) if isinstance(arg, int) else arg

    for target, op, args in unrolled(program.statements):
        value[target] = maker.add(op, tuple(read(a) for a in args), program.name_of(target))
    ends = [read(a) for a in program.returns]
    return maker.finish(ends)


def unrolled(statements: Sequence[Statement]) -> Iterator[Statement]:
    """The statements in the order in which they run."""
    opened: list[tuple[int, int]] = []  # first statement of each open repeat, and the turns that are left
    place = 0
    while place < len(statements):
        statement = statements[place]
        place += 1
        if statement.op == REPEAT:
            opened.append((place, int(statement.args[0].value) - 1))  # type: ignore[union-attr]
        elif statement.op == END:
            first, left = opened.pop()
            if left:
                opened.append((first, left - 1))
                place = first
        else:
            yield statement


def in_order(program: Program) -> Iterator[int]:
    """The numbers of the statements in the order in which they run, repeats turn by turn.

    >>> list(in_order(Program.parse("def f(w, g, lr):\\n repeat 2:\\n  g = g * 2\\n end\\n return lr * g")))
    [1, 1, 3]
    """
    for statement in unrolled([s._replace(target=number) for number, s in enumerate(program.statements)]):
        yield statement.target


class _Maker:
    """Makes nodes, each distinct one once."""

    def __init__(self, program: Program, expand: bool) -> None:
        self.program, self.expand = program, expand
        self.kinds = start_kinds(program)
        self.first_node = program.first_local
        self.nodes: list[Node] = []
        self.known: dict[tuple[str, tuple[Arg, ...]], int] = {}
        self.labels: dict[int, str] = {}

    def kind(self, arg: Arg) -> Kind:
        if isinstance(arg, Const):
            return Kind.GLOBAL
        return self.kinds[arg] if arg < self.first_node else self.nodes[arg - self.first_node].kind

    def add(self, op: str, args: tuple[Arg, ...], label: str = "") -> Arg:
        if op == "identity":
            return args[0]
        if self.expand and OPS[op].expand:
            return self._expanded(op, args)
        if OPS[op].draws:
            args = (*args, T)
        if (op, args) not in self.known:
            kind = result_kind(op, [self.kind(a) for a in args[: OPS[op].arity]], args)
            assert kind is not None, "checked programs only"
            self.known[op, args] = self.first_node + len(self.nodes)
            self.nodes.append(Node(op, args, kind))
        number = self.known[op, args]
        if label:
            self.labels.setdefault(number, label)
        return number

    def _expanded(self, op: str, args: tuple[Arg, ...]) -> Arg:
        statements, end = _expansion(op)
        value: dict[int, Arg] = {FIRST + i: a for i, a in enumerate(args)}
        for target, inner, inner_args in statements:
            value[target] = self.add(inner, tuple(value.get(a, a) if isinstance(a, int) else a for a in inner_args))
        return value[end]

    def finish(self, ends: list[Arg]) -> Flow:
        live = self._live(ends)
        roots: list[Arg] = [ends[0], *(ends[1 + i] for i in live)]
        reach = self._reach(roots)
        kept = [i for i in range(len(self.nodes)) if self.first_node + i in reach]
        new: dict[Arg, Arg] = {self.first_node + old: self.first_node + i for i, old in enumerate(kept)}
        nodes = []
        for old in kept:
            op, args, kind = self.nodes[old]
            nodes.append(Node(op, tuple(new.get(a, a) for a in args), kind))
        program = self.program
        labels = {new.get(v, v): name for v, name in self.labels.items() if v in reach}
        labels.update({v: program.name_of(v) for v in range(FIRST, program.first_local)})
        return Flow(
            nodes=tuple(nodes),
            update=new.get(roots[0], roots[0]),
            states=tuple((i, new.get(end, end)) for i, end in zip(live, roots[1:], strict=True)),
            kinds=self.kinds,
            first_node=self.first_node,
            hypers={program.first_hyper + i: value for i, value in enumerate(program.hypers)},
            labels={int(v): name for v, name in labels.items() if isinstance(v, int)},
        )

    def _reach(self, roots: Iterable[Arg]) -> set[Arg]:
        """Everything the roots are computed from."""
        reach: set[Arg] = set()
        todo = [a for a in roots if isinstance(a, int)]
        while todo:
            value = todo.pop()
            if value not in reach:
                reach.add(value)
                if value >= self.first_node:
                    todo += [a for a in self.nodes[value - self.first_node].args if isinstance(a, int)]
        return reach

    def _live(self, ends: list[Arg]) -> list[int]:
        """States that reach the update, now or through a state that a later step reads."""
        live: list[int] = []
        while True:
            reach = self._reach([ends[0], *(ends[1 + i] for i in live)])
            more = [i for i in range(len(self.program.states)) if FIRST + i in reach and i not in live]
            if not more:
                return sorted(live)
            live += more


@cache
def _expansion(op: str) -> tuple[tuple[Statement, ...], int]:
    """A row's `expand` text as statements over slots FIRST, FIRST + 1, ... for its arguments."""
    from .parse import parse

    *parameters, body = OPS[op].expand
    kinds = OPS[op].args or (Kind.GLOBAL,) * len(parameters)
    header = ", ".join(p + (": global" if k is Kind.GLOBAL else "") for p, k in zip(parameters, kinds, strict=True))
    same = ", ".join(parameters)
    whole = f"def expand(w, g, {header}, lr, t):\n result = {body}\n return g, {same}"
    program = parse(whole, source=f"expansion of {op}")
    return program.statements, program.statements[-1].target


def reject_reason(live: Flow) -> str | None:
    """Why a well-formed program is no optimizer: its live code ignores the gradient or the learning rate."""
    if not (live.reads(G) or live.reads(TWO_POINT)):  # a difference of losses stands for a gradient
        return "never reads g"
    if not live.reads(LR):
        return "never reads lr"
    return None


def needs_matrices(program: Program, live: Flow) -> bool:
    """Whether live code has a meaning for matrices alone, so that it sees parameters as rows and columns."""
    states = [program.states[index] for index, _ in live.states]
    if any(not s.kind.plain or (s.codec is not None and s.codec.needs_matrix) for s in states):
        return True
    return any(OPS[n.op].needs_matrix for n in live.nodes)
