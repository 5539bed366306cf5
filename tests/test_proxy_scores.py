"""Scores of rules on proxies: all tuned alike, shown on seeds that picked nothing, and kept in a record."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepsmith.discovered import entries
from stepsmith.evaluator.curve import LOWEST, NoCurve, curve_of
from stepsmith.evaluator.fitness import paired_speedups
from stepsmith.evaluator.settings import as_run
from stepsmith.evaluator.tune import Budget
from stepsmith.evaluator.validation import proxy_scores
from stepsmith.evaluator.validation.fidelity import fidelity
from stepsmith.evaluator.validation.proxy_scores import RULES, TASKS, read_scores, score_rules, speedups_beside
from stepsmith.proxies import task

TINY = Budget(first=2, rounds=1, each=2, finalists=1)
QUADRATIC = task("quadratic")


@pytest.fixture
def record(tmp_path):
    return tmp_path / "made" / "scores.jsonl"


def test_there_are_rules_enough_and_every_task_has_a_curve():
    assert len(set(RULES)) == len(RULES) >= 18
    assert set(RULES) <= {entry.name for entry in entries()}
    assert all(curve_of(task(name)).points for name in TASKS)


def test_rules_take_as_many_runs_and_are_shown_on_other_seeds(record):
    scores = score_rules([QUADRATIC], record, ("sgd", "muon"), TINY)
    assert [score.rule for score in scores] == ["sgd", "muon"]
    assert {score.runs for score in scores} == {TINY.runs()}
    for score in scores:
        assert set(score.pick_seeds).isdisjoint(score.seeds)
        assert len(score.seeds) == len(score.losses) == len(score.adamw) == len(score.speedups) == 8
        assert min(score.speedups) <= score.speedup <= max(score.speedups)
    assert read_scores(record) == scores


def test_a_score_is_the_speedup_of_its_settings_beside_adamw(record):
    [score] = score_rules([QUADRATIC], record, ("momentum",), TINY)
    run = as_run(proxy_scores.load("momentum"), score.settings)
    assert score.speedups[:2] == pytest.approx(paired_speedups(QUADRATIC, run, score.seeds[:2], 1.0), rel=1e-2)


def test_what_is_in_the_record_is_not_run_again(record, monkeypatch):
    told = []
    score_rules([QUADRATIC], record, ("sgd",), TINY, tell=told.append)
    before = record.read_text("utf-8")
    record.write_text(before + before[:40], "utf-8")  # killed in the middle of a line
    both = score_rules([QUADRATIC], record, ("sgd", "signsgd"), TINY, tell=told.append)
    assert [line.split(":")[0] for line in told] == ["quadratic sgd", "quadratic signsgd"]
    assert record.read_text("utf-8").startswith(before)
    monkeypatch.setattr(proxy_scores, "RunPool", None)  # nothing trains
    assert score_rules([QUADRATIC], record, ("sgd", "signsgd"), TINY) == both == read_scores(record)


def test_a_score_of_another_budget_is_made_anew_and_the_larger_counts(record):
    larger = replace(TINY, first=3)
    small, large = (score_rules([QUADRATIC], record, ("sgd",), budget)[0] for budget in (TINY, larger))
    assert (small.runs, large.runs) == (TINY.runs(), larger.runs())
    assert score_rules([QUADRATIC], record, ("sgd",), TINY) == read_scores(record) == [large]
    assert len(record.read_text("utf-8").splitlines()) == 2


def test_a_score_is_good_for_one_task(record):
    score_rules([QUADRATIC], record, ("sgd",), TINY)
    with pytest.raises(NoCurve, match="made on other data or settings"):
        score_rules([replace(QUADRATIC, batch=17)], record, ("sgd",), TINY)


def test_a_failed_run_scores_the_lowest():
    assert speedups_beside([float("inf")] * 2, [0.55, float("inf")], QUADRATIC) == (LOWEST, LOWEST)


def test_the_command_scores_and_prints(record, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    command = importlib.import_module("fidelity")
    monkeypatch.setattr(command, "PROXY_SCORES", record)
    monkeypatch.setattr(command, "use_one_thread", lambda: None)
    monkeypatch.setattr(sys, "argv", ["fidelity.py", "proxies", "--tasks", "quadratic", "--rules", "sgd"])
    command.main()
    told, head, row = capsys.readouterr().out.splitlines()
    assert told.startswith("quadratic sgd: speedup ")
    assert head.split() == ["rule", "quadratic"] and row.startswith("sgd ")


def noisy(order, random, noise):
    """Eight seeds of speedups whose logs follow `order`, with noise of a rule and of a seed."""
    places = np.arange(len(order)) / len(order) + noise * random.standard_normal(len(order))
    return {name: np.exp(x + 0.02 * random.standard_normal(8)) for name, x in zip(order, places, strict=True)}


def test_a_proxy_that_ranks_nothing_for_sure_is_in_no_suite():
    """Its tau on half of the rules may come out high, and a suite with it higher: on the others it does not."""
    rules, random = [f"rule{i}" for i in range(18)], np.random.default_rng(3)
    target = noisy(rules, random, 0.0)
    for _ in range(5):
        good, coin = noisy(rules, random, 0.15), noisy(list(random.permutation(rules)), random, 0.0)
        found = fidelity({"good": good, "coin": coin}, {"target": target, "other": noisy(rules, random, 0.05)})
        assert found.suite == ("good",) and found.rules == (9, 9)
        assert found.judged.low > 0 and found.second["other"].low > 0
        assert found.each["coin"].mean < found.each["good"].low


def test_where_no_proxy_is_sure_the_surest_is_the_suite():
    rules, random = [f"rule{i}" for i in range(24)], np.random.default_rng(4)
    turned = noisy(rules[::-1], random, 0.1)
    found = fidelity({"turned": turned, "coin": noisy(list(random.permutation(rules)), random, 0.0)},
                     {"target": noisy(rules, random, 0.0)})  # fmt: skip
    assert found.suite == ("coin",) and found.each["turned"].mean < -0.5


def test_too_few_rules_choose_nothing():
    few = {f"rule{i}": [1.0, 1.0] for i in range(5)}
    with pytest.raises(ValueError, match="5 rules have a score on every proxy and on target; it takes six"):
        fidelity({"proxy": few}, {"target": few})


def test_the_page_of_the_agreement_says_what_chose_and_what_judged(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    command = importlib.import_module("fidelity")
    rules, random = [f"rule{i}" for i in range(18)], np.random.default_rng(5)
    scores, target, other = (noisy(rules, random, noise) for noise in (0.1, 0.0, 0.1))
    found = fidelity({"bytes": scores}, {"gpt-60k": target, "llama-60k": other})
    page = command.page(found, "gpt-60k", "the scores")
    assert f"| bytes | {found.each['bytes']} |" in page and "the scores" in page
    assert f"Suite: **bytes**, chosen on 9 rules with tau {found.chosen} on gpt-60k." in page
    assert f"On the other 9 rules and seeds of gpt-60k: {found.judged}." in page
    assert f"On llama-60k, the rules that did not choose: {found.second['llama-60k']}." in page
