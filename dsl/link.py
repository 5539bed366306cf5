"""Records of a text to a Program: names to slots, expressions to statements, functions to a chain of fallbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lark import Token

from .codecs import CODECS, Codec, codec_problem
from .errors import ProgramError, did_you_mean, quoted, short
from .kind import AXES, NAMED_KINDS, Axis, Kind
from .kinds import MOST, check, is_count, many
from .parameter import ROLES
from .program import (
    END,
    FIRST,
    NOWHERE,
    ORACLES,
    REPEAT,
    RESERVED,
    Arg,
    Const,
    Program,
    State,
    Statement,
    build,
)  # fmt: skip
from .syntax import CALLABLE, Definition, Form, Node, Parameter, at, number_of


class Linker:
    """Joins the functions of a text to the program that is its first."""

    def __init__(self, definitions: list[Definition], resolve: Callable[[str], Program] | None) -> None:
        self.first, self.resolve = definitions[0], resolve
        self.named: dict[str, Definition] = {}
        for definition in definitions:
            if str(definition.name) in self.named:
                raise at(definition.name, f"{quoted(definition.name)} is defined twice; rename one")
            self.named[str(definition.name)] = definition
        self.used: set[str] = set()

    def program(self, doc: str) -> Program:
        """The program with its fallbacks; every function of the text is used."""
        program = self._built(self.first, doc)
        self._check_periods(program)
        for name, definition in self.named.items():
            if name not in self.used:
                raise at(definition.name, f"{quoted(name)} is never used; name it after an else, or take it out")
        return program

    def _check_periods(self, program: Program) -> None:
        """One oracle has one period in all functions, since it is made for all parameters at once."""
        periods: dict[int, int] = {}
        for part in program.parts():
            for slot, period in part.periods:
                if periods.setdefault(slot, period) != period:
                    raise at(self.first.name, f"{RESERVED[slot]} has the periods {periods[slot]} and {period}; use one")

    def _built(self, definition: Definition, doc: str = "", claimed: frozenset[str] = frozenset()) -> Program:
        self.used.add(str(definition.name))
        route = definition.route
        roles = tuple(str(role) for role in route.roles) if route else ()
        for role in route.roles if route else ():
            if role not in ROLES:
                raise at(role, f"unknown role {quoted(role)}; {did_you_mean(role, ROLES)}")
            if role in claimed:
                raise at(role, f"{role} has its program already, earlier in the chain; take it out")
        if route is not None and route.fallback is None:
            shown = f"for {', '.join(roles)} else adamw"
            raise at(route.roles[-1], f"this route has no fallback; name a program for the other roles: {shown}")
        claimed = claimed | set(roles)
        if route is not None and route.fallback is not None and claimed == set(ROLES):
            raise at(route.fallback, f"no role is left for {quoted(route.fallback)}; take a role or the route out")
        fallback = self._fallback(route.fallback, claimed) if route and route.fallback is not None else None
        ordered = tuple(role for role in ROLES if role in roles)
        return _Builder(definition, ordered, fallback).program(doc)

    def _fallback(self, name: Token, claimed: frozenset[str]) -> Program:
        if str(name) in self.used:
            raise at(name, f"{quoted(name)} falls back to itself; end the chain with a program without a route")
        if str(name) in self.named:
            return self._built(self.named[str(name)], claimed=claimed)
        if self.resolve is None:
            others = set(self.named) - self.used
            hint = f", or {did_you_mean(name, others)}" if others else ""
            raise at(name, f"unknown program {quoted(name)}; define it below{hint}")
        try:
            found = self.resolve(str(name))
        except ProgramError as error:
            raise at(name, error.message) from None
        if found.schedule:
            raise at(name, f"{quoted(name)} is a schedule, not an update rule")
        return replace(found, doc="")


class _Builder:
    """Resolves names to slots and flattens expressions to statements."""

    def __init__(self, definition: Definition, roles: tuple[str, ...], fallback: Program | None) -> None:
        self.name, parameters = definition.name, definition.parameters
        self.body, self.roles, self.fallback = definition.body, roles, fallback
        self.periods: dict[int, int] = {}
        self.slots: dict[str, int] = {}
        self.statements: list[Statement] = []
        self.tokens: list[Token] = []  # where each statement's op stands
        self.lr: float | None = None
        states: list[tuple[str, State]] = []
        hypers: list[tuple[str, float]] = []
        seen: set[str] = set()
        for p in parameters:
            self._parameter(p, seen, states, hypers)
        self.states = tuple(state for _, state in states)
        self.hypers = tuple(value for _, value in hypers)
        self.names = [n for n, _ in states] + [n for n, _ in hypers]
        self.slots.update({n: FIRST + i for i, n in enumerate(self.names)})

    def _parameter(
        self, p: Parameter, seen: set[str], states: list[tuple[str, State]], hypers: list[tuple[str, float]]
    ) -> None:
        name = str(p.token)
        if name in seen:
            raise at(p.token, f"{quoted(name)} stands twice in the header; rename one")
        seen.add(name)
        if name in RESERVED:
            self._reserved(p)
        elif p.default is not None:
            if p.annotation is not None:
                token = p.annotation.form.token
                raise at(token, f"{quoted(name)} has a default, so it is a hyperparameter and takes no annotation")
            hypers.append((name, p.default))
        else:
            states.append((name, _state(p)))

    def _reserved(self, p: Parameter) -> None:
        name, slot = str(p.token), RESERVED.index(p.token)
        if p.default is not None and name != "lr":
            raise at(p.token, f"{quoted(name)} is a reserved input and takes no default; leave it out")
        if slot in ORACLES:
            form = p.annotation.form if p.annotation else None
            if form is None or not form.period or form.number is None:
                raise at(p.token, f"{name} is an oracle, which costs passes of the model; say how often: "
                                   f"{name}: every 10")  # fmt: skip
            self.periods[slot] = _count(form.number, "a period")
        elif p.annotation is not None:
            token = p.annotation.form.token
            raise at(token, f"{quoted(name)} is a reserved input and takes no annotation; leave it out")
        if name == "lr":
            self.lr = p.default
        self.slots[name] = slot

    def _is_schedule(self) -> bool:
        """Whether the header is that of a schedule: no tensors, and the progress of the run."""
        return not self.slots.keys() & {"w", "g", "lr"} and bool(self.slots.keys() & {"progress", "t"})

    def _check_schedule(self) -> None:
        if self.roles:
            raise at(self.name, f"{short(self.name)} is a schedule, which acts on no parameters; take its route out")
        if self.states:
            raise at(self.name, f"a schedule keeps nothing; give {quoted(self.names[0])} a default or take it out")
        tensors = [name for name in self.slots if name in RESERVED and name not in ("t", "progress")]
        if tensors:
            raise at(self.name, f"a schedule reads t and progress alone; take {quoted(tensors[0])} out")

    def program(self, doc: str) -> Program:
        """The whole program; the return is last and single."""
        body, schedule = self.body, self._is_schedule()
        if schedule:
            self._check_schedule()
        if not schedule and ("w" not in self.slots or "g" not in self.slots):
            missing = "w" if "w" not in self.slots else "g"
            raise at(self.name, f"the header lacks {missing!r}; write def {short(self.name)}(w, g, ..., lr=1e-3):")
        returned: tuple[Token, list[Node]] | None = None
        for head, value in body:
            if returned is not None:
                raise at(head, "statement after return; return is the last line")
            if isinstance(value, list):
                returned = head, value
            elif isinstance(value, Node):
                self._assign(head, value)
            else:
                count = () if value is None else (Const(value),)
                self._emit(NOWHERE, END if value is None else REPEAT, count, head)
        if returned is None:
            raise at(body[-1][0], "the program has no return; end with: return update" + self._states_text())
        token, values = returned
        if len(values) != 1 + len(self.states):
            want = "return update" + self._states_text()
            plural = "" if len(values) == 1 else "s"
            wanted = 1 + len(self.states)
            raise at(token, f"return gives {len(values)} value{plural}; the header wants {wanted}: {want}")
        ends = tuple(self._value(v) for v in values)
        program = build(
            self.statements, ends, self.states, self.hypers, self.lr, tuple(self.names), str(self.name), doc,
            periods=tuple(sorted(self.periods.items())), roles=self.roles, fallback=self.fallback, schedule=schedule,
        )  # fmt: skip
        check(program, [(t.line or 1, t.column or 1) for t in (*self.tokens, token)])
        return program

    def _hint(self, name: str) -> str:
        if any(str(head) == name for head, value in self.body if isinstance(value, Node)):
            return (f"it is read before it has a value; what is kept from step to step stands in the header: "
                    f"def {short(self.name)}(w, g, {short(name)}, ...)")  # fmt: skip
        return did_you_mean(name, self.slots)

    def _states_text(self) -> str:
        return "".join(f", {short(n)}" for n in self.names[: len(self.states)])

    def _assign(self, name: Token, value: Node) -> None:
        arg = self._value(value)
        if str(name) not in self.slots:
            if str(name) in RESERVED:
                raise at(name, f"{quoted(name)} is a reserved input; add it to the header or choose another name")
            self.slots[str(name)] = self._local(str(name))
        target = self.slots[str(name)]
        if value.op:  # the last statement made the value: it takes the name
            self.statements[-1] = self.statements[-1]._replace(target=target)
        else:
            self._emit(target, "identity", (arg,), name)

    def _emit(self, target: int, op: str, args: tuple[Arg, ...], token: Token) -> None:
        self.tokens.append(token)
        self.statements.append(Statement(target, op, args))

    def _local(self, name: str) -> int:
        self.names.append(name)
        return FIRST + len(self.names) - 1

    def _value(self, node: Node) -> Arg:
        """The slot or constant of an expression; its statements are appended in evaluation order."""
        if isinstance(node.leaf, Token):
            name = str(node.leaf)
            if name not in self.slots:
                if name in RESERVED:
                    raise at(node.token, f"{quoted(name)} is a reserved input that the header does not name; add it")
                if name in CALLABLE:
                    raise at(node.token, f"{name!r} is a function; call it, as in {name}(...)")
                raise at(node.token, f"unknown name {quoted(name)}; {self._hint(name)}")
            return self.slots[name]
        if isinstance(node.leaf, float):
            return Const(node.leaf)
        args = tuple(self._value(a) for a in node.args)
        target = self._local("")
        self._emit(target, node.op, args, node.token)
        return target


def _state(p: Parameter) -> State:
    """The state that a bare name of the header declares."""
    if p.annotation is None:
        return State(Kind.TENSOR)
    form, codec = p.annotation
    if form.period:
        raise at(form.token, f"{quoted(p.token)} is a state; only oracles have a period")
    if codec is None and not form.axes and str(form.token) in CODECS:
        return State(Kind.TENSOR, _codec(form))
    kind = _kind(form)
    if codec is None:
        return State(kind)
    if kind is not Kind.TENSOR:
        mend = f"leave 'in {codec.token}' out"
        raise at(codec.token, f"a codec stores tensors; {quoted(p.token)} is {many(kind)}, {mend}")
    return State(kind, _codec(codec))


def _codec(form: Form) -> Codec:
    name = str(form.token)
    if form.axes or name not in CODECS:
        raise at(form.token, f"unknown codec {quoted(name)}; {did_you_mean(name, CODECS)}")
    number = None if form.number is None else number_of(form.number)
    if problem := codec_problem(name, number):
        raise at(form.token, problem)
    return Codec(name, int(number or 0))


def _kind(form: Form) -> Kind:
    if form.axes:
        return Kind.of(*(_axis(token) for token in form.axes))
    name = str(form.token)
    if name in NAMED_KINDS and form.number is not None:
        raise at(form.number, f"{name} takes no number; write {name}")
    if name in CODECS:
        raise at(form.token, f"{name} is a codec, which stores a tensor in one form; write {name} alone")
    if name not in NAMED_KINDS:
        raise at(form.token, f"unknown kind {quoted(name)}; {did_you_mean(name, {*NAMED_KINDS, *CODECS})}")
    return NAMED_KINDS[name]


def _axis(token: Token) -> Axis:
    if token.type == "NUMBER":
        return _count(token, "an axis")
    if token not in AXES:
        raise at(token, f"unknown axis {quoted(token)}; {did_you_mean(token, AXES)}")
    return str(token)


def _count(token: Token, what: str) -> int:
    if not is_count(number_of(token)):
        raise at(token, f"{what} is a whole number from 1 to {MOST}, not {short(token)}")
    return int(number_of(token))
