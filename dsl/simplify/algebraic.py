"""The algebraic level: programs that say the same for real numbers, by way of the normal form."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from ..flow import Flow, flow
from ..program import FIRST, LR, Program, build
from .algebra import TooLarge
from .form import Form, Item, Number, exact, magnitude, tidy
from .normal import INPUT, Normal, slots_in
from .rules import CANONICAL_LAWS
from .settle import settle
from .spell import Speller
from .states import normal_form

_OWN = 0.1  # by how much of a statement the peak lr that was written is preferred


def spelled(program: Program, off: Collection[str] = (), by_signs: bool = False) -> Iterator[Program]:
    """Programs that say what a program without a route says, each in the fewest statements found.

    They differ in the scale at which states are kept. `off` names rules that are not used; choices are put together
    from signs where `by_signs`, which is seldom shorter.
    """
    off = off if by_signs else (*off, *(rule.name for rule in CANONICAL_LAWS))
    try:
        form = normal_form(program, off)
        tried: list[object] = []
        for scales in _scales(form):
            for powers in (form.assumed.powers, {}):
                if (scales, powers) not in tried:
                    tried.append((scales, powers))
                    yield from _tried(program, off, scales, powers)
    except TooLarge:
        return


def _tried(
    program: Program, off: Collection[str], scales: Mapping[int, Number], powers: Mapping[int, Number]
) -> Iterator[Program]:
    """The program at these scales; none where it has no exact numbers or outgrows the limits."""
    try:
        found = _spelled(program, off, scales, powers)
    except TooLarge:
        return
    yield settle(found)


def _scales(form: Normal) -> Iterator[dict[int, Number]]:
    """The scales at which states are tried: as averages, as they were, and as plain sums."""
    yield averages(form)
    yield _with_equals(form, dict.fromkeys(form.ends, 1))
    yield _with_equals(form, {i: form.assumed.scales.get(i, 1) for i in form.ends})


def averages(form: Normal) -> dict[int, Number]:
    """The scale of each state at which a s + x becomes a s + (1 - a) x."""
    scales: dict[int, Number] = {}
    for index, end in form.ends.items():
        k = form.assumed.scales.get(index, 1)
        own = form.atoms.get((INPUT, FIRST + index))
        a = next((c for m, c in end.terms.items() if len(m) == 1 and m[0][0] is own and m[0][2] == 1), 0)
        scales[index] = tidy(Fraction(k) / (1 - Fraction(a))) if 0 < a < 1 and index not in form.assumed.powers else k
    return _with_equals(form, scales)


def _with_equals(form: Normal, scales: dict[int, Number]) -> dict[int, Number]:
    """With the scales at which states that are multiples of these are equal to them."""
    known = form.assumed.scales
    others = {i: tidy(Fraction(scales[j]) * known.get(i, 1) / known.get(j, 1)) for i, j in form.assumed.same.items()}
    return {**scales, **others}


def _spelled(
    program: Program, off: Collection[str], scales: Mapping[int, Number], powers: Mapping[int, Number]
) -> Program:
    form = normal_form(program, off, scales, powers)
    lr = lr_factor(form) if "lr absorbs a constant" not in off else None
    if lr is None:
        form = normal_form(program, off, scales, powers, peak=1.0)
    return written(program, form, lr, sorted(form.ends), [*form.ends.values(), *form.values.values()])


def written(
    program: Program,
    form: Normal,
    lr: Item | None,
    kept: Sequence[int],
    hints: Iterable[Form],
    prefer_peak: bool = True,
) -> Program:
    """A normal form as a program that keeps these states, in this order.

    `lr` is lr as a factor of the update, whose constant then goes into the peak; None where the form reads lr as it
    is. `hints` say which free scales are preferred, `prefer_peak` that the peak lr stays what it is and that
    numbers are exact; without it the text depends on the form alone.
    """
    slots = {FIRST + old: FIRST + new for new, old in enumerate(kept)}
    speller = Speller(form, lambda slot: slots.get(slot, slot), FIRST + len(kept), hints, strict=prefer_peak)
    nice = {i: speller.nice(form.ends[i]) for i in kept}
    speller.given = list(nice.values())
    ends = [speller.value(nice[i]) for i in kept]
    peak = program.lr
    if lr is None:
        update = speller.value(speller.nice(form.update))
    else:
        update, best = _scaled(speller, form, lr, form.peak if prefer_peak else 0)
        peak = None if program.lr is None and best == 1 else best
    return build(
        speller.statements, (update, *ends), tuple(program.states[i] for i in kept), (), peak,
        names=_names(program, form, speller, kept), name=program.name, doc=program.doc, periods=program.periods,
        roles=program.roles,
    )  # fmt: skip


def _names(program: Program, form: Normal, speller: Speller, kept: Sequence[int]) -> tuple[str, ...]:
    """Names of states, and of values that had one."""
    names = [program.name_of(FIRST + i) for i in kept]
    names += [""] * len(speller.statements)
    live: Flow = flow(program)
    for number, label in live.labels.items():
        if number >= live.first_node:
            slot = speller.made.get(speller.nice(form.values[number]))
            if isinstance(slot, int) and slot - FIRST >= len(kept) and label not in names:
                names[slot - FIRST] = label
    return tuple(names)


def lr_factor(form: Normal) -> Item | None:
    """Lr as a factor of the update, where it is read nowhere else."""
    lr = form.atoms.get((INPUT, LR))
    if lr is None:
        return None
    item: Item = (lr, 0, 1)
    if not form.update.terms or not all(item in m for m in form.update.terms):
        return None
    rest = [_less(form.update, item), *form.ends.values()]
    return None if LR in slots_in(rest) else item


def _less(form: Form, item: Item) -> Form:
    return Form({tuple(i for i in m if i != item): c for m, c in form.terms.items()})


def _scaled(speller: Speller, form: Normal, lr: Item, own: Number) -> tuple[int, float]:
    """The update as lr times the rest, the peak of lr such that the rest is spelled shortest."""
    rest = speller.nice(_less(form.update, lr))
    lead = magnitude(rest.terms[form.lead(rest)])
    peaks = [own, *(magnitude(c) for c in rest.terms.values())] if own > 0 else [lead]
    best = min(peaks, key=lambda c: speller.plan(form.scaled(rest, 1 / Fraction(c))).cost - _OWN * (c == own))
    update = speller.statement("multiply", (LR, speller.value(form.scaled(rest, 1 / Fraction(best)))))
    if speller.strict and exact(float(best)) != best:
        raise TooLarge
    return update, float(best)
