"""What reads what in the statements of a program, which repeats hold once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from .errors import ProgramError
from .flow import flow, in_order
from .kind import Kind
from .kinds import check, infer, start_kinds
from .ops import OPS
from .program import (
    END,
    FIRST,
    NOWHERE,
    ORACLES,
    REPEAT,
    Const,
    G,
    Program,
    W,
    rebuilt,
)  # fmt: skip
from .ranges import Ranges, Source

UPDATE, DECAY, MIXED = "update", "decay", "mixed"
#: What tells of the loss at this step.
LOSS = frozenset(~slot for slot in (G, *ORACLES))


class Uses:
    """Which statement makes each value that is read, and what the values are to each other.

    Unlike a `Flow` it keeps the statements, so that they can be edited: those in a repeat stand once.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.kinds = start_kinds(program)
        self.args: list[list[set[Source]]] = [[set() for _ in s.args] for s in program.statements]
        made: dict[int, int] = {}
        for number in in_order(program):
            target, _, args = program.statements[number]
            for place, arg in enumerate(args):
                self.args[number][place].add(arg if isinstance(arg, Const) else made.get(arg, ~arg))
            made[target] = number
        self.ends: list[Source] = [a if isinstance(a, Const) else made.get(a, ~a) for a in program.returns]
        self.depth: list[int] = []
        depth = 0
        for statement in program.statements:
            depth -= statement.op == END
            self.depth.append(depth)
            depth += statement.op == REPEAT

    @cached_property
    def results(self) -> list[Kind]:
        """The kind of every statement's result."""
        return infer(self.program)[0]

    @cached_property
    def ranges(self) -> Ranges:
        """Between which numbers each value lies."""
        return Ranges(self.program)

    def arg(self, number: int, place: int) -> Source:
        """What a statement outside repeats reads."""
        (source,) = self.args[number][place]
        return source

    def reach(self, roots: Iterable[Source], meaning: bool = False) -> set[int]:
        """All that the roots are computed from; with `meaning` also at earlier steps, and shapes do not count."""
        found: set[int] = set()
        todo = [s for s in roots if isinstance(s, int)]
        while todo:
            source = todo.pop()
            if source in found:
                continue
            found.add(source)
            if source < 0:
                if meaning and FIRST <= ~source < self.program.first_hyper:
                    end = self.ends[1 + ~source - FIRST]
                    todo += [end] if isinstance(end, int) else []
            elif not (meaning and self.program.statements[source].op.partition(":")[0] == "size"):
                todo += [s for sources in self.args[source] for s in sources if isinstance(s, int)]
        return found

    def kind(self, source: Source) -> Kind:
        """The kind of a value."""
        if isinstance(source, Const):
            return Kind.GLOBAL
        return self.kinds[~source] if source < 0 else self.results[source]

    def is_number(self, source: Source) -> bool:
        """Whether a value is one number, or one per tensor."""
        return self.kind(source) in (Kind.GLOBAL, Kind.SCALAR)

    def is_free(self, source: Source) -> bool:
        """Whether a value is a number on which w, g and oracles have no influence."""
        return self.is_number(source) and not self.reach([source], meaning=True) & {~W, *LOSS}

    # --- update and decay ---

    def share(self, source: Source) -> str:
        """Whether a value is of the update, of the decay, or a sum of both."""
        if isinstance(source, Const) or source < 0:
            return DECAY if source == ~W else UPDATE
        return self._shares[source]

    @cached_property
    def _shares(self) -> dict[int, str]:
        shares: dict[int, str] = {}
        for number, statement in enumerate(self.program.statements):
            shares[number] = UPDATE
            if not self.depth[number] and statement.target != NOWHERE:
                args = [self.arg(number, place) for place in range(len(statement.args))]
                each = [shares[a] if isinstance(a, int) and a >= 0 else self.share(a) for a in args]
                shares[number] = self._share(statement.op, args, each)
        return shares

    def _share(self, op: str, args: list[Source], each: list[str]) -> str:
        if op in ("identity", "negative"):
            return each[0]
        if op in ("add", "subtract"):
            return each[0] if each[0] == each[1] else MIXED
        if op == "multiply" and each[1] != UPDATE:
            return each[1] if self.is_free(args[0]) else UPDATE
        if op in ("multiply", "divide") and each[0] != UPDATE:
            return each[0] if self.is_free(args[1]) else UPDATE
        both = op == "interp" and each[:2] == [DECAY, DECAY]
        return DECAY if both and self.is_free(args[2]) else UPDATE

    # --- equal values ---

    def same(self, source: Source) -> Source:
        """The first statement, or the input, that makes the same value."""
        return source if isinstance(source, Const) or source < 0 else self._equal[0][source]

    def same_args(self, number: int) -> list[Source]:
        """What a statement outside repeats reads, each by the first that makes it."""
        return [self.same(self.arg(number, place)) for place in range(len(self.args[number]))]

    def known(self, op: str, args: list[Source]) -> int | None:
        """The first statement that makes this value, if one does."""
        return self._equal[1].get(_formula(op, args))

    @cached_property
    def _equal(self) -> tuple[dict[int, Source], dict[object, int]]:
        same: dict[int, Source] = {}
        known: dict[object, int] = {}
        for number, (target, op, _) in enumerate(self.program.statements):
            same[number] = number
            if self.depth[number] or target == NOWHERE or OPS[op].draws:
                continue
            args = [self.arg(number, place) for place in range(len(self.args[number]))]
            args = [same[a] if isinstance(a, int) and a >= 0 else a for a in args]
            same[number] = args[0] if op == "identity" else known.setdefault(_formula(op, args), number)
        return same, known


def _formula(op: str, args: list[Source]) -> object:
    """Equal for equal expressions."""
    return op, tuple(sorted(args, key=repr) if "commutative" in OPS[op].traits else args)


def without_dead(program: Program) -> Program:
    """The program less the statements that neither its update nor a state that the update is computed from needs.

    States stay; one that does not matter ends as its slot stands.

    >>> rule = Program.parse("def f(w, g, m, lr):\\n  x = g * g\\n  m = interp(x, m, 0.9)\\n  return lr * g, m")
    >>> print(without_dead(rule), end="")
    def f(w, g, m, lr):
        return lr * g, m
    """
    uses, live = Uses(program), {index for index, _ in flow(program).states}
    used = uses.reach([uses.ends[0], *(uses.ends[1 + index] for index in live)])
    ends = [end if index in live else FIRST + index for index, end in enumerate(program.returns[1:])]
    kept = [s for i, s in enumerate(program.statements) if i in used or s.target == NOWHERE]  # repeats keep their marks
    shorter = rebuilt(program, kept, (program.returns[0], *ends))
    try:
        check(shorter)
    except ProgramError:  # a slot that is written in passing has another kind at the end
        return program
    return shorter
