"""What a program is called by those who know it: a catalogued rule, one with other constants, or the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

from ..dsl import Program
from ..dsl.flow import flow
from ..dsl.keys import behaviour_key, form_scale, form_shape, key, structural_key
from ..dsl.likeness import Action, action, likeness
from ..dsl.program import Const
from ..dsl.simplify import TooLarge, normalised
from ..dsl.transforms import SCALES, cautious
from .catalogue import entries, load
from .families import Family, families

EQUAL, SCALED, CONSTANTS, BEHAVIOUR, NEAREST = (
    "equal", "equal up to scale", "with other constants", "like on the probe", "nearest",
)  # fmt: skip
_FREE = 0.1234567  # stands for a hyperparameter that is 0 by default, so that what it multiplies is there
_FEW = 8  # constants that are named when they differ


@dataclass(frozen=True)
class Identity:
    """How a program relates to a known rule: `how` is one of the five, `detail` the difference.

    `families` are those of `families`, which a rule may belong to that is no known one.
    """

    how: str
    rule: str
    detail: str = ""
    families: tuple[Family, ...] = ()

    def __str__(self) -> str:
        said = {
            EQUAL: self.rule,
            SCALED: f"{self.rule} times a constant",
            CONSTANTS: f"{self.rule} with other constants",
            BEHAVIOUR: f"behaves like {self.rule} on the probe",
            NEAREST: f"nothing known; nearest {self.rule}" if self.rule else "nothing known",
        }[self.how]
        said = f"{said}: {self.detail}" if self.detail else said
        news = self.families if self.how in (BEHAVIOUR, NEAREST) else ()
        return "; ".join([*(f"of the {family}" for family in news), said])


def identify(program: Program) -> Identity:
    r"""What is known of a rule: the strongest of five claims.

    Equal to a catalogued rule or its cautious variants, at any peak learning rate, by `key`; equal times a
    constant, by `key`; of its canonical form with other constants; alike on the probe; or the rule whose updates point
    most nearly the same way. Beside it the families to which the rule belongs.

    >>> print(identify(Program.parse("def f(w, g, m, lr):\n  m = 0.9 * m + g\n  return lr * m / sqrt(m * m), m")))
    signum
    >>> print(identify(Program.parse("def f(w, g, m, lr):\n  u = sign(interp(g, m, 0.95))\n"
    ...                              "  return lr * u, interp(g, m, 0.98)")))
    lion with other constants: 0.95 for 0.9, 0.98 for 0.99
    >>> masked = "def f(w, g, m, lr):\n  m = interp(g, m, 0.9)\n  return lr * (m + abs(m) * sign(g)), m"
    >>> print(identify(Program.parse(masked)))  # doctest: +ELLIPSIS
    of the cautious family (updates against the gradient at 0, without decay); nothing known; nearest ...
    """
    if not isinstance(program, Program):
        raise TypeError(f"identify takes a Program, not {program!r}; load it first: stepsmith.load(...)")
    if program.schedule:
        return _schedule(program)
    return replace(_known_as(program), families=families(program))


def _known_as(program: Program) -> Identity:
    name = key(program)
    same = [rule for rule in _known() if rule.name == name]
    for rule in same:
        if _scale(rule.program) == _scale(program):
            return Identity(EQUAL, rule.title)
    if same:
        return Identity(SCALED, same[0].title)
    form = normalised(program)
    family = _family(form)
    for rule in _known():
        if rule.family == family and _shape(rule.form) == _shape(form):
            return Identity(CONSTANTS, rule.title, _differences(form, rule.form))
    shape = form_shape(program)
    for rule in _known():
        if shape and rule.family == family and form_shape(rule.program) == shape:
            return Identity(CONSTANTS, rule.title, "sums of the same terms, each at a weight of its own")
    behaved = behaviour_key(program, form=name)
    for rule in _known():
        if behaved == behaviour_key(rule.program, form=rule.name):
            return Identity(BEHAVIOUR, rule.title)
    return _nearest(program)


def _schedule(program: Program) -> Identity:
    same = (e.name for e in entries() if e.program.schedule and structural_key(e.program) == structural_key(program))
    return Identity(EQUAL, found) if (found := next(same, "")) else Identity(NEAREST, "", "a schedule of its own")


@dataclass(frozen=True)
class _Known:
    title: str
    program: Program
    name: str

    @cached_property
    def family(self) -> object:
        return _family(self.program)

    @cached_property
    def form(self) -> Program:
        return normalised(self.program)


@cache
def _known() -> tuple[_Known, ...]:
    """Catalogued rules, their cautious variants, and each with what is 0 by default free."""
    return tuple(_Known(title, rule, key(rule)) for title, rule in _rules())


def _rules() -> Iterator[tuple[str, Program]]:
    for entry in entries():
        if entry.program.schedule:
            continue
        yield entry.name, entry.program
        freed = _freed(entry.program)
        if freed != entry.program:
            yield entry.name, freed
        plain = _without_decay(entry.program)
        if plain != entry.program:
            yield f"{entry.name} with weight_decay 0", plain
    for name in ("adamw", "lion"):
        rule = load(name)
        for scale in SCALES:
            for base in (rule, _freed(rule)):
                yield f"cautious({name}, scale={scale})", cautious(base, scale)


def _freed(rule: Program) -> Program:
    """The rule with what is 0 by default free."""
    return replace(rule, hypers=tuple(h or _FREE for h in rule.hypers))


def _without_decay(rule: Program) -> Program:
    """The rule with its weight decay at 0."""
    decays = [rule.name_of(rule.first_hyper + i) == "weight_decay" for i in range(len(rule.hypers))]
    return replace(rule, hypers=tuple(0.0 if d else h for h, d in zip(rule.hypers, decays, strict=True)))


def _family(program: Program) -> object:
    """What rules of one form share, cheaply: the states that live code keeps and the roles, part by part."""
    return [(part.roles, len(flow(part).states)) for part in program.parts()]


def _scale(program: Program) -> object:
    """Equal for programs of one key whose updates are equal at equal peaks."""
    try:
        return form_scale(program) if program.peak else None
    except TooLarge:
        return None  # its key is that of its text


def _shape(form: Program) -> object:
    """A normalised program without its numbers."""
    parts = []
    for part in form.parts():
        rows = [(s.target, s.op, *(0.0 if isinstance(a, Const) else a for a in s.args)) for s in part.statements]
        parts.append((rows, part.returns, part.states, part.periods, part.roles))
    return parts


def _numbers(form: Program) -> list[float]:
    """Its numbers in order, but for the peak learning rate."""
    return [value for name, value in form.constants() if name != "lr"]


def _differences(form: Program, rule: Program) -> str:
    pairs = [(a, b) for a, b in zip(_numbers(form), _numbers(rule), strict=True) if a != b]
    shown = [f"{a:.6g} for {b:.6g}" if b != _FREE else f"{a:.6g}" for a, b in dict.fromkeys(pairs)]
    return ", ".join(shown[:_FEW]) + (", ..." if len(shown) > _FEW else "")


def _nearest(program: Program) -> Identity:
    """The rule that acts most nearly as the program does, by its own part; of equals the plainest."""
    mine = _own_action(program)
    near = {title: round(likeness(mine, acts), 3) for title, acts in _actions().items()}
    title = max(near, key=near.__getitem__)
    if near[title] <= 0:
        return Identity(NEAREST, "")
    return Identity(NEAREST, title, f"cosine of the updates {near[title]:.3f} on gradients as in training")


@cache
def _actions() -> dict[str, Action]:
    """Of known rules, the plainest first: what keeps its states in a codec acts as what does not."""
    rules = {entry.name: entry.program for entry in entries() if not entry.program.schedule}
    plain = sorted(rules, key=lambda name: (len(rules[name].statements), any(s.codec for s in rules[name].states)))
    return {name: _own_action(rules[name]) for name in plain}


def _own_action(program: Program) -> Action:
    """Of the program's own part, whatever parameters it claims and inputs it reads."""
    return action(replace(program, roles=(), fallback=None))._replace(asks=())
