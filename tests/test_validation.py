"""Validation: tuning that is the same for all, a record from which everything goes on, and what is compared."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import stepsmith as ss
from stepsmith import cli
from stepsmith.dsl import ProgramError
from stepsmith.evaluator.descent import descend, moved
from stepsmith.evaluator.json_lines import RecordError
from stepsmith.evaluator.settings import Range, written_settings
from stepsmith.evaluator.train import Run
from stepsmith.evaluator.tune import PICK_SEEDS, Budget, pick
from stepsmith.evaluator.validation import pool as pools
from stepsmith.evaluator.validation.funnel import SCREEN
from stepsmith.evaluator.validation.pool import TargetPool
from stepsmith.evaluator.validation.power_law import PowerLaw
from stepsmith.evaluator.validation.protocol import (
    PRESETS,
    TABLE,
    Preset,
    finals,
    settle,
    side_by_side,
    working_peak,
)
from stepsmith.evaluator.validation.record import Record, key_of
from stepsmith.evaluator.validation.training import Training, train_target
from stepsmith.evaluator.validation.validate import limits, validate
from stepsmith.proxies.targets import target

TINY = Preset(
    0.1, (0.1, 0.2), (0.05, 0.1, 0.2),
    Budget(3, 0, 0, 3, 1, PICK_SEEDS[:1]), Budget(1, 0, 0, 2, 1, PICK_SEEDS[:1]), 3, 2, (0.5,),
)  # fmt: skip
LION = {"lion": ss.load("lion")}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def pool(tmp_path):
    with TargetPool("table-wine", Record(tmp_path / "record.jsonl")) as made:
        yield made


# --- coordinate descent -------------------------------------------------------------------------------------


def bowl(settings):
    return [(math.log2(s["lr"] / 64)) ** 2 + 4 * (math.log2((1 - s["beta"]) / 0.0125)) ** 2 for s in settings]


def test_descent_has_no_edges():
    ranges = {"lr": Range(0.5, 2.0), "beta": Range(0.05, 0.4, True)}
    start = {"lr": 1.0, "beta": 0.8}
    tried = descend(start, bowl([start])[0], bowl, ranges, 60)
    loss, best = min(tried, key=lambda pair: pair[0])
    assert (best["lr"], round(best["beta"], 4)) == (64.0, 0.9875)
    assert loss < 1e-9


def test_descent_reaches_what_is_far_in_few_runs():
    start = {"lr": 1.0, "beta": 0.9875}
    tried = descend(start, bowl([start])[0], bowl, {"lr": Range(0.5, 2.0)}, 60)
    assert [s["lr"] for _, s in tried[:6]] == [2.0, 0.5, 8.0, 32.0, 128.0, 64.0]


class Written:
    """A pool that writes down what it is asked for."""

    def __init__(self):
        self.asked = []

    def losses(self, wanted, steps):
        self.asked += [(steps, runs, seed) for runs, seed in wanted]
        return [[abs(math.log2(run.program.peak) + 9) for run in runs] for runs, _ in wanted]


def test_short_runs_say_which_draws_are_run_whole():
    pool, sgd, budget = Written(), ss.load("sgd"), Budget(4, 0, 0, 0, 1, PICK_SEEDS[:1], short=20)
    known = written_settings(sgd, 0.0, "linear", 1.0)
    best, runs = pick(pool, sgd, 80, np.random.default_rng(0), budget, [known], {"lr": Range(1e-4, 1.0)})
    (short, draws, _), (whole, kept, _) = pool.asked
    assert (short, len(draws), whole, len(kept)) == (20, 20, 80, 4)
    assert runs == budget.runs() == 24
    assert budget.cost() == 9
    far = [abs(math.log2(run.program.peak) + 9) for run in draws[1:]]
    assert [abs(math.log2(run.program.peak) + 9) for run in kept[1:]] == sorted(far)[:3]
    assert kept[0].program.peak == 1.0  # what is known is run whole, however its short run ends
    assert abs(math.log2(best[0]["lr"]) + 9) == min(far)


def test_descent_accepts_nothing_below_its_step():
    start = {"lr": 1.0}
    slope = lambda some: [1.0 - 1e-3 * math.log2(s["lr"]) for s in some]  # noqa: E731
    tried = descend(start, 1.0, slope, {"lr": Range(0.5, 2.0)}, 20)
    assert {s["lr"] for _, s in tried} >= {2.0, 0.5}
    assert max(s["lr"] for _, s in tried) <= 2.0
    far = descend(start, 1.0, slope, {"lr": Range(0.5, 2.0)}, 20, accepted=1e-4)
    assert max(s["lr"] for _, s in far) > 1e5


def test_descent_measures_nothing_twice_and_no_more_than_it_may():
    seen = []

    def measure(some):
        seen.extend(tuple(sorted(s.items())) for s in some)
        return bowl(some)

    descend({"lr": 1.0, "beta": 0.8}, 1e9, measure, {"lr": Range(1, 2), "beta": Range(0.1, 0.2, True)}, 17)
    assert len(seen) == len(set(seen)) == 17


@pytest.mark.parametrize(
    ("value", "name", "way", "expected"),
    [
        (0.0, "weight_decay", 1, 0.1),
        (0.0, "weight_decay", -1, 0.0),
        (0.015, "adamw.weight_decay", -1, 0.0),
        (0.0, "schedule.warmup", 1, 0.02),
        (0.2, "schedule.warmup", 1, 0.4),
        (0.8, "schedule.warmup", 1, 0.8),
        ("linear", "schedule.decay", -1, "constant_linear"),
        (1e-8, "eps", 1, 1.6e-7),
    ],
)
def test_neighbours(value, name, way, expected):
    assert moved(value, name, way, 2.0, Range(0.01, 1.0)) == expected


# --- the record ---------------------------------------------------------------------------------------------


def wanted(lr=1e-3, **more):
    return Training(Run(ss.load("adamw").with_lr(lr)), seed=0, steps=10, **more)


def test_a_finished_run_is_never_trained_again(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    with TargetPool("table-wine", Record(path)) as pool:
        first = pool.results([wanted(), wanted(2e-3)])
    monkeypatch.setattr(pools, "train_target", lambda *_: pytest.fail("trained"))
    with TargetPool("table-wine", Record(path)) as pool:
        assert pool.results([wanted(2e-3), wanted()]) == first[::-1]
    assert len(path.read_text().splitlines()) == 2


def test_the_key_of_a_run_holds_all_that_it_depends_on():
    goal = target("table-wine")
    base = wanted()
    others = [
        wanted(2e-3), replace(base, seed=1), replace(base, steps=11), replace(base, final=True),
        replace(base, run=replace(base.run, warmup=0.3)), replace(base, run=replace(base.run, decay="cosine")),
    ]  # fmt: skip
    keys = {key_of(goal, t) for t in [base, *others]} | {
        key_of(replace(goal, clip=0.5), base), key_of(target("table-cancer"), base)
    }  # fmt: skip
    assert len(keys) == len(others) + 3
    renamed = replace(base, run=replace(base.run, program=replace(base.run.program, doc="other words")))
    assert key_of(goal, renamed) == key_of(goal, base)


def test_a_line_that_was_cut_short_is_dropped_and_the_rest_kept(tmp_path):
    path, goal = tmp_path / "r.jsonl", target("table-wine")
    with Record(path) as record:
        for lr in (1e-3, 2e-3):
            record.add(goal, wanted(lr), train_target(goal, wanted(lr)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    again = Record(path)
    assert again.get(goal, wanted(1e-3)) is not None
    assert again.get(goal, wanted(2e-3)) is None
    with again:
        again.add(goal, wanted(2e-3), train_target(goal, wanted(2e-3)))
    assert len(Record(path).rows) == 2


def test_one_process_at_a_time_adds_to_a_record_and_what_others_added_is_read(tmp_path):
    path, goal = tmp_path / "r.jsonl", target("table-wine")
    one, two = Record(path), Record(path)
    with one:
        one.add(goal, wanted(1e-3), train_target(goal, wanted(1e-3)))
        with pytest.raises(RecordError, match="another process is writing to"):
            two.add(goal, wanted(2e-3), train_target(goal, wanted(2e-3)))
    with two:
        two.add(goal, wanted(2e-3), train_target(goal, wanted(2e-3)))
        assert len(two.rows) == 2
    assert len(path.read_text().splitlines()) == 2


def test_opening_a_record_leaves_a_line_that_another_process_is_writing_alone(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"half')
    assert Record(path).rows == {}
    assert path.read_bytes() == b'{"half'


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": 1}\n{"key": 2}\n')
    with pytest.raises(RecordError, match=r"r\.jsonl:1: no line of a record"):
        Record(path)


def test_a_line_whose_number_is_none_is_named(tmp_path):
    path, goal = tmp_path / "r.jsonl", target("table-wine")
    with Record(path) as record:
        record.add(goal, wanted(), train_target(goal, wanted()))
    path.write_text(re.sub(r'"validation": [0-9.]+', '"validation": "x"', path.read_text()))
    with pytest.raises(RecordError, match=r"r\.jsonl:1: no line of a record .validation is 'x', and no number"):
        Record(path)


def test_a_final_run_answers_for_one_that_is_not(tmp_path):
    goal, record = target("table-wine"), Record(tmp_path / "r.jsonl")
    result = train_target(goal, wanted(final=True))
    record.add(goal, wanted(final=True), result)
    assert record.get(goal, wanted()).validation == result.validation
    assert record.get(goal, wanted()).test is not None


def test_a_result_comes_back_from_the_file_as_it_was(tmp_path):
    goal, path = target("table-wine"), tmp_path / "r.jsonl"
    record = Record(path)
    record.add(goal, wanted(final=True), train_target(goal, wanted(final=True)))
    assert Record(path).get(goal, wanted(final=True)) == record.get(goal, wanted(final=True))


# --- tuning -------------------------------------------------------------------------------------------------


def test_tuning_is_a_function_of_the_program_and_counts_its_runs(pool, tmp_path):
    one = settle(pool, ss.load("lion"), 0.1, TINY.budget)
    assert one.runs <= TINY.budget.runs()
    with TargetPool("table-wine", Record(tmp_path / "other.jsonl")) as other:
        again = settle(other, ss.load("lion"), 0.1, TINY.budget)
    assert again == one
    assert settle(pool, ss.load("lion"), 0.1, TINY.budget, salt="x") != one
    loss = pool.results([Training(one.run, PICK_SEEDS[0], 30)])[0].validation
    untuned = pool.results([Training(Run(ss.load("lion")), PICK_SEEDS[0], 30)])[0].validation
    assert loss < untuned


def test_the_sweep_finds_a_learning_rate_that_works(pool):
    far = ss.load("adamw").with_lr(1e-6)
    assert working_peak(pool, far) > 1e-5


def test_seeds_that_pick_are_never_compared():
    for preset in [*PRESETS.values(), TABLE, SCREEN]:
        seeds = {t.seed for t in finals(wanted().run, preset, max(preset.seeds, preset.curve_seeds), 1)}
        assert not {*preset.budget.seeds, *preset.again.seeds} & seeds
        assert preset.tuned in preset.curve and {*preset.compared} <= {*preset.curve}
        assert max(preset.curve) >= 2 * max(preset.compared)  # a speedup up to 2 is read between AdamW's points


def test_what_a_funnel_chooses_by_is_not_what_a_validation_compares():
    screened = {t.seed for t in finals(wanted().run, SCREEN, 8, 1)}
    for preset in [*PRESETS.values(), TABLE]:
        assert not screened & {t.seed for t in finals(wanted().run, preset, 40, 1)}
    assert not SCREEN.held_out


def test_tuning_never_reads_the_test_data(pool, monkeypatch):
    monkeypatch.setattr(type(pool.target), "test", lambda self: pytest.fail("read"))
    settle(pool, ss.load("lion"), 0.1, TINY.budget)


def test_literal_constants_of_a_find_are_tuned_too(pool):
    find = ss.Program.parse("def f(w, g, m, lr=1e-3):\n  m = interp(g, m, 0.9)\n  return lr * sign(m), m")
    settled = settle(pool, find, 0.1, Budget(8, 0, 0, 0, 1, PICK_SEEDS[:1]))
    assert "beta1" in settled.settings
    rates = {r.training.run.program.hypers for r in pool.record.rows.values()}
    assert len(rates) > 1


def test_a_rule_that_trains_at_no_learning_rate_keeps_its_own(pool):
    broken = ss.Program.parse("def f(w, g, lr=0.5):\n  return lr * arcsin(2.0 + abs(g))")
    assert working_peak(pool, broken) == 0.5


def test_two_contenders_of_one_text_train_once(tmp_path):
    with TargetPool("table-wine", Record(tmp_path / "r.jsonl"), workers=2) as pool:
        side_by_side(pool, lambda name: pool.results([wanted()]), ["one", "other"])
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_an_error_of_one_contender_does_not_wait_for_the_others(tmp_path):
    hour = replace(wanted(), steps=10**6)

    def work(name):
        if name == "fails":
            raise ProgramError("no such program")
        return pool.results([hour])

    with TargetPool("table-wine", Record(tmp_path / "r.jsonl"), workers=2) as pool, pytest.raises(ProgramError):
        side_by_side(pool, work, ["long", "fails"])


# --- validation ---------------------------------------------------------------------------------------------


def measured(found):
    """What does not depend on the clock."""
    return {
        (name, ratio): (o.comparison, o.p, o.test, o.metric, o.to_target)
        for name, c in found.contenders.items()
        for ratio, o in c.outcomes.items()
    }


def test_a_validation_goes_on_from_its_record_and_workers_change_nothing(tmp_path):
    with TargetPool("table-wine", Record(tmp_path / "a.jsonl")) as pool:
        whole = validate(pool, LION, TINY)
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[: len(lines) // 2]))
    with TargetPool("table-wine", Record(tmp_path / "b.jsonl"), workers=2) as pool:
        rest = validate(pool, LION, TINY)
    assert measured(rest) == measured(whole)
    assert sorted(json.loads(x)["key"] for x in (tmp_path / "b.jsonl").read_text().splitlines()) == sorted(
        json.loads(x)["key"] for x in lines
    )
    assert not list(tmp_path.glob("*.checkpoints/*"))


def test_adamw_against_itself_is_one_and_a_ruined_one_is_worse(pool):
    found = validate(
        pool,
        {},
        TINY,
        derived={
            "ruined": lambda frozen: {
                r: replace(s, run=replace(s.run, program=s.run.program.with_lr(1e-7)))
                for r, s in frozen["AdamW"].items()
            }
        },
    )
    own, worse = (found.contenders[name].outcomes[0.2] for name in ("AdamW", "ruined"))
    assert own.comparison.speedup.mean == pytest.approx(1.0)
    assert worse.comparison.speedup.high < 1
    assert worse.comparison.gap.low > 0
    assert worse.differs and not own.differs


def test_a_law_that_ends_falling_is_said():
    said = [" ".join(limits(target("table-wine"), TINY, {}, PowerLaw(1.0, e, 0.05))) for e in (2.0, 0.3)]
    assert ["nearly flat" in text for text in said] == [True, False]


def test_a_validation_says_what_it_cannot(pool):
    found = validate(pool, LION, TINY, "tiny")
    said = " ".join(found.limits)
    assert "3 paired seeds" in said and "One target, table-wine" in said and "6 runs tune a side" in said
    assert {*found.contenders["lion"].sensitivity} == {0.5, 1.0}
    cost = found.contenders["lion"].cost
    assert cost.state_bytes == pytest.approx(4, rel=0.01)
    assert found.contenders["AdamW"].cost.state_bytes == pytest.approx(8, rel=0.02)


# --- the command --------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(cli.app, ["validate", *arguments])


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "quick", TINY)


def test_the_command_validates_and_goes_on(small, tmp_path, monkeypatch):
    first = run("lion", "--target", "table-wine", "--workers", "0", "--against", "adamw,momentum")
    assert first.exit_code == 0, first.output
    assert "speedup over tuned AdamW" in first.output
    for name in ("AdamW", "lion", "momentum"):
        assert re.search(rf"^{name} +0.2x ", first.output, re.MULTILINE)
    folder = tmp_path / "runs" / "validation" / "lion-momentum-table-wine-quick"
    assert {p.name for p in folder.iterdir()} >= {"report.html", "validation.json", "configuration.json", "frozen.json"}
    monkeypatch.setattr(pools, "train_target", lambda *_: pytest.fail("trained"))
    assert run("lion", "--target", "table-wine", "--workers", "0", "--against", "adamw,momentum").exit_code == 0


def test_constants_are_written_down_before_anything_is_compared(small, tmp_path, monkeypatch):
    def train(target, training, *rest):
        folder = tmp_path / "runs" / "validation" / "lion-table-wine-quick"
        if training.seed >= TINY.first_seed:
            frozen = json.loads((folder / "frozen.json").read_text())
            assert {*frozen} == {"AdamW", "lion"} and {*frozen["lion"]} == {"0.1", "0.2"}
            raise KeyboardInterrupt
        return train_target(target, training, *rest)

    monkeypatch.setattr(pools, "train_target", train)
    assert run("lion", "--target", "table-wine", "--workers", "0").exit_code == 130


def test_adamw_may_be_validated_under_any_spelling(small):
    found = run("AdamW", "--target", "table-wine", "--workers", "0")
    assert found.exit_code == 0, found.output
    assert re.search(r"^adamw +0.2x +1.000 ", found.output, re.MULTILINE)


def test_several_targets_have_a_profile(small, tmp_path):
    found = run("momentum", "--target", "table-wine,table-cancer", "--workers", "0")
    assert found.exit_code == 0, found.output
    assert "within 1.5x" in found.output
    assert len(re.findall(r"^(AdamW|momentum)( +[01]\.\d\d){5} *$", found.output, re.MULTILINE)) == 2
    page = (tmp_path / "runs/validation/momentum-table-wine-table-cancer-quick-profile.html").read_text()
    assert page.count("<svg") == 1 and "momentum" in page


def test_a_report_that_is_replaced_is_said(small, tmp_path):
    rule = tmp_path / "mine.opt"
    for beta in (0.9, 0.8):
        rule.write_text(f"def mine(w, g, m, lr=0.1, beta={beta}):\n  m = interp(g, m, beta)\n  return lr * m, m\n")
        found = run("mine.opt", "--target", "table-wine", "--workers", "0")
        assert ("held another validation" in found.output) == (beta == 0.8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["loin"], "did you mean 'lion'"),
        (["lion", "--target", "gpt-100"], "did you mean 'gpt-100k'"),
        (["lion", "--preset", "quack"], "did you mean 'quick'"),
        (["lion", "--text", "nowhere.txt"], "unknown text 'nowhere.txt'"),
        (["lion", "--target", "vit-100k", "--text", "speeches"], "takes none"),
        (["adahessian", "--target", "table-wine"], "oracle hutchinson"),
        (["lion", "--against", "muno", "--target", "table-wine"], "did you mean 'muon'"),
        (["cosine", "--target", "table-wine"], "is a schedule"),
        (["lion", "--target", "table-wine,gpt-100"], "did you mean 'gpt-100k'"),
        (["lion", "--target", ""], "--target names what is trained"),
        (["lion", "--target", "table-wine", "--device", "cuda"], "no CUDA device"),
    ],
)
def test_errors_are_one_line(small, arguments, said):
    found = run(*arguments)
    assert found.exit_code != 0
    assert said in str(found.exception)
    assert "\n" not in str(found.exception)


@pytest.mark.parametrize("text", ["[]", "null", '{"target"'])
def test_a_folder_whose_configuration_is_damaged_is_refused(small, tmp_path, text):
    (tmp_path / "configuration.json").write_text(text)
    found = run("lion", "--target", "table-wine", "--workers", "0", "--out", str(tmp_path))
    assert str(found.exception).endswith(
        "configuration.json is damaged; name another folder with --out, or remove this one"
    )


def test_a_folder_of_another_validation_is_refused(small, tmp_path):
    out = str(tmp_path / "here")
    assert run("lion", "--target", "table-wine", "--workers", "0", "--out", out).exit_code == 0
    other = run("momentum", "--target", "table-wine", "--workers", "0", "--out", out)
    assert "holds another validation, which differs in programs; name another folder" in str(other.exception)
