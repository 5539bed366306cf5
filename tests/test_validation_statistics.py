"""The statistics of validation: speedups, tests, profiles and rank correlations mean what they say."""

import math
import time

import numpy as np
import pytest
from scipy import stats

from stepsmith.evaluator.validation.paired_test import holm, paired_p, rejection_share
from stepsmith.evaluator.validation.power_law import PowerLaw, fit_power_law, fit_power_laws
from stepsmith.evaluator.validation.profile import profiles, time_to_target
from stepsmith.evaluator.validation.rank import kendall_tau
from stepsmith.evaluator.validation.speedup import compare

# Final C4-EN losses of tuned optimizers at 130M parameters, by multiples of Chinchilla's data: Wen et al., Fantastic
# Pretraining Optimizers and Where to Find Them (arXiv 2509.02046).
PUBLISHED = {
    "adamw": {1: 3.529, 2: 3.409, 4: 3.322, 8: 3.262},
    "lion": {1: 3.552, 2: 3.414, 4: 3.331, 8: 3.252},
    "muon": {1: 3.464, 2: 3.369},
}
SPEEDUPS = {"lion": {1: 0.90, 2: 0.96, 4: 0.92, 8: 1.15}, "muon": {1: 1.41, 2: 1.34}}
LAW = PowerLaw(0.417, 0.493, 3.112)
HORIZONS = (1, 2, 4, 8)


# --- the power law ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1, 2.6e9], ids=["multiples", "tokens"])
def test_published_losses_give_the_published_speedups(unit):
    law = fit_power_law([d * unit for d in HORIZONS], list(PUBLISHED["adamw"].values()))
    for rival, speedups in SPEEDUPS.items():
        for d, speedup in speedups.items():
            assert law.speedup(PUBLISHED[rival][d], d * unit) == pytest.approx(speedup, abs=0.02), (rival, d)


@pytest.mark.parametrize("law", [LAW, PowerLaw(5.0, 0.05, 0.0), PowerLaw(1.0, 1.7, 2.0), PowerLaw(0.1, 0.0, 3.0)])
def test_exact_losses_give_their_law_back(law):
    found = fit_power_law(HORIZONS, [law.loss(d) for d in HORIZONS])
    assert found.exponent == pytest.approx(law.exponent, abs=1e-5)
    for d in (0.5, 3, 20):
        assert found.loss(d) == pytest.approx(law.loss(d), abs=1e-5)
        assert found.data_for(law.loss(d)) == pytest.approx(d, rel=1e-3)


def test_no_other_exponent_fits_better():
    losses = np.array([3.53, 3.43, 3.31, 3.27])
    law = fit_power_law(HORIZONS, losses)

    def squares(found: PowerLaw) -> float:
        return sum((found.loss(d) - loss) ** 2 for d, loss in zip(HORIZONS, losses, strict=True))

    for exponent in np.linspace(0.01, 2, 200):
        design = np.stack([np.array(HORIZONS, float) ** -exponent, np.ones(4)], 1)
        (alpha, floor), *_ = np.linalg.lstsq(design, losses)
        assert squares(law) <= squares(PowerLaw(alpha, exponent, floor)) + 1e-12


def test_two_horizons_give_a_straight_line_in_log_data():
    law = fit_power_law([100, 200], [3.0, 2.0])
    assert [law.loss(d) for d in (100, 200, 400)] == pytest.approx([3.0, 2.0, 1.0])
    assert law.speedup(2.5, 100) == pytest.approx(math.sqrt(2))


def test_losses_that_do_not_fall_give_a_flat_law():
    for losses in ([1.0, 2.0, 3.0], [1.0, 2.0]):
        law = fit_power_law(range(1, len(losses) + 1), losses)
        assert (law.alpha, law.floor) == (0, np.mean(losses))
        assert (law.speedup(9.0, 1), law.speedup(0.5, 1)) == (1 / 32, 32)


def test_a_loss_at_or_below_the_floor_takes_unbounded_data():
    assert LAW.data_for(3.112) == LAW.data_for(3.0) == math.inf
    assert LAW.speedup(3.0, 8) == 32
    assert LAW.speedup(10.8, 8) == 1 / 32  # at initialisation


def test_many_fits_are_the_fits_of_each():
    losses = np.random.default_rng(0).normal([LAW.loss(d) for d in HORIZONS], 0.03, (50, 4))
    laws = fit_power_laws(HORIZONS, losses)
    for row, loss in zip(losses, laws.loss(3), strict=True):
        assert fit_power_law(HORIZONS, row).loss(3) == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize(
    ("data", "losses", "told"),
    [([1], [3.0], "two or more"), ([1, 1], [3.0, 2.0], "distinct"), ([0, 1], [3.0, 2.0], "positive"),
     ([1, 2], [3.0, math.nan], "initialisation"), ([1, 2, 4], [3.0, 2.0], "one loss")],
)  # fmt: skip
def test_what_no_law_fits_is_refused(data, losses, told):
    with pytest.raises(ValueError, match=told):
        fit_power_law(data, losses)


# --- speedups -----------------------------------------------------------------------------------------------


def runs(rng: np.random.Generator, seeds: int, gap: float, at: int, shared: float, own: float) -> tuple[dict, dict]:
    """AdamW at all horizons, and a rival `gap` nats away at one, which shares a part of its seeds' luck."""
    luck = rng.normal(0, shared, (len(HORIZONS), seeds))
    losses = np.array([[LAW.loss(d)] for d in HORIZONS]) + luck + rng.normal(0, own, luck.shape)
    rival = LAW.loss(at) + gap + luck[HORIZONS.index(at)] + rng.normal(0, own, seeds)
    adamw = {d: dict(enumerate(row)) for d, row in zip(HORIZONS, losses.tolist(), strict=True)}
    return adamw, dict(enumerate(rival.tolist()))


@pytest.mark.parametrize("seeds", [4, 8])
def test_intervals_cover_the_true_speedup(seeds):
    rng, held = np.random.default_rng(1), []
    for trial in range(120):
        at, gap = [(1, -0.06), (1, 0.0), (8, -0.02), (4, 0.03)][trial % 4]
        adamw, rival = runs(rng, seeds, gap, at, shared=0.006, own=0.006)
        found = compare(adamw, rival, at, resamples=250, seed=trial).speedup
        held.append(found.low <= LAW.speedup(LAW.loss(at) + gap, at) <= found.high)
    assert 0.92 <= np.mean(held) < 1


def test_the_luck_of_a_seed_cancels():
    adamw, rival = runs(np.random.default_rng(0), 4, -0.06, 1, shared=0.0, own=0.002)
    base = compare(adamw, rival, 1)
    luck = [0.3, -0.2, -0.2, 0.1]  # adds up to nothing, so that AdamW's curve stays
    adamw[1] = {s: loss + luck[s] for s, loss in adamw[1].items()}
    lucky = compare(adamw, {s: loss + luck[s] for s, loss in rival.items()}, 1)
    assert lucky.speedup.mean == pytest.approx(base.speedup.mean)
    assert (lucky.gap.low, lucky.gap.high) == pytest.approx((base.gap.low, base.gap.high))
    assert abs(lucky.sigmas) < abs(base.sigmas) / 50


def test_adamw_against_itself_is_one():
    adamw, _ = runs(np.random.default_rng(0), 4, 0.0, 1, shared=0.01, own=0.01)
    found = compare(adamw, adamw[2], 2)
    assert [found.speedup.low, found.speedup.mean, found.speedup.high] == pytest.approx([1, 1, 1])
    assert (found.gap.mean, found.sigmas) == (0, 0)


def test_a_certain_curve_gives_student_s_interval_of_the_gap():
    """The bootstrap stretches few seeds to Student's width; only the fit can add to it."""
    adamw = {d: dict.fromkeys(range(4), LAW.loss(d)) for d in HORIZONS}
    rival = {s: LAW.loss(2) + gap for s, gap in enumerate([-0.021, -0.019, -0.022, -0.018])}
    found = compare(adamw, rival, 2)
    edges = [LAW.speedup(LAW.loss(2) + gap, 2) for gap in (found.gap.high, found.gap.low)]
    assert [found.speedup.low, found.speedup.high] == pytest.approx(edges, rel=0.02)


def test_an_uncertain_curve_widens_the_interval():
    adamw, rival = runs(np.random.default_rng(0), 4, -0.06, 1, shared=0.0, own=0.001)
    noisy = {d: {s: loss + (d > 1) * 0.03 * (-1) ** s for s, loss in row.items()} for d, row in adamw.items()}
    width = [(i := compare(a, rival, 1).speedup).high - i.low for a in (adamw, noisy)]
    assert width[1] > 2 * width[0]


def test_horizons_of_one_seed_vary_as_the_compared_one_does():
    adamw, rival = runs(np.random.default_rng(0), 4, -0.06, 1, shared=0.01, own=0.002)
    single = {d: row if d == 1 else {0: LAW.loss(d)} for d, row in adamw.items()}
    exact = {d: row if d == 1 else dict.fromkeys(range(4), LAW.loss(d)) for d, row in adamw.items()}
    width = [(i := compare(a, rival, 1).speedup).high - i.low for a in (exact, single)]
    assert width[1] > 1.5 * width[0]


def test_one_paired_seed_tells_no_interval():
    means = {d: {0: loss} for d, loss in PUBLISHED["adamw"].items()}
    found = compare(means, {0: PUBLISHED["muon"][1]}, 1)
    assert found.speedup.mean == pytest.approx(1.41, abs=0.02)
    assert (found.speedup.low, found.speedup.high, math.isnan(found.sigmas)) == (1 / 32, 32, True)


def test_adamw_may_have_more_seeds_than_the_rival():
    adamw, rival = runs(np.random.default_rng(0), 10, -0.06, 1, shared=0.01, own=0.002)
    fewer = {s: rival[s] for s in (1, 4, 7, 8)}
    found = compare(adamw, fewer, 1)
    assert found.gap.mean == pytest.approx(np.mean([fewer[s] - adamw[1][s] for s in fewer]))
    assert found.speedup.low < LAW.speedup(LAW.loss(1) - 0.06, 1) < found.speedup.high


def test_the_gap_in_sigmas_takes_a_sigma_measured_apart():
    adamw, rival = runs(np.random.default_rng(0), 4, -0.06, 1, shared=0.0, own=0.002)
    found = compare(adamw, rival, 1)
    assert found.sigmas == pytest.approx(found.gap.mean / np.std(list(adamw[1].values()), ddof=1))
    assert compare(adamw, rival, 1, sigma=0.01).sigmas == pytest.approx(found.gap.mean / 0.01)


def test_two_thousand_resamples_are_quick_and_repeat():
    adamw, rival = runs(np.random.default_rng(0), 8, -0.06, 1, shared=0.01, own=0.01)
    start = time.perf_counter()
    first = compare(adamw, rival, 1, seed=3)
    assert time.perf_counter() - start < 2
    assert first == compare(adamw, rival, 1, seed=3) != compare(adamw, rival, 1, seed=4)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"data": 3}, "no losses at 3"), ({"rival": {9: 3.5}}, r"seeds \[9\]"), ({"rival": {}}, "one seed"),
     ({"rival": {0: math.inf}}, "initialisation"), ({"adamw": {1: {0: 3.5}}, "rival": {0: 3.5}}, "two or more")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(change, told):
    adamw, rival = runs(np.random.default_rng(0), 4, -0.06, 1, shared=0.01, own=0.01)
    with pytest.raises(ValueError, match=told):
        compare(**{"adamw": adamw, "rival": rival, "data": 1} | change)


# --- the test -----------------------------------------------------------------------------------------------


def test_the_paired_test_is_student_s_over_common_seeds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6))
    p = paired_p(dict(enumerate(a)), dict(enumerate(b)) | {17: 5.0})
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_differences_without_spread():
    losses = {0: 3.1, 1: 3.2, 2: 3.4}
    assert paired_p(losses, losses) == 1
    assert paired_p(losses, {s: loss - 0.01 for s, loss in losses.items()}) < 1e-20


def test_holm_corrects_stepwise_and_keeps_the_order():
    assert holm({"a": 0.01, "b": 0.02, "c": 0.9}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.9})
    assert holm({"a": 0.02, "b": 0.02, "c": 0.6}) == pytest.approx({"a": 0.06, "b": 0.06, "c": 0.6})


def test_many_rivals_make_a_verdict_harder():
    adamw = {0: 3.52, 1: 3.53, 2: 3.54}
    rival = {0: 3.49, 1: 3.47, 2: 3.50}
    alone = paired_p(rival, adamw)
    assert holm({"one": alone})["one"] == alone <= 0.05
    crowd = holm({"one": alone} | {f"same {i}": paired_p(adamw, adamw) for i in range(9)})
    assert crowd["one"] == pytest.approx(10 * alone) and crowd["one"] > 0.05


def test_one_optimizer_is_rarely_told_from_itself():
    rng = np.random.default_rng(0)
    shares = [rejection_share(rng.normal(3.3, 0.002, 16), seed=i) for i in range(40)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.01)
    assert np.mean([rejection_share(rng.normal(size=16), level=0.2, seed=i) for i in range(20)]) > 0.15


def test_too_few_runs_for_two_sides_are_refused():
    with pytest.raises(ValueError, match="need 8; got 7"):
        rejection_share(range(7))
    with pytest.raises(ValueError, match="two seeds"):
        paired_p({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0})
    with pytest.raises(ValueError, match="initialisation"):
        paired_p({0: 1.0, 1: math.nan}, {0: 1.0, 1: 2.0})


# --- profiles -----------------------------------------------------------------------------------------------


def test_profiles_by_hand():
    found = profiles({
        "adamw": {"a": 100, "b": 100, "c": math.inf},
        "lion": {"a": 50, "b": 300, "c": math.inf},
        "muon": {"a": 200, "b": math.inf, "c": math.inf},
    })  # fmt: skip
    assert found["adamw"].steps() == [(1.0, 1 / 3), (2.0, 2 / 3)]
    assert found["lion"].steps() == [(1.0, 1 / 3), (3.0, 2 / 3)]
    assert found["muon"].steps() == [(4.0, 1 / 3)]
    assert {name: p.score() for name, p in found.items()} == pytest.approx(
        {"adamw": (1 + 2 / 3) / 3, "lion": (1 + 1 / 3) / 3, "muon": 0}
    )


def test_the_score_is_the_integral_of_the_steps():
    times = np.random.default_rng(0).uniform(1, 6, (3, 20))
    for p in profiles({str(r): {str(t): x for t, x in enumerate(row)} for r, row in enumerate(times)}).values():
        grid = np.linspace(1, 4, 6001)
        assert p.score() == pytest.approx(np.mean([p.rho(tau) for tau in grid]), abs=1e-3)


def test_profiles_need_all_tasks_of_all_rivals():
    with pytest.raises(ValueError, match="'lion' needs a time"):
        profiles({"adamw": {"a": 1, "b": 2}, "lion": {"a": 1}})
    with pytest.raises(ValueError, match="not positive"):
        profiles({"adamw": {"a": math.nan}})


@pytest.mark.parametrize(
    ("curve", "steps"),
    [([(0, 5.0), (10, 4.0), (20, 1.0), (30, 3.5), (40, 0.5)], 40 / 3), ([(7, 2.0), (8, 1.0)], 7.0),
     ([(0, 5.0), (10, 3.0)], 10.0), ([(0, 5.0), (10, math.nan), (20, 3.5)], math.inf), ([], math.inf),
     ([(0, math.nan), (10, 2.0)], 10.0)],
)  # fmt: skip
def test_time_to_target(curve, steps):
    assert time_to_target(curve, 3.0) == pytest.approx(steps)


def test_steps_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="rise"):
        time_to_target([(10, 3.0), (0, 4.0)], 2.0)


# --- rank correlation ---------------------------------------------------------------------------------------


def scores(values: np.ndarray) -> dict:
    return {str(rule): value for rule, value in enumerate(values.tolist())}


def test_tau_is_scipy_s_with_ties():
    x, y = np.random.default_rng(0).integers(0, 4, (2, 12)).astype(float)
    assert kendall_tau(scores(x), scores(y), resamples=10).mean == pytest.approx(stats.kendalltau(x, y).statistic)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_rank_intervals_cover_the_true_tau(rho):
    rng, held, widths = np.random.default_rng(2), [], []
    for trial in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 16).T
        found = kendall_tau(scores(x), scores(y), resamples=300, seed=trial)
        held.append(found.low <= 2 / math.pi * math.asin(rho) <= found.high)
        widths.append(found.high - found.low)
    assert 0.86 <= np.mean(held) <= 0.98
    assert np.mean(widths) < 0.75


def test_a_rule_drawn_twice_is_no_tie():
    """Equal rankings stay at tau = 1 in every draw, and opposite ones at -1."""
    up = scores(np.arange(6.0))
    same, opposite = kendall_tau(up, up), kendall_tau(up, scores(-np.arange(6.0)))
    assert (same.low, same.mean, same.high) == (1, 1, 1)
    assert (opposite.low, opposite.mean, opposite.high) == (-1, -1, -1)


def test_noisy_seeds_widen_the_interval():
    rng, truth, wider = np.random.default_rng(0), np.arange(10.0), []
    for _ in range(20):
        noisy = truth[:, None] + rng.normal(0, 5, (10, 4))
        means, seeds = (kendall_tau(scores(s), scores(truth), resamples=300) for s in (noisy.mean(1), noisy))
        assert seeds.mean == means.mean
        wider.append((seeds.high - seeds.low) - (means.high - means.low))
    assert np.mean(wider) > 0.05


def test_the_luck_that_rules_share_changes_no_rank():
    truth = np.arange(8.0)
    shared = truth[:, None] + np.array([0.0, 50.0, -20.0])
    found = kendall_tau(scores(shared), scores(truth))
    assert (found.low, found.high) == (1, 1)


def test_levels_and_rules_of_one_side():
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    narrow, wide = (kendall_tau(scores(x), scores(y) | {"other": 1.0}, level=level) for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize(
    ("values", "told"),
    [({"0": 1.0, "1": 2.0}, "three rules"), ({"0": [1.0], "1": [1.0, 2.0], "2": [3.0]}, "equally many"),
     ({"0": 1.0, "1": math.nan, "2": 3.0}, "finite")],
)  # fmt: skip
def test_scores_that_cannot_be_ranked_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        kendall_tau(values, scores(np.arange(3.0)))


def test_a_side_that_ties_all_rules_ranks_nothing():
    assert kendall_tau(scores(np.ones(5)), scores(np.arange(5.0))).mean == 0
