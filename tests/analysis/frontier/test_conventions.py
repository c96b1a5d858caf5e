import math

import polars as pl
import pytest

from analysis.frontier.conventions import recount, recount_lines
from analysis.frontier.study import fit_study
from analysis.statistics.answers import Estimate
from tests.helpers.runs.planted_runs import Bowl, planted_table

ARMS = ("mor-2", "vanilla")


@pytest.fixture(scope="module")
def counted() -> pl.DataFrame:
    """A planted study in exact FLOPs; the other convention leaves out a share that falls with size, and routing."""
    runs = planted_table(Bowl(), arms=ARMS, arm_gap=0.05, seeds=2, cell_noise=0.002)
    routing = pl.when(pl.col("arm") == "mor-2").then(0.9).otherwise(1.0)
    share = routing * (0.5 + 0.04 * pl.col("unique_params").log())
    return runs.with_columns(
        flops_exact=pl.col("budget"), flops_paper=(pl.col("budget").cast(pl.Float64) * share).round().cast(pl.String)
    )


def test_an_optimum_is_counted_as_the_runs_around_it_are(counted):
    study = fit_study(counted)
    recounts = recount(study, counted)
    assert {each.convention for each in recounts} == {"paper"}
    by_place = {(each.arm, each.approach, each.budget): each.flops for each in recounts}
    checked = 0
    for frontier in study.frontiers:
        for optimum in frontier.optima:
            if isinstance(optimum.params, Estimate):
                share = (0.9 if frontier.arm == "mor-2" else 1.0) * (0.5 + 0.04 * math.log(optimum.params.value))
                flops = by_place[frontier.arm, frontier.approach, optimum.budget]
                assert flops == pytest.approx(share * float(optimum.budget), rel=0.002)
                checked += 1
    assert checked == len(recounts) >= 8


def test_the_lines_say_which_arm_costs_less_there_and_by_how_much(counted):
    lines = recount_lines(recount(fit_study(counted), counted))
    assert lines
    for line in lines:
        assert "in paper FLOPs: mor-2" in line
        assert "vanilla" in line.partition("mor-2")[2]


def test_a_table_with_one_convention_has_nothing_to_recount(counted):
    runs = counted.drop("flops_paper")
    assert recount(fit_study(runs), runs) == []
    assert recount(fit_study(runs), runs.drop("flops_exact")) == []
