"""Cells: a diagram has the value of the form that it stands for, in every cell and on its borders."""

from pathlib import Path

import numpy as np

from stepsmith.dsl import Program
from stepsmith.dsl.kind import Kind
from stepsmith.dsl.ops import OPS
from stepsmith.dsl.program import LR, PROGRESS, T
from stepsmith.dsl.simplify import TooLarge, canonical
from stepsmith.dsl.simplify.cells import Cells
from stepsmith.dsl.simplify.diagram import SIGN, Leaf
from stepsmith.dsl.simplify.exact import exact
from stepsmith.dsl.simplify.form import PRIME, SUM
from stepsmith.dsl.simplify.normal import INPUT, SPREAD
from stepsmith.dsl.simplify.signs import SIGNED, SIZE
from stepsmith.dsl.simplify.states import normal_form

PAIRS = Path(__file__).parent / "pairs" / "equal.txt"
OFF = ("masks by signs",)
COUNTS = (24, 9, 7)  # elements of three tensors; the last one has only zeros as often as not
TINY = 1e-14  # what is less is rounding
EDGE = 1e-12  # closer to a threshold than this is on it


class Beyond(Exception):
    """A row that these values do not cover."""


class Values:
    """Numeric values of forms and diagrams over all elements of three tensors, in a row.

    Inputs are random numbers among which many are equal or 0.
    """

    def __init__(self, form, cells, seed):
        self.form, self.cells = form, cells
        self.random = np.random.default_rng(seed)
        self.inputs, self.known = {}, {}
        self.sums = {atom for atom in cells.algebra.atoms.values() if atom.op == SUM}

    def drawn(self, count):
        some = np.array([0.0, 0.0, 1.0, -1.0, 2.0, -0.5, 10.0, 0.05])  # whose powers are not `TINY`
        chosen = self.random.choice(some, count)
        return np.where(self.random.random(count) < 0.5, chosen, self.random.normal(size=count))

    def input(self, atom):
        (slot,) = atom.args
        if slot not in self.inputs:
            kind = self.form.flow.kinds[slot]
            if kind is Kind.GLOBAL:
                x = self.drawn(1)[0]
            elif kind is Kind.SCALAR:
                x = np.repeat(self.drawn(len(COUNTS)), COUNTS)
            else:
                x = self.drawn(sum(COUNTS))
                x[-COUNTS[-1] :] *= self.random.integers(2)
            x = np.abs(x) if atom.range[0] >= 0 else x
            fixed = {T: float(self.random.integers(1, 14)), PROGRESS: self.random.choice([0.0, 0.3, 0.5, 0.8, 1.0]),
                     LR: self.random.choice([0.0, 0.1, 1.0, 3.0])}  # fmt: skip
            self.inputs[slot] = fixed.get(slot, x)
        return self.inputs[slot]

    @staticmethod
    def tensors(x):
        return np.split(np.broadcast_to(np.asarray(x, float), sum(COUNTS)), np.cumsum(COUNTS)[:-1])

    def of(self, form):
        total = 0.0
        with np.errstate(all="ignore"):
            for mono, c in form.terms.items():
                part = float(c)
                if abs(part) < EDGE:
                    raise Beyond("a number that would be taken for rounding")
                for atom, p, r in mono:
                    x = self.atom(atom)
                    size = np.where(np.abs(x) < TINY, 0.0, np.abs(x) ** float(r))
                    odd = p or (atom in self.sums and r % 2 == 1)  # of a sum that was positive in its own cell
                    part = part * size * (np.sign(x) if odd else 1.0)
                total = total + part
        return total

    def atom(self, atom):
        if atom not in self.known:
            self.known[atom] = self.call(atom)
        return self.known[atom]

    def call(self, atom):
        if atom.op == PRIME:
            return float(atom.args[0])
        if atom.op == INPUT:
            return self.input(atom)
        if atom in self.cells.arguments:
            args = [self.diagram(d) for d in self.cells.arguments[atom]]
            if atom.op == "mean":
                return np.repeat([np.mean(x) for x in self.tensors(args[0])], COUNTS)
            if atom.op == "squares":
                return np.sum(np.concatenate(self.tensors(args[0])))
        else:
            args = [self.of(a) for a in atom.args]
        if atom.op in (SUM, SPREAD, SIGNED):
            return args[0]
        if atom.op == SIZE:
            return np.abs(args[0])
        if atom.op == "greater":
            return (args[0] - args[1] > EDGE) * 1.0
        row = OPS[atom.op]
        if row.elementwise:
            return row.meaning(*(np.asarray(a, float) for a in args))
        wide = [self.tensors(a) for a in args]
        if atom.op == "clip":
            norm = np.sqrt(np.sum(np.concatenate(wide[0]) ** 2))
            return args[0] * (args[1] / norm if norm > args[1] else 1.0)
        if row.meaning is None or row.result not in (Kind.SCALAR, Kind.GLOBAL) or row.shape or row.axis:
            raise Beyond(atom.op)
        if row.result is Kind.GLOBAL:
            return float(row.meaning(*wide))
        return np.repeat([float(row.meaning(*each)) for each in zip(*wide, strict=True)], COUNTS)

    def diagram(self, diagram):
        if isinstance(diagram, Leaf):
            return self.of(diagram.form)
        test = diagram.test
        asked = self.of(test.form) - test.threshold
        sign = np.where(np.abs(asked) < (TINY if test.rank == SIGN else EDGE), 0.0, np.sign(asked))
        found, left = 0.0, np.ones_like(sign, bool)
        for answer, child in diagram.children.items():
            here = left & (sign == answer)
            if here.any():
                found = np.where(here, self.diagram(child), found)
                left = left & ~here
        assert not left.any(), f"no answer {sign[left]} in {list(diagram.children)}"
        return found


def agree(program: Program, seeds: int) -> int:
    """Compares update and new states of a program with their diagrams; how many cells were not too many."""
    try:
        form = normal_form(exact(program), OFF)
        cells = Cells(form.count, [form.update, *form.ends.values()])
        diagrams = [(x, cells.diagram(x)) for x in (form.update, *form.ends.values())]
    except TooLarge:
        return 0
    for seed in range(seeds):
        values = Values(form, cells, seed)
        for x, diagram in diagrams:
            try:
                left, right = np.broadcast_arrays(values.of(x), values.diagram(diagram))
            except Beyond:
                return 0
            usual = np.isfinite(left) & np.isfinite(right)  # beyond, floats overflow in other places
            scale = 1e-9 + np.max(np.abs(left[usual]), initial=0.0)
            assert np.allclose(left[usual] / scale, right[usual] / scale, rtol=1e-6, atol=1e-6), str(program)
    return 1


def test_diagrams_of_equal_pairs_have_the_values_of_their_programs():
    texts = [t for block in PAIRS.read_text().split("\n---\n") for t in block.split("\n===\n")]
    assert sum(agree(Program.parse(text), 3) for text in texts[::3]) > 150


def test_diagrams_of_random_programs_have_their_values(random_programs):
    plain = [p for p in random_programs if not any(-1e-12 < x < 1e-12 and x for _, x in p.constants())]
    assert sum(agree(p, 2) for p in plain[:: len(plain) // 320]) > 150


def test_a_sum_of_roots_of_numbers_has_a_sign():
    """Found by random programs: such a sum is no threshold of anything."""
    head = "def f(w, g, v, lr, beta=0.999):\n  s = sqrt(beta)\n"
    sides = ("v = interp(square(g), v, s)", "v = s * v + g * g * (1 - s)")
    forms = [canonical(Program.parse(f"{head}  {side}\n  return lr * g / (sqrt(v) + 0.1), v")) for side in sides]
    assert forms[0] == forms[1]
