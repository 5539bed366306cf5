"""The empirical level: which cuts may be made, judged by losses that a fake trainer makes up, and by real ones."""

import numpy as np
import pytest

from stepsmith.dsl import Program
from stepsmith.evaluator.cuts import cut_out, cuts
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.evaluator.fitness import Score
from stepsmith.evaluator.shorten import FIRST_SEED, LOOKS, Diverged, Judge, at_its_lr, orders, shorten, subsets

RULE = Program.parse("def f(w, g, lr):\n  a = tanh(g)\n  b = arctan(a)\n  return lr * b")


def dispatcher(loss, noise=1e-4):
    """Trains nothing: losses are `loss(text)`, with noise that programs share seed by seed, and some of their own."""
    trained = []

    def work(job):
        found = []
        for text in map(str, job.programs):
            rows = []
            for _ in job.trial.tasks:
                shared = [np.random.default_rng(seed).normal() for seed in job.trial.seeds]
                own = [np.random.default_rng([seed, len(text)]).normal() for seed in job.trial.seeds]
                rows.append(tuple(loss(text) * (1 + 0.05 * s + noise * o) for s, o in zip(shared, own, strict=True)))
                trained.extend((text, seed) for seed in job.trial.seeds)
            found.append(Score(Program.parse(text), 1.0, tuple(tuple(1.0 for _ in row) for row in rows), tuple(rows)))
        return found

    made = Dispatcher(Inline(work))
    made.trained = trained
    return made


def judge(loss, **more):
    return Judge(RULE, ("digits",), dispatcher(loss, more.pop("noise", 1e-4)), **more)


def test_what_costs_nothing_goes_and_what_costs_stays():
    found = shorten(judge(lambda text: 1.0 if "tanh" in text else 1.02))
    assert "tanh" in str(found.program) and "arctan" not in str(found.program)
    assert [step.what for step in found.steps] == [("arctan(a) is a",)]
    assert any(v.goes is False and "tanh(g) is g" in v.what for v in found.tried)


def test_shared_noise_of_five_percent_hides_nothing():
    verdict = judge(lambda text: 1.0 if "arctan" in text else 1.001).verdicts([(("x",), cut(RULE, "arctan(a) is a"))])[
        0
    ]
    assert verdict.goes and verdict.seeds == LOOKS[0]
    assert verdict.increases["digits"].mean == pytest.approx(0.001, abs=3e-4)


def cut(program, *wanted):
    found = cut_out(program, [c for c in cuts(program) if c.what in wanted])
    assert found is not None
    return found


def test_small_losses_do_not_add_up():
    """Each costs 0.2%, both 0.4%: one goes, the other then stays, in whatever order."""
    chosen = [c for c in cuts(RULE) if c.what in ("tanh(g) is g", "arctan(a) is a")]
    found = subsets(judge(lambda text: 1.004 - 0.002 * ("tanh" in text) - 0.002 * ("arctan" in text)), RULE, chosen)
    assert [verdict.goes for verdict in found.values()] == [True, True, False]
    assert sorted(path[0].what for path in orders(found, chosen)) == ["arctan(a) is a", "tanh(g) is g"]
    assert all(len(path) == 1 for path in orders(found, chosen))


def test_what_goes_only_after_another_is_found_in_that_order():
    """Without arctan alone it fails; without tanh, then without both, it does not."""
    chosen = [c for c in cuts(RULE) if c.what in ("tanh(g) is g", "arctan(a) is a")]
    found = subsets(judge(lambda text: 1.1 if "tanh" in text and "arctan" not in text else 1.0), RULE, chosen)
    assert {tuple(c.what for c in path) for path in orders(found, chosen)} == {(), ("tanh(g) is g", "arctan(a) is a")}


def test_noise_takes_more_seeds_and_a_spent_budget_decides_nothing():
    option = [(("x",), cut(RULE, "arctan(a) is a"))]
    assert judge(lambda text: 1.0, noise=3e-3).verdicts(option)[0].seeds > LOOKS[0]
    poor = judge(lambda text: 1.0, budget=5)
    assert poor.verdicts(option)[0].goes is None and poor.runs == 0


def test_programs_are_compared_on_the_same_seeds_once():
    tried = judge(lambda text: 1.0)
    option = [(("x",), cut(RULE, "arctan(a) is a"))]
    assert tried.verdicts(option) == tried.verdicts(option)
    seeds = {}
    for text, seed in tried.dispatcher.trained:
        seeds.setdefault(text, []).append(seed)
    assert len(seeds) == 2 and len({tuple(s) for s in seeds.values()}) == 1


def test_a_cut_that_diverges_stays():
    verdict = judge(lambda text: 1.0 if "arctan" in text else float("nan")).verdicts(
        [(("x",), cut(RULE, "arctan(a) is a"))]
    )[0]
    assert verdict.goes is False and "diverges" in str(verdict)


def test_on_digits_sinh_of_a_small_gradient_goes_and_the_sign_of_signum_stays():
    real = Dispatcher(Inline())
    rule = at_its_lr(Program.parse("def f(w, g, lr=0.003):\n  return lr * sign(g + sinh(1e-3 * g))"), ("digits",), real)
    found = shorten(Judge(rule, ("digits",), real, budget=400))
    assert "sinh" not in str(found.program) and "sign" in str(found.program)


def test_cuts_are_judged_on_the_decay_shape_that_is_asked_for():
    asked = []

    def work(job):
        asked.append(job.trial.decay)
        return [Score(p, 1.0, ((1.0,) * len(job.trial.seeds),), ((1.0,) * len(job.trial.seeds),)) for p in job.programs]

    at = at_its_lr(RULE, ("digits",), Dispatcher(Inline(work)), "constant_linear")
    shorten(Judge(at, ("digits",), Dispatcher(Inline(work)), decay="constant_linear"))
    assert set(asked) == {"constant_linear"} and len(asked) > 1


def test_what_went_by_the_luck_of_its_seeds_is_seen_on_fresh_ones():
    """Seeds of the search flatter the cut; those that confirm do not."""
    flattered = set(range(FIRST_SEED, FIRST_SEED + LOOKS[-1]))

    def work(job):
        found = []
        for text in map(str, job.programs):
            row = tuple(1.0 if "arctan" in text or seed in flattered else 1.05 for seed in job.trial.seeds)
            row = tuple(x + 1e-6 * seed % 1e-5 for x, seed in zip(row, job.trial.seeds, strict=True))
            found.append(Score(Program.parse(text), 1.0, ((1.0,) * len(row),), (row,)))
        return found

    found = shorten(Judge(RULE, ("digits",), Dispatcher(Inline(work))))
    assert "arctan" in str(found.program)
    assert any(v.goes is False and v.increases["digits"].mean > 0.04 for v in found.tried)


def test_a_program_that_fails_itself_cannot_be_shortened():
    with pytest.raises(Diverged, match="fails itself"):
        shorten(judge(lambda text: float("nan")))
