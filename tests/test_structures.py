"""Structures: what is new is tuned before it competes."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepsmith.dsl import Program
from stepsmith.dsl.simplify.exact import numbers_folded
from stepsmith.search.breed import make_child, start_member
from stepsmith.search.config import SearchConfig, Stage
from stepsmith.search.fittest import skeleton
from stepsmith.search.island import Island
from stepsmith.search.ledger import Child
from stepsmith.search.member import Member
from stepsmith.search.niche import Niche
from stepsmith.search.population import Fold, losses_key
from stepsmith.search.strategies import Evolution
from stepsmith.search.structures import _KEPT, _YOUNG, Structures

sys.path.append(str(Path(__file__).parent))

from search_tools import children, search, small

SIGN = "def f(w, g, m, lr={lr}):\n  m = interp(g, m, 0.9)\n  return lr * sign(m), m"
LION = "def f(w, g, m, lr={lr}):\n  u = sign(interp(g, m, 0.9))\n  m = interp(g, m, 0.99)\n  return lr * u, m"


def member(number: int, text: str, fitness: float) -> Member:
    written = text.format(lr=0.1 + number / 7)
    return Member(number, written, fitness, 1.0, 3, skeleton=skeleton(Program.parse(written)))


def drawn(structures: Structures, times: int = 200) -> Counter:
    random = np.random.Generator(np.random.Philox(key=1))
    found = [structures.draw(random) for _ in range(times)]
    return Counter(m.child for m in found if m is not None)


def tried(structures: Structures, one: Member, times: int) -> None:
    for _ in range(times):
        structures.tried(one.skeleton)


def test_a_new_structure_is_tuned_and_a_tuned_one_rests():
    """Though the new one is poorer: it has the numbers of the old one."""
    structures = Structures()
    old, new = member(1, SIGN, 0.85), member(2, LION, 0.7)
    structures.add(old)
    tried(structures, old, _YOUNG)
    assert structures.draw(np.random.Generator(np.random.Philox(key=1))) is None
    structures.add(new)
    assert set(drawn(structures)) == {2}
    tried(structures, new, _YOUNG - 1)
    assert drawn(structures)
    tried(structures, new, 1)
    assert not drawn(structures)


def test_of_a_structure_the_best_is_tuned_and_a_better_one_does_not_begin_anew():
    """Among many children of one structure one is better by luck."""
    structures = Structures()
    structures.add(member(1, SIGN, 0.8))
    structures.add(member(2, SIGN, 0.7))
    assert set(drawn(structures)) == {1}
    tried(structures, member(1, SIGN, 0.8), _YOUNG - 1)
    structures.add(member(4, SIGN, 0.81))
    assert set(drawn(structures)) == {4}
    tried(structures, member(4, SIGN, 0.81), 1)
    structures.add(member(5, SIGN, 0.9))
    assert not drawn(structures)


def test_a_structure_is_young_until_it_was_tuned():
    structures, one = Structures(), member(1, LION, 0.7)
    assert structures.is_young(one.skeleton)
    structures.add(one)
    tried(structures, one, _YOUNG - 1)
    assert structures.is_young(one.skeleton)
    tried(structures, one, 1)
    assert not structures.is_young(one.skeleton)


def test_what_was_tuned_less_is_tuned_before_what_is_a_little_fitter():
    structures = Structures()
    fitter, new = member(1, SIGN, 0.85), member(2, LION, 0.8)
    structures.add(fitter)
    structures.add(new)
    assert drawn(structures)[1] > drawn(structures)[2]
    tried(structures, fitter, 4)
    counts = drawn(structures)
    assert counts[2] > 2 * counts[1] > 0


def test_the_fitter_is_tuned_more_often_and_the_hopeless_never():
    structures = Structures()
    for one in (member(1, SIGN, 0.8), member(2, LION, 0.9)):
        structures.add(one)
    counts = drawn(structures)
    assert counts[2] > 2 * counts[1] > 0
    structures.add(member(3, "def f(w, g, lr={lr}):\n  return lr * g", 0.5))
    assert 3 not in drawn(structures)


def test_a_parent_must_be_worth_its_statements():
    short = member(1, "def f(w, g, lr={lr}):\n  return lr * g", 0.9)
    long = replace(member(2, "def f(w, g, lr={lr}):\n  return lr * sign(g)", 1.0), statements=short.statements + 10)
    island = Island([short, long], 10)
    chosen = {}
    for parsimony in (0.0, 0.02):
        strategy = Evolution(SearchConfig(parsimony=parsimony, front=0.0))
        parents = [strategy.parent(island, random).child for random in map(np.random.default_rng, range(20))]
        chosen[parsimony] = Counter(parents).most_common(1)[0][0]
    assert chosen == {0.0: 2, 0.02: 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same search with all children meant for tuning, and with none: rows by number."""
    found = {}
    for tune in (0.0, 1.0):
        folder = tmp_path_factory.mktemp("tune")
        search(folder / "run", small(folder, tune=tune, seed=9, steps=5000))
        found[tune] = {row.child: row for row in children(folder / "run")}
    return found


def test_children_that_tune_have_the_structure_of_their_parent(runs):
    shares = {}
    for tune, rows in runs.items():
        bred = [r for r in rows.values() if r.parent is not None and not r.reason.startswith("rejected")]
        alone = [r for r in bred if r.moves_numbers_alone]
        for row in alone:
            pair = (numbers_folded(Program.parse(text)) for text in (rows[row.parent].program, row.program))
            parent, child = ([s.op for s in program.statements] for program in pair)
            assert parent == child
        shares[tune] = len(alone) / len(bred)
    assert shares[1.0] > 0.9 and shares[0.0] < 0.5


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A search with niches: its rows in order, and its fold."""
    folder = tmp_path_factory.mktemp("kinds")
    fold = search(folder / "run", small(folder, niches=True, seed=5))
    return children(folder / "run"), fold


def test_every_child_that_moves_numbers_alone_is_a_try_of_the_structure_of_its_parent(kinds):
    """Aliases and rejected ones too. By the rows, kind by kind."""
    rows, fold = kinds
    tries: Counter = Counter()
    best: dict[tuple[Niche, str], float] = {}
    for row in rows:
        if row.parent in fold.scored and row.moves_numbers_alone:
            parent = fold.scored[row.parent]
            tries[parent.niche, parent.skeleton] += 1
        if row.child in fold.scored:
            own = fold.scored[row.child]
            best[own.niche, own.skeleton] = max(own.fitness, best.get((own.niche, own.skeleton), 0.0))
    known = {(n, name): s for n, island in fold.homes.items() for name, s in island.structures.known.items()}
    assert {place: member.fitness for place, member in known.items()} == best
    counted = {(n, name): t for n, island in fold.homes.items() for name, t in island.structures.tries.items() if t}
    assert counted == tries and len(fold.homes) > 1 and sum(tries.values()) > 10


@pytest.mark.parametrize(
    ("tasks", "share", "tells"),
    [(("bytes",), 1.0, True), (("bytes",), 0.5, False), (("bytes", "bytes_b64"), 0.5, True), (("digits",), 1.0, False)],
)
def test_copies_are_told_on_some_tasks_of_fitness_run_whole_or_on_all(tasks, share, tells):
    stages = (Stage(tasks=tasks, share=share), Stage(tasks=("bytes_b64", "bytes")))
    config = SearchConfig(stages=stages)
    assert config.tells_copies(0) == tells and not config.tells_copies(1)


def test_of_many_the_poorest_goes_and_of_equals_the_first_that_came():
    random, structures, best = np.random.default_rng(4), Structures(), dict[str, float]()
    for number in range(2_000):
        name, fitness = f"structure {random.integers(3 * _KEPT)}", int(random.integers(50)) / 50
        structures.add(Member(number, "", fitness, 1.0, 3, skeleton=name))
        best[name] = max(fitness, best.get(name, 0.0))
        if len(best) > _KEPT:
            del best[min(best, key=best.get)]
        assert {name: held.fitness for name, held in structures.known.items()} == best
    assert len(best) == _KEPT


def test_of_copies_the_smallest_is_remembered():
    config = SearchConfig(stages=(Stage(tasks=("bytes",)), Stage(tasks=("bytes",))))
    fold = Fold(config, [start_member(Program.parse(SIGN.format(lr=0.1)))])
    score = {"fitness": 0.5, "losses": ((2.0,),), "speedups": ((0.5,),), "dropped": True}
    sizes = (5, 6, 3, 4, 3, 2)
    rows = [
        Child(number, 0, None, "wire", "", scores=(score,), reason="dropped: stage 1", statements=size)
        for number, size in enumerate(sizes)
    ]
    fold.add_round(rows)
    assert [(row.child, row.size) for row in fold.trained[losses_key(score["losses"])]] == [
        (0, (0, 5)), (2, (0, 3)), (5, (0, 2)),
    ]  # fmt: skip


def test_a_structure_that_none_has_tuned_takes_the_hyperparameters_and_the_scale_of_one_that_was(tmp_path):
    """Half of the children that tune do so; then it is no longer untried."""
    config = small(tmp_path, tune=1.0)
    signum = "def f(w, g, m, lr=0.02, beta={}):\n  m = interp(g, m, beta)\n  return lr * sign(m), m"
    lion = "def f(w, g, m, lr=0.5, beta=0.1):\n  u = sign(m + g)\n  m = beta * m + g\n  return lr * u, m"
    fold = Fold(config, [start_member(Program.parse(lion))])
    island = fold.islands[0]
    tuned, new = (
        replace(start_member(Program.parse(text)), child=child, fitness=0.8, skeleton=skeleton(Program.parse(text)))
        for child, text in ((1, signum.format(0.7)), (2, lion))
    )
    island.structures.add(new)
    island.members.extend([tuned] * 20)

    def taken():
        bred = (make_child(number, 1, fold, Evolution(config), {}) for number in range(40))
        return [new.program for new in bred if new.child.edit == "take 1"]

    assert 10 < len(taken()) < 30
    for program in taken():
        assert program.hypers == (0.7,) and program.peak == pytest.approx(0.02) and program.statements[0].op == "add"
    island.structures.tried(new.skeleton)
    assert not taken()
