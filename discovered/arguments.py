"""Which constants of a program a person will want to set: hyperparameters, and literals that play their part.

A search writes `interp(g, m, 0.9)`; a person who trains with the find expects `betas=(0.9, ...)`.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice

from ..dsl import Const, Program, Statement, build
from ..dsl.flow import Flow, flow
from ..dsl.kinds import COUNTED
from ..dsl.ops import OPS
from ..dsl.printer import name_slots
from ..dsl.program import FIRST, LR, REPEAT, Arg, W, rebuilt

BETA = re.compile(r"beta\d+")


@dataclass(frozen=True)
class Named:
    """A program whose named constants are header hyperparameters, live code alone, a statement per value.

    `found` are the names of former literals, `literals` the numbers that stay in the body, `unused` header
    hyperparameters that no live code reads, `folded` the factor that went into the peak learning rate.
    """

    program: Program
    found: tuple[str, ...]
    literals: tuple[float, ...]
    unused: tuple[str, ...]
    folded: float | None

    def remarks(self, default: Mapping[str, float], own: str) -> list[str]:
        """What an exported file says of its numbers; `default` are the file's names, `own` tells it from others."""
        lines = []
        if self.found:
            values = ", ".join(f"{name} was {default[name]!r}" for name in self.found)
            lines.append(f"Literals{own} that became arguments: {values}.")
        if self.folded is not None:
            lines.append(f"The peak lr{own} holds the factor {self.folded!r}, which the program spells out.")
        if self.literals:
            lines.append(f"Literals{own} that stayed: {', '.join(map(repr, self.literals))}.")
        if self.unused:
            lines.append(f"Left out{own}, because they change nothing: {', '.join(self.unused)}.")
        return lines


def name_constants(program: Program) -> Named:
    r"""The same rule, with the literals that play a known part made into hyperparameters.

    - a in interp(x, s, a) is `beta1`, `beta2`, ... in order of appearance, where the state s becomes an
      average, interp(x', s, a'). The same number as the base of power(a, t), a bias correction, goes with it, and
      averages that share a correction share a name.
    - c > 0 in an additive term c * w of the update, which neither g nor a state touches, is `weight_decay`.
    - c > 0 where lr is read in lr * c alone goes into the peak learning rate.

    A program that already has hyperparameters of such a name keeps its literals of that part.

    >>> head = "def f(w, g, m, lr):\n u = sign(interp(g, m, 0.9)) + w * 0.1\n"
    >>> named = name_constants(Program.parse(head + "return u * (lr * 1e-4), interp(g, m, 0.99)"))
    >>> print(named.program, end="")
    def f(w, g, m, lr=0.0001, beta1=0.9, beta2=0.99, weight_decay=0.1):
        u = sign(interp(g, m, beta1)) + w * weight_decay
        return u * lr, interp(g, m, beta2)
    """
    live = flow(program)
    own = name_slots(program)
    roles = _Roles(live, {own[slot] for slot in live.hypers})
    read = [slot for slot in live.hypers if live.reads(slot)]
    first_hyper = FIRST + len(live.states)
    first_local = first_hyper + len(read) + len(roles.values)
    slots: dict[int, int] = {FIRST + old: FIRST + new for new, (old, _) in enumerate(live.states)}
    slots |= {old: first_hyper + new for new, old in enumerate(read)}
    slots |= {live.first_node + i: first_local + i for i in range(len(live.nodes))}
    added = {name: first_hyper + len(read) + i for i, name in enumerate(roles.values)}
    if roles.fold is not None:
        slots[live.first_node + roles.fold[0]] = LR

    def moved(node: int, position: int, arg: Arg) -> Arg:
        if isinstance(arg, Const):
            name = roles.names.get((node, position))
            return added[name] if name else arg
        return slots.get(arg, arg)

    statements = [
        Statement(first_local + i, node.op, tuple(moved(i, p, a) for p, a in enumerate(node.args)))
        for i, node in enumerate(live.nodes)
        if roles.fold is None or i != roles.fold[0]
    ]
    ends = [moved(-1, 0, end) for end in (live.update, *(end for _, end in live.states))]
    labels = [live.labels.get(live.first_node + i, "") for i in range(len(live.nodes))]
    header = [own[FIRST + old] for old, _ in live.states] + [own[slot] for slot in read]
    peak = program.lr if roles.fold is None else program.peak * roles.fold[1]
    result = build(
        statements,
        ends,
        states=tuple(program.states[old] for old, _ in live.states),
        hypers=(*(live.hypers[slot] for slot in read), *roles.values.values()),
        lr=peak,
        names=(*header, *roles.values, *labels),
        name=program.name,
        doc=program.doc,
    )
    return Named(
        program=result,
        found=tuple(roles.values),
        literals=tuple(dict.fromkeys(a.value for s in statements for a in s.args if isinstance(a, Const))),
        unused=tuple(own[slot] for slot in live.hypers if slot not in read),
        folded=roles.fold[1] if roles.fold else None,
    )


def with_named_constants(program: Program) -> Program:
    """The same rule with literals of its parts as hyperparameters, to be tuned; as it is written where there are none.

    See `name_constants`.
    """
    fallback = program.fallback and with_named_constants(program.fallback)
    named = name_constants(program)
    own = named.program if named.found or named.folded is not None else program
    return replace(own, periods=program.periods, roles=program.roles, fallback=fallback)


def with_named_numbers(program: Program) -> Program:
    r"""The same rule with the numbers of its text as hyperparameters `c1`, `c2`, ..., one a place.

    For what a search drew, of which another task may want another: not 0, 1 or what is negative, and no count (of a
    `repeat`, a rank, or steps of `every` and `mod`).

    >>> program = Program.parse("def f(w, g, m, lr=0.1):\n m = g + 0.9 * m\n return lr * (sign(m) + 20 * g), m")
    >>> print(with_named_numbers(program), end="")
    def f(w, g, m, lr=0.1, c1=0.9, c2=20.0):
        m = g + c1 * m
        return lr * (sign(m) + c2 * g), m
    """
    places = [
        (number, position, arg.value)
        for number, statement in enumerate(program.statements)
        for position, arg in enumerate(statement.args)
        if isinstance(arg, Const) and arg.value > 0 and arg.value != 1 and not _is_count(statement.op, position)
    ]
    first_local, own = program.first_local, name_slots(program)
    names = islice((name for i in count(1) if (name := f"c{i}") not in own.values()), len(places))
    slots = {place[:2]: first_local + i for i, place in enumerate(places)}

    def moved(arg: Arg) -> Arg:
        return arg + len(places) if isinstance(arg, int) and arg >= first_local else arg

    statements = [
        Statement(
            s.target + len(places) * (s.target >= first_local),
            s.op,
            tuple(slots.get((number, position), moved(arg)) for position, arg in enumerate(s.args)),
        )
        for number, s in enumerate(program.statements)
    ]
    wider = replace(
        program,
        hypers=(*program.hypers, *(value for _, _, value in places)),
        names=(*(own[slot] for slot in range(FIRST, first_local)), *names, *program.names[first_local - FIRST :]),
        fallback=program.fallback and with_named_numbers(program.fallback),
    )
    return rebuilt(wider, statements, map(moved, program.returns))


def _is_count(op: str, position: int) -> bool:
    """Whether a number of the text there counts something."""
    if op in (REPEAT, "every", "mod"):
        return True
    patterns = OPS[op].patterns if op in OPS else []
    return bool(patterns) and patterns[position] in COUNTED


def rates(live: Flow) -> list[tuple[int, Arg]]:
    """The rates of averages: (node, a) for each interp(x, s, a) over a state s that becomes an average."""
    ends = {end: FIRST + index for index, end in live.states}
    over_state = [
        (number, node.args[1], node.args[2])
        for number, node in enumerate(live.nodes)
        if node.op == "interp" and isinstance(node.args[1], int) and FIRST <= node.args[1] < live.first_node
    ]
    averages = {state for number, state, _ in over_state if ends.get(live.first_node + number) == state}
    return [(number, rate) for number, state, rate in over_state if state in averages]


def free_names(wanted: Iterable[str], taken: Collection[str]) -> list[str]:
    """The names, changed where Python or the exported text uses them otherwise.

    >>> free_names(["eps", "class", "eps"], {"params"})
    ['eps', 'class_', 'eps_']
    """
    names: list[str] = []
    for name in wanted:
        while name in taken or keyword.iskeyword(name) or name in names:
            name += "_"
        names.append(name)
    return names


class _Roles:
    """The parts that literals play: `names` by place (node, argument), `values` by name, and `fold`."""

    def __init__(self, live: Flow, taken: set[str]) -> None:
        self.live = live
        self.names: dict[tuple[int, int], str] = {}
        self.values: dict[str, float] = {}
        if not any(BETA.fullmatch(name) for name in taken):
            self._betas()
        decay = None if "weight_decay" in taken else self._decay(live.update)
        if decay is not None:
            self.names[decay] = "weight_decay"
            self.values["weight_decay"] = self._constant(decay)
        self.fold = self._fold()

    def _betas(self) -> None:
        bases = {n: node.args[0] for n, node in enumerate(self.live.nodes) if node.op == "power"}
        corrected = {n: base.value for n, base in bases.items() if isinstance(base, Const)}
        shared: dict[float, str] = {}  # two averages of one rate have one correction, and keep one rate
        for number, rate in rates(self.live):
            if isinstance(rate, Const):
                name = shared.get(rate.value, f"beta{len(self.values) + 1}")
                self.names[number, 2] = name
                self.values[name] = rate.value
                if rate.value in corrected.values():
                    shared[rate.value] = name
        self.names |= {(n, 0): shared[value] for n, value in corrected.items() if value in shared}

    def _decay(self, arg: Arg) -> tuple[int, int] | None:
        """The place of c in the term c * w of a sum, under positive factors free of g and states."""
        if isinstance(arg, Const) or arg < self.live.first_node:
            return None
        number = arg - self.live.first_node
        node = self.live.nodes[number]
        if node.op in ("add", "subtract"):
            terms = node.args if node.op == "add" else node.args[:1]
            return next((place for term in terms if (place := self._decay(term))), None)
        if node.op != "multiply":
            return None
        for position, (one, other) in enumerate(zip(node.args, node.args[::-1], strict=True)):
            if other == W and isinstance(one, Const) and one.value > 0 and self._readers(arg) == 1:
                return number, position
            if self._positive(one) and (place := self._decay(other)):
                return place
        return None

    def _positive(self, arg: Arg) -> bool:
        """Whether a factor is lr, a positive number, or a product of such."""
        if isinstance(arg, Const):
            return arg.value > 0
        if arg < self.live.first_node:
            return arg == LR
        node = self.live.nodes[arg - self.live.first_node]
        return node.op == "multiply" and all(self._positive(a) for a in node.args)

    def _fold(self) -> tuple[int, float] | None:
        """The node lr * c and c, where it is the only reader of lr."""
        if self._readers(LR) != 1:
            return None
        number = next((i for i, node in enumerate(self.live.nodes) if LR in node.args), None)
        if number is None or self.live.nodes[number].op != "multiply":
            return None
        factors = [a.value for a in self.live.nodes[number].args if isinstance(a, Const)]
        return (number, factors[0]) if factors and factors[0] > 0 else None

    def _readers(self, value: Arg) -> int:
        ends = (self.live.update, *(end for _, end in self.live.states))
        return sum(node.args.count(value) for node in self.live.nodes) + ends.count(value)

    def _constant(self, place: tuple[int, int]) -> float:
        arg = self.live.nodes[place[0]].args[place[1]]
        assert isinstance(arg, Const)
        return arg.value
