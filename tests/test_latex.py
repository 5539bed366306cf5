"""The LaTeX of a rule is what a paper would print, and parses as LaTeX."""

import itertools
import re
import sys
from pathlib import Path

import pytest

from stepsmith.discovered import load, names
from stepsmith.discovered.export_latex import export_latex
from stepsmith.dsl import OPS, Kind, Program

sys.path.append(str(Path(__file__).parent))

from test_export import children

COMMANDS = {
    "left", "right", "begin", "end", "text", "frac", "sqrt", "odot", "cdot", "operatorname", "mathrm", "mathbf",
    "lvert", "rvert", "lVert", "rVert", "lfloor", "rfloor", "langle", "rangle", "angle", "prime", "top", "bmod",
    "le", "ge", "ne", "hat", "tilde", "bar", "pi", "min", "max", "ln", "log", "exp", "cos", "sin", "tan", "arcsin",
    "arccos", "arctan", "sinh", "cosh", "tanh", "alpha", "beta", "gamma", "delta", "epsilon", "eta", "lambda", "mu",
    "rho", "sigma", "tau", "xi",
}  # fmt: skip


def body(text: str) -> str:
    """The text without its comment."""
    return "".join(line + "\n" for line in text.splitlines() if not line.startswith("%"))


def check(text: str) -> None:
    """Braces, brackets, environments and scripts as LaTeX wants them, of known commands."""
    found = body(text)
    assert set(re.findall(r"\\([A-Za-z]+)", found)) <= COMMANDS
    assert set(re.findall(r"\\([^A-Za-z])", found)) <= set("\\,_")
    assert "None" not in found and "nan" not in found
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", found):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened and found.count(r"\left") == found.count(r"\right")
    depth = list(itertools.accumulate({"{": 1, "}": -1}.get(c, 0) for c in found))
    assert min(depth) == 0 == depth[-1]
    for block in re.findall(r"\\begin\{align\*\}\n(.*?)\\end\{align\*\}", found, re.DOTALL):
        lines = block.splitlines()
        assert all(line.endswith(r" \\") for line in lines[:-1]) and not lines[-1].endswith("\\")
        assert all(re.match(r"  [^&]+ &= \S", line) for line in lines)
        left = [line.split(" &=")[0] for line in lines]
        assert len(set(left)) == len(left), "a symbol is assigned twice"
    flat = found
    while (inner := re.sub(r"\{[^{}]*\}", "@", flat)) != flat:
        flat = inner
    assert not re.search(r"\^(@|\\top|[^\\@])(_(@|[^\\@]))?\^", flat), "double superscript"


LION = r"""\begin{align*}
  u_t &= \operatorname{sign} \left( \beta_1 \, m_{t-1} + \left( 1 - \beta_1 \right) g_t \right) + \lambda \, w_{t-1} \\
  m_t &= \beta_2 \, m_{t-1} + \left( 1 - \beta_2 \right) g_t \\
  w_t &= w_{t-1} - \eta_t \, u_t
\end{align*}
"""
ADAMW = r"""\begin{align*}
  m_t &= \beta_1 \, m_{t-1} + \left( 1 - \beta_1 \right) g_t \\
  v_t &= \beta_2 \, v_{t-1} + \left( 1 - \beta_2 \right) g_t^2 \\
  \hat{m}_t &= \frac{m_t}{1 - \beta_1^t} \\
  \hat{v}_t &= \frac{v_t}{1 - \beta_2^t} \\
  u_t &= \frac{\hat{m}_t}{\sqrt{\hat{v}_t} + \epsilon} + \lambda \, w_{t-1} \\
  w_t &= w_{t-1} - \eta_t \, u_t
\end{align*}
"""


@pytest.mark.parametrize(("name", "expected"), [("lion", LION), ("adamw", ADAMW)])
def test_it_reads_as_in_papers(name, expected):
    assert body(export_latex(load(name))) == expected


def test_the_comment_says_where_the_rule_is_from_and_what_a_formula_does_not_show():
    head = [line for line in export_latex(load("adamw_clip")).splitlines() if line.startswith("%")]
    assert (
        "% Source: Loshchilov and Hutter 2019, arXiv:1711.05101; clipping: Pascanu et al. 2013, arXiv:1211.5063" in head
    )
    assert any(line.startswith("% The rule adamw_clip; its defaults: lr = 0.001, beta1 = 0.9") for line in head)
    assert (
        "% Here x / 0 is 0." in head
        and "% Here clip(x, c) brings the norm of all parameters together down to c." in head
    )
    plain = export_latex(Program.parse("def line(progress):\n return 1 - progress"))
    assert plain.startswith("% The schedule line.\n")
    assert head[-1] == "% Exported by Stepsmith. SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("name", names())
def test_every_rule_and_schedule_has_one(name):
    text = export_latex(load(name))
    check(text)
    assert text.count(r"\begin{align*}") == len(load(name).parts())


#: Arguments of rows that do not take any three tensors.
ARGUMENTS = {
    **dict.fromkeys(("eye", "inverse_sqrt", "eigh_basis", "qr_basis"), "g @ transpose(g)"), "unwide": "wide(g)",
    "matmul": "g, transpose(m_next)", "newton_schulz": "m_next, 2, 3, 4", "svd_basis": "g, 2",
    "random_projection": "g, 2, 3", "quantile": "m_next, 0.5", "clip": "m_next, 0.5",
    "short": "wide(g), short", "long": "wide(g), long", "rank": "svd_basis(g, 4), rank",
    "fan_in": "v_hat, fan_in", "fan_out": "v_hat, fan_out",
}  # fmt: skip


@pytest.mark.parametrize("row", [row for row in OPS.values() if row.name != "identity"], ids=lambda row: row.name)
def test_every_row_has_one(row):
    """Of values with a word above them and a hat, and of the result's square."""
    name, _, axis = row.name.partition(":")
    value = f"{name}({ARGUMENTS.get(axis or name, ', '.join(['m_next', 'v_hat', 'g'][: row.arity]))})"
    one_number = row.arity == 0 or (row.result is not None and row.result is not Kind.TENSOR)
    rule = "def f(w, g, m_next, v_hat, t, lr) for matrix else h:\n m_next = square(m_next) + g\n"
    rule += f" return lr * g * {f'square({value})' if one_number else f'sum(square({value}))'}, m_next, g\n"
    check(export_latex(Program.parse(rule + "def h(w, g, lr):\n return lr * g")))


def test_random_programs_have_one():
    for program in children(150):
        check(export_latex(program))


def test_a_name_that_is_assigned_again_is_told_apart():
    rule = "def f(w, g, m, lr):\n g = sign(g)\n g = cube(g)\n g = 2 * g\n m = m + g\n m = m * m\n return lr * m, m"
    lines = body(export_latex(Program.parse(rule))).splitlines()[1:-1]
    assert lines == [
        r"  g_t^{\prime} &= \operatorname{sign} \left( g_t \right) \\",
        r"  g_t^{\prime\prime} &= \left( g_t^{\prime} \right)^3 \\",
        r"  g_t^{(4)} &= 2 \, g_t^{\prime\prime} \\",
        r"  m_t^{\prime} &= m_{t-1} + g_t^{(4)} \\",
        r"  m_t &= m_t^{\prime} \odot m_t^{\prime} \\",
        r"  w_t &= w_{t-1} - \eta_t \, m_t",
    ]


def test_numbers_choices_and_states_that_keep_inputs():
    rule = "def f(w, g, m, t, lr, eps1=0.5):\n return lr * (where(t < 3, 1e-5 * g, m) - 2.5e-7 * eps1 ** t), g"
    assert body(export_latex(Program.parse(rule))).splitlines()[1:-1] == [
        r"  m_t &= g_t \\",
        r"  w_t &= w_{t-1} - \eta_t \, \left( \left( \begin{cases} 10^{-5} \, g_t & \text{if } t < 3 \\ "
        r"m_{t-1} & \text{otherwise} \end{cases} \right) - 2.5 \cdot 10^{-7} \, \epsilon_1^t \right)",
    ]
