"""Arms at equal training time instead of equal FLOPs: what a compute multiplier is worth on the machine that trained.

An arm that reaches a loss with fewer FLOPs may still take longer, since its steps are smaller or gathered. Between the
sizes trained, seconds per FLOP are a line in ln N.
"""

from dataclasses import dataclass

import polars as pl

from analysis.frontier.study import Study
from analysis.runs.between_sizes import at_size
from analysis.statistics.answers import Estimate
from mor_core.units import budget_label


@dataclass(frozen=True, kw_only=True)
class AtEqualTime:
    """One arm against another at the loss that the other reaches with a budget."""

    arm: str
    """The first arm."""
    other: str
    """The second arm."""
    budget: str
    """FLOPs of the other, an exact decimal integer."""
    seconds_ratio: float
    """Training seconds of the arm's optimum at this budget over those of the other's."""
    multiplier: Estimate
    """The other takes so many times the seconds that the arm needs. The interval is that of the compute multiplier:
    what timings differ by from run to run is not in it."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        return (
            f"{self.arm} against {self.other} at {budget_label(self.budget)} FLOPs, by seconds of training: multiplier "
            f"{self.multiplier.value:.3g} [{self.multiplier.low:.3g}, {self.multiplier.high:.3g}]; at equal FLOPs its "
            f"optimum takes {self.seconds_ratio:.3g} times as long."
        )


def at_equal_time(study: Study, runs: pl.DataFrame) -> list[AtEqualTime]:
    """Every comparison with a compute multiplier whose arms' seconds are known, all measured on one kind of device."""
    columns = {"train_seconds", "device", f"flops_{study.points.budget_convention}"}
    if not columns <= set(runs.columns):
        return []
    timed = runs.filter(pl.col("cell_id").is_in(study.points.frame["cell_id"].to_list()))
    if timed["train_seconds"].null_count() or timed["device"].n_unique() != 1:
        return []
    first = study.settings.approaches[0]
    params = {
        (frontier.arm, budget): params.value
        for frontier in study.frontiers
        if frontier.approach == first
        for budget, params in frontier.estimates("params").items()
    }
    answers = []
    for pair in study.comparisons:
        places = (pair.arm, pair.budget), (pair.other, pair.budget)
        if isinstance(pair.compute, Estimate) and all(place in params for place in places):
            speeds = [_seconds_per_flop(timed, study, arm, params[arm, budget]) for arm, budget in places]
            ratio = speeds[0] / speeds[1]
            multiplier = Estimate(
                value=pair.compute.value / ratio,
                low=pair.compute.low / ratio,
                high=pair.compute.high / ratio,
                level=pair.compute.level,
            )
            answers.append(
                AtEqualTime(
                    arm=pair.arm, other=pair.other, budget=pair.budget, seconds_ratio=ratio, multiplier=multiplier
                )
            )
    return answers


def _seconds_per_flop(runs: pl.DataFrame, study: Study, arm: str, params: float) -> float:
    flops = pl.col(f"flops_{study.points.budget_convention}").cast(pl.Float64)
    return at_size(runs.filter(pl.col("arm") == arm), pl.col("train_seconds").sum() / flops.sum(), params)
