"""The search improves programs, keeps to its rules, and shows nothing that it has not measured again."""

import csv
import itertools
import math
import shutil
import sys
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.cost import Cost
from stepsmith.dsl.flow import flow
from stepsmith.dsl.keys import behaviour, skeleton_key
from stepsmith.dsl.likeness import action, likeness
from stepsmith.dsl.symmetry import is_odd
from stepsmith.evaluator import shorten, tune
from stepsmith.evaluator.curve import LOWEST
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.evaluator.fitness import Job, Score, evaluate, geometric_mean
from stepsmith.evaluator.statistics import Interval, geometric_interval
from stepsmith.report.elites import elite_rows, elite_table, write_elites
from stepsmith.report.session import _of_the_start
from stepsmith.search import elites as elites_module
from stepsmith.search.breed import _finish, _scales_with_lr, make_child, make_start, start_member
from stepsmith.search.config import ConfigError, SearchConfig, Stage, valid_config
from stepsmith.search.elites import Elite, _candidates, fresh_seeds, on_fresh_seeds, pareto, rescore
from stepsmith.search.fittest import skeleton
from stepsmith.search.ledger import Child, LedgerError
from stepsmith.search.population import Fold
from stepsmith.search.programs import load_any, run_row
from stepsmith.search.shares import shares
from stepsmith.search.strategies import Evolution

sys.path.append(str(Path(__file__).parent))

from search_tools import MOMENTUM, ONE_STAGE, children, search, small

DELAY = SearchConfig().delay
PICK_SEEDS, SHOWN_SEEDS = fresh_seeds(1)
SGD = "def sgd(w, g, lr=0.5):\n    return lr * g\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder, rows by number, and fold."""
    folder = tmp_path_factory.mktemp("search")
    fold = search(folder / "run", small(folder, steps=70_000, audit=0.3, seed=34, tune=0.25, decay="cosine"))
    return folder / "run", {c.child: c for c in children(folder / "run")}, fold


def parsed(row: Child) -> Program:
    return Program.parse(row.program)


def source(rows: dict[int, Child], row: Child) -> Child:
    """The row that was trained for a row."""
    return row if row.alias_of is None else rows[row.alias_of]


def structure(row: Child) -> str:
    """What a row shares with those that differ in numbers alone."""
    return skeleton(Program.parse(row.program))


def repeats(row: Child) -> bool:
    """Whether the row was ended as another had trained to the same."""
    return row.reason.startswith("dropped: trains as row")


def scale(row: Child) -> float:
    """The RMS of a scored row's update on the probe, at the learning rate that training found."""
    return behaviour(Program.parse(row.final)).rms


def test_of_rows_that_train_to_the_same_losses_one_is_raced():
    text = "def f(w, g, lr=0.1):\n  return lr * {}"
    fold = Fold(SearchConfig(), [])
    for number, update in enumerate(("g", "max(g, g)", "sign(g)", "abs(g)")):
        fitness = 1.0 if number < 2 else 0.5 + number / 10
        child = Child(number, 0, None, "", "", final=text.format(update), fitness=fitness, skeleton=update)
        fold.fittest.add(child)
    assert [c.child for c in _candidates(fold)] == [0, 3, 2]


@pytest.mark.parametrize(
    ("update", "kept"),
    [
        ("lr * sign(m)", "lr * sign(m)"),
        ("sign(lr * m)", "lr * sign(lr * m)"),
        ("sign(lr) * m", "lr * (sign(lr) * m)"),
        ("lr * m + g", "lr * (lr * m + g)"),
        ("square(lr) * m", "square(lr) * m"),
        ("arctan(lr * m)", "arctan(lr * m)"),
    ],
)
def test_a_child_has_the_scale_of_its_parent_and_is_multiplied_by_lr_only_where_lr_does_not_give_it(update, kept):
    text = "def f(w, g, m, lr=0.02, beta=0.9):\n  m = beta * m + g\n  return {}, m"
    scale = behaviour(Program.parse(text.format("lr * m"))).rms
    child, program = _finish(Child(1, 0, None, "wire", ""), Program.parse(text.format(update)), scale, {}, odd=True)
    assert not child.reason and child.rms == pytest.approx(scale) == behaviour(program).rms
    assert program.with_own_lr(0.02) == replace(Program.parse(text.format(kept)), doc=program.doc)


# --- strategies ---------------------------------------------------------------------------------------------


def test_evolution_improves_on_a_badly_tuned_start(run):
    _, rows, fold = run
    start = rows[0]
    assert start.edit == "start" and parsed(start) == Program.parse(MOMENTUM)
    assert fold.best.fitness > start.fitness + 0.15
    assert fold.best.fitness == max(c.fitness for c in rows.values() if c.scored)


def test_children_descend_from_children(run):
    _, rows, _ = run

    def depth(row: Child) -> int:
        return 0 if row.parent is None else 1 + depth(rows[row.parent])

    assert max(depth(r) for r in rows.values()) > 3
    for row in rows.values():
        assert row.parent is None or source(rows, rows[row.parent]).scored
        assert row.parent is None or rows[row.parent].round <= row.round - 2  # the delay


@pytest.mark.parametrize("niches", [False, True])
def test_random_chains_never_select(tmp_path, niches):
    search(tmp_path / "run", small(tmp_path, strategy="random", stages=ONE_STAGE, steps=1500, niches=niches))
    rows = children(tmp_path / "run")
    assert {r.parent for r in rows} == {None}
    assert max(r.edit.count("+") for r in rows) > 5


def test_constants_changes_numbers_alone(tmp_path):
    fold = search(tmp_path / "run", small(tmp_path, strategy="constants", stages=ONE_STAGE, steps=2500))
    rows = children(tmp_path / "run")
    trained = [parsed(r) for r in rows if r.scores]
    assert {tuple(s.op for s in p.statements) for p in trained} == {("interp", "multiply")}
    assert len({tuple(p.constants()) for p in trained}) == len(trained) > 50
    assert fold.best.fitness > rows[0].fitness


# --- children -----------------------------------------------------------------------------------------------


def test_a_child_moves_weights_as_far_as_its_parent_or_model_unless_only_a_number_changed(run):
    _, rows, fold = run
    kept, changed = 0, 0
    for row in rows.values():
        if row.edit == "start" or row.rms is None:
            continue
        parent = fold.scored[row.parent].rms if row.parent is not None else fold.starts[0].rms
        if model := row.edit.partition("take ")[2]:
            parent = fold.scored[int(model)].rms
        elif row.moves_numbers_alone:
            changed += row.rms != pytest.approx(parent, rel=1e-3)
            continue
        program = parsed(row)
        if row.rms == pytest.approx(parent, rel=1e-6):
            kept += 1
            assert behaviour(program).rms == pytest.approx(parent, rel=1e-6)
        elif row.rms != pytest.approx(parent, rel=1e-5):  # four secants came no closer: lr does not give the scale
            assert not _scales_with_lr(flow(program))
            if row.rms != pytest.approx(parent, rel=1e-3):  # near enough, a sine or a cap is as good as a multiple
                fitting = program.with_lr(program.peak * parent / row.rms)
                assert behaviour(fitting).rms != pytest.approx(parent, rel=1e-6, abs=0)
    assert kept > 30 and changed > 3
    for number, of in fold.scored.items():  # as the whole text has it at its best rate
        if _scales_with_lr(flow(Program.parse(source(rows, rows[number]).final))):
            assert of.rms == pytest.approx(scale(source(rows, rows[number])), rel=1e-9)


def test_numbers_of_children_have_four_digits_of_themselves_or_of_their_distance_to_one(run):
    _, rows, _ = run
    numbers = [x for row in rows.values() if not row.is_start for _, x in [*parsed(row).constants()][1:] if x]
    long = [x for x in numbers if not any(float(f"{y:.4g}") == pytest.approx(y, abs=1e-14) for y in (x, 1 - abs(x)))]
    assert len(numbers) > 100 and not long


def test_a_child_depends_on_its_number_and_the_fold_alone(run):
    _, _, fold = run
    strategy = Evolution(fold.config)
    alone = make_child(1234, 40, fold, strategy, {})
    others = [make_child(k, 40, fold, strategy, {}) for k in (7, 1233, 1235)]
    assert make_child(1234, 40, fold, Evolution(fold.config), {}) == alone
    assert alone not in others


def test_no_program_is_trained_twice(run):
    """What does as an earlier row does, as that was generated or at its best learning rate, is its alias."""
    _, rows, _ = run
    trained = [r.identity for r in rows.values() if r.scores]
    assert len(trained) == len(set(trained))
    aliases = [r for r in rows.values() if r.alias_of is not None]
    assert len(aliases) > 20
    moved = 0
    for row in aliases:
        of = rows[row.alias_of]
        assert of.child < row.child and not row.steps
        key, _, _ = of.identity.rpartition(":")
        best = f"{key}:{round(2 * math.log2(of.rms * of.lr_factor))}"
        assert row.identity in (of.identity, best)
        moved += row.identity != of.identity
    assert moved
    assert all(r.reason.startswith("rejected: ") for r in rows.values() if not r.scores and r.alias_of is None)


def test_an_alias_inherits_the_score_and_moves_weights_as_its_source_does(tmp_path):
    """The source was found better at three times its learning rate; its twin was written at another."""
    config = small(tmp_path)
    first = make_start(0, Program.parse(MOMENTUM), {}).child
    text = "def twin(w, g, m, lr=0.5):\n    m = g * 0.1 + m * 0.9\n    return m * lr, m\n"
    twin = make_start(1, Program.parse(text), dict.fromkeys(first.identity.split(), 0)).child
    assert twin.alias_of == 0
    raised = str(Program.parse(MOMENTUM).with_lr(1.8))
    score = {"fitness": 0.7, "losses": ((2.0,),), "dropped": False}
    fold = Fold(config, [start_member(Program.parse(SGD))])
    fold.add_round([replace(first, scores=(score, score), final=raised, lr_factor=3.0, fitness=0.7), twin])
    original, copy = list(fold.islands[0].members)[1:]
    assert (original.fitness, copy.fitness) == (0.7, 0.7)
    assert copy.text == text and copy.child == 1
    assert behaviour(copy.program).rms == pytest.approx(behaviour(Program.parse(raised)).rms)
    assert copy.rms == pytest.approx(original.rms)
    assert copy.program.peak == pytest.approx(1.8)


def test_an_alias_of_one_that_failed_enters_no_population(tmp_path):
    fold = Fold(small(tmp_path), [start_member(Program.parse(SGD))])
    failed = make_start(0, Program.parse(MOMENTUM), {}).child
    alias = replace(failed, child=1, alias_of=0)
    fold.add_round(
        [
            replace(failed, reason="failed: NaN", scores=({"fitness": LOWEST, "losses": ((9.0,),), "dropped": True},)),
            alias,
        ]
    )
    assert [m.child for m in fold.islands[0].members] == [None]


# --- stages -------------------------------------------------------------------------------------------------


def test_what_prefers_a_direction_is_not_trained(tmp_path):
    """Unless asked for: a constant beside a gradient pushes weights one way whatever the data."""
    for odd in (True, False):
        search(tmp_path / str(odd), small(tmp_path, odd=odd, steps=4000))
    trained = {odd: [c for c in children(tmp_path / str(odd)) if c.steps] for odd in (True, False)}
    assert len(trained[True]) > 10 and all(is_odd(Program.parse(c.program)) for c in trained[True])
    assert not all(is_odd(Program.parse(c.program)) for c in trained[False])
    assert "rejected: it prefers a direction" in {c.reason for c in children(tmp_path / "True")}


def test_a_start_that_prefers_a_direction_is_refused(tmp_path):
    (tmp_path / "leans.opt").write_text("def leans(w, g, lr=0.1):\n  return lr * (g + 0.1)\n")
    start = (str(tmp_path / "leans.opt"),)
    with pytest.raises(ConfigError, match="prefers a direction, as its children would; set odd = false"):
        valid_config({"start": start})
    assert not valid_config({"start": start, "odd": False}).odd


def test_what_trains_as_an_earlier_row_did_goes_no_further(run):
    """Where earlier rounds that were folded when it was bred have a row with the same losses that is no larger; the
    smallest of them is named.
    """
    _, rows, fold = run
    earlier: dict[str, list[Child]] = {}
    ended = 0
    for row in (r for r in rows.values() if r.scores and r.scores[0]["fitness"] > LOWEST):
        losses = str(row.scores[0]["losses"])
        known = [other for other in earlier.get(losses, []) if other.round <= row.round - fold.config.delay]
        smallest = min(known, key=lambda other: (other.state, other.statements), default=None)
        expected = smallest is not None and (row.state, row.statements) >= (smallest.state, smallest.statements)
        assert repeats(row) == expected
        if expected:
            assert row.reason == f"dropped: trains as row {smallest.child} did" and row.scores[0]["dropped"]
            ended += 1
        else:
            earlier.setdefault(losses, []).append(row)
    assert ended > 3


def test_of_what_acts_as_its_parent_few_are_trained(run):
    """Its losses would say nothing new; 64 steps do not show all."""
    _, rows, _ = run
    trained = Counter()
    for row in rows.values():
        if row.parent is None or row.moves_numbers_alone or row.alias_of is not None:
            continue
        of = rows[row.parent]
        is_alike = row.program and likeness(action(parsed(row)), action(Program.parse(of.final or of.program))) > 0.995
        if row.reason == "rejected: it acts as its parent":
            assert is_alike and not row.steps
            trained["not"] += 1
        elif row.steps and is_alike:
            trained["all the same"] += 1
    assert trained["not"] > 3 * trained["all the same"] > 0


def test_a_schedule_is_no_start():
    with pytest.raises(ConfigError, match="start: cosine is a schedule; a search begins with a rule"):
        valid_config({"start": ("cosine",)})


def test_hurdles_drop_by_the_quantile_of_what_the_fold_had_seen(run):
    """Worked out again from the rows: at breeding of round r the fold holds the rounds up to r - delay.

    Structures that few have tuned meet half of the quantile, and a child that moves numbers alone no more than its
    parent reached.
    """
    _, rows, fold = run
    config, drops, met = fold.config, 0, set()
    for number in range(fold.rounds):
        past = [r for r in rows.values() if r.round <= number - config.delay and r.scores and not repeats(r)]
        scores = [r.scores[0]["fitness"] for r in past][-64:]
        folded = [r for r in rows.values() if r.round <= number - config.delay]
        tuned = Counter(
            structure(rows[r.parent])
            for r in folded
            if r.parent is not None and r.moves_numbers_alone and source(rows, rows[r.parent]).scored
        )
        for row in (r for r in rows.values() if r.round == number and r.scores and not repeats(r)):
            part = 1.0 if tuned[structure(row)] >= 16 else 0.5
            bar = np.quantile(scores, part * config.stages[0].drop) if len(scores) >= 8 else LOWEST
            if row.parent is not None and row.moves_numbers_alone:
                bar = 0.97 * source(rows, rows[row.parent]).scores[0]["fitness"]
            good = row.scores[0]["fitness"] >= max(bar, np.nextafter(LOWEST, 1))
            assert row.scores[0]["dropped"] != good
            assert good or row.reason.startswith(("dropped: stage 1", "failed: "))
            drops += row.reason.startswith("dropped: stage 1")
            met.add((part, row.moves_numbers_alone))
    assert drops > 10 and len(met) == 4


def test_scored_rows_passed_every_stage_and_others_are_no_parents(run):
    _, rows, fold = run
    for row in rows.values():
        assert row.scored == (len(row.scores) == 2 and not row.reason)
        assert not row.scored or row.fitness == row.scores[-1]["fitness"] > LOWEST
    assert all(m.child is None or source(rows, rows[m.child]).scored for m in fold.islands[0].members)
    assert len(fold.islands[0].members) == fold.config.population


def test_fitness_takes_more_seeds_of_what_is_not_below_the_quantile_after_the_first(tmp_path):
    last = Stage(tasks=("quadratic",), share=0.25, seeds=3, drop=0.5)
    search(tmp_path / "run", small(tmp_path, stages=(*ONE_STAGE, last), steps=60_000, round=48))
    rows = children(tmp_path / "run")
    scored = [r for r in rows if r.scored]
    assert all(r.scores[1]["fitness"] <= LOWEST for r in rows if r.reason == "dropped: stage 2")
    by_seeds = {n: [r for r in scored if len(r.scores[1]["speedups"][0]) == n] for n in (1, 3)}
    assert len(by_seeds[1]) + len(by_seeds[3]) == len(scored) and min(map(len, by_seeds.values())) > 10
    for seeds, found in by_seeds.items():
        assert all(row.steps == 25 + seeds * 50 for row in found)
    for row in by_seeds[3]:
        assert row.fitness == pytest.approx(geometric_mean(row.scores[1]["speedups"][0])) == row.scores[1]["fitness"]
    for row in by_seeds[1]:  # beside the others, where the niche had some when it was bred
        before = [r for r in by_seeds[3] if r.round <= row.round - DELAY]
        ratios = [r.fitness / r.scores[1]["speedups"][0][0] for r in before]
        ease = np.median(ratios[-64:]) if len(ratios) >= 8 else 1.0
        assert row.fitness == pytest.approx(ease * row.scores[1]["fitness"])
    first = [len(r.scores[1]["speedups"][0]) for r in scored if r.round == 0]
    assert Counter(first)[3] == (len(first) + 1) // 2  # a round without a hurdle sets its own
    late = [r for r in scored if r.round > 10]
    first = {r.child: r.scores[1]["speedups"][0][0] for r in late}
    assert 0.2 < np.mean([r in by_seeds[1] for r in late]) < 0.8  # of the last 64, which improve, half
    assert max(first[r.child] for r in late if r in by_seeds[1]) < np.quantile(list(first.values()), 0.9)


def test_the_best_learning_rate_stands_in_the_final_text(run):
    _, rows, _ = run
    factors = {round(Program.parse(r.final).peak / parsed(r).peak, 6) for r in rows.values() if len(r.scores) == 2}
    assert factors == {0.3, 1.0, 3.0}


def test_steps_are_counted_as_they_were_trained(run):
    _, rows, fold = run
    cost = (25, 3 * 2 * 50)
    for row in rows.values():
        assert row.steps == sum(cost[: len(row.scores)])
    assert fold.steps == sum(r.steps for r in rows.values()) >= fold.config.steps


def test_audited_children_run_to_the_end_and_are_counted(run):
    _, rows, fold = run
    dropped = [r for r in rows.values() if r.reason.startswith(("dropped: stage 1", "dropped: trains as"))]
    audited = [r for r in dropped if r.audited]
    assert 0.1 < len(audited) / len(dropped) < 0.5  # 0.3 of them are drawn
    below = [r for r in audited if not repeats(r)]  # a copy of a good row was dropped rightly
    assert len(audited) > len(below) == fold.audited >= fold.wrongly_dropped
    assert all(len(r.scores) == 2 and r.fitness is not None and not r.scored for r in audited)
    assert all(len(r.scores) == 1 and r.fitness is None for r in dropped if not r.audited)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_of_the_dropped_are_audited(tmp_path, share):
    search(tmp_path / "run", small(tmp_path, audit=share, steps=5000))
    dropped = [r for r in children(tmp_path / "run") if r.reason == "dropped: stage 1"]  # the last has no more to train
    assert dropped and all(r.audited == bool(share) for r in dropped)


def test_an_audit_changes_no_hurdle(tmp_path):
    """What an audited child did later says nothing about those that came through."""
    search(tmp_path / "run", small(tmp_path, audit=1.0, steps=5000))
    config = small(tmp_path, audit=1.0)
    folds = [Fold(config, [start_member(Program.parse(MOMENTUM))]) for _ in range(2)]
    rows = children(tmp_path / "run")
    folds[0].add_round(rows)
    folds[1].add_round([replace(r, scores=r.scores[:1]) if r.audited else r for r in rows])
    assert folds[0].asked_of(rows[-1]) == folds[1].asked_of(rows[-1])
    assert folds[0].hurdles == folds[1].hurdles


def test_without_progress_the_search_starts_anew(tmp_path):
    config = small(tmp_path, patience=3, population=5)
    fold = Fold(config, [start_member(Program.parse(SGD))])
    row = make_start(0, Program.parse(MOMENTUM), {}).child
    score = {"fitness": 0.5, "losses": ((2.0,),), "dropped": False}
    found = replace(row, scores=(score, score), final=row.program, fitness=0.5)
    worse = replace(found, fitness=0.4)
    fold.add_round([found])
    sizes = []
    for number in range(1, 8):
        fold.add_round([replace(worse, child=number, round=number)])
        sizes.append(len(fold.islands[0].members))
    assert fold.restarts == 2 and fold.best.fitness == 0.5
    assert sizes == [3, 4, 1, 2, 3, 1, 2]  # anew from the best, then from the start programs
    members = fold.islands[0].members
    assert members == deque([fold.starts[0], members[1]])


# --- elites -------------------------------------------------------------------------------------------------


def test_seeds_that_are_shown_were_never_used_before():
    configs = [
        SearchConfig(start=("sgd",)),
        SearchConfig(start=("sgd",), stages=tuple(Stage(tasks=("quadratic",), seeds=50) for _ in range(8))),
    ]
    for config in configs:
        used = [config.trial(i).seeds for i in range(len(config.stages))]
        used += [PICK_SEEDS, SHOWN_SEEDS, tune.PICK_SEEDS, tune.SHOWN_SEEDS]
        assert len(set(itertools.chain(*used))) == sum(map(len, used))


def test_no_re_scoring_has_seeds_of_another_or_of_a_shortening():
    used = [seeds for look in range(1_200) for seeds in fresh_seeds(look)]  # that of finds is number 0
    used += [shorten._LR_SEEDS, tuple(range(shorten.FIRST_SEED, shorten.FIRST_SEED + 10_000))]
    assert len(set(itertools.chain(*used))) == sum(map(len, used))


class Spy(Inline):
    """Runs jobs here and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []

    def submit(self, job: Job):
        self.jobs.append(job)
        return super().submit(job)


@pytest.fixture(scope="module")
def elites(run):
    """Elites of the run, and the jobs that re-scored them; digits stands for a held-out task."""
    _, _, fold = run
    spy, patch = Spy(), pytest.MonkeyPatch()
    patch.setattr(elites_module, "SHOWN", 4)
    config = fold.config.model_copy(update={"held_out": ("digits",)})
    found = rescore(replace(fold, config=config), Dispatcher(spy), 5)
    patch.undo()
    return found, spy.jobs


def test_elites_are_scored_again_from_their_text_on_seeds_the_search_never_saw(run, elites):
    _, rows, fold = run
    found, jobs = elites
    used = {s for i in range(len(fold.config.stages)) for s in fold.config.trial(i).seeds}
    seeds = {s for job in jobs for s in job.trial.seeds}
    assert {*PICK_SEEDS[:4], *SHOWN_SEEDS[:4]} <= seeds <= {*PICK_SEEDS, *SHOWN_SEEDS[:4]} and not seeds & used
    assert len(found) > 2 and found[1:] == sorted(found[1:], key=lambda elite: -elite.seen.mean)
    for elite in found:
        assert elite.program == rows[elite.child].final and rows[elite.child].scored
        again = [
            evaluate(
                Job(
                    (Program.parse(elite.program),),
                    replace(fold.config.trial(1), share=1.0, seeds=(s,), lr_factors=(1.0,)),
                )
            )[0]
            for s in SHOWN_SEEDS[:4]
        ]
        interval = geometric_interval([s.fitness for s in again], looked_at=len(found))
        assert elite.seen.mean == pytest.approx(interval.mean, rel=1e-3)
        assert elite.seen.low == pytest.approx(interval.low, rel=1e-2)


def test_programs_of_earlier_re_scorings_widen_the_intervals(run):
    _, _, fold = run
    rows = list(fold.fittest)[:2]
    alone, later = (on_fresh_seeds(fold, Dispatcher(Inline()), rows, 1, before) for before in (0, 21))
    for one, other in zip(alone, later, strict=True):
        assert one.mean == other.mean and other.low < one.low < one.high < other.high


def test_picking_seeds_choose_the_first_of_the_elites_and_every_number_of_states_keeps_its_best(run, elites):
    _, rows, _ = run
    found, jobs = elites
    texts = [e.program for e in found]
    picking = [job for job in jobs if len(job.programs) > len(texts) or job.trial.seeds[0] in PICK_SEEDS]
    scores: dict[str, list[float]] = {}
    for job in picking:
        if len(job.trial.seeds) == 1 and len(job.trial.lr_factors) == 1:
            for program, score in zip(job.programs, evaluate(job), strict=True):
                scores.setdefault(str(program), []).append(math.log(score.fitness))
    assert texts[0] == max(texts, key=lambda text: (len(scores[text]), np.mean(scores[text])))  # none left before it
    states = {r.state for r in rows.values() if r.scored and r.state <= 2}
    assert {0, 1} <= states == {e.cost.state for e in found}
    assert len({skeleton_key(Program.parse(e.program)) for e in found}) == len(found) > 2


def test_on_a_held_out_task_the_learning_rate_is_picked_on_other_seeds_than_those_shown(elites):
    _, jobs = elites
    held_out = [job.trial for job in jobs if job.trial.tasks == ("digits",)]
    moving = [t for t in held_out if len(t.lr_factors) > 1]
    assert moving and all(set(t.seeds) <= set(PICK_SEEDS) for t in moving)
    fixed = [t for t in held_out if len(t.lr_factors) == 1]
    assert {s for t in fixed for s in t.seeds} == set(SHOWN_SEEDS[:4])


def test_the_run_folder_holds_the_elites(run, elites):
    folder, rows, _ = run
    found, _ = elites
    write_elites(folder, found, len(rows))
    write_elites(folder, found[:-1], len(rows))  # nothing of an earlier end stays
    with open(folder / "hall_of_fame.csv", newline="") as file:
        assert list(csv.DictReader(file)) == elite_rows(found[:-1])
    files = sorted((folder / "best").iterdir())
    assert [f.name for f in files] == [f"{i}.opt" for i in range(1, len(found))]
    for file, elite in zip(files, found, strict=False):
        assert load(str(file)) == Program.parse(elite.program)
    assert load_any(f"{folder}:best") == Program.parse(found[0].program)
    number = found[0].child
    assert load_any(f"{folder}:{number}") == Program.parse(rows[number].final)


def test_the_best_of_a_run_is_never_that_of_fewer_rows_or_of_another_run(run, elites, tmp_path):
    folder, rows, _ = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("best"))
    fittest = run_row(f"{tmp_path}:best")[1].best_text
    other = next(elite for elite in reversed(elites[0]) if elite.program != fittest)
    for count, best in ((len(rows), other.program), (len(rows) - 6, fittest)):  # rows came since
        write_elites(tmp_path, [other], count)
        assert load_any(f"{tmp_path}:best") == Program.parse(best)
        assert run_row(f"{tmp_path}:best")[1].best_text == best
    (tmp_path / "ledger.sqlite").unlink()
    assert load_any(f"{tmp_path}:best") == Program.parse(other.program)  # a folder that was passed on without it
    search(tmp_path, small(tmp_path, steps=1, stages=ONE_STAGE))
    assert load_any(f"{tmp_path}:best") != Program.parse(other.program)


def test_a_run_without_elites_has_a_best_row(tmp_path):
    search(tmp_path / "run", small(tmp_path, steps=1, stages=ONE_STAGE))
    best = max((c for c in children(tmp_path / "run") if c.scored), key=lambda c: c.fitness / (1 + 0.02 * c.statements))
    assert load_any(f"{tmp_path}/run:best") == Program.parse(best.final)
    with pytest.raises(LedgerError, match=r"no child '999999'; write best, or a number from 0 to [0-9]+$"):
        load_any(f"{tmp_path}/run:999999")
    for name in ("²", "-1", "1.5", "beast", "", "9" * 20):
        with pytest.raises(LedgerError, match="no child"):
            load_any(f"{tmp_path}/run:{name}")


def test_a_run_folder_may_be_called_anything(tmp_path, monkeypatch):
    search(tmp_path / "my(1)", small(tmp_path, steps=1, stages=ONE_STAGE))
    monkeypatch.chdir(tmp_path)
    assert load_any("my(1):best") == load_any("./my(1):best")
    assert load_any("cautious(my(1):0)").name == "cautious_momentum"
    (tmp_path / "my(1)").rename("a for b else c")
    assert load_any("a for b else c:0").name == "momentum"
    with pytest.raises(LedgerError, match=r"name one of its programs, as in 'a for b else c:best'$"):
        load_any("a for b else c")
    with pytest.raises(LedgerError, match=r"go on with it: stepsmith search --resume 'a for b else c'$"):
        search(Path("a for b else c"), small(tmp_path))


def test_a_program_that_kills_its_worker_while_shown_does_not_take_the_others_along(run, elites):
    """Set aside on one seed of several."""
    _, _, fold = run
    guilty = elites[0][0].program

    def flaky(job: Job) -> list[Score]:
        if job.trial.seeds == (SHOWN_SEEDS[1],) and Program.parse(guilty) in job.programs:
            raise MemoryError("too much")
        return evaluate(job)

    patch = pytest.MonkeyPatch()
    patch.setattr(elites_module, "SHOWN", 3)
    try:
        found = rescore(fold, Dispatcher(Inline(flaky)), 5)
    finally:
        patch.undo()
    assert len(found) >= 4
    assert [e for e in found if e.program == guilty and e.beats_adamw] == []


def test_the_front_is_what_nothing_beats_in_everything_at_once():
    random = np.random.default_rng(0)
    every = [
        Elite(i, "", 0.0, Cost(int(s), float(o), 0, int(n)), Interval(float(f), 0, 0), {})
        for i, (s, o, n, f) in enumerate(random.integers(0, 4, (60, 4)))
    ]

    def beats(a: Elite, b: Elite) -> bool:
        """As good in each, better in one."""
        pairs = [(a.seen.mean, b.seen.mean), (-a.cost.state, -b.cost.state),
                 (-a.cost.operations, -b.cost.operations), (-a.cost.statements, -b.cost.statements)]  # fmt: skip
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    front = pareto(every)
    assert front == [e for e in every if not any(beats(other, e) for other in every)]
    assert 0 < len(front) < 60


FOUND = Elite(12345, "", 0.9, Cost(1, 14.0, 0, 12), Interval(0.87, 0.812, 0.931), {})


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_hall_of_fame_shows_every_number_whole_on_any_screen(width, capsys):
    tasks = ("bytes_tied", "/a/my_optimizer_task.py:Mine", "/b/my_optimizer_task.py:Mine")
    held_out = {name: Interval(1.11 * (i + 1), 1.02, 12.345) for i, name in enumerate(tasks)}
    found = [replace(FOUND, held_out=held_out), FOUND]
    assert list(elite_rows(found)[0])[-4:-1] == ["bytes_tied", *(t.strip("/") for t in tasks[1:])]
    Console(width=width).print(elite_table(found[:1]), crop=False)
    shown = capsys.readouterr().out
    assert "…" not in shown and shown.count("(1.020-12.345)") == 3
    assert all(word in shown.split() for word in ("12345", "0.900", "(0.812-0.931)", "1.110", "2.220", "3.330"))


def test_what_is_said_of_a_start_that_is_first_is_what_the_table_shows():
    worse, better = (replace(FOUND, child=7, seen=Interval(mean, 0.8, 1.2)) for mean in (0.8, 0.9))
    assert _of_the_start([FOUND, worse]) == "nothing that was found beats the start"
    assert "though row 7 shows more on others" in _of_the_start([FOUND, better])


def test_to_beat_adamw_every_interval_must_lie_above_it():
    sure, unsure = Interval(1.2, 1.01, 1.4), Interval(1.2, 0.99, 1.4)
    elite = Elite(0, "", 0.0, Cost(1, 1.0, 0, 1), sure, {"other": sure})
    assert elite.beats_adamw
    assert not replace(elite, seen=unsure).beats_adamw
    assert not replace(elite, held_out={"other": unsure}).beats_adamw


def test_a_run_knows_what_it_wrote_twice_and_what_it_did_not_need():
    plain = "def f(w, g, lr):\n  return lr * g"
    padded = "def f(w, g, lr):\n  a = g + 0.0 * w\n  b = a - 0.0\n  return lr * b"
    rows = [
        Child(0, 0, None, "start", plain, identity="a"),
        Child(1, 1, 0, "insert", padded, identity="b"),
        Child(2, 1, 0, "insert", padded, identity="b", alias_of=1),
        Child(3, 1, 0, "insert", plain, reason="rejected: no update"),
    ]
    found = shares(rows)
    assert (found.children, found.seen_before) == (2, 0.5)
    assert found.statements == 8 and found.redundant == 0.75
    assert "seen before: 50.0% of 2 trainable children (Lion's search: 89.1%)" in str(found)
    assert shares(rows[:1]) is None
