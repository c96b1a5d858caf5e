"""Studies that predict themselves: by budgets, by groups of FLOPs, summed up by reach, and where they cannot."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.advice.forecast.backtest import BackTest, History, fared, worst
from analysis.advice.forecast.groups import group_history
from analysis.advice.forecast.outlook import OutlookRules
from analysis.advice.forecast.record import by_reach, histories, laws_of, self_prediction
from analysis.figures.advice.backtest import plot_backtest
from analysis.figures.layout import Sheet
from analysis.frontier.study import FitSettings, fit_study
from analysis.isoflop.parabola import ParabolaRules
from analysis.report.backtests import backtests_as_json, backtests_as_markdown, self_prediction_lines
from analysis.runs.points import read_points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.optimum import SurfaceRules
from tests.helpers.runs.planted_runs import row

QUICK = FitSettings(resampling=Resampling(draws=300, paired=0.0))
RULES = OutlookRules(parabola=ParabolaRules(), surface=SurfaceRules(), resampling=QUICK.resampling)
NOISE = 0.004


@pytest.fixture(scope="module")
def study(planted, truths):
    return fit_study(planted(truths["chinchilla"], sizes=9, cell_noise=0.003), QUICK)


@pytest.fixture(scope="module")
def rolled(study):
    return histories(study)


@pytest.fixture(scope="module")
def scattered(truths):
    """Points on no common budget: any N on any D of two decades each."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(60):
        params, tokens = (round(float(np.exp(rng.uniform(np.log(low), np.log(100 * low))))) for low in (1e6, 1e8))
        loss = truths["chinchilla"].loss(params, tokens) * np.exp(NOISE * rng.normal())
        rows.append(row("vanilla", f"{params}", str(6 * params * tokens), number, params, tokens, loss))
    return read_points(pl.DataFrame(rows)).frame


@pytest.fixture(scope="module")
def grouped(scattered):
    rules = replace(RULES, resampling=replace(RULES.resampling, draws=100))
    record = group_history(scattered, "vanilla", rules)
    assert isinstance(record, History)
    return record


def made_up(error, reach, *, covered=True, law="surface", quantity="loss"):
    said, truth = (
        Estimate(value=value, low=0.9 * value, high=1.1 * value, level=0.95) for value in (2 + 2 * error, 2.0)
    )
    return BackTest(
        arm="vanilla", law=law, quantity=quantity, fitted=2, budget="1000", reach=reach, predicted=said, measured=truth,
        ahead=True, error=error, covered=covered,
    )  # fmt: skip


def test_every_later_budget_is_predicted_from_every_prefix_by_every_law(rolled):
    backtests = rolled["vanilla"].backtests
    assert laws_of(backtests, "loss") == ("surface", "minima-free", "minima-pinned", "minima-power", "combined")
    assert laws_of(backtests, "params") == ("surface", "minima", "combined")
    of_power = [(test.fitted, round(test.reach)) for test in backtests if test.law == "minima-power"]
    assert of_power == [(2, 3), (2, 10), (3, 3)]
    assert all(abs(test.error) < 0.05 for test in backtests if test.quantity == "loss")


def test_without_surfaces_the_laws_through_the_minima_say_the_same(study, rolled):
    alone = histories(study, surfaces=False)["vanilla"].backtests
    assert not {test.law for test in alone} & {"surface", "minima-pinned"}
    for law in ("minima-free", "minima-power"):
        both = [[test.error for test in tests if test.law == law] for tests in (alone, rolled["vanilla"].backtests)]
        assert both[0] == both[1], law


def test_an_asymptote_of_the_users_moves_the_pinned_law_alone(study, rolled):
    pinned = histories(study, asymptote=1.0, surfaces=False)["vanilla"].backtests
    default = {
        (test.law, test.fitted, test.budget): test.error
        for test in rolled["vanilla"].backtests
        if test.quantity == "loss"
    }
    here = {(test.law, test.fitted, test.budget): test.error for test in pinned if test.quantity == "loss"}
    moved = {key[0] for key, error in here.items() if error != default[key]}
    assert moved == {"minima-pinned", "combined"}


def test_runs_on_no_budget_are_predicted_group_by_group_within_their_noise(grouped):
    assert grouped.over == "groups"
    assert {(test.law, test.quantity) for test in grouped.backtests} == {("surface", "loss")}
    assert len({test.budget for test in grouped.backtests}) <= 10, "the first two of twelve groups are fitted"
    steady = [test for test in grouped.backtests if test.fitted >= 6]
    assert np.median([abs(test.error) for test in steady]) < 2 * NOISE
    assert np.mean([test.covered for test in steady]) > 0.7
    assert all(test.reach > 1 for test in grouped.backtests)


def test_the_measured_side_of_a_group_is_known_to_the_noise_over_the_root_of_its_runs(grouped):
    last = next(test for test in grouped.backtests if test.fitted == 11).measured
    assert (last.high - last.low) / last.value == pytest.approx(2 * 1.96 * NOISE / np.sqrt(5), rel=0.5)


def test_two_minima_or_two_groups_are_refused_with_what_is_missing(planted, scattered):
    few = histories(fit_study(planted(budgets=("1000000000000", "3000000000000")), QUICK))["vanilla"]
    assert few.kind is RefusalKind.TOO_FEW_BUDGETS
    assert few.sentence.startswith("2 budgets with a minimum (1e12, 3e12), and a back-test needs 3")
    edge = pl.concat(
        [planted(budgets=("1000000000000", "3000000000000")), planted(budgets=("10000000000000",), shift=9)]
    )
    assert "1e13 has none: " in histories(fit_study(edge, QUICK))["vanilla"].sentence
    pair = group_history(scattered.head(2), "vanilla", RULES)
    assert isinstance(pair, Refusal)
    assert "2 groups of FLOPs" in pair.sentence
    assert isinstance(group_history(scattered.clear(), "vanilla", RULES), Refusal)


def test_a_summary_holds_medians_and_the_worst_case_by_reach():
    tests = [made_up(0.01, 2.0), made_up(-0.03, 2.5, covered=False), made_up(0.02, 2.2), made_up(0.2, 30.0)]
    near, far = by_reach(tests).values()
    assert (near.count, near.size, near.error, near.covered) == (3, 0.02, 0.01, 2)
    assert near.half_width == pytest.approx(0.1)
    assert far == fared(tests[3:])
    assert list(by_reach(tests)) == [2.5, float("inf")]
    assert worst(tests) is tests[3]
    text = backtests_as_markdown({"vanilla": History(past={}, backtests=tuple(tests))})
    assert "| surface | 2.00% (+1.00%) ± 10.00%, 2 of 3 | 20.00% (+20.00%) ± 10.00%, 1 of 1 |" in text
    assert "worst of surface: +20.00% at 1000 from 2 budgets (reach 30), inside its interval" in text


def test_a_law_that_its_record_leaves_out_is_named_with_what_it_missed(planted, truths):
    """A power law without an asymptote falls too fast where runs are quiet enough to show it."""
    budgets = tuple(str(10**12 * 3**step) for step in range(6))
    table = planted(truths["chinchilla"], budgets=budgets, sizes=9, cell_noise=0.0005)
    clause = self_prediction(histories(fit_study(table, QUICK), surfaces=False)["vanilla"])
    assert clause.startswith("rolled over its own budgets, L* of the next was off by ")
    assert "inside the interval) by combined laws through the minima; minima-power left out: -" in clause


def test_a_record_is_words_plain_values_and_a_figure(study, rolled, tmp_path):
    assert self_prediction_lines(rolled)[0].startswith("vanilla: rolled over its own budgets")
    refused = {"looped": Refusal(kind=RefusalKind.TOO_FEW_BUDGETS, sentence="too few.")}
    document = backtests_as_json({**rolled, **refused})
    assert len(document["backtests"]) == len(rolled["vanilla"].backtests)
    assert document["refused"]["looped"]["sentence"] == "too few."
    for name, records in {"rolled": rolled, "refused": refused}.items():
        plot_backtest(records, study.points.arms, Sheet(out_paths=[tmp_path / f"{name}.svg"]))
        assert (tmp_path / f"{name}.svg").exists()
