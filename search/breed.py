"""Children: child k of a search is a function of (seed, k) and of the fold it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..dsl import Program
from ..dsl.cost import cost
from ..dsl.flow import flow, reject_reason
from ..dsl.keys import Behaviour, behaviour, key
from .ledger import Child
from .population import Fold, Member
from .strategies import Evolution

_SCALE_STEP = 0.5  # octaves: programs alike but for a smaller difference in the scale of the update are one


def identity(program: Program, seen: Behaviour) -> str:
    """The key and the scale of the update in half octaves: what makes two children the same work."""
    return f"{key(program, seen)}:{round(math.log2(seen.rms) / _SCALE_STEP)}"


def start_member(program: Program) -> Member:
    """A start program as a parent; it has not been scored."""
    return Member(None, str(program), 0.0, behaviour(program).rms)


def make_start(number: int, program: Program, known: Mapping[str, int]) -> Child:
    """A start program as a child: the first rows of a search."""
    return _finish(Child(number, 0, None, "start", str(program)), program, None, known)


def make_child(number: int, round_: int, fold: Fold, strategy: Evolution, known: Mapping[str, int]) -> Child:
    """Child `number`, checked and keyed; trainable, rejected with a reason, or an alias of an earlier row.

    The child keeps its parent's update scale: its peak lr is multiplied so that the RMS of its update on the
    probe equals the parent's, unless the edit was to a number.
    """
    random = np.random.Generator(np.random.Philox(key=[fold.config.seed, number]))
    parent = strategy.parent(fold, random)
    program, edits = parent.program, []
    for _ in range(strategy.length(random)):
        program, edit = strategy.mutator.mutate(program, random)
        edits.append(edit)
    child = Child(number, round_, parent.child, "+".join(edits), str(program))
    scale = None if set(edits) <= {"constant"} else parent.rms
    return _finish(child, program, scale, known)


def _finish(child: Child, program: Program, scale: float | None, known: Mapping[str, int]) -> Child:
    """The row of a fresh program: why it cannot be trained, what it repeats, or what it costs."""
    reason = reject_reason(flow(program))
    if reason:
        return replace(child, reason=f"rejected: {reason}")
    seen = behaviour(program)
    if not seen.finite or seen.rms == 0:
        return replace(child, reason="rejected: " + ("no update" if seen.finite else "not finite on the probe"))
    if scale is not None and abs(scale / seen.rms - 1) > 1e-9:
        program = program.with_lr(program.peak * scale / seen.rms)
        seen = behaviour(program)
        if not seen.finite or seen.rms == 0 or not math.isfinite(program.peak):
            return replace(child, program=str(program), reason="rejected: no learning rate fits")
    name = identity(program, seen)
    costs = cost(program)
    child = replace(
        child, program=str(program), identity=name, rms=seen.rms, state=costs.state,
        operations=costs.operations, statements=costs.statements,
    )  # fmt: skip
    return replace(child, alias_of=known[name]) if name in known else child
