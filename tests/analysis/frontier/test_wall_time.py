import polars as pl
import pytest

from analysis.frontier.study import fit_study
from analysis.frontier.wall_time import at_equal_time


@pytest.fixture
def timed(planted, truths):
    """Two equal arms, of which "mor" trains half as fast, and the slower the larger it is."""
    table = planted(truths["chinchilla"], arms=("mor", "vanilla"), sizes=9, step=0.15, cell_noise=0.001)
    flops = pl.col("budget").cast(pl.Float64)
    slowness = (
        pl.when(pl.col("arm") == "mor").then(2.0).otherwise(1.0) * pl.col("unique_params").cast(pl.Float64).sqrt()
    )
    return table.with_columns(
        flops_6nd=flops, train_seconds=flops / 1e12 * slowness, device=pl.lit("cpu"), budget_convention=pl.lit("6nd")
    )


def test_an_arm_that_trains_half_as_fast_is_worth_half_in_seconds(timed):
    study = fit_study(timed)
    answers = at_equal_time(study, timed)
    assert [answer.budget for answer in answers] == [pair.budget for pair in study.comparisons]
    for answer, pair in zip(answers, study.comparisons, strict=True):
        assert answer.seconds_ratio == pytest.approx(2, rel=0.1)
        assert answer.multiplier.value == pytest.approx(pair.compute.value / answer.seconds_ratio)
        assert answer.multiplier.low < answer.multiplier.value < answer.multiplier.high
        assert "times as long" in answer.sentence


@pytest.mark.parametrize("unknown", ["seconds of a cell", "the column", "two devices"])
def test_nothing_is_said_of_time_that_is_not_known(timed, unknown):
    first = pl.int_range(pl.len()) == 0
    table = {
        "seconds of a cell": timed.with_columns(train_seconds=pl.when(first).then(None).otherwise("train_seconds")),
        "the column": timed.drop("train_seconds"),
        "two devices": timed.with_columns(device=pl.when(first).then(pl.lit("cuda")).otherwise("device")),
    }[unknown]
    assert at_equal_time(fit_study(timed), table) == []
