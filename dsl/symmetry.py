r"""Symmetries of an optimizer: what its update does when gradients are scaled, flipped, reordered or turned.

Each has a verdict: "proved", by abstract interpretation of the live code with the traits of the op table; "probed",
it held on random gradients to 1e-9 in float64; or "no". Proofs leave rounding (also that of codecs), NaN, underflow and
overflow aside. A program with a route is judged by its own part; its fallbacks are in `Program.parts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from . import symmetry_probe as probe
from .abstract import ZERO, Broken, Degree, Domain, Fact, Parity, solve
from .actions import Actions
from .bounds import bound
from .flow import Flow, flow
from .ops import OPS
from .program import NOISE, Program, T

PROVED, PROBED, NO = "proved", "probed", "no"
_LONG = 3000  # steps after which averages have settled
_UNEVEN = 2.0
_SETTLED = 1.01  # growth over a factor of a million that is none
_SHARP = 10.0  # a proved bound above this is likely far from what happens
_SAYS_SOMETHING = 1e4  # lr; one above this says no more than that there is one


class Verdict(NamedTuple):
    """Whether a property holds, and what is to be said of it."""

    verdict: str
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Proved or probed."""
        return self.verdict != NO

    def __str__(self) -> str:
        return f"{self.verdict}, {self.detail}" if self.detail else self.verdict


def symmetries(program: Program) -> dict[str, Verdict]:
    r"""All properties of a program, by name.

    >>> lion = "def f(w, g, m, lr):\n  u = sign(interp(g, m, 0.9))\n  return lr * u, interp(g, m, 0.99)"
    >>> for name, verdict in symmetries(Program.parse(lion)).items():
    ...     print(f"{name}: {verdict}")
    scale-invariant: proved
    sign-equivariant: proved
    permutation-equivariant: proved, elements
    rotation-equivariant: no, sign of single elements (u)
    bounded: proved, |update| <= 1 lr at w = 0
    needs bias correction: no, steady from the first step
    """
    return {name: judge(program) for name, judge in PROPERTIES.items()}


# --- properties ---------------------------------------------------------------------------------------------


def scale(program: Program) -> Verdict:
    r"""Whether the scale of the gradients does not matter.

    update(c g_1, ..., c g_t) = update(g_1, ..., g_t) for all c > 0, at fixed weights: degree 0 in the gradients over
    the whole history. The detail names another degree k, c^k update, where there is one. A loss that is c times
    larger has c times the gradient, the curvature (hutchinson) and the difference of losses, and c^2 times
    the squares of gauss_newton.

    >>> scale(Program.parse("def sgd(w, g, lr):\n  return lr * g"))
    Verdict(verdict='no', detail='degree 1')
    """
    found, why = _proof(program, Degree())
    if why:
        k = probe.degree(_own(program))
        if k == 0:
            return Verdict(PROBED)
        return Verdict(NO, why if k is None else f"degree {k:g} on probes")
    return Verdict(PROVED) if found is ZERO or found == 0 else Verdict(NO, f"degree {found:g}")


def degree(program: Program) -> float | None:
    r"""The degree of the update in the gradients; None where there is none, or no proof of one.

    update(c g_1, ..., c g_t) = c^k update(g_1, ..., g_t), for c > 0. Degrees of values follow from the op table (a
    root halves, a product adds, a sum wants equal ones) and those of states, which start at 0, from their fixed point.

    >>> degree(Program.parse("def f(w, g, v, lr):\n  v = interp(g * g, v, 0.9)\n  return lr * g / v, v"))
    -1.0
    """
    found, why = _proof(program, Degree())
    return None if why else 0.0 if found is ZERO else found


def sign(program: Program) -> Verdict:
    r"""Whether the sign of each coordinate does not matter.

    With D diagonal, its elements 1 or -1: update(D w, D g_1, ..., D g_t) = D update(w, g_1, ..., g_t). Proved by
    parities: each value is odd, it flips where w and g do, or even. Curvature is even; noise is odd, in distribution.

    >>> sign(Program.parse("def f(w, g, lr):\n  return lr * max(g, 0)")).detail
    'max of odd values'
    """
    found, why = _proof(program, Parity())
    if not why and _flips(found):
        return Verdict(PROVED, _in_distribution(program))
    held = probe.has_signs(_own(program))
    return Verdict(PROBED) if held else Verdict(NO, why or "the update is even")


def is_odd(program: Program) -> bool:
    r"""Whether a rule prefers no direction: update(-w, -g_1, ..., -g_t) = -update(w, g_1, ..., g_t).

    Weaker than `sign`: all elements change signs at once. Proved by parities where that goes through, else probed.

    >>> is_odd(Program.parse("def f(w, g, lr):\n  return lr * sign(g + 0.1 * w)"))
    True
    >>> is_odd(Program.parse("def f(w, g, lr):\n  return lr * (g + 0.1)"))
    False
    """
    found, why = _proof(program, Parity())
    return (not why and _flips(found)) or probe.is_odd(_own(program))


def permutation(program: Program) -> Verdict:
    r"""Whether the order of parameters does not matter.

    A permutation P_k of the elements of each tensor: update(P w, P g_1, ...) = P update(w, g_1, ...), which all rules
    have that are elementwise but for reductions over whole tensors. Where it does not hold, of rows and columns:
    update(P w Q, P g Q, ...) = P update(w, g, ...) Q. The detail says which.

    >>> permutation(Program.parse("def f(w, g, lr):\n  return lr * g / norm(g)")).detail
    'elements'
    """
    live = flow(program, expand=True)
    states = [program.states[i] for i, _ in live.states]
    plain = all(s.kind.plain and not (s.codec and s.codec.needs_matrix) for s in states)
    if plain and not any(OPS[n.op].needs_matrix for n in live.nodes):
        return Verdict(PROVED, _joined("elements", _in_distribution(program)))
    sides = _of_sides(program, False)
    if sides.verdict != PROVED and probe.equivariant(_own(program), probe.permuted_elements(0)):
        return Verdict(PROBED, "elements")
    return sides


def rotation(program: Program) -> Verdict:
    r"""Whether the basis in which a matrix is written does not matter.

    With U and V orthogonal: update(U w V', U g_1 V', ...) = U update(w, g_1, ...) V' for each matrix. The detail says
    whether on both sides, or on the left (fan_out) or right (fan_in) alone. Rules that bend single elements lack it.

    >>> rotation(Program.parse("def f(w, g, m, lr):\n  m = interp(g, m, 0.9)\n  return lr * m / norm(m), m"))
    Verdict(verdict='proved', detail='both sides')
    """
    return _of_sides(program, True)


def bounded(program: Program) -> Verdict:
    r"""Whether no gradient makes the update large.

    sup |update| / lr over all histories of gradients is finite, at w = 0, so that a decay, linear in w, stays aside;
    lr is the peak. Proved by intervals (see `bounds.bound`). A probe runs gradients that are, become or cease to be
    2^k times larger, k from -60 to 60, and wants the largest update to settle at both ends.

    >>> str(bounded(Program.parse("def f(w, g, lr):\n  return lr * tanh(3 * g)")))
    'proved, |update| <= 1 lr at w = 0'
    """
    most, sized = bound(_own(program))
    if most <= _SHARP:
        return Verdict(PROVED, _within(most, sized))
    sizes = probe.largest_by_scale(_own(program))
    largest = f"up to {max(sizes.values()) / (abs(program.peak) or 1.0):.3g} lr on probes"
    if most < math.inf:
        return Verdict(PROVED, _joined(_within(most, sized), largest))
    middle = max(sizes[k] for k in (-20, 0, 20))
    if any(math.isnan(size) for size in sizes.values()):
        return Verdict(NO, "not finite on probes")
    if sizes[60] > _SETTLED * max(middle, sizes[40]):
        return Verdict(NO, "grows with the gradient")
    if sizes[-60] > _SETTLED * max(middle, sizes[-40]):
        return Verdict(NO, "grows as the gradient vanishes")
    return Verdict(PROBED, largest)


def _within(most: float, sized: bool) -> str:
    if most > _SAYS_SOMETHING:
        return "finite (the proof gives above 1e4 lr)"
    return f"|update| <= {most:.4g} lr at w = 0" + (", shape (1024, 1024)" if sized else "")


def correction(program: Program) -> Verdict:
    r"""Whether the first updates are out of scale, as those of averages that start at 0 are.

    Under a constant gradient, at w = 0 and a schedule of 1: "probed" where the RMS of one of the first 10 updates
    and that after 3000 steps differ by more than a factor of 2. It says so of sums too, which grow to their size.

    >>> str(correction(Program.parse("def f(w, g, m, lr):\n  m = 0.9 * m + g\n  return lr * m, m")))
    'probed, the first update is 0.1 times that after 3000 steps'
    """
    live = flow(program, expand=True)
    if not live.states and not live.reads(T):
        return Verdict(NO, "keeps no state")
    early, late = probe.sizes_at_constant_gradient(_own(program), _LONG)
    if not all(math.isfinite(x) for x in (*early, late)):
        return Verdict(NO, "not finite on the probe")
    moved = [i for i, x in enumerate(early) if x > 0]  # some rules wait a step
    if late == 0 or not moved:
        return Verdict(PROBED, "the update dies out") if moved else Verdict(NO, "no update")
    ratios = [x / late for x in early]
    worst = max(moved, key=lambda i: abs(math.log(ratios[i])))
    if 1 / _UNEVEN <= ratios[worst] <= _UNEVEN:
        steady = abs(ratios[worst] - 1) < 0.01
        first = f"{ratios[worst]:.2g} times its later size at first"
        return Verdict(NO, "steady from the first step" if steady else first)
    place = "the first update" if worst == 0 else f"update {worst + 1}"
    return Verdict(PROBED, f"{place} is {ratios[worst]:.3g} times that after {_LONG} steps")


PROPERTIES: dict[str, Callable[[Program], Verdict]] = {
    "scale-invariant": scale,
    "sign-equivariant": sign,
    "permutation-equivariant": permutation,
    "rotation-equivariant": rotation,
    "bounded": bounded,
    "needs bias correction": correction,
}


# --- proofs -------------------------------------------------------------------------------------------------


def _own(program: Program) -> Program:
    return replace(program, fallback=None)


def _flips(fact: Fact) -> bool:
    """Whether a value of this parity changes its sign where w and g do."""
    return fact is ZERO or fact == "odd"


def _proof(program: Program, domain: Domain) -> tuple[Fact, str]:
    """What a domain knows of the update, or why it knows nothing."""
    live: Flow = flow(program, expand=True)
    try:
        return solve(live, domain, [program.states[i].codec for i, _ in live.states]), ""
    except Broken as broken:
        return None, str(broken)


def _turns(program: Program, rotates: bool, sides: str) -> str:
    """Why no proof goes through that the update turns as g does; "" where one does."""
    domain = Actions(rotates, sides)
    found, why = _proof(program, domain)
    if not why and found is not ZERO:
        try:
            domain.ends(found)
        except Broken as broken:
            return str(broken)
    return why


def _of_sides(program: Program, rotates: bool) -> Verdict:
    """Permutations or rotations of both sides, or of one."""
    names = {"OI": "both sides", "O": "left", "I": "right"} if rotates else (
        {"OI": "rows and columns", "O": "rows", "I": "columns"}
    )  # fmt: skip
    law = _in_distribution(program)
    why = _turns(program, rotates, "OI")
    if not why:
        return Verdict(PROVED, _joined(names["OI"], law))
    proved = [side for side in "OI" if not _turns(program, rotates, side)]
    make = probe.rotated if rotates else probe.permuted
    held = [
        side for number, side in enumerate("OI") if side in proved or probe.equivariant(_own(program), make(number, 0))
    ]
    if not held:
        return Verdict(NO, why)
    return Verdict(PROVED if held == proved else PROBED, _joined(names["".join(held)], law))


def _in_distribution(program: Program) -> str:
    """A note for programs whose draws must be transformed too."""
    return "in distribution" if flow(program).reads(NOISE) else ""


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)
