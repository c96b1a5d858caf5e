"""The cheapest model over its lifetime: in FLOPs, and in bytes moved from limited memory."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize_scalar

from analysis.advice.lifetime import Lifetime, lifetime_optimum, lifetime_study, verdicts
from analysis.advice.serving import Demand, DemandError, ServedArm, decoding, served_arms
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.lifetimes import lifetime_notes, tabulate_lifetime
from analysis.report.tables import Format
from analysis.runs.points import TableError
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from mor_core.errors import UserError
from mor_core.units import short_power

SETTINGS = FitSettings(approaches=("surface",), resampling=Resampling(draws=300))
KV_PER_PARAM = 0.01
CONTEXT, KV_BYTES, NUMBER = 1000.0, 4e9, 2.0


@pytest.fixture(scope="module")
def study(planted, truths):
    return fit_study(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004), SETTINGS)


def arms_of(study, *, depth=1.0, recursions=1):
    """Weights = N (a block of half of it, passed as often as `depth`), keys and values = N / 100 a token of context."""
    params = study.points.frame["params"].unique().sort()
    runs = pl.DataFrame(
        {
            "arm": ["vanilla"] * len(params), "unique_params": params, "total_params": params,
            "unrolled_params": params * (1 + 0.5 * (recursions - 1)), "recursions": [recursions] * len(params),
            "depth_mean": [depth] * len(params), "kv_numbers_kept": params * KV_PER_PARAM * depth,
            "kv_numbers_read": params * KV_PER_PARAM * depth,
        }
    )  # fmt: skip
    return served_arms(runs, with_memory=True)


def bytes_demand(served, **changes):
    wanted = {"context": CONTEXT, "kv_cache_bytes": KV_BYTES, "bytes_per_number": NUMBER, "per": "bytes"}
    return Demand(tokens=served, **(wanted | changes))


def test_the_longer_a_model_serves_the_smaller_it_should_be(study, truths):
    truth = truths["chinchilla"]
    surface = study.frontiers[0].surface
    target = 8.0
    served = (0.0, 1e8, 1e9)
    answers = [lifetime_optimum(surface, target, Demand(tokens=tokens), "6nd") for tokens in served]
    assert all(isinstance(each, Lifetime) for each in answers)
    sizes = [each.params.value for each in answers]
    assert all(each.params.low < each.params.value < each.params.high for each in answers)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.7 * sizes[0]
    for each, tokens in zip(answers, served, strict=True):
        assert truth.loss(each.params.value, each.tokens.value) == pytest.approx(target, rel=5e-3)
        assert each.total.value == pytest.approx(each.training.value + each.serving.value)
        assert each.serving.value == pytest.approx(2 * each.params.value * tokens, rel=1e-2)
        # No other size reaches the target for less.
        others = each.params.value * np.exp(np.linspace(-1, 1, 41))
        left = target - surface.law.E - surface.law.A / others**surface.law.alpha
        others, left = others[left > 0], left[left > 0]
        data = (surface.law.B / left) ** (1 / surface.law.beta)
        assert each.total.value <= (6 * others * data + 2 * others * tokens).min() * 1.001


def test_nothing_served_is_the_compute_optimum(study):
    surface = study.frontiers[0].surface
    answer = lifetime_optimum(surface, 8.0, Demand(tokens=0.0), "6nd")
    assert surface.law.n_opt(answer.training.value, surface.contour) == pytest.approx(answer.params.value, rel=0.1)


def test_a_loss_below_the_asymptote_is_refused(study):
    surface = study.frontiers[0].surface
    answer = lifetime_optimum(surface, surface.law.E * 0.9, Demand(tokens=1e9), "6nd")
    assert isinstance(answer, Refusal)
    assert answer.kind is RefusalKind.EXTRAPOLATION


def test_bytes_moved_are_least_where_a_hand_made_sum_is(study):
    """Per token served: b N / S of weights with S = M / (b k N T) sequences, and b k N T of keys and values."""
    surface, served, target = study.frontiers[0].surface, 1e6, 8.0
    answer = lifetime_optimum(surface, target, bytes_demand(served), "6nd", arms_of(study)["vanilla"])
    law = surface.law

    def total(log_n):
        n = np.exp(log_n)
        data = (law.B / (target - law.E - law.A / n**law.alpha)) ** (1 / law.beta)
        kv = NUMBER * KV_PER_PARAM * n * CONTEXT
        sequences = KV_BYTES / kv
        return 6 * n * data / 295 + served * (NUMBER * n / sequences + kv)

    smallest = (law.A / (target - law.E)) ** (1 / law.alpha)
    found = minimize_scalar(total, bounds=(np.log(smallest * 1.01), np.log(smallest) + 6), method="bounded")
    n = float(np.exp(found.x))
    assert answer.params.value == pytest.approx(n, rel=5e-3)
    assert answer.total.value == pytest.approx(float(found.fun), rel=1e-3)
    assert answer.sequences == pytest.approx(KV_BYTES / (NUMBER * KV_PER_PARAM * n * CONTEXT), rel=1e-2)
    assert answer.kv_bytes == pytest.approx(NUMBER * KV_PER_PARAM * n * CONTEXT, rel=1e-2)
    assert answer.weight_bytes == pytest.approx(NUMBER * n / answer.sequences, rel=1e-2)
    assert answer.total.low < answer.total.value < answer.total.high


def test_a_number_can_be_counted_by_hand():
    """1000 numbers of weights, 100 of them in a block passed 1.5 times; 10 numbers of keys and values a token."""
    sizes = [1000.0, 2000.0, 4000.0]
    runs = pl.DataFrame(
        {
            "arm": ["mor-2"] * 3, "unique_params": sizes, "total_params": sizes,
            "unrolled_params": [1.1 * each for each in sizes], "recursions": [2] * 3, "depth_mean": [1.5] * 3,
            "kv_numbers_kept": [each / 100 for each in sizes], "kv_numbers_read": [each / 125 for each in sizes],
        }
    )  # fmt: skip
    (arm,) = served_arms(runs, with_memory=True).values()
    alone = decoding(arm, Demand(tokens=1, context=50, kv_cache_bytes=20_000), np.array([1000.0]))
    assert alone.sequences == pytest.approx([20_000 / (2 * 10 * 50)])
    assert alone.weight_bytes == pytest.approx([2 * 1050 / 20])
    assert alone.kv_bytes == pytest.approx([2 * 8 * 50])
    beside = decoding(arm, Demand(tokens=1, context=50, memory_bytes=20_000), np.array([1000.0]))
    assert beside.sequences == pytest.approx([(20_000 - 2 * 1000) / (2 * 10 * 50)])
    assert decoding(arm, Demand(tokens=1), np.array([1000.0])) is None


def test_a_shallower_depth_moves_fewer_bytes(study):
    surface = study.frontiers[0].surface
    deep, shallow = (
        lifetime_optimum(surface, 8.0, bytes_demand(1e6), "6nd", arms_of(study, depth=depth, recursions=2)["vanilla"])
        for depth in (2.0, 1.4)
    )
    assert shallow.total.value < deep.total.value
    assert shallow.sequences > deep.sequences


def test_less_memory_serves_fewer_sequences_with_more_bytes_a_token(study):
    surface, arm = study.frontiers[0].surface, arms_of(study)["vanilla"]
    wide, narrow = (
        lifetime_optimum(surface, 8.0, bytes_demand(1e6, kv_cache_bytes=size), "6nd", arm) for size in (4e9, 4e8)
    )
    assert narrow.sequences < wide.sequences
    assert narrow.total.value > wide.total.value


def test_memory_limits_models_also_where_flops_are_counted(study):
    surface, arm = study.frontiers[0].surface, arms_of(study)["vanilla"]
    free = lifetime_optimum(surface, 8.0, Demand(tokens=1e6), "6nd", arm)
    room = 0.5 * NUMBER * KV_PER_PARAM * free.params.value * CONTEXT
    tight = lifetime_optimum(surface, 8.0, bytes_demand(1e6, per="flops", kv_cache_bytes=room), "6nd", arm)
    assert tight.params.value == pytest.approx(free.params.value / 2, rel=0.05)
    assert tight.sequences == pytest.approx(1.0, rel=0.05)
    assert tight.total.value > free.total.value


def test_memory_for_no_sequence_at_any_size_is_refused(study):
    surface, arm = study.frontiers[0].surface, arms_of(study)["vanilla"]
    answer = lifetime_optimum(surface, 8.0, bytes_demand(1e9, kv_cache_bytes=1.0), "6nd", arm)
    assert isinstance(answer, Refusal)
    assert "not one sequence of 1000 tokens" in answer.sentence


def test_an_arm_whose_memory_the_table_does_not_say_is_refused(study):
    answer = lifetime_study(study, 8.0, bytes_demand(1e6))["vanilla"]
    assert isinstance(answer, Refusal)
    assert "keys and values" in answer.sentence


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"per": "bytes"}, "memory"),
        ({"kv_cache_bytes": 1e9}, "context"),
        ({"kv_cache_bytes": 1e9, "memory_bytes": 1e9, "context": 10}, "one of them"),
        ({"kv_cache_bytes": -1.0, "context": 10}, "above 0"),
        ({"tokens": float("nan")}, "from 0"),
        ({"tokens": -5.0}, "from 0"),
        ({"flops_per_byte": 0.0}, "above 0"),
    ],
)
def test_a_demand_that_cannot_be_met_is_a_usage_error(given, said):
    with pytest.raises(DemandError, match=said):
        Demand(**({"tokens": 1e9} | given))
    assert issubclass(DemandError, UserError)


def test_a_table_that_does_not_say_what_memory_holds_is_named(study):
    runs = pl.DataFrame({"arm": ["vanilla"], "unique_params": [1.0]})
    with pytest.raises(TableError, match="kv_numbers_kept"):
        served_arms(runs, with_memory=True)


def test_the_cheapest_arm_is_named_with_an_interval_on_what_the_others_cost(planted, truths):
    truth = truths["chinchilla"]
    table = planted(truth, arms=("mor-2", "vanilla"), sizes=9, step=0.2, cell_noise=0.003, arm_gap=0.3)
    study = fit_study(table, SETTINGS)
    answers = lifetime_study(study, 8.0, Demand(tokens=1e8))
    (verdict,) = verdicts(answers)
    assert verdict.least != verdict.arm
    assert verdict.ratio.value == pytest.approx(answers[verdict.arm].total.value / answers[verdict.least].total.value)
    assert 1.0 < verdict.ratio.low < verdict.ratio.value < verdict.ratio.high
    alike = replace(verdict, ratio=replace(verdict.ratio, low=0.9))
    assert "no difference seen" in alike.sentence


def test_the_formats_of_a_lifetime_hold_the_same_numbers(study):
    demand = bytes_demand(1e6)
    answers = lifetime_study(study, 8.0, demand, arms_of(study))
    answers["other"] = Refusal(kind=RefusalKind.TOO_FEW_POINTS, sentence="too few.")
    total = answers["vanilla"].total.value
    (row, refused) = csv.DictReader(io.StringIO(tabulate_lifetime(answers, 8.0, demand, Format.csv)))
    assert float(row["total"]) == total
    assert refused["refusal"] == "too-few-points"
    document = json.loads(tabulate_lifetime(answers, 8.0, demand, Format.json))
    assert document["data"]["arms"]["vanilla"]["total"]["value"] == total
    assert document["data"]["demand"]["kv_cache_bytes"] == KV_BYTES
    for form in (Format.markdown, Format.latex):
        assert short_power(total) in tabulate_lifetime(answers, 8.0, demand, form)
    assert "other: refused: too few." in lifetime_notes(answers)


def test_what_a_served_token_costs_follows_the_depth_that_was_realised(study):
    rows = [("mor-2", 1000.0, ratio * 1000 / 3) for ratio in (0.7, 0.8, 0.9)] + [("vanilla", 1000.0, 1000 / 3)]
    runs = pl.DataFrame(
        [
            {"arm": arm, "flops_exact": f"{10 * flops:.0f}", "tokens": 10, "forward_flops_per_token": realised}
            for arm, flops, realised in rows
        ]
    )
    arms = served_arms(runs)
    assert {arm: each.flops_ratio for arm, each in arms.items()} == pytest.approx({"mor-2": 0.8, "vanilla": 1.0})
    assert served_arms(runs.select("arm")) == {}
    surface = study.frontiers[0].surface
    target = surface.law.l_opt(1e13, surface.contour)
    shallow, planned = (
        lifetime_optimum(surface, target, Demand(tokens=1e9), "exact", ServedArm(flops_ratio=ratio))
        for ratio in (0.8, 1.0)
    )
    fewer = lifetime_optimum(surface, target, Demand(tokens=0.8e9), "exact")
    assert shallow.total.value == pytest.approx(fewer.total.value)
    assert shallow.total.value < planned.total.value


def fine_solution(surface, target, served):
    """(N, D) of least training and serving FLOPs, over the share of the loss above E that is left to D."""
    law = surface.law

    def shape(t):
        share = 1 / (1 + np.exp(-t))
        rest = target - law.E
        return (law.A / ((1 - share) * rest)) ** (1 / law.alpha), (law.B / (share * rest)) ** (1 / law.beta)

    def total(t):
        n, d = shape(t)
        return float(np.log(surface.contour.flops_per_token(np.array([n]))[0] * (d + served / 3)))

    coarse = np.linspace(-20, 5, 2001)
    start = coarse[np.argmin([total(t) for t in coarse])]
    bounds = (start - 0.02, start + 0.02)
    return shape(minimize_scalar(total, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)


def test_next_to_the_smallest_model_that_reaches_a_loss_the_answer_is_that_of_a_fine_search(study):
    surface, target = study.frontiers[0].surface, 8.0
    served = np.geomspace(1e8, 1e15, 15)
    answers = [lifetime_optimum(surface, target, Demand(tokens=tokens), "6nd", forced=True) for tokens in served]
    for answer, tokens in zip(answers, served, strict=True):
        params, data = fine_solution(surface, target, tokens)
        assert answer.params.value == pytest.approx(params, rel=1e-4)
        assert answer.tokens.value == pytest.approx(data, rel=1e-3)
    # Served tokens are a geometric series, and ln D nears a straight line in their logarithm: without a kink.
    steps = np.diff(np.log([answer.tokens.value for answer in answers]))
    assert np.all(np.diff(steps) > 0)
    assert np.all(np.diff(steps, n=2) < 0)
    assert len({answer.params.high for answer in answers}) == len(answers)
