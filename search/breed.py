"""Children: child k of a search is a function of (seed, k) and of the fold it was made from."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..dsl import Program
from ..dsl.cost import cost
from ..dsl.flow import Flow, flow, reject_reason
from ..dsl.keys import Behaviour, behaviour, behaviour_key, structural_key
from ..dsl.likeness import Action, action, likeness
from ..dsl.program import LR
from ..dsl.simplify.exact import numbers_folded
from ..dsl.symmetry import is_odd
from .fittest import skeleton
from .ledger import START, Child
from .member import Member
from .mix import mixed
from .mutate import MAX_STATEMENTS
from .niche import niche_of
from .population import Fold
from .statements import shortened, times_lr, with_hypers_of
from .strategies import Evolution


class Bred(NamedTuple):
    """A fresh row, and the program that it is the text of."""

    child: Child
    program: Program


class _Seen(NamedTuple):
    """A program, its live code, and what it does on the probe."""

    program: Program
    live: Flow
    seen: Behaviour


_SCALINGS = 4  # an update that is no multiple of lr may meet its parent's scale after some
_FARTHEST = 50.0  # nats by which a peak learning rate moves at once; lr hardly moves what asks for more
_LEAST_SHARE = 0.125  # of its parent's scale, at which a child has the update of a donor
_ORNAMENT = 0.995  # of the update's direction: what a child must leave of its parent's to be trained
_SPARED = 1 / 8  # of those that do not: the likeness is of 64 steps, and a decay or a slow average takes more to show
_SCALE_STEP = 0.5  # octaves: programs alike but for a smaller difference in the scale of the update are one


def identity(program: Program, seen: Behaviour) -> str:
    """What it does on the probe and the scale of the update in half octaves: children that share it are the same work.

    Where the probe is blind the live text counts. The normal form would see more (benchmarks/repeats.py) and costs more
    than a child may.
    """
    return at_rms(behaviour_key(program, seen, structural_key(program)), seen.rms)


def at_rms(key: str, rms: float) -> str:
    """A key with the scale of the update."""
    return f"{key}:{round(math.log2(rms) / _SCALE_STEP)}"


def remember(known: MutableMapping[str, int], child: Child) -> None:
    """Enters a child that is trained."""
    assert child.identity is not None
    known[child.identity] = child.child


def remember_best(known: MutableMapping[str, int], child: Child) -> None:
    """Enters a scored row at the learning rate that was best: what is bred of it has the scale that it has there."""
    if child.scored:
        assert child.identity is not None and child.rms is not None
        key, _, _ = child.identity.rpartition(":")
        known.setdefault(at_rms(key, child.rms * child.lr_factor), child.child)


def _moves(seen: Behaviour) -> bool:
    """Whether the probe saw an update of finite size; squares may overflow where the update does not."""
    return seen.finite and math.isfinite(seen.rms) and seen.rms > 0


def _scales_with_lr(live: Flow) -> bool:
    """Whether the update is lr times what lr is no part of; then another peak changes nothing but its scale."""
    last = live.node(live.update)
    reads = sum(node.args.count(LR) for node in live.nodes)
    kept = any(end in (LR, live.update) for _, end in live.states) or any(live.update in n.args for n in live.nodes)
    return last is not None and last.op == "multiply" and reads == 1 and LR in last.args and not kept


def kept_scale(now: _Seen, scale: float) -> _Seen | None:
    """The program at a scale of the update. Where lr does not move the scale, as in sign(lr m), the update is
    multiplied by lr; None where no learning rate makes it finite.
    """
    kept = _at_scale(now, scale)
    if kept is not None and _is_near(kept.seen.rms, scale):
        return kept
    by_lr = times_lr(now.program) if len(now.program.statements) < MAX_STATEMENTS else None
    if by_lr is not None and _moves(first := behaviour(by_lr)):
        mended = _at_scale(_Seen(by_lr, flow(by_lr), first), scale)
        if mended is not None and _is_near(mended.seen.rms, scale):
            return mended
    return kept


def _is_near(rms: float, scale: float) -> bool:
    return rms > 0 and abs(math.log2(rms / scale)) < _SCALE_STEP


def _at_scale(now: _Seen, scale: float) -> _Seen | None:
    """The program at a peak learning rate where its update has nearly that RMS on the probe, by secants of the logs."""
    program, live, seen = now
    at_once, slope = _scales_with_lr(live), 1.0
    for _ in range(_SCALINGS):
        missing = math.log(scale / seen.rms)
        if abs(missing) <= 1e-9 or abs(missing) > _FARTHEST * slope:
            break
        program = program.with_own_lr(program.peak * math.exp(missing / slope))
        after = seen._replace(rms=scale) if at_once else behaviour(program)
        if not _moves(after) or not math.isfinite(program.peak):
            return None
        slope *= math.log(after.rms / seen.rms) / missing
        seen = after
    return _Seen(program, live, seen)


def start_member(program: Program) -> Member:
    """A start program as a parent; it has not been scored."""
    return Member(None, str(program), 0.0, behaviour(program).rms, cost(program).statements)


def make_start(number: int, program: Program, known: Mapping[str, int], round_: int = 0) -> Bred:
    """A start program as a child: the first rows of a search. More of them than a round holds fill later rounds."""
    return _finish(Child(number, round_, None, START, ""), program, None, known, odd=False)


def make_child(number: int, round_: int, fold: Fold, strategy: Evolution, known: Mapping[str, int]) -> Bred:
    """Child `number`, checked and keyed; trainable, rejected with a reason, or an alias of an earlier row.

    The child keeps its parent's update scale: its peak lr is multiplied so that the RMS of its update on the
    probe equals the parent's, unless the edit was to a number; with the hyperparameters of a model, the model's.
    """
    random = np.random.Generator(np.random.Philox(key=[fold.config.seed, number]))
    home = fold.island(number)
    parent, mutator, length, donor, model = strategy.plan(home, fold.donors(home), random)
    weights = fold.credit.weights(mutator.weights) if fold.config.adapt else None
    program, edits = parent.program, list[str]()
    if random.random() < fold.config.tidy:
        program = numbers_folded(program)
    both = _with_update(program, parent, donor, random) if donor is not None else None
    if donor is not None and both is not None:
        program, edits, length = both, [f"mix {donor.child}"], 0
    if model is not None:
        program, edits = with_hypers_of(program, model.program), [f"take {model.child}"]
    for _ in range(length):
        program, edit = mutator.mutate(program, random, weights)
        edits.append(edit)
    program = shortened(program)
    program = replace(program, name=f"found_{number}", doc="")  # what was said of its parent is not true of it
    child = Child(number, round_, parent.child, "+".join(edits), "")
    whose = model if child.moves_numbers_alone else parent
    new = _finish(child, program, whose.rms if whose is not None else None, known, fold.config.odd)
    if not child.moves_numbers_alone and is_ornament(new, parent) and not _spared(new, fold.config.seed):
        return Bred(replace(child, program=str(new.program), reason="rejected: it acts as its parent"), new.program)
    return new


def is_ornament(new: Bred, parent: Member) -> bool:
    """Whether a child that would be trained moves weights as its parent does, as far and nearly the same way."""
    if new.child.reason or new.child.alias_of is not None or not _is_near(new.child.rms or 0.0, parent.rms):
        return False
    return likeness(action(new.program), _action(parent.text)) > _ORNAMENT


@lru_cache(512)
def _action(text: str) -> Action:
    """Of parents, which have many children."""
    return action(Program.parse(text))


def _spared(new: Bred, seed: int) -> bool:
    """Of a rule at a scale the same whenever it is bred, in one search."""
    return zlib.crc32(f"{seed} {new.child.identity}".encode()) < _SPARED * 2**32


def _with_update(program: Program, parent: Member, donor: Member, random: np.random.Generator) -> Program | None:
    """The parent's program with the donor's update, which moves weights as far as the parent's own, or a share of that:
    at the best rate of each by itself the poorer rule may drown the other.
    """
    share = math.exp(random.uniform(math.log(_LEAST_SHARE), 0.0))
    return mixed(program, donor.program, share * parent.rms / donor.rms)


def placed(new: Bred, niches: bool) -> Bred:
    """With what says where a child will live, once for all who fold it: its structure, and its niche if any."""
    child, program = new
    if child.reason:
        return new
    elastic = niche_of(program, child.state).elastic if niches and child.alias_of is None else 0
    return Bred(replace(child, elastic=elastic, skeleton=skeleton(program)), program)


def _finish(child: Child, program: Program, scale: float | None, known: Mapping[str, int], odd: bool) -> Bred:
    """The row of a fresh program: why it is not trained, what it repeats, or what it costs."""

    def rejected(why: str) -> Bred:
        return Bred(replace(child, program=str(program), reason=f"rejected: {why}"), program)

    live = flow(program)
    if reason := reject_reason(live):
        return rejected(reason)
    seen = behaviour(program)
    if not _moves(seen):
        return rejected("no update" if seen.rms == 0 else "not finite on the probe")
    if scale is not None:
        kept = kept_scale(_Seen(program, live, seen), scale)
        if kept is None:
            return rejected("no learning rate fits")
        program, live, seen = kept
    if program.peak == 0:
        return rejected("the peak learning rate is 0")
    name = identity(program, seen)
    if odd and name not in known and not is_odd(program):
        return rejected("it prefers a direction")
    costs = cost(program, live)
    child = replace(
        child, program=str(program), identity=name, alias_of=known.get(name), rms=seen.rms, state=costs.state,
        operations=costs.operations, statements=costs.statements,
    )  # fmt: skip
    return Bred(child, program)
