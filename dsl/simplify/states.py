"""States: which are needed, and the scale at which each is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction

import numpy as np

from ..flow import Flow, flow
from ..interpret import Part
from ..ops import OPS
from ..probe import probe, shapes_of, views
from ..program import FIRST, Arg, Const, Program
from ..ranges import Ranges
from .algebra import TooLarge
from .form import PRIME, SUM, Form, Mono, Number, hashed, magnitude
from .normal import INPUT, Assumed, Follower, Normal, slots_in

_ROUNDS = 12
_STEPS = (4, 5, 6)  # of the probe


def normal_form(
    program: Program,
    off: Collection[str] = (),
    scales: Mapping[int, Number] | None = None,
    powers: Mapping[int, Number] | None = None,
    peak: float | None = None,
    colours: Mapping[int, str] | None = None,
    proved: Collection[int] = (),
) -> Normal:
    """The normal form of a program without a route; raises TooLarge where it outgrows the limits.

    `scales` and `powers` are those at which states are kept; without them each is kept such that the leading
    coefficient of what it adds to itself is 1. `peak` is what the atom of lr stands for, instead of the program's.
    States that are `proved` to be never negative by the caller stay so whatever their forms tell.
    """
    live = flow(program)
    fixed = {i for i, _ in live.states if program.states[i].codec is not None}
    follows = followers(live, fixed) if "a state that follows another" not in off else {}
    assumed = Assumed(
        dict(scales or {}),
        dict(powers or {}),
        (Ranges(program).states - fixed) | set(proved),
        colours=colours_of(program, live) if colours is None else colours,
        follows=follows,
    )
    apart: set[tuple[int, int]] = set()
    signed: set[int] = set()
    for _ in range(_ROUNDS):
        found = Normal(live, program.peak if peak is None else peak, assumed, off)
        rescale = scales is None and "scale of a state" not in off
        better = _better(found, assumed, fixed, rescale, apart, signed, proved)
        if better is None:
            return found
        assumed = better
    raise TooLarge


def _better(
    found: Normal,
    assumed: Assumed,
    fixed: set[int],
    rescale: bool,
    apart: set[tuple[int, int]],
    signed: set[int],
    proved: Collection[int],
) -> Assumed | None:
    """What to assume instead; None where all holds."""
    infinite = {i for i, end in found.ends.items() if not end.finite} | set(assumed.infinite)
    undefined = {i for i, end in found.ends.items() if not end.defined} | set(assumed.undefined)
    if len(infinite) > len(assumed.infinite) or len(undefined) > len(assumed.undefined):
        return assumed._replace(infinite=infinite, undefined=undefined)
    wrong = {(i, j) for i, j in assumed.same.items() if not _end_is(found, i, found.ends.get(j, Form({})))}
    if wrong:
        apart |= wrong
        return assumed._replace(same={i: j for i, j in assumed.same.items() if (i, j) not in apart})
    negative = {i for i in assumed.nonnegative if i in found.ends and found.ends[i].range[0] < 0} - set(proved)
    if negative:
        signed |= negative
        return assumed._replace(nonnegative=set(assumed.nonnegative) - negative)
    likely = {i for i in found.ends if i not in fixed | signed and _only_adds(found, i)} - set(assumed.nonnegative)
    if likely:
        return assumed._replace(nonnegative={*assumed.nonnegative, *likely})
    zero = _zero(found)
    if zero and "a state that stays 0" not in found.off:
        return assumed._replace(zero={*assumed.zero, *zero})
    if rescale:
        powers = {i: r for i, end in found.ends.items() if i not in fixed and (r := _power(assumed, i, end)) != 1}
        if powers and "power of a state" not in found.off:
            new = {i: assumed.powers.get(i, 1) * r for i, r in powers.items()}
            return assumed._replace(powers={**assumed.powers, **new})
        scales = {i: k for i, k in _scales(found).items() if i not in fixed}
        scales = {i: magnitude(k) if i in assumed.nonnegative else k for i, k in scales.items()}
        if any(k != 1 for k in scales.values()):
            new = {i: assumed.scales.get(i, 1) * k for i, k in scales.items()}
            return assumed._replace(scales={**assumed.scales, **new})
    same = _same(found, assumed, fixed, apart) if "equal states" not in found.off else {}
    return assumed._replace(same={**assumed.same, **same}) if same else None


def _end_is(found: Normal, index: int, wanted: Form) -> bool:
    return found.end(index, dict(found.flow.states)[index]) == wanted


def _zero(found: Normal) -> set[int]:
    """States of which every new value is a product with such a state."""
    zero = set(found.ends)
    while True:
        held = {found.atoms.get((INPUT, FIRST + i)) for i in zero} - {None}
        still = {
            i for i in zero
            if found.ends[i].total and all(any(a in held for a, _, _ in m) for m in found.ends[i].terms)
        }  # fmt: skip
        if still == zero:
            return zero
        zero = still


def _scales(found: Normal) -> dict[int, Number]:
    """The leading coefficient of what each state adds to itself.

    That is of the products without states; where there is none, of those with states whose scale is known, so that
    states that feed each other do not chase each other's scale.
    """
    inside = {i: {m: _states_in(m) for m in end.terms} for i, end in found.ends.items()}
    scales: dict[int, Number] = {}
    while True:
        ready = {}
        for index, terms in inside.items():
            some = {m: found.ends[index].terms[m] for m, held in terms.items()
                    if held <= scales.keys() and index not in held}  # fmt: skip
            if index not in scales and some:
                ready[index] = found.primitive(Form(some))[0]
        if not ready:
            return scales
        scales |= ready


def _states_in(mono: Mono) -> set[int]:
    return {slot - FIRST for slot in slots_in([Form({mono: 1})]) if slot >= FIRST}


def _only_adds(found: Normal, index: int) -> bool:
    """Whether a state gets what is never negative added to a share of itself."""
    own = found.atoms.get((INPUT, FIRST + index))
    added = {m: c for m, c in found.ends[index].terms.items() if not (len(m) == 1 and m[0][0] is own and c > 0)}
    return Form(added).range[0] >= 0


def _power(assumed: Assumed, index: int, end: Form) -> Number:
    """The exponent of a sum that is all of a state, with the sum's sign unless the state is never negative."""
    single = end.single
    items = [i for i in single[0] if i[0].op != PRIME] if single else []
    if len(items) != 1 or not end.total:
        return 1
    ((atom, p, r),) = items
    if index not in assumed.nonnegative and p == 0:
        return 1
    return r if atom.op == SUM and r > 0 else 1


def _same(found: Normal, assumed: Assumed, fixed: set[int], apart: set[tuple[int, int]]) -> dict[int, int]:
    """States that behaved alike on the probe: to be proved by what follows from it."""
    first: dict[object, int] = {}
    same = {}
    for index in found.ends:
        if index in fixed:
            continue
        looks = found.flow.kinds[FIRST + index], assumed.colours.get(index)
        other = first.setdefault(looks, index)
        if other != index and looks[1] is not None and (index, other) not in apart:
            same[index] = other
    return same


def colours_of(
    program: Program, live: Flow, powers: Mapping[int, Number] | None = None, kept: Collection[int] | None = None
) -> dict[int, str]:
    """What each state does on a few probe steps, up to a factor: a name that equal states share.

    `powers` are those at which states are kept; of `kept` ones alone, one alone needs no name.
    """
    if len(live.states if kept is None else kept) < 2:
        return {i: "only" for i, _ in live.states}
    shapes = shapes_of(program)
    runner = Part(program, views(shapes))
    seen: dict[int, list[np.ndarray]] = {i: [] for i, _ in live.states}
    for number in _STEPS:
        runner.step(*probe(shapes)[number])
        for index, values in seen.items():
            state = runner.states[index]
            each = state if isinstance(state, list) else [state]
            flat = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in each])
            values.append(flat if np.ptp(flat) else flat[:1])  # of whatever kind the state is
    traces = {index: np.concatenate(parts) for index, parts in seen.items()}
    with np.errstate(all="ignore"):
        for index, power in (powers or {}).items():
            x, r = traces[index], float(1 / Fraction(power))
            traces[index] = np.where(x == 0, 0.0, np.sign(x) * np.abs(x) ** r)  # 0 to a negative power is 0
    return {index: _name(values) for index, values in traces.items()}


def _name(trace: np.ndarray) -> str:
    usual = trace[np.isfinite(trace) & (trace != 0)]
    scaled = trace / usual[0] if usual.size else trace
    sign = "+" if (scaled >= 0).all() else "-"  # what does not depend on the program's numbers stands first
    return sign + hashed(" ".join(f"{x:.6e}" if x else "0" for x in scaled))


# --- states that are functions of others ----------------------------------------------------------------------


def followers(live: Flow, fixed: Collection[int]) -> dict[int, Follower]:
    """States whose new value is made of new values of other states alone, and is 0 where those are 0.

    Such a state is that function of the others at every step.
    """
    ends = dict(live.states)
    found: dict[int, Follower] = {}
    if len(ends) < 2:
        return found
    for index, end in ends.items():
        if index in fixed or live.node(end) is None:
            continue
        kind = live.kinds[FIRST + index]
        others = {e: j for j, e in ends.items() if j != index and j not in found and j not in fixed
                  and live.kinds[FIRST + j] is kind and live.kind(e) is kind}  # fmt: skip
        if end not in others and _at_zero(live, end, others) == 0:
            found[index] = Follower(end, others)
    return found


def _at_zero(live: Flow, arg: Arg, others: dict[Arg, int]) -> float:
    """The value where the others' new values are 0; NaN where anything else counts."""
    if isinstance(arg, Const):
        return arg.value
    if arg in others:
        return 0.0
    node = live.node(arg)
    if node is None:
        return live.hypers.get(arg, float("nan"))
    row = OPS[node.op]
    if not row.elementwise or row.meaning is None or row.name == "worker_mean":
        return float("nan")
    args = [_at_zero(live, a, others) for a in node.args]
    with np.errstate(all="ignore"):
        return float("nan") if any(a != a for a in args) else float(row.meaning(*map(np.float64, args)))
