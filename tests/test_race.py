"""Races: what is surely behind leaves early, what is close trains on, and chance puts hardly anyone out."""

import math

import numpy as np
import pytest

from stepsmith.dsl import Program
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.evaluator.fitness import Score, Trial
from stepsmith.evaluator.race import LOOKS, race

SEEDS = tuple(range(LOOKS[-1]))


def rule(number: int) -> Program:
    return Program.parse(f"def f(w, g, lr={number + 1}.0):\n    return lr * g\n")


class Track:
    """Trains nothing: log speedups are `means`, luck that a seed gives to all, and `noise` of each program's own."""

    def __init__(self, means, noise, draw=0):
        self.means, self.noise, self.draw, self.runs = means, noise, draw, [0] * len(means)

    def __call__(self, job):
        return [self.score(round(program.peak) - 1, job.trial.seeds[0]) for program in job.programs]

    def score(self, i, seed):
        self.runs[i] += 1
        luck = np.random.default_rng([self.draw, seed]).normal()
        own = np.random.default_rng([self.draw, seed, i]).normal()
        speedup = math.exp(self.means[i] + luck + self.noise * own)
        return Score(rule(i), speedup, ((speedup,),), ((1.0,),))

    def race(self, keep, groups=None, tell=lambda text: None):
        programs = [rule(i) for i in range(len(self.means))]
        groups = groups or [0] * len(programs)
        return race(Dispatcher(Inline(self)), programs, Trial(("quadratic",), seeds=SEEDS), keep, groups, tell=tell)


def test_the_best_come_first_and_the_hopeless_train_least():
    track = Track([-1.0, 0.0, 0.02, -1.1, 0.5, -0.02], noise=0.05)
    said = []
    order = track.race(keep=2, tell=said.append)
    assert order[0] == 4 and set(order[4:]) == {0, 3}
    assert said == [f"after {LOOKS[0]} seeds 4 are left", f"after {LOOKS[1]} seeds 4 are left"]
    assert track.runs[0] == track.runs[3] == LOOKS[0]
    assert track.runs[1] == track.runs[2] == LOOKS[-1]  # too close to call


def test_luck_of_seeds_that_all_share_puts_nobody_out():
    """Differences are paired: a spread of 1 over seeds hides nothing of 0.1."""
    track = Track([0.0, 0.1, 0.2], noise=0.02)
    assert track.race(keep=1) == [2, 1, 0]
    assert track.runs[0] == LOOKS[0]


def test_the_best_of_a_group_stays_whatever_others_do():
    track = Track([0.0, 0.1, -2.0, -2.5], noise=0.02)
    order = track.race(keep=2, groups=["two", "two", "one", "one"])
    assert set(order[:3]) == {0, 1, 2} and order[3] == 3


def test_with_places_for_all_they_race_for_the_order():
    track = Track([0.0, 0.1], noise=0.5)
    assert sorted(track.race(keep=2)) == [0, 1]
    assert track.runs == [LOOKS[-1]] * 2


def test_chance_seldom_puts_one_of_equals_out():
    put_out = 0
    for draw in range(200):
        track = Track([0.0, 0.0, 0.0], noise=0.1, draw=draw)
        track.race(keep=1)
        put_out += min(track.runs) < LOOKS[-1]
    assert put_out <= 10


def test_a_program_that_was_set_aside_leaves():
    track = Track([0.0, 0.0, 0.0], 0.1)

    def flaky(job):
        if any(p is not None and p.peak == 1.0 for p in job.programs):
            raise MemoryError
        return [None if p is None else track.score(round(p.peak) - 1, job.trial.seeds[0]) for p in job.programs]

    programs = [rule(i) for i in range(3)]
    order = race(Dispatcher(Inline(flaky)), programs, Trial(("quadratic",), seeds=SEEDS), 1, [0, 0, 0])
    assert order[-1] == 0


@pytest.mark.parametrize("keep", [1, 5])
def test_one_program_is_a_race_too(keep):
    assert Track([0.3], 0.1).race(keep) == [0]
