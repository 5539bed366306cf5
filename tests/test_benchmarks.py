"""The benchmarks compare like with like: the eager baseline is the proxies' models, step by step."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from stepsmith.discovered import load
from stepsmith.dsl import Program
from stepsmith.dsl.keys import behaviour
from stepsmith.evaluator.dispatcher import Dispatcher
from stepsmith.evaluator.executors import Inline
from stepsmith.evaluator.json_lines import JsonLines
from stepsmith.evaluator.settings import written_settings
from stepsmith.evaluator.train import Run
from stepsmith.evaluator.tune import PICK_SEEDS
from stepsmith.evaluator.validation.protocol import Settled
from stepsmith.proxies import stack, task
from stepsmith.search import breed
from stepsmith.search.course import Course, Look
from stepsmith.search.ledger import Child

sys.path.append(str(Path(__file__).parent))

from search_tools import small

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RATES = (1e-4, 1e-3, 1e-2)
STEPS = 25


@pytest.fixture
def bench(monkeypatch):
    """Imports a file of the folder as the command does."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.mark.parametrize("name", ["digits", "bytes", "bytes_wide"])
def test_the_eager_baseline_is_the_model(bench, name):
    """Loss, and the gradients by way of a step of plain descent."""
    some = task(name)
    copy = [p.double() for p in some.model.init(0)]
    batch = next(some.batches(0, 1))
    losses, gradients = some.model.gradients(stack(copy, 1), batch)
    module = bench("eager").eager(some.model, copy)
    loss = module(bench("agreement").cast(batch, torch.float64))
    assert loss.item() == pytest.approx(losses.item(), rel=1e-12)
    loss.backward()
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    for view, before, gradient in zip(module.views(), copy, gradients, strict=True):
        torch.testing.assert_close(before - view, gradient[0], rtol=1e-9, atol=1e-12)


def test_a_model_without_eager_form_is_refused(bench):
    model = task("quadratic").model
    with pytest.raises(TypeError, match="no eager form of Linear"):
        bench("eager").eager(model, model.init(0))


@pytest.mark.parametrize("name", ["digits", "bytes"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_population_has_the_losses_of_eager_adamw(bench, name, dtype, within):
    agreement = bench("agreement")
    population = agreement.population_losses(task(name), RATES, 0, STEPS, dtype)
    eager = agreement.eager_losses(task(name), RATES, 0, STEPS, dtype)
    assert population.shape == eager.shape == (STEPS, len(RATES))
    assert agreement.apart(population, eager).max() < within
    assert population[-1, -1] < 0.9 * population[0, -1]  # it trained


@pytest.mark.parametrize("name", ["digits", "bytes"])
def test_a_copy_does_not_see_its_neighbours(bench, name):
    losses = bench("agreement").population_losses
    together = losses(task(name), RATES, 0, STEPS, torch.float32)
    alone = [losses(task(name), [rate], 0, STEPS, torch.float32) for rate in RATES]
    np.testing.assert_array_equal(together, np.hstack(alone))


def test_the_zoo_page_lists_what_a_text_itself_asks_for(bench):
    needs = bench("zoo_docs").needs
    assert {name: needs(load(name)) for name in ("lion", "sophia", "muon", "spam")} == {
        "lion": [], "sophia": ["Hessian diagonal", "periods"], "muon": ["axes", "products", "roles"],
        "spam": ["comparisons", "t"],
    }  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def run(bench, monkeypatch):
    """The command, without its settings of threads, which would outlast the test."""
    module = bench("run")
    monkeypatch.setattr(module, "use_one_thread", lambda: None)
    return module


def test_a_section_prints_its_bars_and_writes_them(bench, run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench("child"), "CHILDREN", 40)
    file = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["run.py", "child", "--json", str(file)])
    run.main()
    assert "make_child, with fingerprint" in capsys.readouterr().out
    section = json.loads(file.read_text("utf-8"))["sections"]["child"]
    assert [row["start"] for row in section["rows"]] == ["adamw", "lion"]
    assert all(type(check["passed"]) is bool for check in section["checks"])


def test_an_unknown_section_is_named(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "zebra"])
    with pytest.raises(SystemExit):
        run.main()
    assert "unknown section 'zebra'; there are population, agreement, child, update" in capsys.readouterr().err


def test_every_section_can_be_run(bench, run):
    for file in run.SECTIONS.values():
        section = bench(file)
        assert section.TITLE and callable(section.measure)


def test_a_bar_has_two_sides(bench):
    check = bench("measure").Check
    assert check("speed", 9.0, 8.0, at_least=True).passed and not check("speed", 7.0, 8.0, at_least=True).passed
    assert str(check("time", 3.5, 3.0)) == "FAIL  time: 3.5 (bar <= 3)"


def test_interleaved_times_are_a_call_each(bench):
    measure = bench("measure")
    times = measure.interleave({"one": lambda: sum(range(1000)), "ten": lambda: sum(range(10_000))}, 0.2, rounds=5)
    assert times["one"].shape == (5,)
    assert 2 < measure.ratio(times["ten"], times["one"]) < 40


def test_the_gpu_section_on_populations_runs(bench, monkeypatch):
    """On a CPU, with its engine and without graphs: the parts, and that numpy's meaning is met."""
    section = bench("gpu_population")
    stages = tuple(stage.model_copy(update={"share": 0.01}) for stage in section.STAGES)
    fakes = {"DEVICE": "cpu", "STAGES": stages, "MOST": 3, "DISTINCT": 2, "RULES": ("sgd", "adamw")}
    fakes |= {"graph_of": lambda action: SimpleNamespace(replay=action)}
    fakes |= {"device_seconds": lambda actions: {name: (action(), 1.0)[1] for name, action in actions.items()}}
    for name, fake in fakes.items():
        monkeypatch.setattr(section, name, fake)
    report = section.measure(cpu_per_hour=1.0)
    assert {row[0] for row in report.rows} >= {
        "sin, float32",
        "amax, float64",
        "P chosen by memory",
        "bytes, update",
    }
    speeds = ("hour", "share", "CPU cores")
    assert not [str(c) for c in report.checks if not c.passed and not any(word in c.what for word in speeds)]


# --- searches and targets ---------------------------------------------------------------------------------


def test_variants_are_without_the_part_of_the_search_that_they_are_named_for(bench):
    """A child that doubles its update keeps its parent's scale; one that does as an earlier row is its repeat."""
    updates = ("lr * g", "lr * g + lr * g", "lr * (g + g)")
    parent, double, twice = (Program.parse(f"def f(w, g, lr=0.1):\n  return {update}") for update in updates)

    def rows():
        scale, known = behaviour(parent).rms, {}
        first, second = (finished(program, scale, known) for program in (double, twice))
        return first.rms / scale, second.alias_of

    def finished(program, scale, known):
        row = breed._finish(Child(len(known), 0, None, "wire", ""), program, scale, known, odd=True).child
        breed.remember(known, row)
        return row

    replaced = bench("strategies").replaced
    assert rows() == (pytest.approx(1), 0)
    with replaced("no scale"):
        assert rows() == (pytest.approx(2), 0)
    with replaced("key of text"):
        assert rows() == (pytest.approx(1), None)
    assert rows() == (pytest.approx(1), 0)


def test_what_a_rule_owes_to_the_curve_of_its_baseline_is_shown_beside_it(bench):
    """AdamW that is better at its longest leaves less of a speedup that is read there."""
    curve = {data: {seed: 1 + 2 * data**-0.5 + seed / 1000 for seed in range(3)} for data in (0.5, 1.0, 2.0)}
    better = curve | {2.0: {seed: loss - 0.05 for seed, loss in curve[2.0].items()}}
    rival = {seed: loss - 0.4 for seed, loss in curve[1.0].items()}
    [(name, given, less)] = bench("adamw_curve").speedups({"muon": rival}, 1.0, curve, better)
    assert name == "muon" and float(given.split()[0]) > float(less.split()[0]) > 1.2


def test_searches_that_did_not_record_their_families_have_a_line_as_well(bench):
    strategies = bench("strategies")
    old = {"strategy": "evolution", "budget": 9, "start": "momentum", "version": 10, "unseen": 0.9}
    new = {**old, "version": 40, "families": ["Lion"], "steps": 10, "children": 4, "repeats": 1}
    lines = [strategies.table([old, new], 9, "momentum", version).splitlines() for version in (10, 40)]
    assert [len(some) for some in lines] == [2, 2] and lines[0][1].index("0.900", 30) == lines[1][1].index("0.900", 30)
    assert "25%" in lines[1][1] and "%" not in lines[0][1]


def test_a_rediscovery_is_recorded_with_its_course(bench, monkeypatch, tmp_path):
    rediscovery = bench("rediscovery")
    monkeypatch.setattr(rediscovery, "RUNS", tmp_path)
    monkeypatch.setattr(rediscovery, "HALL", 2)
    outcome = rediscovery.run("momentum", "evolution", 1, small(tmp_path, steps=4_000), Dispatcher(Inline()))
    key, again = rediscovery.parsed(json.loads(json.dumps(asdict(outcome))))
    assert again == outcome and key.startswith("momentum evolution 1 ")
    assert len(outcome.hall) == 2 and outcome.course.looks[-1].steps == outcome.steps >= 4_000
    assert [*rediscovery.table([outcome])][1].split()[:3] == ["momentum", "evolution", "lion"]


def test_a_rediscovery_that_goes_on_counts_at_its_longest(bench, monkeypatch, tmp_path, capsys):
    rediscovery = bench("rediscovery")
    monkeypatch.setattr(rediscovery, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(rediscovery, "RECORD", tmp_path / "rediscovery.jsonl")
    monkeypatch.setattr(rediscovery, "HALL", 2)
    small(tmp_path, steps=6_000)
    lines = []
    for steps in ("3000", "6000", "6000", "3000"):  # the last two have what they ask for
        command = f"rediscovery --starts momentum --seeds 1 --workers 0 --steps {steps} --config {tmp_path}/search.toml"
        monkeypatch.setattr("sys.argv", command.split())
        rediscovery.main()
        lines.append(len((tmp_path / "rediscovery.jsonl").read_text().splitlines()))
        capsys.readouterr()
    assert lines == [1, 2, 2, 2]
    with JsonLines(tmp_path / "rediscovery.jsonl", rediscovery.parsed) as record:
        [longest] = rediscovery.longest(record.rows.values()).values()
    assert longest.steps >= 6_000


def test_figures_are_drawn_of_what_ran_and_are_equal_for_equal_rows(bench, tmp_path):
    rediscovery, figures = bench("rediscovery"), bench("figures")
    rows = [
        rediscovery.Outcome(
            "momentum", strategy, seed, "d", "c", 30, 300, 1.0, {}, {}, (("text", 1.1, 1.0 + seed / 10),),
            Course([Look(100, None, 10, 2, 1, 0), Look(200, 0.5, 20, 9, 2, 3), Look(300, 0.9, 30, 15, 3, 6)],
                   {"wire": (60.0, 6.0), "seldom": (3.0, 3.0)}),
        )
        for strategy in ("evolution", "random") for seed in (1, 2)
    ]  # fmt: skip
    first, again = (figures.draw(rows, tmp_path / name, "momentum") for name in ("a", "b"))
    texts = {path.stem: path.read_text("utf-8") for path in first}
    assert [*texts.values()] == [path.read_text("utf-8") for path in again]
    assert "evolution, 2 seeds" in texts["search_momentum_fitness"]
    assert "constants" not in texts["search_momentum_fitness"]
    assert "wire (120)" in texts["search_momentum_edits"] and "seldom" not in texts["search_momentum_edits"]
    best = figures._best_at(rows[0], np.array([50, 150, 200, 299, 300]))
    np.testing.assert_array_equal(best, [np.nan, np.nan, 0.5, 0.5, 0.9])


def test_figures_are_of_the_configuration_that_was_run_last_with_every_strategy_if_any(bench):
    figures = bench("figures")
    names = ("start", "strategy", "seed", "digest", "steps")
    lines = [
        ("momentum", "evolution", 381, "old", 6_000), ("momentum", "evolution", 1, "new", 1_000),
        ("momentum", "evolution", 1, "new", 3_000), ("momentum", "random", 1, "new", 3_000),
        ("adamw", "evolution", 1, "newer", 3_000),
    ]  # fmt: skip
    rows = [SimpleNamespace(**dict(zip(names, line, strict=True))) for line in lines]
    assert [(r.strategy, r.steps) for r in figures.latest(rows, "momentum")] == [
        ("evolution", 3_000),
        ("random", 3_000),
    ]
    assert figures.latest(rows, "sgd") == []
    whole = SimpleNamespace(start="momentum", strategy="constants", seed=1, digest="old", steps=6_000)
    of_old = [*rows, whole, SimpleNamespace(**vars(whole) | {"strategy": "random"})]
    assert {r.digest for r in figures.latest([of_old[-1], of_old[-2], *rows], "momentum")} == {"old"}


def test_the_committed_figures_are_what_their_command_draws(bench, tmp_path):
    rediscovery, figures = bench("rediscovery"), bench("figures")
    with JsonLines(rediscovery.RECORD, rediscovery.parsed) as record:
        drawn = figures.draw(figures.latest(record.rows.values(), "momentum"), tmp_path, "momentum")
    assert [p.read_bytes() for p in drawn] == [(figures.FIGURES / p.name).read_bytes() for p in drawn]


def test_families_are_found_in_what_the_machine_simplifies(bench):
    rediscovery = bench("rediscovery")
    lion = "def f(w, g, m, lr=0.1):\n  u = sign(interp(g, m, 0.9)) * 1.0\n  m = interp(g, m, 0.99)\n  return lr * u, m"
    rows = [
        Child(0, 0, None, "start", "", final="def f(w, g, lr=0.1):\n  return lr * g", fitness=0.5, steps=10),
        Child(1, 1, 0, "wire", "", final=lion, fitness=None, reason="dropped: stage 2", steps=10),
        Child(2, 2, 0, "wire", "", final=lion, fitness=0.9, steps=10),
    ]  # fmt: skip
    first = rediscovery.first_of_each(rows, {"1": 5.0, "3": 9.0})
    assert {*first} == {"lion"}
    assert (first["lion"].child, first["lion"].steps, first["lion"].seconds) == (2, 30, 9.0)


def test_the_pages_of_targets_are_what_their_command_writes(bench):
    targets = bench("targets")
    for table in (targets.PUBLISHED, targets.found_here()):
        assert table.page.read_text("utf-8") == targets.document(targets.measured(table), table)


def test_a_page_of_the_same_runs_keeps_the_times_that_were_measured_with_them(bench, tmp_path, monkeypatch):
    targets = bench("targets")
    page = tmp_path / "page"
    shutil.copytree(targets.RECORDS / "gpt-60k-parts", page)
    before = {path.name: path.read_bytes() for path in page.iterdir()}
    held = targets.read_validation(page / "validation.json")
    slow = {n: replace(c, cost=replace(c.cost, seconds=9.0)) for n, c in held.contenders.items()}
    monkeypatch.setattr(targets, "RECORDS", tmp_path)
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(targets, "validate", lambda *given: replace(held, contenders=slow))
    targets.measure("gpt-60k", {}, page, 0, console)
    assert {path.name: path.read_bytes() for path in page.iterdir()} == before
    assert "floored_nadam" in console.file.getvalue()
    del slow["nadamw"]  # another table has pages of its own times
    targets.measure("gpt-60k", {}, page, 0, console)
    assert targets.read_validation(page / "validation.json").contenders["floored_nadam"].cost.seconds == 9.0


def test_controls_change_what_they_say(bench):
    controls = bench("controls")
    settings = {name: load(name) for name in ("lion", "adamw")}
    made = {
        name: Settled(Run(program), written_settings(program, 0.1, "linear", 0.003), 1)
        for name, program in settings.items()
    }
    made["adamw"].settings["weight_decay"] = 0.123
    frozen = {"AdamW": {0.5: made["adamw"]}, "lion": {0.5: made["lion"]}}
    [lion] = controls.with_decay_of_adamw(frozen).values()
    assert lion.settings == {**made["lion"].settings, "weight_decay": 0.123}
    assert lion.run.program.peak == 0.003 and lion.run.program.hypers[-1] == 0.123
    [third] = controls.at_a_third(frozen).values()
    assert third.run.program.peak == pytest.approx(0.001)
    assert third.settings == {**made["adamw"].settings, "lr": pytest.approx(0.001)}


def test_tunings_are_the_unit_of_their_test(bench):
    tunings = bench("tunings")
    curve = {data: {seed: 1 + 2 * data**-0.5 + seed / 20 for seed in (-1, 0, 1)} for data in (0.5, 1.0, 2.0)}
    means = [2.8, 2.82, 2.81, 2.79], [3.0, 3.01, 2.99, 3.0], [2.5, 3.5, 2.4, 3.6]
    rule, sure, scattered = ([[mean - 0.1, mean, mean + 0.1] for mean in tuned] for tuned in means)
    ahead, level = tunings.against(rule, {"adamw": sure, "nadamw": scattered}, curve)
    assert (ahead.rival, ahead.gap.mean) == ("adamw", pytest.approx(-0.195))
    assert ahead.gap.low < ahead.gap.mean < ahead.gap.high < 0 and ahead.p < 0.001
    assert ahead.speedup.mean == pytest.approx((2 / 1.805) ** 2)
    assert 1 < ahead.speedup.low < ahead.speedup.mean < ahead.speedup.high
    assert level.p > 0.05 and level.speedup.low < 1 < level.speedup.high
    assert ahead.speedup_elsewhere.low < ahead.speedup.low and ahead.speedup.high < ahead.speedup_elsewhere.high
    single = stats.ttest_ind(means[0], means[1], equal_var=False).pvalue
    assert ahead.p == pytest.approx(2 * single)  # Holm: the least of two
    assert ahead.p_permuted == pytest.approx(2 * 2 / 70) and level.p_permuted > 0.05
    text = tunings.table("found", {"found": rule, "adamw": sure, "nadamw": scattered}, [ahead, level])
    assert len(text.splitlines()) == 5 and str(ahead.speedup) in text and "2.8200" in text


def test_a_rival_is_read_at_its_own_loss_and_not_at_that_of_the_curve(bench):
    """AdamW that is as good as the law says at twice the data is no reason for another ratio between two rules."""
    curve = {data: dict.fromkeys(range(3), 1 + 2 * data**-0.5) for data in (0.5, 1.0, 2.0)}
    noise = np.arange(-1, 2) / 1000 + np.array([[-1], [0], [1], [0]]) / 10_000  # of seeds and of tunings
    at = {data: (1 + 2 * data**-0.5 + noise).tolist() for data in (1.0, 2.0, 3.0)}
    rivals = {"adamw": at[1.0], "lion": at[2.0]}
    over_adamw, over_lion = bench("tunings").against(at[3.0], rivals, curve)
    assert over_adamw.speedup.mean == pytest.approx(3.0, rel=1e-3)
    assert over_lion.speedup.mean == pytest.approx(1.5, rel=1e-3)


def test_tunings_that_differ_are_told_from_themselves(bench):
    told, draws = bench("tunings").told_apart, np.random.default_rng(0)
    alike = draws.normal(size=(20, 4, 8))
    assert 0.02 < np.mean([told(each) for each in alike]) < 0.1
    assert told(alike[0] + np.array([[0.0], [9.0], [20.0], [30.0]])) > 0.9


def test_every_tuning_has_picking_seeds_of_its_own_and_shares_those_that_are_compared(bench):
    presets = [bench("tunings").preset_of(number) for number in range(4)]
    picked = [seed for preset in presets for seed in preset.budget.seeds]
    assert len(set(picked)) == 8 and len({preset.first_seed for preset in presets}) == 1
    compared = range(presets[0].first_seed, presets[0].first_seed + 8)
    assert not {*picked} & {*compared, *PICK_SEEDS} and not {*compared} & {*range(9_100, 9_156)}


def test_an_interval_over_tunings_and_seeds_covers_what_either_alone_does_not(bench):
    """Tunings and seeds that both scatter, seeds shared by the sides and not alike to them."""
    over, draws = bench("tunings").over_tunings_and_seeds, np.random.default_rng(0)
    covered, over_tunings = 0, 0
    for _ in range(400):
        sides = [draws.normal(size=(4, 1)) + draws.normal(size=8) + 0.3 * draws.normal(size=(4, 8)) for _ in range(2)]
        low, high = np.quantile(over(*sides).drawn(draws), [0.025, 0.975])
        welch = stats.ttest_ind(*(side.mean(axis=1) for side in sides), equal_var=False).confidence_interval(0.95)
        covered += low < 0 < high
        over_tunings += welch.low < 0 < welch.high
    assert 0.93 < covered / 400 < 0.985 and covered > over_tunings
