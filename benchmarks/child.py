"""The price of a child before it is trained, part by part.

Chains of single edits from AdamW and Lion, as a search makes them, begun anew every so often. First the parts
that need no numbers: mutate (which checks kinds), liveness, key, look up. Then one fingerprint on
the probe, and the whole of `breed.make_child` in a fold that grows by what it makes. The enlarged space of
matrices is measured beside the elementwise one, child by child.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time

import numpy as np
from measure import Check, Report

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.flow import flow, reject_reason
from stepsmith.dsl.keys import behaviour, key, structural_key
from stepsmith.search.breed import make_child, remember, start_member
from stepsmith.search.config import SearchConfig
from stepsmith.search.member import Member
from stepsmith.search.mutate import Mutator
from stepsmith.search.population import Fold
from stepsmith.search.strategies import STRATEGIES

TITLE = "milliseconds a child, before it is trained"
STARTS = ("adamw", "lion")
CHILDREN = 300  # of each start
HERO_MS = 640.0  # a child of google/automl `hero`; not measured here
_CHAIN = 30  # edits before a chain begins anew
_BARS = (1.0, 3.0)  # ms without and with the fingerprint
_MILLI = 1e3
_SHORT = 16  # statements
_SPACES = ("elementwise", "matrix")
_RATIO = 1.2  # of a child's median cost in the enlarged space


def measure() -> Report:
    """Both starts."""
    columns = (
        "start", "statements", "mutate", "liveness", "key, look up", "sum", "fingerprint", "make_child",
        "9 of 10 below",
    )  # fmt: skip
    report = Report(columns, notes=["medians in ms"])
    sums, wholes, enlarged, keys = [], [], [], []
    for name in STARTS:
        children, parts = _parts(load(name))
        sums.append(parts.sum(1))
        keys.append(np.array([_key(child) for child in children if len(child.statements) <= _SHORT]))
        plain, matrix = _wholes(name)
        wholes.append(plain)
        enlarged.append(matrix)
        fingerprint = float(np.median([_fingerprint(child) for child in children if not reject_reason(flow(child))]))
        report.rows.append((
            name, int(np.median([len(child.statements) for child in children])), *np.median(parts, 0).tolist(),
            float(np.median(sums[-1])), fingerprint, *np.quantile(wholes[-1], (0.5, 0.9)).tolist(),
        ))  # fmt: skip
    _hold(report, "mutate, check, liveness, structural key, look up", np.concatenate(sums), _BARS[0])
    _hold(report, "make_child, with fingerprint", np.concatenate(wholes), _BARS[1])
    for what, share, bar in (("median", 0.5, 1.0), ("99 of 100 below", 0.99, 20.0)):
        value = float(np.quantile(np.concatenate(keys), share))
        report.checks.append(Check(f"key at {_SHORT} statements or fewer: {what}, ms", value, bar))
    ratio = float(np.median(np.concatenate(enlarged)) / np.median(np.concatenate(wholes)))
    report.checks.append(Check("make_child, space of matrices over elementwise", ratio, _RATIO))
    return report


def _hold(report: Report, what: str, times: np.ndarray, bar: float) -> None:
    """The median of both starts against its bar and against Hero."""
    median = float(np.median(times))
    report.checks.append(Check(f"{what}: median ms", median, bar))
    report.notes.append(f"{what}: {HERO_MS / median:.0f} times faster than Hero's {HERO_MS:g} ms")


def _parts(start: Program) -> tuple[list[Program], np.ndarray]:
    """The children of chains, and (children, 3) milliseconds of mutation, liveness, and key with look-up."""
    mutator, random, parent = Mutator("elementwise"), np.random.default_rng(0), start
    known: set[str] = set()
    children, times = [], []
    for number in range(CHILDREN):
        parent = parent if number % _CHAIN else start
        moments = [process_time()]
        child, _ = mutator.mutate(parent, random)
        moments.append(process_time())
        reason = reject_reason(flow(child))
        moments.append(process_time())
        name = structural_key(child)
        repeat = name in known
        moments.append(process_time())
        if not repeat:
            known.add(name)
        times.append(np.diff(moments) * _MILLI)
        children.append(child)
        parent = parent if reason else child
    return children, np.array(times)


def _key(child: Program) -> float:
    """Milliseconds of the key of the normal form."""
    begin = process_time()
    key(child)
    return (process_time() - begin) * _MILLI


def _fingerprint(child: Program) -> float:
    """Milliseconds of one run on the probe."""
    begin = process_time()
    behaviour(child)
    return (process_time() - begin) * _MILLI


def _wholes(name: str) -> list[np.ndarray]:
    """Milliseconds of each `make_child`, in each space."""
    makers = [_maker(name, space) for space in _SPACES]
    times = np.array([[next(maker) for maker in makers] for _ in range(CHILDREN)])
    return list(times.T * _MILLI)


def _maker(name: str, space: str) -> Iterator[float]:
    """Seconds of one child after another."""
    config = SearchConfig(start=(name,), space=space)
    fold, strategy = Fold(config, [start_member(load(name))]), STRATEGIES[config.strategy](config)
    known: dict[str, int] = {}
    for number in range(CHILDREN):
        begin = process_time()
        child = make_child(number, 0, fold, strategy, known).child
        yield process_time() - begin
        if child.identity and child.alias_of is None:
            remember(known, child)
            assert child.rms is not None
            fold.islands[0].members.append(Member(number, child.program, 0.0, child.rms, child.statements))
