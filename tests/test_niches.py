"""Niches: kinds of rule have populations and hurdles of their own, and their best are shown."""

import math
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.elasticity import elasticity
from stepsmith.search.config import ConfigError, valid_config
from stepsmith.search.elites import rescore
from stepsmith.search.niche import Niche, niche_of

sys.path.append(str(Path(__file__).parent))

from search_tools import MOMENTUM, Dispatcher, Inline, children, rows, search, small


@pytest.fixture(scope="module")
def archipelago(tmp_path_factory):
    """A run with niches from two kinds of start: its folder, configuration and fold."""
    folder = tmp_path_factory.mktemp("niches")
    config = small(folder)
    folder.joinpath("signum.opt").write_text(MOMENTUM.replace("lr * m", "lr * sign(m)").replace("0.6", "0.1"))
    config = small(folder, niches=True, start=(*config.start, str(folder / "signum.opt")))
    return folder / "run", config, search(folder / "run", config)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "powersign"])
def test_updates_that_grow_with_the_gradient(name):
    assert elasticity(load(name)) == 1


@pytest.mark.parametrize("name", ["signum", "lion", "c_lion", "adamw", "c_adamw", "rmsprop", "adagrad"])
def test_updates_that_forget_the_size_of_the_gradient(name):
    assert elasticity(load(name)) == pytest.approx(0, abs=1e-4)


def test_what_all_elements_share_leaves_elasticity_alone():
    clipped = "def f(w, g, m, lr):\n  m = 0.9 * m + clip(g, 0.01) * norm(w)\n  return lr * (m + 0.1 * w), m"
    assert elasticity(Program.parse(clipped)) == pytest.approx(1, abs=0.05)


def test_a_root_is_in_between_and_decay_alone_follows_nothing():
    assert elasticity(Program.parse("def f(w, g, lr):\n  return lr * sign(g) * sqrt(abs(g))")) == pytest.approx(0.5)
    assert math.isnan(elasticity(Program.parse("def f(w, g, lr):\n  return lr * w")))


def test_a_niche_is_states_and_elasticity():
    assert niche_of(load("lion"), 1) == Niche(1, 0) != niche_of(load("momentum"), 1) == Niche(1, 2)


def test_a_cap_is_a_niche_between():
    assert niche_of(Program.parse("def f(w, g, lr):\n  return lr * g / (abs(g) + 0.01)"), 0) == Niche(0, 1)


def test_members_live_with_their_kind(archipelago):
    _, _, fold = archipelago
    assert set(fold.homes) >= {Niche(1, 0), Niche(1, 2)}
    assert len({id(island) for island in fold.homes.values()}) == len(fold.homes) == len(fold.islands)
    for niche, island in fold.homes.items():
        members = [m for m in island.members if m.child is not None]
        assert members and all(fold.scored[m.child].niche == niche for m in members)


def test_each_niche_has_hurdles_of_its_own(archipelago):
    """What signs score raises what signs must reach, and what others must reach stays."""
    folder, _, fold = archipelago
    fold, bred = deepcopy(fold), [c for c in children(folder) if c.scores and not c.moves_numbers_alone]
    sign, other = (next(c for c in bred if Niche(c.state, c.elastic) == Niche(1, elastic)) for elastic in (0, 2))
    before = [fold.asked_of(child).hurdles[0] for child in (sign, other)]
    score = {"fitness": 9.0, "losses": ((1.0,),), "speedups": ((9.0,),), "dropped": True}
    fold.add_round([replace(sign, child=10**6 + k, scores=(score,), reason="dropped: stage 1") for k in range(64)])
    after = [fold.asked_of(child).hurdles[0] for child in (sign, other)]
    assert after[0] == 9.0 > before[0] and after[1] == before[1]


def test_parents_come_from_every_niche(archipelago):
    folder, _, fold = archipelago
    parents = {fold.scored[c.parent].niche for c in children(folder) if c.parent in fold.scored}
    assert parents >= {Niche(1, 0), Niche(1, 2)}


def test_a_poorer_niche_has_fewer_children(archipelago):
    """Shares are as the fifth power of the best fitness of each."""
    *_, fold = archipelago
    powers = np.array([island.best.fitness**5 for island in fold.islands])
    drawn = [fold.island(number) for number in range(3_000)]
    shares = [sum(island is one for one in drawn) / len(drawn) for island in fold.islands]
    assert len(shares) > 1 and shares == pytest.approx(powers / powers.sum(), abs=0.005)


def test_resuming_changes_no_row(tmp_path, archipelago):
    folder, config, fold = archipelago
    search(tmp_path / "run", config.model_copy(update={"steps": config.steps // 2}))
    from search_tools import open_run, run_search

    ledger, _, _ = open_run(tmp_path / "run")
    again = run_search(ledger, config, Dispatcher(Inline()))
    ledger.close()
    assert rows(tmp_path / "run") == rows(folder)
    assert (again.islands, again.hurdles, again.scored) == (fold.islands, fold.hurdles, fold.scored)


def test_the_best_of_each_niche_is_shown(archipelago):
    _, _, fold = archipelago
    elites = rescore(fold, Dispatcher(Inline()), 2 * len(fold.homes))  # in half of the places
    of_few_states = {niche for niche in fold.homes if niche.states <= 2}
    assert of_few_states >= {Niche(1, 0), Niche(1, 2)}
    assert {fold.scored[e.child].niche for e in elites} >= of_few_states


def test_niches_and_islands_exclude_each_other():
    with pytest.raises(ConfigError, match="niches: they have islands of their own; leave out islands = 3"):
        valid_config({"niches": True, "islands": 3})
