"""The meaning of programs in extended precision, to tell rounding from a difference of real-number programs.

A number is a fraction, exact, for as long as its program keeps it rational and short, so that 0.1 + 0.2 - 0.3 is 0;
any other is rounded to the working digits. There is one zero, without a sign, and nothing overflows. What is 0 by an
identity of irrational numbers is rounding noise here too, which another number of digits gives away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial, reduce
from typing import Any, TypeAlias

import mpmath  # type: ignore[import-untyped]
import numpy as np
from mpmath import mp, mpf
from numpy.typing import ArrayLike

from .errors import ProgramError
from .flow import Flow, Node, flow
from .interpret import Part, Value
from .kind import Kind
from .ops import OPS
from .parameter import ParameterView, infer_role
from .program import FIRST, LR, NOISE, PROGRESS, Arg, Const, Program, T

Number: TypeAlias = Any  # a Fraction or an mpf; NaN and the infinities are mpf

ZERO, ONE = Fraction(0), Fraction(1)
NAN, INF = mpf("nan"), mpf("inf")
LONGEST = 2048  # bits of a fraction, beyond which it is rounded
WHOLE = 2**53  # rounded results that are whole and at most this are taken as exact: exp(0) is 1
REACH = 10**6  # largest size of the natural logarithm of a result
TURNS = 10**200  # largest exact argument of sin, cos and tan


class OutOfReach(ArithmeticError):
    """A value that takes too long to compute, or of which no digit would be right."""


class Extended(Part):
    r"""Runs a program without a route as `Interpreter` does, on numbers of extended precision.

    Args:
        shapes: Of the parameters.
        digits: That irrational numbers are rounded to.
        exact: Whether hyperparameters, constants and the peak learning rate are the decimal numbers that are printed;
            otherwise the binary numbers next to them, which `Interpreter` reads.

    Raises ProgramError for what has no meaning here: routes, schedules, rows for matrices, codecs and noise.

    >>> rule = Program.parse("def f(w, g, lr):\n  return lr * g / (0.1 + 0.2 - 0.3) + w / 2")
    >>> Extended(rule, [(2,)]).step([np.ones(2)], [np.ones(2)])
    [array([mpf('0.5'), mpf('0.5')], dtype=object)]
    """

    def __init__(
        self, program: Program, shapes: Sequence[tuple[int, ...]], digits: int = 60, exact: bool = True
    ) -> None:
        live = flow(program, expand=True)
        _check_plain(program, live)
        self.digits, self.exact = digits, exact
        self.given: dict[int, Number] = {v: self._constant(x) for v, x in live.hypers.items()}
        super().__init__(program, [ParameterView(i, tuple(s), infer_role(s)) for i, s in enumerate(shapes)])

    def step(
        self,
        w: Sequence[ArrayLike],
        g: Sequence[ArrayLike],
        schedule: float = 1.0,
        t: int = 1,
        progress: float = 0.0,
        oracles: Mapping[str, Value] | None = None,
    ) -> list[Any]:
        """The update of one step, an array of mpf per tensor; states move on, unless it raises OutOfReach.

        Arguments are those of `Interpreter.step`; floats stand for themselves, and arrays of mpf may take their place.
        """
        with mp.workdps(self.digits), np.errstate(all="ignore"):
            rate = _multiply(self._constant(self.peak), _input(float(schedule)))
            self.given.update({LR: rate, T: _input(float(t)), PROGRESS: _input(float(progress))})
            update = super().step(_taken(w), _taken(g), schedule, t, progress, oracles or {})
            return [np.asarray(_REAL(u), object) for u in update]

    def _constant(self, x: float) -> Number:
        if not math.isfinite(x):
            return mpf(x)
        return Fraction(repr(float(x))) if self.exact else Fraction(x)

    def _read(self, values: dict[int, Value], arg: Arg) -> Value:  # type: ignore[override]
        if isinstance(arg, Const):
            return self._constant(arg.value)
        return self.given[arg] if arg in self.given else values[arg]

    def _apply(self, node: Node, args: list[Value]) -> Value:
        meaning = MEANINGS[node.op]
        return meaning(*args) if node.kind is Kind.GLOBAL else [meaning(*each) for each in self._each(args)]

    def _zero(self, kind: Kind) -> Value:
        return _taken(super()._zero(kind))

    def _oracle(self, slot: int, oracles: Mapping[str, Value]) -> Value:
        return _taken(super()._oracle(slot, oracles))


def _check_plain(program: Program, live: Flow) -> None:
    wrong = [node.op for node in live.nodes if OPS[node.op].needs_matrix]
    wrong += ["noise"] if live.reads(NOISE) else []
    for index, _ in live.states:
        state, name = program.states[index], program.name_of(FIRST + index)
        wrong += [f"state {name} as {state.codec}"] if state.codec else []
        wrong += [] if state.kind.plain else [f"state {name} of kind {state.kind}"]
    if wrong:
        raise ProgramError(f"{wrong[0]} has no meaning in extended precision, which knows plain rows alone")
    if program.schedule:
        raise ProgramError("a schedule has no tensors; extended precision runs update rules")
    if program.fallback:
        raise ProgramError("extended precision runs a program without a route; Program.parts gives those of this one")


# --- numbers ----------------------------------------------------------------------------------------------


def _bits(x: Fraction) -> int:
    return x.numerator.bit_length() + x.denominator.bit_length()


def _input(x: Any) -> Number:
    if isinstance(x, mpf | Fraction):
        return x
    return Fraction(x) if math.isfinite(x) else mpf(x)


def _real(x: Number) -> Any:
    """The nearest mpf."""
    return mpmath.fdiv(x.numerator, x.denominator) if isinstance(x, Fraction) else x


def _kept(x: Number) -> Number:
    """A result in the form in which it goes on."""
    if isinstance(x, Fraction):
        return x if _bits(x) <= LONGEST else _real(x)
    return Fraction(int(x)) if mpmath.isint(x) and abs(x) <= WHOLE else x


def _alike(*xs: Number) -> Sequence[Number]:
    """The numbers as fractions if all are, otherwise as mpf."""
    return xs if all(isinstance(x, Fraction) for x in xs) else [_real(x) for x in xs]


def _finite(x: Number) -> bool:
    return isinstance(x, Fraction) or bool(mpmath.isfinite(x))


def _whole(x: Number) -> bool:
    return x.denominator == 1 if isinstance(x, Fraction) else bool(mpmath.isint(x))


def _by(f: Callable[..., Any], *xs: Number) -> Number:
    """A function of mpmath; fractions reach it with as many more digits as keep them apart from their neighbours."""
    with mp.extraprec(16 + max((_bits(x) for x in xs if isinstance(x, Fraction)), default=0)):
        result = f(*(_real(x) for x in xs))
    return _kept(+result)


_REAL, _INPUT = np.frompyfunc(_real, 1, 1), np.frompyfunc(_input, 1, 1)


def _taken(value: Any) -> Any:
    """Numbers, an array of them or a list of arrays, as what is computed with."""
    return [_INPUT(x) for x in value] if isinstance(value, list | tuple) else _INPUT(value)


# --- elementwise meanings ---------------------------------------------------------------------------------


def _arithmetic(f: Callable[..., Number]) -> Callable[..., Number]:
    """A row that Python's operators spell, for fractions as for mpf."""
    return lambda *xs: _kept(f(*_alike(*xs)))


def _compared(f: Callable[[Number, Number], bool]) -> Callable[[Number, Number], Number]:
    return lambda x, y: Fraction(f(*_alike(x, y)))


def _function(
    f: Callable[[Any], Any],
    domain: Callable[[Number], bool] = lambda x: True,
    check: Callable[[Number], None] = lambda x: None,
) -> Callable[[Number], Number]:
    """A row that mpmath spells: NaN outside its domain, OutOfReach where the check says so."""

    def made(x: Number) -> Number:
        if x != x or not domain(x):
            return NAN
        check(x)
        return _by(f, x)

    return made


def _unit(x: Number) -> bool:
    return bool(abs(x) <= 1)


def _within_reach(x: Number) -> None:
    if _finite(x) and abs(x) > REACH:
        raise OutOfReach(f"a result above e^{REACH}, or as small")


def _within_turns(x: Number) -> None:
    """Checks that half of the digits are right after whole turns are taken off."""
    if _finite(x) and abs(x) > (TURNS if isinstance(x, Fraction) else _half()):
        raise OutOfReach("the angle of an enormous number")


def _half() -> int:
    return int(10 ** (mp.dps // 2))


_multiply = _arithmetic(lambda x, y: x * y)
_add = _arithmetic(lambda x, y: x + y)
_negative = _arithmetic(lambda x: -x)
_abs = _arithmetic(abs)
_quotient = _arithmetic(lambda x, y: x / y)
_interp = _arithmetic(lambda x, y, a: (1 - a) * x + a * y)


def _divide(x: Number, y: Number) -> Number:
    return ZERO if y == 0 else _quotient(x, y)


def _max(x: Number, y: Number) -> Number:
    a, b = _alike(x, y)
    return x if a != a or a > b else y


def _min(x: Number, y: Number) -> Number:
    a, b = _alike(x, y)
    return x if a != a or a < b else y


def _sign(x: Number) -> Number:
    return x if x != x else Fraction((x > 0) - (x < 0))


def _floor(x: Number) -> Number:
    return Fraction(math.floor(x)) if isinstance(x, Fraction) else _kept(mpmath.floor(x))


def _mod(x: Number, y: Number) -> Number:
    turns = _divide(x, y)
    if not isinstance(turns, Fraction) and mpmath.isfinite(turns) and abs(turns) > _half():
        raise OutOfReach("the remainder of an enormous number")
    return _arithmetic(lambda x, y, n: x - y * n)(x, y, _floor(turns))


def _tanh(x: Number) -> Number:
    return _sign(x) if abs(x) > REACH else _by(mpmath.tanh, x)


def _log(f: Callable[[Any], Any]) -> Callable[[Number], Number]:
    made = _function(f)
    return lambda x: made(_abs(x))


def _root(n: int, k: int) -> int | None:
    """The k-th root of n > 0 where it is whole."""
    if n == 1 or k == 1:
        return n
    if n.bit_length() <= k:
        return None
    with mp.workprec(n.bit_length() // k + 20):
        root = int(mpmath.nint(mpmath.root(n, k)))
    return root if root**k == n else None


def _exact_power(x: Number, p: Number) -> Fraction | None:
    """The power of x > 0 where it is a fraction, and short."""
    if not (isinstance(x, Fraction) and isinstance(p, Fraction)):
        return None
    above, below = _root(x.numerator, p.denominator), _root(x.denominator, p.denominator)
    if above is None or below is None:
        return None
    root = Fraction(above, below)
    return root**p.numerator if _bits(root) * abs(p.numerator) <= LONGEST else None


def _power_of_size(x: Number, p: Number) -> Number:
    """The power of x > 0."""
    if not (_finite(x) and _finite(p)):
        return ONE if x == 1 else INF if (x > 1) == (p > 0) else ZERO
    exact = _exact_power(x, p)
    if exact is not None:
        return exact
    _within_reach(_by(lambda x, p: p * mpmath.log(x), x, p))
    return _by(mpmath.power, x, p)


def _power(x: Number, p: Number) -> Number:
    """C's pow, but for the sign of zero."""
    if p == 0 or x == 1:
        return ONE
    if x != x or p != p:
        return NAN
    if x == 0:
        return ZERO if p > 0 else INF
    if x < 0 and _finite(x) and _finite(p) and not _whole(p):
        return NAN
    size = _power_of_size(_abs(x), p)
    return _negative(size) if x < 0 and _whole(p) and not _whole(p / 2) else size


def _rooted(f: Callable[[Any], Any], k: int) -> Callable[[Number], Number]:
    """The k-th root of |x|."""
    plain = _function(f)

    def made(x: Number) -> Number:
        size = _abs(x)
        exact = _exact_power(size, Fraction(1, k)) if size > 0 else None
        return plain(size) if exact is None else exact

    return made


_sqrt, _size_cbrt = _rooted(mpmath.sqrt, 2), _rooted(mpmath.cbrt, 3)

# --- reductions: of an array, or of a list of arrays --------------------------------------------------------


def _elements(x: Any) -> list[Number]:
    return list(np.asarray(x, object).ravel())


def _total(xs: Iterable[Number]) -> Number:
    return reduce(_add, xs, ZERO)


def _mean(xs: Sequence[Number]) -> Number:
    return _divide(_total(xs), Fraction(len(xs))) if xs else NAN


def _squares(xs: Iterable[Number]) -> list[Number]:
    return [_multiply(x, x) for x in xs]


def _reduced(f: Callable[[list[Number]], Number]) -> Callable[[Any], Number]:
    return lambda x: f(_elements(x))


def _dot(xs: Sequence[Any], ys: Sequence[Any]) -> Number:
    pairs = [p for x, y in zip(xs, ys, strict=True) for p in zip(_elements(x), _elements(y), strict=True)]
    return _total(_multiply(x, y) for x, y in pairs)


def _quantile(x: Any, q: Number) -> Number:
    xs = _elements(x)
    if not (all(_finite(v) for v in xs) and 0 <= q <= 1):
        return NAN
    xs = sorted(_alike(*xs))
    place = _multiply(q, Fraction(len(xs) - 1))
    below = int(_floor(place))
    return _interp(xs[below], xs[min(below + 1, len(xs) - 1)], _add(place, Fraction(-below)))


_ELEMENTWISE: dict[str, Callable[..., Number]] = {
    "add": _add,
    "subtract": _arithmetic(lambda x, y: x - y),
    "multiply": _multiply,
    "divide": _divide,
    "max": _max,
    "min": _min,
    "abs": _abs,
    "cos": _function(mpmath.cos, check=_within_turns),
    "sin": _function(mpmath.sin, check=_within_turns),
    "tan": _function(mpmath.tan, check=_within_turns),
    "arcsin": _function(mpmath.asin, _unit),
    "arccos": _function(mpmath.acos, _unit),
    "arctan": _function(mpmath.atan),
    "sinh": _function(mpmath.sinh, check=_within_reach),
    "cosh": _function(mpmath.cosh, check=_within_reach),
    "tanh": _tanh,
    "arcsinh": _function(mpmath.asinh),
    "arccosh": _function(mpmath.acosh, lambda x: x >= 1),
    "arctanh": _function(mpmath.atanh, _unit),
    "exp": _function(mpmath.exp, check=_within_reach),
    "exp2": partial(_power, Fraction(2)),
    "exp10": partial(_power, Fraction(10)),
    "expm1": _function(mpmath.expm1, check=_within_reach),
    "log": _log(mpmath.log),
    "log10": _log(lambda x: mpmath.log(x) / mpmath.ln10),
    "log2": _log(lambda x: mpmath.log(x) / mpmath.ln2),
    "log1p": _function(mpmath.log1p, lambda x: x >= -1),
    "square": _arithmetic(lambda x: x * x),
    "sqrt": _sqrt,
    "cube": _arithmetic(lambda x: x * x * x),
    "cbrt": lambda x: _multiply(_sign(x), _size_cbrt(x)),
    "sign": _sign,
    "reciprocal": lambda x: _divide(ONE, x),
    "negative": _negative,
    "interp": _interp,
    "power": _power,
    "less": _compared(lambda x, y: x < y),
    "less_equal": _compared(lambda x, y: x <= y),
    "greater": _compared(lambda x, y: x > y),
    "greater_equal": _compared(lambda x, y: x >= y),
    "where": lambda c, x, y: x if c != 0 else y,
    "identity": lambda x: x,
    "floor": _floor,
    "mod": _mod,
    "worker_mean": lambda x: x,  # of one worker
}
#: The meanings of the plain rows, but for those that other rows spell: of arrays, as in the op table.
MEANINGS: dict[str, Callable[..., Any]] = {
    **{name: np.frompyfunc(f, OPS[name].arity, 1) for name, f in _ELEMENTWISE.items()},
    "get_pi": lambda: +mp.pi,
    "get_e": lambda: +mp.e,
    "get_eps": lambda: Fraction("1e-8"),
    "norm": _reduced(lambda xs: _sqrt(_total(_squares(xs)))),
    "mean": _reduced(_mean),
    "sum": _reduced(_total),
    "rms": _reduced(lambda xs: _sqrt(_mean(_squares(xs)))),
    "amax": _reduced(lambda xs: reduce(_max, xs)),
    "size": _reduced(lambda xs: Fraction(len(xs))),
    "quantile": _quantile,
    "dot": _dot,
    "global_norm": lambda xs: _sqrt(_dot(xs, xs)),
}
