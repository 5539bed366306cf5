"""Islands, migration and weights of edits: as deterministic as the rest, and they do what they say."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.evaluator.processes import Processes
from stepsmith.search.breed import make_start, start_member
from stepsmith.search.credit import Credit
from stepsmith.search.mutate import Mutator
from stepsmith.search.population import Fold
from stepsmith.search.run import Stop

sys.path.append(str(Path(__file__).parent))

from search_tools import MOMENTUM, children, rows, search, small

ISLANDS = 3


@pytest.fixture(scope="module")
def archipelago(tmp_path_factory):
    """A run on three islands with migration and moving weights: its folder, configuration and fold."""
    folder = tmp_path_factory.mktemp("islands")
    config = small(folder, islands=ISLANDS, migrate=3, adapt=True)
    return folder / "run", config, search(folder / "run", config)


def test_workers_change_no_row(tmp_path, archipelago):
    folder, config, _ = archipelago
    executor = Processes(2)
    search(tmp_path / "run", config, executor)
    executor.close()
    assert rows(tmp_path / "run") == rows(folder)


def test_resuming_changes_no_row(tmp_path, archipelago):
    folder, config, fold = archipelago
    search(tmp_path / "run", config.model_copy(update={"steps": 3000}))
    again = resume_to(tmp_path / "run", config)
    assert rows(tmp_path / "run") == rows(folder)
    assert (again.islands, again.credit.wins) == (fold.islands, fold.credit.wins)


def resume_to(folder, config):
    """Goes on to the end of a longer configuration, stopping once on the way."""
    from search_tools import Dispatcher, Inline, open_run, run_search

    def stop(progress):
        if progress.fold.steps > 5000:
            raise Stop

    for given in ({"progress": stop}, {}):
        ledger, _, _ = open_run(folder)
        with closing(ledger):
            fold = run_search(ledger, config, Dispatcher(Inline()), **given)
    return fold


def test_without_migration_families_stay_on_their_island(tmp_path):
    search(tmp_path / "run", small(tmp_path, islands=ISLANDS, migrate=10_000))
    born = [c for c in children(tmp_path / "run") if c.parent is not None]
    assert len(born) > 50 and all(c.child % ISLANDS == c.parent % ISLANDS for c in born)


def test_migration_mixes_families(archipelago):
    folder, _, _ = archipelago
    born = [c for c in children(folder) if c.parent is not None]
    apart = sum(c.child % ISLANDS != c.parent % ISLANDS for c in born)
    assert 0 < apart < len(born)


def test_the_best_of_an_island_goes_to_the_next_at_the_set_round(tmp_path):
    config = small(tmp_path, islands=2, migrate=2)
    fold = Fold(config, [start_member(load("sgd"))])
    row = make_start(0, Program.parse(MOMENTUM), {}).child
    score = {"fitness": 0.5, "losses": ((2.0,),), "dropped": False}
    found = replace(row, scores=(score, score), final=row.program, fitness=0.5)
    fold.add_round([found])
    assert [len(island.members) for island in fold.islands] == [2, 1]
    fold.add_round([replace(row, child=2, round=1, reason="rejected: no update", scores=())])
    assert [len(island.members) for island in fold.islands] == [2, 2]
    assert fold.islands[1].members[-1].child == 0 and fold.islands[1].best.fitness == 0.5
    assert fold.best.child == 0


def test_wins_are_children_that_beat_their_parents(archipelago):
    folder, _, fold = archipelago
    every = {c.child: c for c in children(folder)}
    credit = Credit()
    for child in every.values():
        if child.parent is None or not child.steps:
            continue
        parent = every[child.parent]
        parent = parent if parent.alias_of is None else every[parent.alias_of]
        credit.add([edit.split()[0] for edit in child.edit.split("+")], child.scored and child.fitness > parent.fitness)
    assert dict(fold.credit.tries) == pytest.approx(dict(credit.tries))
    assert dict(fold.credit.wins) == pytest.approx(dict(credit.wins)) and sum(credit.wins.values()) > 0


def test_weights_say_which_edits_are_drawn():
    mutator, random = Mutator("elementwise"), np.random.default_rng(0)
    weights = dict.fromkeys(mutator.weights, 0.0) | {"wire": 1.0}
    drawn = [mutator.mutate(load("adamw"), random, weights)[1] for _ in range(40)]
    assert drawn.count("wire") == 40


def test_no_edit_dies_out_or_takes_over():
    credit = Credit()
    for _ in range(5000):
        credit.add(["wire"], True)
        credit.add(["insert"], False)
    assert credit.weights({"wire": 1.0, "insert": 1.0}) == {"wire": pytest.approx(2.0, rel=0.1), "insert": 1 / 3}
    assert Credit().weights({"wire": 1.5}) == {"wire": 1.5}
