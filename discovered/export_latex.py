r"""A program as LaTeX: an `align*` with one line per named value, in the notation of papers.

States are s_{t-1} before a step and s_t after it, the learning rate is \eta_t, `beta1` is \beta_1, `weight_decay`
\lambda; a name that is assigned again gets a prime. Products of arrays element by element are \odot, those of
matrices stand side by side. Conventions that a formula cannot show stand in the comment before it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..dsl import Const, Kind, Program
from ..dsl.flow import Flow, Node, flow
from ..dsl.matrix_ops import REDUCED
from ..dsl.program import FIRST, RESERVED, Arg, T, W
from .header import LICENSE

_ANY, _SUM, _PRODUCT, _POWER, _ATOM = range(5)  # how tightly an expression holds together
_LONGEST = 160  # of an unnamed expression
_SHORT = 24  # an unnamed expression that is written wherever it is read


def _upright(name: str) -> str:
    """A name of several letters, as one word."""
    return rf"\mathrm{{{name}}}".replace("_", r"\_")


_COMPARED = {"less": "<", "less_equal": r"\le", "greater": ">", "greater_equal": r"\ge"}
#: #1, #2, #3 are the arguments, as in a macro; the number is how tightly the result holds.
_SPELLED: dict[str, tuple[str, int]] = {
    "divide": (r"\frac{#1}{#2}", _ATOM),
    "get_pi": (r"\pi", _ATOM), "get_e": ("e", _ATOM), "get_eps": ("10^{-8}", _POWER),
    "abs": (r"\left\lvert #1 \right\rvert", _ATOM), "floor": (r"\left\lfloor #1 \right\rfloor", _ATOM),
    "sqrt": (r"\sqrt{#1}", _ATOM), "cbrt": (r"\sqrt[3]{#1}", _ATOM), "reciprocal": (r"\frac{1}{#1}", _ATOM),
    "exp2": ("2^{#1}", _POWER), "exp10": ("10^{#1}", _POWER), "expm1": ("e^{#1} - 1", _SUM),
    **{name: (rf"{macro} \left\lvert #1 \right\rvert", _POWER)
       for name, macro in (("log", r"\ln"), ("log2", r"\log_2"), ("log10", r"\log_{10}"))},
    "log1p": (r"\ln \left( 1 + #1 \right)", _POWER),
    "norm": (r"\left\lVert #1 \right\rVert", _ATOM),
    "global_norm": (r"\left\lVert #1 \right\rVert_{\mathrm{all}}", _ATOM),
    "dot": (r"\left\langle #1, #2 \right\rangle", _ATOM),
    "cosine_sim": (r"\cos \angle \left( #1, #2 \right)", _POWER),
    "eye": ("I", _ATOM),
    **{name: (rf"\{name} \left( #1 \right)", _POWER)
       for name in ("cos", "sin", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp")},
    **{name: (rf"\{name} \left( #1, #2 \right)", _POWER) for name in ("max", "min")},
    **{name: (rf"\operatorname{{{name.removesuffix('_basis')}}} \left( #1 \right)", _POWER)
       for name in ("arcsinh", "arccosh", "arctanh", "sign", "mean", "sum", "rms", "amax", "std", "size", "wide",
                    "unwide", "orthogonalize", "eigh_basis", "qr_basis")},
    **{name: (rf"\operatorname{{{called}}}_{{{below}}} \left( #1 \right)", _POWER) for name, called, below in (
        ("quantile", "quantile", "#2"), ("worker_mean", "mean", r"\mathrm{workers}"),
        ("newton_schulz", "NS", "#2, #3, #4"), ("svd_basis", "svd", "#2"), ("random_projection", "projection", "#2"))},
    "clip": (r"\operatorname{clip} \left( #1, #2 \right)", _POWER),
    **{f"norm:{axis}": (rf"\left\lVert #1 \right\rVert_{{{_upright(axis)}}}", _ATOM) for axis in REDUCED},
    **{f"{name}:{axis}": (rf"\operatorname{{{name}}}_{{{_upright(axis)}}} \left( #1 \right)", _POWER)
       for name in ("mean", "sum", "rms", "amax", "std", "size") for axis in REDUCED},
}  # fmt: skip
#: What is spelled by operators: with what each argument must hold.
_POSTFIX = {"square": "2", "cube": "3", "inverse_sqrt": "-1/2", "transpose": r"\top"}
_NOTES = {
    "divide": "x / 0 is 0",
    "sqrt": "a root is that of the absolute value",
    "mod": "the remainder has the sign of the divisor",
    "global_norm": "a norm over all is that of all parameters together",
    "clip": "clip(x, c) brings the norm of all parameters together down to c",
}

_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
          "xi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega"}  # fmt: skip
_KNOWN = {"eps": r"\epsilon", "weight_decay": r"\lambda", "lr": r"\eta", "update": "u", "progress": r"\tau",
          "noise": r"\xi"}  # fmt: skip
_ACCENTS = {"hat", "tilde", "bar"}


def export_latex(program: Program) -> str:
    r"""The rule as LaTeX that needs amsmath: an `align*` for each group of parameters that it treats alike.

    >>> print(export_latex(Program.parse("def sgd(w, g, lr=0.1):\n  return lr * g")))
    % The rule sgd; its defaults: lr = 0.1.
    % Exported by Stepsmith. SPDX-License-Identifier: Apache-2.0
    \begin{align*}
      w_t &= w_{t-1} - \eta_t \, g_t
    \end{align*}
    <BLANKLINE>
    """
    comment = list(program.doc.splitlines())
    parts = program.parts()
    for part in parts:
        shown = [("lr", part.peak)] if not part.schedule else []
        shown += [(part.name_of(part.first_hyper + i), value) for i, value in enumerate(part.hypers)]
        values = ", ".join(f"{name} = {value!r}" for name, value in shown)
        defaults = f"; its defaults: {values}" if values else ""
        comment.append(f"The {'schedule' if part.schedule else 'rule'} {part.name}{defaults}.")
    used = {node.op for part in parts for node in flow(part).nodes}
    comment += [f"Here {note}." for op, note in _NOTES.items() if op in used]
    lines = [f"% {line}".rstrip() for line in [*comment, LICENSE]]
    for part in parts:
        if len(parts) > 1:
            lines.append(f"For {_whose(part)}:")
        body = _Formulas(part).lines()
        lines += [r"\begin{align*}", *(f"  {line}" for line in body), r"\end{align*}"]
    return "\n".join(lines) + "\n"


def _whose(part: Program) -> str:
    return f"{' and '.join(part.roles)} parameters" if part.roles else "all other parameters"


class _Formulas:
    """The lines of one program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.flow: Flow = flow(program)
        self.uses: Counter[Arg] = Counter(arg for node in self.flow.nodes for arg in node.args)
        ends = [self.flow.update, *(end for _, end in self.flow.states)]
        self.uses.update(ends)
        self.versions: Counter[str] = Counter()
        self.symbols: dict[Arg, str] = {}
        self.named = self._name_values()

    def _name_values(self) -> list[int]:
        """Gives every input a symbol and every value that gets a line; returns the latter."""
        live, program = self.flow, self.program
        for slot in range(len(RESERVED)):
            self.symbols[slot] = "t" if slot == T else self._symbol(RESERVED[slot], "t-1" if slot == W else "t")
        for slot in live.hypers:
            self.symbols[slot] = self._symbol(program.name_of(slot), "")
        self.ends: dict[Arg, str] = {}  # the symbol of a node that is a state's new value
        self.after: dict[int, str] = {}
        for index, end in live.states:
            name = program.name_of(FIRST + index) or f"s{index + 1}"
            self.symbols[FIRST + index] = self._symbol(name, "t-1", count=False)
            self.after[index] = self._symbol(name, "t")
            if live.node(end):
                self.ends.setdefault(end, self.after[index])
        named, unnamed = [], 0
        for number, node in enumerate(live.nodes, live.first_node):
            if number in self.ends:
                self.symbols[number] = self.ends[number]
            elif label := live.labels.get(number):
                self.symbols[number] = self._symbol(label, "t")
            elif self._needs_line(number, node):
                unnamed += 1
                self.symbols[number] = self._symbol(f"x{unnamed}", "t")
            else:
                continue
            named.append(number)
        return named

    def _needs_line(self, number: int, node: Node) -> bool:
        text, _ = self._spell(node)
        if node.op in _COMPARED:
            return len(text) > 3 * _SHORT
        if number == self.flow.update and self.uses[number] == 1:
            return False  # the last line holds it anyway
        return len(text) > _LONGEST or (self.uses[number] > 1 and len(text) > _SHORT)

    def lines(self) -> list[str]:
        live, found = self.flow, []
        for number in self.named:
            node = live.nodes[number - live.first_node]
            found.append(f"{self.symbols[number]} &= {self._spell(node)[0]}")
        for index, end in live.states:
            if self.after[index] != (isinstance(end, int) and self.symbols.get(end)):
                found.append(f"{self.after[index]} &= {self._text(end)}")
        if self.program.schedule:
            found.append(rf"\eta_t &= \eta_{{\max}} \, {self._text(live.update, _POWER)}")
        else:
            found.append(f"w_t &= {self.symbols[W]} - {self._text(live.update, _PRODUCT)}")
        return [line + r" \\" for line in found[:-1]] + found[-1:]

    # --- names ----------------------------------------------------------------------------------------------

    def _symbol(self, name: str, time: str, count: bool = True) -> str:
        """The symbol of a name at a time; of one that has been given away a later version."""
        base, subscripts, superscript = _taken_apart(name)
        key = f"{base} {subscripts} {superscript}"
        version = self.versions[key] + 1
        if count:
            self.versions[key] = version
        below = ",".join([*subscripts, *([time] if time else [])])
        above = superscript + (rf"({version})" if version > 3 else r"\prime" * (version - 1))
        text = base + (f"_{{{below}}}" if len(below) > 1 else f"_{below}" if below else "")
        return text + (f"^{{{above}}}" if above else "")

    # --- expressions ----------------------------------------------------------------------------------------

    def _text(self, arg: Arg, least: int = _ANY) -> str:
        text, holds = self._expression(arg)
        return text if holds >= least else rf"\left( {text} \right)"

    def _expression(self, arg: Arg) -> tuple[str, int]:
        if isinstance(arg, Const):
            return _number(arg.value)
        if arg in self.symbols:
            return self.symbols[arg], _POWER if "^" in self.symbols[arg] else _ATOM
        node = self.flow.node(arg)
        assert node is not None, "inputs have symbols"
        return self._spell(node)

    def _spell(self, node: Node) -> tuple[str, int]:
        """A node's expression, and how tightly it holds together."""
        op, args = node.op, node.args
        if op in _COMPARED:
            return rf"\mathbf{{1}} \left[ {self._condition(node)} \right]", _POWER
        if op in ("where", "every", "first"):
            return self._choice(node), _ANY
        if op in _POSTFIX:
            return f"{self._text(args[0], _ATOM)}^{_grouped(_POSTFIX[op])}", _POWER
        if op == "power":
            return f"{self._text(args[0], _ATOM)}^{_grouped(self._text(args[1]))}", _POWER
        if op in ("add", "subtract"):
            sign = "+" if op == "add" else "-"
            return f"{self._text(args[0], _SUM)} {sign} {self._text(args[1], _PRODUCT)}", _SUM
        if op == "negative":
            return f"-{self._text(args[0], _PRODUCT)}", _SUM
        if op == "interp":
            x, y, a = (self._text(arg, _POWER) for arg in args)
            if isinstance(args[2], Const):
                rest = self._text(Const(float(f"{1 - args[2].value:.12g}")), _POWER) + r" \,"
            else:
                rest = rf"\left( 1 - {self._text(args[2], _PRODUCT)} \right)"
            return rf"{a} \, {y} + {rest} {x}", _SUM
        if op == "multiply":
            return self._product(args), _PRODUCT
        if op == "matmul":
            return rf"{self._text(args[0], _PRODUCT)} \, {self._text(args[1], _POWER)}", _PRODUCT
        if op == "mod":
            return rf"{self._text(args[0], _POWER)} \bmod {self._text(args[1], _POWER)}", _PRODUCT
        template, holds = _SPELLED[op]
        wanted = _PRODUCT if op == "log1p" else _ANY
        return re.sub(r"#(\d)", lambda m: self._text(args[int(m[1]) - 1], wanted), template), holds

    def _product(self, args: Sequence[Arg]) -> str:
        left, right = self._text(args[0], _PRODUCT), self._text(args[1], _POWER)
        arrays = all(self.flow.kind(arg) not in (Kind.GLOBAL, Kind.SCALAR) for arg in args)
        between = r"\odot" if arrays else r"\cdot" if right[0].isdigit() else r"\,"
        return f"{left} {between} {right}"

    def _choice(self, node: Node) -> str:
        """A value where a condition holds, and another elsewhere."""
        if node.op == "where":
            condition, (x, y) = self._holds(node.args[0]), node.args[1:]
        elif node.op == "every":
            condition, (x, y) = rf"(t - 1) \bmod {self._text(node.args[0], _POWER)} = 0", node.args[1:]
        else:
            condition, (x, y) = "t = 1", node.args
        cases = rf"{self._text(x)} & \text{{if }} {condition} \\ {self._text(y)} & \text{{otherwise}}"
        return rf"\begin{{cases}} {cases} \end{{cases}}"

    def _holds(self, arg: Arg) -> str:
        node = self.flow.node(arg)
        if node is not None and arg not in self.symbols and node.op in _COMPARED:
            return self._condition(node)
        return rf"{self._text(arg, _SUM)} \ne 0"

    def _condition(self, node: Node) -> str:
        return f"{self._text(node.args[0], _SUM)} {_COMPARED[node.op]} {self._text(node.args[1], _SUM)}"


def _grouped(exponent: str) -> str:
    return exponent if len(exponent) == 1 or exponent == r"\top" else f"{{{exponent}}}"


def _number(value: float) -> tuple[str, int]:
    """A number as it is printed, powers of ten as such."""
    shown = repr(int(value)) if value == int(value) and abs(value) < 1e6 else repr(value)
    holds = _SUM if value < 0 else _ATOM
    digits, e, exponent = shown.partition("e")
    if not e:
        return shown, holds
    power = f"10^{{{int(exponent)}}}"
    if digits in ("1", "-1"):
        return digits.removesuffix("1") + power, min(holds, _POWER)
    return rf"{digits} \cdot {power}", min(holds, _PRODUCT)


def _taken_apart(name: str) -> tuple[str, list[str], str]:
    """A name as base, subscripts and superscript: beta1 is beta with 1 below, m_hat is m under a hat."""
    if name in _KNOWN:
        return _KNOWN[name], [], ""
    first, *rest = [part for part in name.split("_") if part] or ["x"]
    letters, digits = re.fullmatch(r"(.*?)(\d*)", first).groups()  # type: ignore[union-attr]
    base = _KNOWN.get(letters) or (rf"\{letters}" if letters in _GREEK else letters)
    words = [part for part in rest if part not in _ACCENTS and not part.isdigit() and part != "t"]
    below = [part for part in (digits, *rest) if part.isdigit()]
    if len(letters) > 1 and base == letters:
        base, words = _upright("_".join([letters, *words])), []
    for accent in (part for part in rest if part in _ACCENTS):
        base = rf"\{accent}{{{base}}}"
    return base, below, _upright("_".join(words)) if words else ""
