"""The rules: one row each, with what it says, where it holds, and the examples on which it is tested.

`exact` rules hold bit for bit for every float, signed zero, Inf and NaN included; they are patterns. `algebraic` rules
hold for real numbers, under the side condition that they name; forms carry them out, and without one of them forms
are what they were before it.
"""

from __future__ import annotations

from dataclasses import dataclass

EXACT, ALGEBRAIC = "exact", "algebraic"


@dataclass(frozen=True)
class Rule:
    """What a rule says, as (left, right) examples in x, y, z, the number c > 0 and scalars s; `given` is where."""

    name: str
    level: str
    examples: tuple[tuple[str, str], ...]
    given: str = ""

    @property
    def law(self) -> str:
        """The first example."""
        left, right = self.examples[0]
        return f"{left} = {right}"


def _exact(name: str, *pairs: str) -> Rule:
    examples = tuple((left, right) for left, _, right in (p.partition(" = ") for p in pairs))
    return Rule(name, EXACT, examples)


def _algebraic(name: str, *pairs: str, given: str = "") -> Rule:
    examples = tuple((left, right) for left, _, right in (p.partition(" = ") for p in pairs))
    return Rule(name, ALGEBRAIC, examples, given)


#: Patterns. Every variable stands for any value; a rule is used from left to right.
PATTERNS: tuple[Rule, ...] = (
    _exact("times 1", "x * 1.0 = x", "1.0 * x = x", "x / 1.0 = x", "power(x, 1.0) = x"),
    _exact("less 0", "x - 0.0 = x"),
    _exact("times -1", "x * -1.0 = -x", "-1.0 * x = -x", "x / -1.0 = -x"),
    _exact(
        "double negation",
        "--x = x",
        "x - -y = x + y",
        "x + -y = x - y",
        "-x + y = y - x",
        "-x * -y = x * y",
        "-x / -y = x / y",
        "-x * y = -(x * y)",
        "x * -y = -(x * y)",
    ),
    _exact(
        "size of a size",
        "abs(abs(x)) = abs(x)",
        "abs(-x) = abs(x)",
        "abs(square(x)) = square(x)",
        "abs(sqrt(x)) = sqrt(x)",
        "abs(norm(x)) = norm(x)",
        "abs(rms(x)) = rms(x)",
        "abs(global_norm(x)) = global_norm(x)",
        "abs(exp(x)) = exp(x)",
        "abs(cosh(x)) = cosh(x)",
    ),
    _exact(
        "even rows see no sign",
        "square(-x) = square(x)",
        "square(abs(x)) = square(x)",
        "sqrt(-x) = sqrt(x)",
        "sqrt(abs(x)) = sqrt(x)",
        "log(abs(x)) = log(x)",
        "log(-x) = log(x)",
        "log2(abs(x)) = log2(x)",
        "log10(abs(x)) = log10(x)",
        "cos(-x) = cos(x)",
        "cos(abs(x)) = cos(x)",
        "cosh(-x) = cosh(x)",
        "cosh(abs(x)) = cosh(x)",
        "norm(-x) = norm(x)",
        "norm(abs(x)) = norm(x)",
        "rms(-x) = rms(x)",
        "rms(abs(x)) = rms(x)",
        "global_norm(-x) = global_norm(x)",
        "global_norm(abs(x)) = global_norm(x)",
    ),
    _exact("squares and cubes", "x * x = square(x)", "square(x) * x = cube(x)", "1.0 / x = reciprocal(x)"),
    _exact("sign of a sign", "sign(sign(x)) = sign(x)", "floor(floor(x)) = floor(x)"),
    _exact("choice between equals", "max(x, x) = x", "min(x, x) = x", "where(x, y, y) = y"),
    _exact("choice by a number", "where(1.0, x, y) = x", "where(0.0, x, y) = y"),
)

#: What forms know. Switched off by name.
LAWS: tuple[Rule, ...] = (
    _algebraic(
        "collect like terms",
        "x + y - x = y",
        "2.0 * x + x = 3.0 * x",
        "0.1 * x + 0.2 * x - 0.3 * x + y = y",
        given="what cancels is finite",
    ),
    _algebraic(
        "exponents add",
        "x / (x * x) = 1.0 / x",
        "x / y * y * x = x * x * (y / y)",
        "sqrt(x) * sqrt(x) = abs(x)",
        "1.0 / (x * y) = 1.0 / x / y",
        given="factors are finite; x / 0 is 0",
    ),
    _algebraic(
        "roots and signs are powers",
        "x / sqrt(x * x) = sign(x)",
        "sign(x) * abs(x) = x",
        "sqrt(x * x) = abs(x)",
        "cbrt(cube(x)) = x",
        "sign(x * y) = sign(x) * sign(y)",
        "sqrt(4.0 * abs(x)) = 2.0 * sqrt(x)",
        "sign(3.0 * x) = sign(x)",
        "abs(x) * abs(y) = abs(x * y)",
        "1.0 / (1.0 / x) = x",
        "square(sqrt(x)) = abs(x)",
        given="arguments are finite",
    ),
    _algebraic(
        "multiply out", "x * (y + z) = x * y + x * z", "(x + y) * (x - y) = x * x - y * y", given="arguments are finite"
    ),
    _algebraic(
        "interp is affine",
        "interp(x, y, 0.9) = 0.1 * x + 0.9 * y",
        "interp(x, interp(x, y, 0.5), 0.5) = interp(x, y, 0.25)",
        "interp(x, y, 0.0) + z = x + z",
        "interp(x, x, 0.3) + y = x + y",
        given="arguments are finite",
    ),
    _algebraic(
        "max by differences",
        "max(x, -x) = abs(x)",
        "max(2.0 * x, 2.0 * y) = 2.0 * max(x, y)",
        "max(x + z, y + z) = max(x, y) + z",
        "-min(-x, -y) = max(x, y)",
        "max(x, y) + min(x, y) = x + y",
        "max(abs(x), -abs(y)) = abs(x)",
        given="arguments are finite",
    ),
    _algebraic(
        "comparisons by differences",
        "(x + z > y + z) + x = (x > y) + x",
        "(2.0 * x < 2.0 * y) + x = (x < y) + x",
        "(x * abs(y) > 0.0) * y = (x > 0.0) * y",
        "(x >= y) + (x < y) + z = z + 1.0",
        given="arguments are finite numbers",
    ),
    _algebraic(
        "where by masks",
        "where(x > 0.0, y, 0.0) = (x > 0.0) * y",
        "where(x > 0.0, x, -x) = abs(x)",
        "where(x, y, 0.0) = y * (x / x)",
        "where(x > y, z, 0.0) + where(x <= y, z, 0.0) = z",
        given="arguments are finite numbers",
    ),
    _algebraic(
        "numbers leave reductions",
        "mean(3.0 * x) = 3.0 * mean(x)",
        "norm(-2.0 * x) = 2.0 * norm(x)",
        "rms(x * norm(y)) = rms(x) * norm(y)",
        "dot(2.0 * x, y) = 2.0 * dot(y, x)",
        "dot(x, x) = square(global_norm(x))",
        "sum(square(x)) = square(norm(x))",
        "mean(x * x) = square(rms(x))",
        "cosine_sim(x, y) = dot(x, y) / (global_norm(x) * global_norm(y))",
        given="arguments are finite",
    ),
    _algebraic(
        "positive scale leaves clip",
        "clip(2.0 * x, 1.0) = 2.0 * clip(x, 0.5)",
        "clip(-x, 1.0) = -clip(x, 1.0)",
        given="arguments are finite",
    ),
    _algebraic(
        "homogeneous rows",
        "sin(-x) = -sin(x)",
        "tanh(x - y) = -tanh(y - x)",
        "cos(x - y) = cos(y - x)",
        "arctan(-2.0 * x) = -arctan(2.0 * x)",
        given="by the traits of the op table",
    ),
    _algebraic(
        "inverse functions",
        "sinh(arcsinh(x)) = x",
        "arcsinh(sinh(x)) = x",
        "tan(arctan(x)) = x",
        "log(exp(x)) = x",
        "expm1(log1p(abs(x))) = abs(x)",
        given="the inner row is finite",
    ),
)

#: What makes unlike spellings of one choice equal and none of them short: `key` alone; `canonical` has cells instead.
CANONICAL_LAWS: tuple[Rule, ...] = (
    _algebraic(
        "masks by signs",
        "(x > 0.0) - (-x > 0.0) = sign(x)",
        "where(x > 0.0, 1.0, where(x < 0.0, -1.0, 0.0)) = sign(x)",
        "where(x > y, x, y) = max(x, y)",
        "max(min(x, 2.0), -1.0) = min(max(x, -1.0), 2.0)",
        "where(global_norm(x) < 0.5, x, x * 0.5 / global_norm(x)) = clip(x, 0.5)",
        "x * min(1.0, 0.5 / global_norm(x)) = clip(x, 0.5)",
        "x * 0.5 / max(global_norm(x), 0.5) = clip(x, 0.5)",
        "where(rms(x) > 2.0, y * 2.0 / rms(x), y) = 2.0 * y / max(2.0, rms(x))",
        given="arguments are finite numbers",
    ),
)

#: Rules about states and lr, which are more than expressions.
PROGRAM_RULES: tuple[Rule, ...] = (
    Rule("dead code", EXACT, ()),
    Rule("equal expressions once", EXACT, ()),
    Rule("numbers folded", EXACT, ()),
    Rule("a state that stays 0", ALGEBRAIC, (), "each new value is a product with a state that stays 0"),
    Rule("equal states", ALGEBRAIC, (), "equal at the start, and equal new values where they are equal"),
    Rule("a state that follows another", ALGEBRAIC, (), "its new value is a function of new values of others, 0 at 0"),
    Rule("scale of a state", ALGEBRAIC, (), "what reads it is divided by as much"),
    Rule("power of a state", ALGEBRAIC, (), "it is never negative, and all of it is a sum raised to a power"),
    Rule("lr absorbs a constant", ALGEBRAIC, (), "lr is a factor of the update and read nowhere else"),
)
RULES: dict[str, Rule] = {r.name: r for r in (*PATTERNS, *LAWS, *CANONICAL_LAWS, *PROGRAM_RULES)}
