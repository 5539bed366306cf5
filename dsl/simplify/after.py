"""The update as a function of what states become, which is often a shorter one than that of what they were."""

from __future__ import annotations

from fractions import Fraction

from ..flow import Node
from ..program import FIRST
from .algebra import TooLarge
from .form import Atom, Form, Number, hashed, shaped
from .normal import INPUT, Normal

AFTER = "after"  # what is kept of a state's new value


class After(Normal):
    """A normal form in which what is a multiple of a state's new value is made of that, not of what it is made of."""

    def __init__(self, form: Normal) -> None:
        """Of the program of a form; raises TooLarge where no state's new value is more than an input."""
        self.before = form
        self.new: dict[Form, tuple[int, Number]] = {}
        for index, end in form.flow.states:
            if index in form.ends:
                k, prim = form.primitive(form.opened(form.read(end)))
                if prim.number is None and not _is_input(prim):
                    self.new.setdefault(prim, (index, k))
        if not self.new:
            raise TooLarge
        super().__init__(form.flow, form.peak, form.assumed, form.off)

    def made(self, number: int, node: Node) -> Form:
        """A multiple of a state's new value, or the row applied to such forms."""
        k, prim = self.before.primitive(self.before.opened(self.before.values[number]))
        if prim not in self.new:
            return self.call(node)
        index, lead = self.new[prim]
        return self.scaled(self._unkept(index, self.after(index)), Fraction(k) / lead)

    def after(self, index: int) -> Atom:
        """The atom of what is kept of a state's new value."""
        key = (AFTER, index)
        if key not in self.atoms:
            end = self.before.ends[index]
            low = max(end.range[0], 0.0) if index in self.assumed.nonnegative else end.range[0]
            name = f"{AFTER} {self.state(index).digest}"
            self.atoms[key] = Atom(INPUT, (FIRST + index,), end.kind, shaped(AFTER) + hashed(name), (low, end.range[1]),
                                   end.finite, end.defined, end.nonzero)  # fmt: skip
        return self.atoms[key]


def _is_input(x: Form) -> bool:
    """Whether a form is an input or a state alone."""
    mono = x.single[0] if x.single else ()
    return len(mono) == 1 and mono[0][0].op == INPUT and mono[0][2] == 1
