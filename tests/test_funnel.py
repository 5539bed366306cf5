"""The funnel: stages re-tune, promote what beats AdamW, keep whole paths, and measure how fitness agrees with them."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import stepsmith as ss
from stepsmith import cli
from stepsmith.evaluator.statistics import Interval
from stepsmith.evaluator.tune import PICK_SEEDS, Budget
from stepsmith.evaluator.validation import fits
from stepsmith.evaluator.validation import funnel as funnels
from stepsmith.evaluator.validation import pool as pools
from stepsmith.evaluator.validation.funnel import STAGES, Candidate, Funnel, Journey, Passed, Stage, agreement, funnel
from stepsmith.evaluator.validation.protocol import Preset
from stepsmith.evaluator.validation.speedup import Comparison
from stepsmith.report.funnel_page import write_funnel
from stepsmith.report.funnel_session import _candidates, _entering
from stepsmith.search.ledger import Child
from stepsmith.search.milestones import milestones

sys.path.append(str(Path(__file__).parent))

from search_tools import children, search, small

SHORT = Preset(
    0.1, (0.1,), (0.05, 0.1), Budget(3, 0, 0, 2, 1, PICK_SEEDS[:1]), Budget(1, 0, 0, 0, 1, PICK_SEEDS[:1]), 3, 2,
    first_seed=9_200, held_out=False,
)  # fmt: skip
TWO = (Stage("10x", "table-wine", SHORT), Stage("100x", "table-cancer", SHORT))
FROZEN = ss.Program.parse("def still(w, g, lr=1e-30):\n  return lr * sign(g)")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def entering(**programs):
    return [Candidate(name, str(program)) for name, program in programs.items()]


def test_what_does_not_beat_adamw_ends_and_the_rest_is_tuned_anew(tmp_path):
    found = funnel(entering(adamw2=ss.load("adamw"), still=FROZEN, adahessian=ss.load("adahessian")), TWO, tmp_path)
    by_name = {journey.candidate.name: journey.passed for journey in found.paths}
    [still] = by_name["still"]
    assert not still.promoted and still.speedup.high < 1
    [refused] = by_name["adahessian"]
    assert "oracle" in refused.reason and refused.speedup is None
    [same] = by_name["adamw2"]  # its own equal is not better
    assert not same.promoted and same.speedup.mean == pytest.approx(1.0)


def test_only_what_beats_adamw_goes_on(tmp_path, monkeypatch):
    gaps, asked = {"better": -0.01, "worse": 0.01, "flat": -0.01}, []

    def measured(pool, programs, *_):
        asked.append((pool.name, {*programs}))
        outcomes = {
            n: Comparison(Interval(1, 1, 1), Interval(gaps[n], gaps[n], gaps[n]), 0, n == "flat") for n in programs
        }
        sides = {n: SimpleNamespace(outcomes={0.1: SimpleNamespace(comparison=c)}, frozen={0.1: None})
                 for n, c in outcomes.items()}  # fmt: skip
        return SimpleNamespace(contenders=sides)

    monkeypatch.setattr(funnels, "validate", measured)
    steps = []
    found = funnel(entering(**dict.fromkeys(gaps, ss.load("lion"))), TWO, tmp_path, planned=steps.append)
    assert asked == [("table-wine", {*gaps}), ("table-cancer", {"better"})]
    assert [[p.promoted for p in j.passed] for j in found.paths] == [[True, True], [False], [False]]
    assert len(steps) == 2 and steps[0] > steps[1] > 0


def test_a_stage_without_room_is_refused_before_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(funnels, "validate", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(fits, "available", lambda device: 1e6)
    with pytest.raises(fits.TargetTooLarge, match="gpt-10m-stdlib with adamw needs"):
        funnel(entering(lion=ss.load("lion")), [*TWO, STAGES["target"]], tmp_path)


def test_adamw_may_enter_by_its_own_name(tmp_path):
    [journey] = funnel(entering(adamw=ss.load("adamw")), TWO[:1], tmp_path).paths
    assert journey.passed[0].speedup.mean == pytest.approx(1.0)


def test_a_funnel_goes_on_from_its_records(tmp_path, monkeypatch):
    first = funnel(entering(lion=ss.load("lion")), TWO[:1], tmp_path)
    monkeypatch.setattr(pools, "train_target", lambda *_: pytest.fail("trained"))
    assert funnel(entering(lion=ss.load("lion")), TWO[:1], tmp_path) == first


def journey(name, fitness, speedup):
    passed = [Passed("10x", "t", Interval(speedup, speedup / 1.1, speedup * 1.1), True)]
    return Journey(Candidate(f"runs/1:{name}", "", fitness, len(name)), passed)


def test_agreement_is_of_fitness_with_the_first_stage():
    along = [journey(str(i), 1 + i / 10, 1 + i / 20) for i in range(6)]
    against = [journey(str(i), 1 + i / 10, 2 - i / 20) for i in range(6)]
    assert agreement(along).mean == 1
    assert agreement(against).mean == -1
    assert agreement(along[:2]) is None
    assert agreement([replace(j, candidate=replace(j.candidate, fitness=1.0)) for j in along]) is None  # nothing ranked
    assert agreement([replace(j, candidate=replace(j.candidate, fitness=None)) for j in along]) is None


def test_the_page_draws_fitness_against_the_stage_and_escapes(tmp_path):
    found = Funnel([journey(f"<{i}>", 1 + i / 10, 2 - i / 20) for i in range(4)], Interval(-1.0, -1.0, -1.0))
    write_funnel(found, TWO[:1], tmp_path)
    page = (tmp_path / "funnel.html").read_text()
    assert page.count("<svg") == 2 and "&lt;3&gt;" in page and "<3>" not in page
    assert "tau -1.000" in page and "http" not in page


def test_what_enters_is_no_start_and_no_two_train_alike(tmp_path):
    search(tmp_path, small(tmp_path, steps=12_000))
    rows = {row.child: row for row in children(tmp_path)}
    found = _candidates(str(tmp_path), 8)
    assert len(found) == 8 and len({c.fitness for c in found}) == 8
    assert not any(rows[c.child].is_start or c.fitness == rows[0].fitness for c in found)
    assert any(rows[c.child].parent is None for c in found)  # what is bred of a start has no parent row
    assert max(c.fitness for c in found) == max(r.fitness for r in rows.values() if r.scored)
    named = [f"{tmp_path}:{c.child}" for c in found[:2]]
    for names in ([*named, str(tmp_path), named[0]], [str(tmp_path), *named]):
        entering = _entering(names, 8)
        assert sorted(c.child for c in entering) == [c.child for c in found]
        assert all(c.fitness is not None for c in entering)
    assert [c.name for c in _entering(["lion", "lion"], 8)] == ["lion"]


def child(number, fitness, reason=""):
    fields = {name: None for name in Child.__dataclass_fields__}
    return Child(**fields | {"child": number, "fitness": fitness, "reason": reason})


def test_milestones_are_the_rises_of_the_best():
    rows = [child(i, f) for i, f in enumerate([0.5, 0.4, None, 0.7, 0.6, 0.9, 1.0, 1.1])]
    assert [c.child for c in milestones(rows, 10)] == [0, 3, 5, 6, 7]
    assert [c.child for c in milestones(rows, 3)] == [0, 5, 7]
    assert [c.child for c in milestones([child(0, 2.0, "repeat"), child(1, 1.0)], 3)] == [1]


def test_the_command_prints_a_path_for_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STAGES, "10x", TWO[0])
    found = CliRunner().invoke(cli.app, ["funnel", "lion", "momentum", "--stages", "10x", "--workers", "0"])
    assert found.exit_code == 0, found.output
    assert "lion" in found.output and "momentum" in found.output
    page = (tmp_path / "runs" / "validation" / "funnel-lion-momentum" / "funnel.html").read_text()
    assert "<svg" not in page and "momentum" in page  # no search, so no fitness to draw
    wrong = CliRunner().invoke(cli.app, ["funnel", "lion", "--stages", "10y"])
    assert str(wrong.exception) == "unknown stage '10y'; known: 100x, 10x, target"
    assert "names one of 10x" in str(CliRunner().invoke(cli.app, ["funnel", "lion", "--stages", ","]).exception)
