"""The op table: one row per op, read by parser, checker, meaning, mutation, keys and every lowering.

A row gives the name, the kinds of its arguments and result, the meaning in numpy (float64: the living
definition), how torch and C spell it, what it costs, and its algebraic traits. A new op is a row.

Words for traits, of all arguments together (of `interp` the first two, of `quantile` the first): odd, even and
commutative; linear; bilinear; degree:k, f(c x) = c^k f(x) for c > 0; rising, with even: in |x|; bounded:b, |f| <= b;
by_size, a reduction that sees |x| alone and is the same for a turned x.

This file holds the rows for tensors of any shape, elementwise and reductions; `matrix_ops` those that need two
axes. An elementwise row's result has the kind that its arguments have together (see `kind.join`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kind import Kind
from .matrix_ops import MATRIX_ROWS
from .op import Array, Op, row

# --- meanings that numpy does not have under one name ---------------------------------------------------


def _divide(x: Array, y: Array) -> Array:
    """X / y without a hidden eps, and 0 where y is 0: a weight that never got a gradient stays put."""
    zero = np.equal(y, 0)
    return np.where(zero, 0.0, np.divide(x, np.where(zero, 1.0, y)))


def _log(log: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: log(np.abs(x))


def _power(x: Array, p: Array) -> Array:
    """C's pow: a negative base with a fractional power is NaN. (np.power takes another road for p = 0.5.)"""
    return np.float_power(x, p)


def _dot(xs: list[Array], ys: list[Array]) -> Array:
    return np.asarray(sum(float(np.sum(x * y)) for x, y in zip(xs, ys, strict=True)))


def _global_norm(xs: list[Array]) -> Array:
    return np.sqrt(_dot(xs, xs))


def _norm(x: Array) -> Array:
    return np.sqrt(np.sum(x * x))


def _rms(x: Array) -> Array:
    return np.sqrt(np.mean(x * x))


def _interp(x: Array, y: Array, a: Array) -> Array:
    return (1 - a) * x + a * y


def _mod(x: Array, y: Array) -> Array:
    """X - y floor(x / y), with the sign of y; x where y is 0."""
    return x - y * np.floor(_divide(x, y))


def _quantile(x: Array, q: Array) -> Any:
    good = np.isfinite(x).all() and 0 <= q <= 1
    return np.quantile(x, q) if good else np.float64(np.nan)


T, S, G = Kind.TENSOR, Kind.SCALAR, Kind.GLOBAL
_each: Any = {"args": (T,), "result": S}
_tree: Any = {"args": (T, T), "result": G}

# fmt: off
ROWS: tuple[Op, ...] = (
    # binary
    row("add", 2, np.add, "commutative linear degree:1",
        torch="{0} + {1}", jax="{0} + {1}", c="x + y", foreach="add", symbol="+"),
    row("subtract", 2, np.subtract, "linear degree:1",
        torch="{0} - {1}", jax="{0} - {1}", c="x - y", foreach="sub", symbol="-"),
    row("multiply", 2, np.multiply, "commutative bilinear",
        torch="{0} * {1}", jax="{0} * {1}", c="x * y", foreach="mul", symbol="*"),
    row("divide", 2, _divide,
        torch="_divide({0}, {1})", jax="_divide({0}, {1})", c="y == 0 ? 0 : x / y",
         triton="_quotient(x, y)", cost=2, symbol="/"),
    row("max", 2, np.maximum, "commutative degree:1", torch="torch.maximum({0}, {1})", jax="jnp.maximum({0}, {1})",
         c="x != x || x > y ? x : y", triton="tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)", foreach="maximum"),
    row("min", 2, np.minimum, "commutative degree:1", torch="torch.minimum({0}, {1})", jax="jnp.minimum({0}, {1})",
         c="x != x || x < y ? x : y", triton="tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)", foreach="minimum"),
    # nullary
    row("get_pi", 0, lambda: np.float64(np.pi), torch="torch.tensor(math.pi, dtype=torch.float64)", jax="jnp.pi",
         c="3.14159265358979323846", cost=0),
    row("get_e", 0, lambda: np.float64(np.e), torch="torch.tensor(math.e, dtype=torch.float64)", jax="jnp.e",
         c="2.71828182845904523536", cost=0),
    row("get_eps", 0, lambda: np.float64(1e-8), torch="torch.tensor(1e-8, dtype=torch.float64)", jax="1e-8",
         c="1e-8", cost=0),
    # unary
    row("abs", 1, np.abs, "even rising degree:1",
        torch="torch.abs({0})", jax="jnp.abs({0})", c="fabs{f}(x)", triton="tl.abs(x)", foreach="abs"),
    row("cos", 1, np.cos, "even bounded:1",
        torch="torch.cos({0})", jax="jnp.cos({0})", c="cos{f}(x)", foreach="cos", cost=10),
    row("sin", 1, np.sin, "odd bounded:1",
        torch="torch.sin({0})", jax="jnp.sin({0})", c="sin{f}(x)", foreach="sin", cost=10),
    row("tan", 1, np.tan, "odd", torch="torch.tan({0})", jax="jnp.tan({0})", c="tan{f}(x)", foreach="tan", cost=10),
    row("arcsin", 1, np.arcsin, "odd bounded:1.5707963267948966",
        torch="torch.asin({0})", jax="jnp.arcsin({0})", c="asin{f}(x)",
         foreach="asin", cost=10),
    row("arccos", 1, np.arccos, "bounded:3.141592653589793",
        torch="torch.acos({0})", jax="jnp.arccos({0})", c="acos{f}(x)",
         foreach="acos", cost=10),
    row("arctan", 1, np.arctan, "odd rising",
        torch="torch.atan({0})", jax="jnp.arctan({0})", c="atan{f}(x)", foreach="atan", cost=10),
    row("sinh", 1, np.sinh, "odd rising",
        torch="torch.sinh({0})", jax="jnp.sinh({0})", c="sinh{f}(x)", foreach="sinh", cost=10),
    row("cosh", 1, np.cosh, "even rising",
        torch="torch.cosh({0})", jax="jnp.cosh({0})", c="cosh{f}(x)", foreach="cosh", cost=10),
    row("tanh", 1, np.tanh, "odd rising",
        torch="torch.tanh({0})", jax="jnp.tanh({0})", c="tanh{f}(x)", foreach="tanh", cost=10),
    row("arcsinh", 1, np.arcsinh, "odd rising",
        torch="torch.asinh({0})", jax="jnp.arcsinh({0})", c="asinh{f}(x)", cost=10),
    row("arccosh", 1, np.arccosh, torch="torch.acosh({0})", jax="jnp.arccosh({0})", c="acosh{f}(x)", cost=10),
    row("arctanh", 1, np.arctanh, "odd", torch="torch.atanh({0})", jax="jnp.arctanh({0})", c="atanh{f}(x)", cost=10),
    row("exp", 1, np.exp, "rising", torch="torch.exp({0})", jax="jnp.exp({0})", c="exp{f}(x)", foreach="exp", cost=10),
    row("exp2", 1, np.exp2, "rising", torch="torch.exp2({0})", jax="jnp.exp2({0})", c="exp2{f}(x)", cost=10),
    row("exp10", 1, lambda x: np.power(10.0, x), "rising",
        torch="torch.pow(10.0, {0})", jax="jnp.power(10.0, {0})", c="pow{f}(10, x)",
         triton="libdevice.exp10(x)", cost=10),
    row("expm1", 1, np.expm1, "rising",
        torch="torch.expm1({0})", jax="jnp.expm1({0})", c="expm1{f}(x)", foreach="expm1", cost=10),
    row("log", 1, _log(np.log), "even rising",
        torch="torch.log(torch.abs({0}))", jax="jnp.log(jnp.abs({0}))", c="log{f}(fabs{f}(x))",
         triton="libdevice.log(tl.abs(x))", cost=10),
    row("log10", 1, _log(np.log10), "even rising", torch="torch.log10(torch.abs({0}))", jax="jnp.log10(jnp.abs({0}))",
         c="log10{f}(fabs{f}(x))", triton="libdevice.log10(tl.abs(x))", cost=10),
    row("log2", 1, _log(np.log2), "even rising",
        torch="torch.log2(torch.abs({0}))", jax="jnp.log2(jnp.abs({0}))", c="log2{f}(fabs{f}(x))",
         triton="libdevice.log2(tl.abs(x))",
         cost=10),
    row("log1p", 1, np.log1p,
        torch="torch.log1p({0})", jax="jnp.log1p({0})", c="log1p{f}(x)", foreach="log1p", cost=10),
    row("square", 1, np.square, "even rising degree:2", torch="torch.square({0})", jax="jnp.square({0})", c="x * x"),
    row("sqrt", 1, lambda x: np.sqrt(np.abs(x)), "even rising degree:0.5",
        torch="torch.sqrt(torch.abs({0}))", jax="jnp.sqrt(jnp.abs({0}))",
         c="sqrt{f}(fabs{f}(x))", triton="_root(x)", cost=2),
    row("cube", 1, lambda x: x * x * x, "odd rising degree:3",
        torch="{0} * {0} * {0}", jax="{0} * {0} * {0}", c="x * x * x", cost=2),
    row("cbrt", 1, np.cbrt, "odd rising degree:0.3333333333333333",
         torch="torch.sign({0}) * torch.pow(torch.abs({0}), 1 / 3)", jax="jnp.cbrt({0})",
         c="cbrt{f}(x)", cost=10),
    # torch's own sign makes NaN 0, which would hide it
    row("sign", 1, np.sign, "odd rising degree:0",
        torch="torch.where({0} == {0}, torch.sign({0}), {0})", jax="jnp.sign({0})",
         c="islessgreater(x, 0) ? copysign{f}(1.0f, x) : fabs{f}(x)",
         triton="tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))"),
    row("reciprocal", 1, lambda x: _divide(np.ones(()), x), "odd degree:-1",
        torch="_divide(1.0, {0})", jax="_divide(1.0, {0})",
         c="x == 0 ? 0 : 1 / x", triton="_quotient(1.0, x)", cost=2),
    row("negative", 1, np.negative, "odd linear degree:1", torch="-{0}", jax="-{0}", c="-x", foreach="neg", symbol="-"),
    row("norm", 1, _norm, "even by_size degree:1",
        torch="torch.sqrt(torch.sum({0} * {0}))", jax="jnp.sqrt(jnp.sum({0} * {0}))", c="x * x",
         finish="sqrt(x)", cost=2, **_each),
    # others
    row("interp", 3, _interp, "linear degree:1",
        torch="(1 - {2}) * {0} + {2} * {1}", jax="(1 - {2}) * {0} + {2} * {1}", c="(1 - z) * x + z * y", cost=3,
         aliases=("interpolate",)),
    row("power", 2, _power, torch="torch.pow({0}, {1})", jax="jnp.power({0}, {1})", c="pow{f}(x, y)", cost=10),
    row("global_norm", 1, _global_norm, "even by_size degree:1",
        torch="torch.sqrt(sum(torch.sum(x * x) for x in {0}))", jax="jnp.sqrt(sum(jnp.sum(x * x) for x in {0}))",
         c="x * x", finish="sqrt(x)", cost=2, args=(T,), result=G),
    row("dot", 2, _dot, "commutative bilinear",
        torch="sum(torch.sum(x * y) for x, y in zip({0}, {1}))", jax="sum(jnp.sum(x * y) for x, y in zip({0}, {1}))",
         c="x * y", finish="x", cost=2, **_tree),
    row("cosine_sim", 2, None, "commutative", cost=6, **_tree,
         expand=("x", "y", "dot(x, y) / (global_norm(x) * global_norm(y))")),
    row("clip", 2, None, cost=3, args=(T, G), result=T, aliases=("clip_by_global_norm",),
         expand=("x", "c", "x * where(global_norm(x) < c, 1.0, c / global_norm(x))")),
    # beside the paper's 45: comparison and choice, reductions per tensor, a plain assignment
    row("less", 2, lambda x, y: np.less(x, y).astype(np.float64), "degree:0",
        torch="({0} < {1}).to(dtype)", jax="jnp.where({0} < {1}, 1.0, 0.0)",
         c="x < y ? 1 : 0", triton="(x < y).to(real)", symbol="<"),
    row("less_equal", 2, lambda x, y: np.less_equal(x, y).astype(np.float64), "degree:0",
         torch="({0} <= {1}).to(dtype)", jax="jnp.where({0} <= {1}, 1.0, 0.0)", c="x <= y ? 1 : 0",
         triton="(x <= y).to(real)", symbol="<="),
    row("greater", 2, lambda x, y: np.greater(x, y).astype(np.float64), "degree:0",
         torch="({0} > {1}).to(dtype)", jax="jnp.where({0} > {1}, 1.0, 0.0)", c="x > y ? 1 : 0",
         triton="(x > y).to(real)", symbol=">"),
    row("greater_equal", 2, lambda x, y: np.greater_equal(x, y).astype(np.float64), "degree:0",
         torch="({0} >= {1}).to(dtype)", jax="jnp.where({0} >= {1}, 1.0, 0.0)", c="x >= y ? 1 : 0",
         triton="(x >= y).to(real)", symbol=">="),
    row("where", 3, lambda c, x, y: np.where(np.not_equal(c, 0), x, y),
         torch="torch.where({0} != 0, {1}, {2})", jax="jnp.where({0} != 0, {1}, {2})", c="x != 0 ? y : z",
         triton="tl.where(x != 0, y, z)"),
    row("mean", 1, np.mean, "degree:1", torch="torch.mean({0})", jax="jnp.mean({0})", c="x", finish="x / n", **_each),
    row("sum", 1, np.sum, "degree:1", torch="torch.sum({0})", jax="jnp.sum({0})", c="x", finish="x", **_each),
    row("rms", 1, _rms, "even by_size degree:1",
        torch="torch.sqrt(torch.mean({0} * {0}))", jax="jnp.sqrt(jnp.mean({0} * {0}))", c="x * x",
         finish="sqrt(x / n)", cost=2, **_each),
    row("amax", 1, np.max, "degree:1",
        torch="torch.amax({0})", jax="jnp.max({0}, initial=-jnp.inf)", c="x", finish="x", **_each),
    row("std", 1, None, "even", cost=4, **_each, expand=("x", "rms(x - mean(x))")),
    row("identity", 1, lambda x: x, "odd linear degree:1", torch="{0}", jax="{0}", c="x", cost=0),
    # the count of steps: a remainder, a value renewed every k steps, and one of the first step alone
    row("floor", 1, np.floor, "rising",
        torch="torch.floor({0})", jax="jnp.floor({0})", c="floor{f}(x)", triton="tl.floor(x)", foreach="floor",
        doc="the largest whole number that is not above x"),
    row("mod", 2, _mod, "degree:1", torch="{0} - {1} * torch.floor(_divide({0}, {1}))", jax="_mod({0}, {1})",
        c="y == 0 ? x : x - y * floor{f}(x / y)", triton="x - y * tl.floor(_quotient(x, y))", cost=4),
    row("every", 3, None, expand=("k", "x", "y", "where(mod(t - 1, k) < 1, x, y)"),
        doc="x at steps 1, k + 1, 2 k + 1, ... and y at the others"),
    row("first", 2, None, expand=("x", "y", "where(t <= 1, x, y)"), doc="x at step 1, y at the others"),
    row("size", 1, np.size, "degree:0",
        torch="torch.tensor(float({0}.numel()), dtype=torch.float64)", jax="float({0}.size)", c="1",
        finish="n", cost=0, doc="the number of elements", **_each),
    row("quantile", 2, _quantile, "degree:1", torch="_quantile({0}, {1})", jax="_quantile({0}, {1})",
        cost=20, args=(T, G), result=S, doc="the value that a share q of the elements do not exceed, interpolated"),
    # simulated workers: one worker's value stands for all where there is one
    row("worker_mean", 1, None, "linear degree:1", torch="_worker_mean({0})", jax="{0}", cost=1, args=(T,), result=T,
        doc="the mean over data-parallel workers"),
    *MATRIX_ROWS,
)
# fmt: on

OPS: dict[str, Op] = {row.name: row for row in ROWS}
ALIASES: dict[str, str] = {alias: row.name for row in ROWS for alias in row.aliases}
INFIX: dict[str, str] = {row.symbol: row.name for row in ROWS if row.symbol and row.arity == 2}
#: Opcodes of the population engine: the position of a row in the table.
OPCODE: dict[str, int] = {row.name: code for code, row in enumerate(ROWS)}

# fmt: off
_LION45 = (
    "add", "subtract", "multiply", "divide", "max", "min", "get_pi", "get_e", "get_eps", "abs", "cos", "sin", "tan",
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "exp", "exp2", "exp10",
    "expm1", "log", "log10", "log2", "log1p", "square", "sqrt", "cube", "cbrt", "sign", "reciprocal", "norm",
    "negative", "global_norm", "interp", "dot", "cosine_sim", "clip", "power",
)
_MATRIX = (
    "mod", "every", "first", "quantile", "matmul", "transpose", "orthogonalize",
    *(f"{name}:{axis}" for axis in ("fan_in", "fan_out") for name in ("mean", "sum", "rms", "norm", "amax", "std")),
)
_PUBLISHED = (
    "add", "subtract", "multiply", "divide", "max", "min", "get_pi", "abs", "cos", "exp", "square", "sqrt", "sign",
    "norm", "negative", "interp", "clip", "power", "less", "less_equal", "greater", "greater_equal", "where", "mean",
    "sum", "rms", "amax", "std",
)
_BESIDE = ("less", "less_equal", "greater", "greater_equal", "where", "mean", "sum", "rms", "amax", "std")
# fmt: on

#: Names of the paper's list that no program can call, with the reason.
NOT_CALLABLE = {
    "invert": "bitwise inversion has no meaning on floats; the published code admits no valid call",
}


@dataclass(frozen=True)
class Space:
    """A named set of rows that a search may write with."""

    name: str
    ops: tuple[str, ...]
    doc: str


SPACES: dict[str, Space] = {
    "lion45": Space(
        "lion45",
        _LION45,
        """The 45 functions of the search that found Lion (Chen et al. 2023, arXiv:2302.06675).

        Departures from Google's published code (google/automl, folder hero):
        - `/` and `reciprocal` have no hidden eps: x / 0 is 0 (theirs adds 1e-8 to the denominator).
        - `invert` is listed and not callable: bitwise inversion has no meaning on floats.
        - `cbrt` is callable (theirs admits no valid call), `interp` checks its own arguments (theirs checks
          the wrong one, so that random insertion never makes interp(tensor, tensor, constant)).
        - `norm`, `global_norm`, `dot`, `cosine_sim` and `clip` take tensors; a number is refused.
        - `log1p` is NaN below -1, as theirs; `log`, `log2`, `log10` and `sqrt` act on |x|, as theirs.
        - `clip(x, c)` with a global norm of 0 is x for c > 0 and 0 otherwise.
        - `interpolate` and `clip_by_global_norm` are also called `interp` and `clip`.""",
    ),
    "published": Space(
        "published",
        _PUBLISHED,
        "the rows of elementwise that at least one catalogued rule is written with; half of elementwise, most of it "
        "trigonometry and logarithms, is in none.",
    ),
    "pointwise": Space(
        "pointwise",
        tuple(name for name in _PUBLISHED if OPS[name].elementwise),
        "the rows of published in which no element of a tensor sees another: such rules step in one pass and shard "
        "without communication.",
    ),
    "elementwise": Space(
        "elementwise",
        (*_LION45, *_BESIDE),
        "lion45 with comparisons, `where` and reductions per tensor; programs may read `t` and `progress`.",
    ),
    "matrix": Space(
        "matrix",
        (*_LION45, *_BESIDE, *_MATRIX),
        "elementwise with reductions along the axes of a matrix, products, orthogonalisation and periods; for "
        "programs that route matrices.",
    ),
}
