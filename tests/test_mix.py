"""Mixing: the update of another niche's best is added to a parent's."""

import sys
from pathlib import Path

import numpy as np
import pytest

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.interpret import Interpreter
from stepsmith.search.mix import mixed
from stepsmith.search.mutate import MAX_STATEMENTS

sys.path.append(str(Path(__file__).parent))

from search_tools import MOMENTUM, children, search, small


@pytest.mark.parametrize(
    ("name", "donor"), [("signum", "sgd"), ("signum", "signsgd"), ("adamw", "lion"), ("c_adamw", "rmsprop")]
)
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_updates_are_added_and_the_states_are_those_of_the_program(name, donor, share):
    program, other = load(name).with_own_lr(0.02), load(donor).with_own_lr(0.5)
    both = mixed(program, other, share)
    random = np.random.default_rng(1)
    w = random.standard_normal((4, 5))
    runners = [Interpreter(p, [w.shape]) for p in (both, program, other)]
    for t in range(1, 4):
        g = random.standard_normal(w.shape)
        before = runners[1].states
        runners[2].states.update({index: before[index] for index in runners[2].states})
        total, own, added = (np.array(runner.step([w], [g], t=t)[0]) for runner in runners)
        assert np.allclose(total, own + share * added, rtol=1e-12, atol=0)
        assert all(np.array_equal(runners[0].states[i], runners[1].states[i]) for i in runners[1].states)


def test_a_donor_with_more_states_of_other_parameters_or_with_oracles_gives_nothing():
    assert mixed(load("signum"), load("adamw")) is None
    assert mixed(load("adamw"), load("muon")) is None
    assert mixed(load("adamw"), load("sophia")) is None
    assert mixed(Program.parse("def f(w, g, lr=0.0):\n  return lr * g"), load("sgd")) is None


def test_what_is_longer_than_edits_may_make_a_program_is_not_mixed():
    lines = "".join(f"  a = a + sin({k} * a)\n" for k in range(8))
    one, other = (Program.parse(f"def f(w, g, lr=0.1):\n  a = g\n{lines}  return lr * {u}") for u in ("a", "sign(a)"))
    assert len(one.statements) <= MAX_STATEMENTS < len(one.statements) + len(other.statements)
    assert mixed(one, other) is None and mixed(one, load("signsgd")) is not None


def test_children_are_mixed_with_the_best_of_another_niche(tmp_path):
    config = small(tmp_path, niches=True, mix=0.5, steps=10_000)
    tmp_path.joinpath("signum.opt").write_text(MOMENTUM.replace("lr * m", "lr * sign(m)").replace("0.6", "0.1"))
    config = config.model_copy(update={"start": (*config.start, str(tmp_path / "signum.opt"))})
    fold = search(tmp_path / "run", config)
    rows = {row.child: row for row in children(tmp_path / "run")}
    of = [row for row in rows.values() if row.edit.startswith("mix ")]
    assert len(of) > 20 and sum(row.parent is not None for row in of) > 10
    for row in of:
        donor = rows[int(row.edit.removeprefix("mix "))]
        assert donor.child in fold.scored and donor.round <= row.round - config.delay
        if row.parent is not None:
            assert fold.scored[row.parent].niche != fold.scored[donor.child].niche
    assert "mix" in fold.credit.tries
    assert not any(row.edit.startswith("mix") for row in alone(tmp_path))


def alone(folder):
    """The rows of a search without niches: there is nobody to mix with."""
    search(folder / "alone", small(folder, mix=0.5))
    return children(folder / "alone")
