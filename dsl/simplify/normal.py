"""Normal form of a program: its update and its states as forms over its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from ..flow import Flow, Node
from ..interval import ALL, Interval
from ..kind import Kind, join
from ..ops import OPS
from ..program import FIRST, LR, PROGRESS, Arg, Const, G, T, W
from ..ranges import range_of
from .algebra import SINGLE, UNIT, ZERO, TooLarge, sum_of
from .choices import Choices
from .form import (
    HALF,
    ONE,
    SUM,
    Atom,
    Form,
    Mono,
    Number,
    atoms_in,
    constant,
    exact,
    hashed,
    magnitude,
    of_atom,
    shaped,
    tidy,
)  # fmt: skip

INPUT, SPREAD = "input", "spread"  # atoms beside calls: an input or a state; a smaller kind written out
_POWERS: dict[str, tuple[int, Number]] = {
    "square": (0, 2), "cube": (1, 3), "sqrt": (0, HALF), "cbrt": (1, Fraction(1, 3)), "abs": (0, 1), "sign": (1, 0),
    "reciprocal": (1, -1),
}  # fmt: skip
#: outer(inner(x)) is x, or |x| where the second is "abs".
_INVERSES = {
    "sinh": ("arcsinh", ""), "arcsinh": ("sinh", ""), "tan": ("arctan", ""), "arctanh": ("tanh", ""),
    "log": ("exp", ""), "log2": ("exp2", ""), "log10": ("exp10", ""), "exp": ("log", "abs"), "exp2": ("log2", "abs"),
    "exp10": ("log10", "abs"), "expm1": ("log1p", ""), "log1p": ("expm1", ""),
}  # fmt: skip
_COMPARE = ("less", "less_equal", "greater", "greater_equal")


class Follower(NamedTuple):
    """A state whose new value is made of new values of others: `value`, where `states` says what stands for which."""

    value: Arg
    states: Mapping[Arg, int]


class Assumed(NamedTuple):
    """What is taken for granted of the states while forms are made, and checked after."""

    scales: Mapping[int, Number] = {}  # a state is read as this times what is kept,
    powers: Mapping[int, Number] = {}  # raised to this
    nonnegative: Collection[int] = ()
    infinite: Collection[int] = ()  # may be
    undefined: Collection[int] = ()  # may be NaN
    same: Mapping[int, int] = {}  # equal to another state
    zero: Collection[int] = ()
    follows: Mapping[int, Follower] = {}  # functions of other states at every step
    colours: Mapping[int, str] = {}  # names by which states are put in order


class Normal(Choices):
    """The forms of a flow. `off` names rules that are not used."""

    def __init__(self, live: Flow, peak: float | Number, assumed: Assumed, off: Collection[str] = ()) -> None:
        super().__init__(off)
        self.flow, self.assumed = live, assumed
        self.peak = exact(peak) if isinstance(peak, float) else peak
        self.values: dict[int, Form] = {}
        for number, node in enumerate(live.nodes, live.first_node):
            self.values[number] = self.made(number, node)
        self.update = self.wide(self.opened(self.read(live.update)), Kind.TENSOR)
        self.ends: dict[int, Form] = {}
        for index, end in live.states:
            if not any(index in gone for gone in (assumed.same, assumed.zero, assumed.follows)):
                self.ends[index] = self.end(index, end)

    def made(self, number: int, node: Node) -> Form:
        """The form of a node's value."""
        return self.call(node)

    def end(self, index: int, value: Arg) -> Form:
        """What is kept of a state's new value."""
        new = self.opened(self.read(value))
        kept: Form | None = new
        if index in self.assumed.powers:
            kept = self.power(new, self._sign(index), 1 / Fraction(self.assumed.powers[index]))
        if kept is None:
            raise TooLarge
        return self.scaled(self.opened(kept), 1 / Fraction(self.assumed.scales.get(index, 1)))

    def _sign(self, index: int) -> int:
        """Whether a state that is kept as a power has a sign."""
        return 0 if index in self.assumed.nonnegative else 1

    def read(self, arg: Arg) -> Form:
        """The form of a value."""
        if isinstance(arg, Const):
            return constant(exact(arg.value))
        if arg not in self.values:
            self.values[arg] = self._input(arg)
        return self.values[arg]

    def _input(self, slot: int) -> Form:
        if slot in self.flow.hypers:
            return constant(exact(self.flow.hypers[slot]))
        if slot == LR:
            return self.scaled(of_atom(self.input(LR, (0.0, math.inf))), self.peak)
        if slot < FIRST:
            known = {T: (1.0, math.inf), PROGRESS: (0.0, 1.0)}
            return of_atom(self.input(slot, known.get(slot, ALL)))
        index = slot - FIRST
        if index in self.assumed.follows:
            return self._follow(self.assumed.follows[index].value, self.assumed.follows[index].states)
        kept = self.assumed.same.get(index, index)
        if kept in self.assumed.zero:
            return ZERO
        return self._unkept(index, self.state(kept))

    def _unkept(self, index: int, kept: Atom) -> Form:
        """What a state is for what is kept of it."""
        value = self.scaled(of_atom(kept), self.assumed.scales.get(index, 1))
        if index not in self.assumed.powers:
            return value
        power = self.power(value, self._sign(index), self.assumed.powers[index])
        assert power is not None
        return power

    def _follow(self, arg: Arg, states: Mapping[Arg, int]) -> Form:
        """What a follower was at the end of the last step."""
        if arg in states:
            return self.read(FIRST + states[arg])
        node = self.flow.node(arg)
        return self.read(arg) if node is None else self.call(node, [self._follow(a, states) for a in node.args])

    def input(
        self,
        slot: int,
        range_: Interval = ALL,
        name: str = "",
        shape: str = "",
        finite: bool = True,
        defined: bool = True,
    ) -> Atom:
        """The atom of an input."""
        key = (INPUT, slot)
        if key not in self.atoms:
            name = name or f"input {slot}"
            digest = shaped(shape or name) + hashed(name)
            self.atoms[key] = Atom(INPUT, (slot,), self.flow.kinds[slot], digest, range_, finite, defined)
        return self.atoms[key]

    def state(self, index: int) -> Atom:
        """The atom of a state."""
        range_ = (0.0, math.inf) if index in self.assumed.nonnegative else ALL
        colour = self.assumed.colours.get(index, "")
        gone = self.assumed.same, self.assumed.zero, self.assumed.follows
        alike = [i for i, c in self.assumed.colours.items() if c == colour and not any(i in g for g in gone)]
        name = f"state {colour} {alike.index(index) if index in alike else index}"
        finite, defined = index not in self.assumed.infinite, index not in self.assumed.undefined
        return self.input(FIRST + index, range_, name, f"state {colour[:1]}", finite, defined)

    def wide(self, x: Form, kind: Kind) -> Form:
        """A form that has the kind of the program's value even where simpler text has less."""
        if x.kind is kind:
            return x
        atom = self.atom(SPREAD, (x,), kind, x.range, x.finite, x.defined, x.nonzero)
        return of_atom(atom)

    # --- calls ---

    def call(self, node: Node, args: list[Form] | None = None) -> Form:
        """The form of a row applied to forms, those of the node's arguments unless others are given."""
        name = node.op.partition(":")[0]
        args = [self.read(a) for a in node.args] if args is None else args
        if OPS[node.op].args or OPS[node.op].shape or OPS[node.op].axis:
            kinds = [self.flow.kind(a) for a in node.args]
            args = [a if k in SINGLE else self.wide(a, k) for a, k in zip(args, kinds, strict=True)]
        method: Callable[..., Form | None] | None = getattr(self, f"_{name}", None) if name == node.op else None
        found = None
        if name in _POWERS:
            found = self.power(args[0], *_POWERS[name]) if self.uses("roots and signs are powers") else None
        elif method is not None:
            found = method(*args)
        return self._generic(node, args) if found is None else found

    def _add(self, x: Form, y: Form) -> Form | None:
        return self.sum(x, y)

    def _subtract(self, x: Form, y: Form) -> Form | None:
        return self.sum(x, y, -1)

    def _negative(self, x: Form) -> Form:
        return self.scaled(x, -1)

    def _multiply(self, x: Form, y: Form) -> Form | None:
        return self.product(x, y)

    def _divide(self, x: Form, y: Form) -> Form | None:
        inverse = self.power(y, 1, -1) if y.finite else None
        return None if inverse is None else self.product(x, inverse)

    def _interp(self, x: Form, y: Form, a: Form) -> Form | None:
        if not self.uses("interp is affine"):
            return None
        rest = self.sum(UNIT, a, -1)
        left = None if rest is None else self.product(rest, x)
        right = self.product(a, y)
        return None if left is None or right is None else self.sum(left, right)

    def _power(self, x: Form, y: Form) -> Form | None:
        r = y.number
        if r is None or not x.finite or magnitude(r) > 16:
            return None
        if r == 0:
            return UNIT
        whole = isinstance(r, int)
        if not whole and x.range[0] < 0:
            return None
        if r < 0 and not x.nonzero:
            return None
        return self.power(x, int(r) % 2 if whole else 0, r)

    def _max(self, x: Form, y: Form) -> Form | None:
        return self.maximum(x, y) if self.uses("max by differences") else None

    def _min(self, x: Form, y: Form) -> Form | None:
        largest = self._max(self.scaled(x, -1), self.scaled(y, -1))
        return None if largest is None else self.scaled(largest, -1)

    def _greater(self, x: Form, y: Form) -> Form | None:
        if not self.uses("comparisons by differences"):
            return None
        difference = self.sum(x, y, -1) if x.total and y.total else None
        return None if difference is None else self.positive(difference)

    def _less(self, x: Form, y: Form) -> Form | None:
        return self._greater(y, x)

    def _greater_equal(self, x: Form, y: Form) -> Form | None:
        below = self._greater(y, x)
        return None if below is None else self.sum(UNIT, below, -1)

    def _less_equal(self, x: Form, y: Form) -> Form | None:
        return self._greater_equal(y, x)

    def _where(self, c: Form, x: Form, y: Form) -> Form | None:
        return self.where(c, x, y) if self.uses("where by masks") else None

    def _every(self, k: Form, x: Form, y: Form) -> Form | None:
        """Where t - 1 is a multiple of k, x."""
        if "masks by signs" not in self.off:
            return None
        t = of_atom(self.input(T, (1.0, math.inf)))
        since = self.sum(t, UNIT, -1)
        rest = None if since is None else of_atom(self._call_atom("mod", (since, k), Kind.GLOBAL))
        on = None if rest is None else self._less(rest, UNIT)
        return None if on is None else self.where(on, x, y)

    def _first(self, x: Form, y: Form) -> Form | None:
        """At step 1, x."""
        if "masks by signs" not in self.off:
            return None
        on = self._less_equal(of_atom(self.input(T, (1.0, math.inf))), UNIT)
        return None if on is None else self.where(on, x, y)

    def _get_eps(self) -> Form:
        return constant(exact(1e-8))

    # --- reductions ---

    def _outside(self, x: Form, single: tuple[Kind, ...]) -> tuple[Form, Form] | None:
        """A form as a factor that is a number (per tensor) times the rest; the factor's number is positive."""
        if not x.finite or not self.uses("numbers leave reductions"):
            return None
        k, prim = self.primitive(x)
        inner = prim.single
        if inner is None:
            shared, rest = self.common(prim)
            out = tuple(i for i in shared if i[0].kind in single)
            if out:
                parts = [self._without(m, c, out) for m, c in prim.terms.items()]
                if any(part is None or len(part.terms) != 1 for part in parts):
                    return constant(magnitude(k)), prim if k > 0 else self.scaled(prim, -1)
                rest = Form(dict(next(iter(part.terms.items())) for part in parts if part is not None))
                return Form({out: magnitude(k)}), rest if k > 0 else self.scaled(rest, -1)
            return constant(magnitude(k)), prim if k > 0 else self.scaled(prim, -1)
        mono, _ = inner
        out = tuple(i for i in mono if i[0].kind in single)
        kept = tuple(i for i in mono if i[0].kind not in single)
        if not kept:
            return None
        return Form({out: magnitude(k)}), self.opened(Form({kept: 1 if k > 0 else -1}))

    def _without(self, mono: Mono, c: Number, out: Mono) -> Form | None:
        """A product over factors that it has, or that are never 0."""
        under = tuple((a, p, tidy(-r)) for a, p, r in out if (a, p, r) not in mono)
        return self.mono_product(tuple(i for i in mono if i not in out), c, under, 1)

    def _reduced(self, op: str, x: Form, single: tuple[Kind, ...], even: bool, result: Kind) -> Form | None:
        parts = self._outside(x, single)
        if parts is None:
            return None
        factor, inner = parts
        if even:
            sized = self.power(factor, 0, 1)
            assert sized is not None
            k, inner = self._unsigned(inner)
            factor = self.scaled(sized, k)
        elif op in ("mean", "sum"):
            k, inner = self.primitive(inner)
            factor = self.scaled(factor, k)
            root = self._square_root(inner)
            if root is not None:
                size = self._rms(root) if op == "mean" else self._norm(root)
                squared = None if size is None else self.power(size, 0, 2)
                return None if squared is None else self.product(factor, squared)
        return self.product(factor, of_atom(self._call_atom(op, (inner,), result)))

    def _unsigned(self, x: Form) -> tuple[Number, Form]:
        """One of x and -x; of a product its size."""
        k, prim = self.primitive(self.opened(x))
        k = magnitude(k)
        single = prim.single
        if single is None or single[0] == ONE:
            return k, prim
        if len(single[0]) == 1 and single[0][0][0].op == SUM and single[0][0][2] == 1:  # the size of a sum
            return k, sum_of(single[0][0][0])
        return k, Form({tuple((a, 0, r) for a, _, r in single[0]): 1})

    def _square_root(self, x: Form) -> Form | None:
        """Of a product of even powers."""
        single = x.single
        if single is None or single[1] != 1 or not single[0]:
            return None
        if not all(p == 0 and isinstance(r, int) and r % 2 == 0 and r and not a.is_mask for a, p, r in single[0]):
            return None
        return Form({tuple((a, 0, r // 2) for a, _, r in single[0]): 1})

    def _rms(self, x: Form) -> Form | None:
        return self._reduced("rms", x, SINGLE, True, Kind.SCALAR)

    def _norm(self, x: Form) -> Form | None:
        if self.uses("masks by signs") and x.kind is Kind.TENSOR:
            mean = self._rms(x)
            root = self.power(of_atom(self.count), 0, HALF)
            return None if root is None or mean is None else self.product(root, mean)
        return self._reduced("norm", x, SINGLE, True, Kind.SCALAR)

    def _std(self, x: Form) -> Form | None:
        parts = self._outside(x, SINGLE)
        if parts is None:
            return None
        factor = self.power(parts[0], 0, 1)
        k, inner = self.primitive(parts[1])
        factor = None if factor is None else self.scaled(factor, magnitude(k))
        return None if factor is None else self.product(factor, of_atom(self._call_atom("std", (inner,), Kind.SCALAR)))

    def _mean(self, x: Form) -> Form | None:
        return self._reduced("mean", x, SINGLE, False, Kind.SCALAR)

    def _sum(self, x: Form) -> Form | None:
        return self._reduced("sum", x, SINGLE, False, Kind.SCALAR)

    def _global_norm(self, x: Form) -> Form | None:
        return self._reduced("global_norm", x, (Kind.GLOBAL,), True, Kind.GLOBAL)

    def _amax(self, x: Form) -> Form | None:
        if not x.finite:
            return None
        k, prim = self.primitive(x)
        inner = prim if k > 0 else self.scaled(prim, -1)
        return self.scaled(of_atom(self._call_atom("amax", (inner,), Kind.SCALAR)), magnitude(k))

    @property
    def count(self) -> Atom:
        """The atom of the number of a tensor's elements."""
        return self.atom("size", (of_atom(self.input(W)),), Kind.SCALAR, (1.0, math.inf))

    def _size(self, x: Form) -> Form | None:
        return of_atom(self.count) if x.kind is Kind.TENSOR else None

    def _dot(self, x: Form, y: Form) -> Form | None:
        left, right = self._outside(x, (Kind.GLOBAL,)), self._outside(y, (Kind.GLOBAL,))
        if left is None or right is None:
            return None
        (kx, px), (ky, py) = self.primitive(left[1]), self.primitive(right[1])
        factor = self.product(left[0], right[0])
        if factor is None:
            return None
        factor = self.scaled(factor, kx * ky)
        if px == py:
            norm = self._global_norm(px)
            squared = None if norm is None else self.power(norm, 0, 2)
            return None if squared is None else self.product(factor, squared)
        pair = tuple(sorted((px, py), key=lambda f: f.digest))
        return self.product(factor, of_atom(self._call_atom("dot", pair, Kind.GLOBAL)))

    def _cosine_sim(self, x: Form, y: Form) -> Form | None:
        dot, sizes = self._dot(x, y), [self._global_norm(x), self._global_norm(y)]
        for size in sizes:
            inverse = None if size is None else self.power(size, 1, -1)
            dot = None if dot is None or inverse is None else self.product(dot, inverse)
        return dot

    def _clip(self, x: Form, c: Form) -> Form | None:
        if not (x.finite and c.finite) or x.number == 0 or not self.uses("positive scale leaves clip"):
            return None
        if self.uses("masks by signs") and (c.number or 0) > 0:
            return self._clip_by_norm(x, c)
        k, prim = self.primitive(x)
        if prim.kind is not Kind.TENSOR:
            return None
        bound = self.scaled(c, 1 / Fraction(magnitude(k)))
        low, high = prim.range
        range_ = (0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf)
        return self.scaled(of_atom(self.atom("clip", (prim, bound), Kind.TENSOR, range_)), k)

    def _clip_by_norm(self, x: Form, c: Form) -> Form | None:
        """X c / max(|x|, c)."""
        norm = self._global_norm(x)
        inverse = None if norm is None else self.limit(norm, c)
        part = None if inverse is None else self.product(inverse, x)
        return None if part is None else self.product(part, c)

    # --- rows of which only traits are known ---

    def _generic(self, node: Node, args: list[Form]) -> Form:
        op, kind, given = node.op, node.kind, tuple(args)
        traits = OPS[op].traits
        factor: Form = UNIT
        if op in _INVERSES and self.uses("inverse functions"):
            found = self._inverse(op, args[0])
            if found is not None:
                return found
        if op in ("less", "less_equal"):
            op, args = {"less": "greater", "less_equal": "greater_equal"}[op], args[::-1]
        elif "commutative" in traits:
            args = sorted(args, key=lambda f: f.digest)
        elif all(a.finite for a in args) and self.uses("homogeneous rows"):
            if (
                {"linear", "bilinear"} & traits
                and len(args) <= 2
                and op not in ("add", "subtract", "multiply", "negative")
            ):
                args, factor = self._linear(args)
            elif len(args) == 1:
                args, factor = self._homogeneous(traits, args)
        found = self.product(factor, of_atom(self._call_atom(op, tuple(args), kind)))
        return found if found is not None else of_atom(self._call_atom(node.op, given, kind))

    def _linear(self, args: list[Form]) -> tuple[list[Form], Form]:
        """Numbers leave every argument."""
        k: Number = 1
        done: list[Form] = []
        for x in args:
            c, prim = self.primitive(x)
            k, done = k * c, [*done, prim]
        return done, constant(k)

    def _homogeneous(self, traits: frozenset[str], args: list[Form]) -> tuple[list[Form], Form]:
        """The sign leaves an odd or even row, a positive number one that has a degree."""
        (x,) = args
        if x.number is not None:
            return args, UNIT
        k = self.primitive(x)[0]
        degree = next((exact(float(t[7:])) for t in traits if t.startswith("degree:")), None)
        factor = UNIT
        if degree is not None:
            factor = self.number_power(magnitude(k), 0, degree)
            x = self.scaled(x, Fraction(1) / magnitude(k))
        if k < 0 and traits & {"odd", "even"}:
            x = self.scaled(x, -1)
            factor = self.scaled(factor, -1) if "odd" in traits else factor
        if "even" in traits and "by_size" not in traits:
            single = x.single
            if single is not None and single[0]:
                x = Form({tuple((a, 0, r) for a, _, r in single[0]): single[1]})
        return [x], factor

    def _inverse(self, op: str, x: Form) -> Form | None:
        inner, sized = _INVERSES[op]
        single = x.single
        if single is None or single[1] != 1 or len(single[0]) != 1:
            return None
        ((atom, p, r),) = single[0]
        if atom.op != inner or r != 1 or (p == 0 and atom.range[0] < 0) or not (atom.finite and atom.defined):
            return None
        argument = atom.args[0]
        assert isinstance(argument, Form)
        return self.power(argument, 0, 1) if sized else argument

    def _call_atom(self, op: str, args: tuple[Form, ...], kind: Kind) -> Atom:
        name = op.partition(":")[0]
        if OPS[op].elementwise:
            kind = join(a.kind for a in args) or kind
        finite, defined = _in_domain(name, args)
        if not all(a.finite for a in args):
            finite = defined = False
        defined = (defined and all(a.defined for a in args)) or op in _COMPARE
        range_ = value_range(op, [a.range for a in args])
        nonzero = name in ("exp", "exp2", "exp10", "cosh") or (
            name == "power" and args[0].nonzero and args[0].range[0] >= 0
        )
        return self.atom(op, args, kind, range_, finite, defined, nonzero)


def slots_in(forms: Iterable[Form]) -> set[int]:
    """The inputs and states that forms are made of, however deep."""
    return {a for atom in atoms_in(*forms) if atom.op == INPUT for a in atom.args if isinstance(a, int)}


def value_range(op: str, args: list[Interval]) -> Interval:
    """Where the result of a row lies, from its traits where the table of ranges says nothing."""
    low, high = range_of(op, args)
    traits = OPS[op].traits
    bound = next((float(t[8:]) for t in traits if t.startswith("bounded:")), 1.0 if op == "tanh" else math.inf)
    return max(low, -bound), min(high, bound)


def _in_domain(name: str, args: tuple[Form, ...]) -> tuple[bool, bool]:
    """Whether a row is finite, and whether it is a number, for all finite arguments in these ranges."""
    if not args:
        return True, True
    x = args[0]
    low, high = x.range
    if name in ("arcsin", "arccos"):
        return True, low >= -1 and high <= 1
    if name == "arccosh":
        return True, low >= 1
    if name == "arctanh":
        return low > -1 and high < 1, low >= -1 and high <= 1
    if name == "log1p":
        return low > -1, low >= -1
    if name in ("log", "log2", "log10"):
        return x.nonzero, True
    if name == "power":
        return args[1].range[0] >= 0 or x.nonzero, low >= 0
    if name == "quantile":
        return True, args[1].range[0] >= 0 and args[1].range[1] <= 1
    return True, True


__all__ = ["INPUT", "SPREAD", "SUM", "Assumed", "Atom", "G", "Normal", "TooLarge"]
