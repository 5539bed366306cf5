"""Fitness: AdamW curves, the population trainer, and scores."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.evaluator.curve import HORIZONS, LOWEST, Curve, NoCurve, Point, curve_of, dump, parse
from stepsmith.evaluator.fitness import Job, Trial, by_seed, evaluate, joined
from stepsmith.evaluator.statistics import geometric_interval
from stepsmith.evaluator.train import Run, train
from stepsmith.proxies import task

QUADRATIC = Trial(("quadratic",), share=0.125)
GOOD = "def sgd(w, g, lr=1.2):\n    return lr * g\n"
SLOW = "def sgd(w, g, lr=0.4):\n    return lr * g\n"
WILD = {
    "a huge lr": "def sgd(w, g, lr=1e9):\n    return lr * g\n",
    "an infinite update": "def f(w, g, lr=1.0):\n    return lr * g * exp(exp(9.0 + square(w)))\n",
    "a NaN": "def f(w, g, lr=1.0):\n    return lr * arcsin(2.0 + abs(g))\n",
    "a NaN at the end": "def f(w, g, lr=0.2, t):\n    return lr * g * power(24.5 - t, 0.5)\n",
    "ascent": "def f(w, g, lr=0.2):\n    return lr * negative(g)\n",
}


def made(losses: list[float], steps: tuple[int, ...] = (25, 50, 100, 200)) -> Curve:
    points = [Point(s, (loss,), (0,), GOOD, 0.0, "linear", 1) for s, loss in zip(steps, losses, strict=True)]
    return Curve("made", "", tuple(points))


def steps_of(*programs: str, trial: Trial = QUADRATIC) -> list:
    return evaluate(Job(tuple(text and Program.parse(text) for text in programs), trial))


def test_learning_rates_are_tried_for_a_rule_itself_and_not_for_what_it_leaves_to_another():
    routed = Program.parse(
        "def f(w, g, lr=0.5) for matrix else h:\n    return lr * g\ndef h(w, g, lr=0.2):\n    return lr * g\n"
    )
    trial = Trial(("quadratic",), share=0.125, lr_factors=(0.1, 1.0, 2.0))
    [score] = evaluate(Job((routed,), trial))
    assert score.program.peak == 1.0 and score.program.fallback == routed.fallback


# --- curves -------------------------------------------------------------------------------------------------


def test_equivalent_steps_are_exact_at_the_points():
    curve = made([2.0, 1.5, 1.2, 1.1])
    assert [curve.equivalent_steps(p.loss) for p in curve.points] == pytest.approx([25, 50, 100, 200], rel=1e-6)


@pytest.mark.parametrize("losses", [[2.0, 1.5, 1.2, 1.1], [2.0, 1.2, 1.3, 1.1], [2.0, 1.2, 1.2, 1.2]])
def test_a_lower_loss_is_never_fewer_steps(losses):
    steps = [made(losses).equivalent_steps(loss) for loss in np.linspace(3.0, 0.5, 501)]
    assert all(a <= b for a, b in pairwise(steps))
    assert steps[0] < 25 and steps[-1] > 200


def test_the_curve_goes_on_at_the_slope_of_its_ends():
    curve = made([2.0, 1.5, 1.2, 1.1])
    assert curve.equivalent_steps(2.5) == pytest.approx(12.5, rel=1e-6)  # an octave for half a nat
    assert curve.equivalent_steps(1.0) == pytest.approx(400, rel=1e-6)  # an octave for a tenth


def test_speedups_lie_between_the_bounds_whatever_the_loss():
    curve = made([2.0, 1.5, 1.2, 1.1])
    assert curve.speedup(1.0, 200) == pytest.approx(2.0, rel=1e-6)
    assert curve.speedup(-50.0, 200) == 4.0
    assert curve.speedup(math.inf, 200) == curve.speedup(math.nan, 200) == curve.speedup(90.0, 200) == 1 / 32


def test_a_curve_survives_its_text():
    curve = made([2.0, 1.5, 1.2, 1.1])
    assert parse(dump(curve).splitlines()) == curve


@pytest.mark.parametrize("name", ["quadratic", "digits", "associative"])
def test_stored_curves_have_every_horizon_and_fall(name):
    curve = curve_of(task(name))
    assert [p.steps for p in curve.points] == [round(task(name).steps * h) for h in HORIZONS]
    losses = [p.loss for p in curve.points]
    assert losses == sorted(losses, reverse=True)


def test_a_task_without_a_curve_says_how_to_make_one():
    with pytest.raises(
        NoCurve, match=r"'quadratic_steep' has no AdamW curve; make one: stepsmith tune quadratic_steep$"
    ):
        curve_of(task("quadratic_steep"))


def test_a_curve_made_on_other_settings_is_refused():
    with pytest.raises(NoCurve, match=r"made on other data or settings; make it anew: stepsmith tune quadratic$"):
        curve_of(replace(task("quadratic"), batch=17))


def test_a_horizon_without_a_point_names_those_there_are():
    with pytest.raises(NoCurve, match=r"no point at 40 steps \(it has 25, 50, 100, 200, 400, 800\)"):
        steps_of(GOOD, trial=Trial(("quadratic",), share=0.2))


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quadratic", "digits"])
def test_a_population_trains_as_its_members_do_alone(name):
    programs = [Program.parse(GOOD), Program.parse(SLOW), curve_of(task(name)).points[0].run().program]
    together = train(task(name), programs, seed=3, steps=25)
    alone = [train(task(name), [p], seed=3, steps=25)[0] for p in programs]
    assert [o.loss for o in together] == pytest.approx([o.loss for o in alone], rel=1e-5)


def test_the_shape_of_a_schedule_is_a_runs_own():
    program = Program.parse(SLOW)
    plain, held, again = train(
        task("quadratic"), [Run(program), Run(program, decay="constant_linear"), Run(program)], seed=0, steps=25
    )
    assert plain == again
    assert held.loss < plain.loss  # for a rule this slow more learning rate is better


@pytest.mark.parametrize("text", WILD.values(), ids=WILD)
def test_a_diverging_program_scores_the_lowest_and_disturbs_nobody(text):
    calm = steps_of(GOOD, SLOW, SLOW)
    good, wild, slow = steps_of(GOOD, text, SLOW)
    assert (wild.fitness, bool(wild.reason)) == (LOWEST, True)
    assert (good, slow) == (calm[0], calm[2])
    assert slow.fitness < good.fitness and not good.reason


def test_when_all_diverge_all_get_a_score():
    assert [s.fitness for s in steps_of(WILD["a NaN"], WILD["a huge lr"])] == [LOWEST, LOWEST]


# --- scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quadratic", "digits", "associative"])
@pytest.mark.parametrize("share", [0.125, 0.5])
def test_tuned_adamw_against_itself_is_one(name, share):
    own = curve_of(task(name)).point(round(task(name).steps * share))
    [score] = steps_of(own.program, trial=Trial((name,), share, seeds=(1, 2)))
    assert score.fitness == pytest.approx(1.0, rel=1e-6)
    assert score.speedups[0] == pytest.approx((1.0, 1.0), rel=1e-6)


def test_tuned_adamw_is_one_even_where_the_curve_is_not_monotone(monkeypatch):
    """The curve is pooled there: the pairing must be with the pooled value, not with the point."""
    stored = curve_of(task("quadratic"))
    points = list(stored.points)
    points[0], points[1] = (
        replace(points[0], losses=points[1].losses),
        replace(points[1], losses=points[0].losses),
    )
    monkeypatch.setattr("stepsmith.evaluator.fitness.curve_of", lambda task: Curve("", "", tuple(points)))
    for point, share in zip(points[:2], (0.125, 0.25), strict=True):
        [score] = steps_of(point.program, trial=Trial(("quadratic",), share))
        assert score.fitness == pytest.approx(1.0, rel=1e-3)


def test_an_empty_place_leaves_the_others_as_they_were():
    whole = steps_of(GOOD, SLOW, WILD["a NaN"], trial=Trial(("digits", "quadratic"), share=0.125))
    for kept in ((GOOD, None, None), (None, SLOW, None)):
        scores = steps_of(*kept, trial=Trial(("digits", "quadratic"), share=0.125))
        for text, score, before in zip(kept, scores, whole, strict=True):
            assert text is None or score == before


def test_candidates_may_train_on_another_decay_than_adamw_beside_them():
    """What each loses and wins is held against AdamW as it was tuned, whatever shape the others have."""
    reference = curve_of(task("quadratic")).points[0].run()
    shapes = ("linear", "cosine", "constant_linear")
    own, *others = sorted(shapes, key=lambda shape: shape != reference.decay)
    plain = steps_of(GOOD)[0]
    assert steps_of(GOOD, trial=replace(QUADRATIC, decay=own))[0] == plain
    for shape in others:
        [score] = steps_of(GOOD, trial=replace(QUADRATIC, decay=shape))
        [alone] = train(task("quadratic"), [replace(reference, program=Program.parse(GOOD), decay=shape)], 0, 25)
        assert score.losses[0][0] == pytest.approx(alone.loss, rel=1e-5)
        assert (score.speedups[0] > plain.speedups[0]) == (alone.loss < plain.losses[0][0])


def test_passes_in_bfloat16_change_losses_little():
    [exact] = steps_of(GOOD, trial=Trial(("digits",), share=0.125))
    [low] = steps_of(GOOD, trial=Trial(("digits",), share=0.125, dtype="bfloat16"))
    assert low.losses != exact.losses
    assert low.losses[0][0] == pytest.approx(exact.losses[0][0], rel=0.05)


def test_the_best_learning_rate_is_written_into_the_program():
    trial = replace(QUADRATIC, lr_factors=(1 / 3, 1.0, 3.0))
    slow, good, fast = steps_of(SLOW, GOOD, GOOD.replace("1.2", "3.0"), trial=trial)
    assert slow.program.peak == pytest.approx(1.2)
    assert fast.program.peak == pytest.approx(1.0)
    assert str(good.program) == GOOD
    for score in (slow, good, fast):
        [again] = steps_of(str(score.program))
        assert again.fitness == pytest.approx(score.fitness, rel=1e-4)
        assert score.steps == 3 * again.steps == 75


def test_the_fitness_is_the_geometric_mean_over_tasks_and_seeds():
    trial = Trial(("quadratic", "digits"), share=0.125, seeds=(4, 5))
    [both] = steps_of(GOOD, trial=trial)
    alone = [steps_of(GOOD, trial=Trial((t,), 0.125, (s,)))[0].fitness for t in trial.tasks for s in trial.seeds]
    assert both.fitness == pytest.approx(math.prod(alone) ** 0.25, rel=1e-3)
    assert both.steps == trial.steps_each() == 2 * (25 + 50)


def test_seeds_give_different_weights_and_data():
    one, two = (steps_of(GOOD, trial=replace(QUADRATIC, seeds=(s,)))[0].losses for s in (1, 2))
    assert one != two


def test_intervals_widen_with_the_number_of_programs_shown():
    widths = [geometric_interval([1.1, 1.2, 1.15, 1.3], n) for n in (1, 2, 8, 100)]
    assert all(a.low > b.low and a.high < b.high for a, b in pairwise(widths))
    assert all(i.mean == widths[0].mean for i in widths)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = np.exp(0.3 + 0.2 * random.standard_normal((1000, 6)))
    inside = [i.low < math.exp(0.3) < i.high for i in map(geometric_interval, draws)]
    assert 0.93 < np.mean(inside) < 0.97


def test_one_seed_shows_nothing():
    interval = geometric_interval([3.0])
    assert (interval.low, interval.high) == (0.0, math.inf)


def test_seeds_side_by_side_give_the_score_of_the_whole_job():
    job = Job((load("sgd"), load("lion")), Trial(("quadratic", "digits"), 0.125, (3, 4, 5)))
    parts = [evaluate(one) for one in by_seed(job)]
    assert len(parts) == 3 and [joined(each) for each in zip(*parts, strict=True)] == evaluate(job)
    competing = Job(job.programs, Trial(("quadratic",), 0.125, (3, 4), (0.5, 1.0)))
    assert by_seed(competing) == [competing]
