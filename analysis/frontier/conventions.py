"""What an optimum costs when its FLOPs are counted in another way.

Arms are compared at equal FLOPs of one convention. Another convention weighs the LM head, the attention or a shared
layer differently for each arm, so equal budgets here are unequal ones there, and a small gap can change its sign.
"""

from dataclasses import dataclass

import polars as pl

from analysis.frontier.study import Study
from analysis.runs.between_sizes import at_size
from mor_core.units import budget_label, short_power

PREFIX = "flops_"
"""Columns of a run table that hold a run's FLOPs in a convention."""


@dataclass(frozen=True, kw_only=True)
class Recount:
    """One optimum, counted in another convention."""

    arm: str
    """The architecture."""
    approach: str
    """What found the optimum."""
    budget: str
    """FLOPs in the study's own convention, an exact decimal integer."""
    convention: str
    """The other one."""
    flops: float
    """Training FLOPs of the optimum in it."""


def recount(study: Study, runs: pl.DataFrame) -> list[Recount]:
    """Every supported optimum in every other convention that the run table has; by convention, budget and arm.

    Between the sizes trained, the ratio of the conventions is a line in ln N.
    """
    own_column = PREFIX + study.points.budget_convention
    if own_column not in runs.columns:
        return []
    others = [column for column in runs.columns if column.startswith(PREFIX) and column != own_column]
    recounts = [
        Recount(
            arm=frontier.arm,
            approach=frontier.approach,
            budget=budget,
            convention=column.removeprefix(PREFIX),
            flops=float(budget) * _ratio(runs, frontier.arm, column, own_column, params.value),
        )
        for frontier in study.frontiers
        for budget, params in frontier.estimates("params").items()
        for column in others
    ]
    return sorted(
        recounts, key=lambda recount: (recount.convention, recount.approach, int(recount.budget), recount.arm)
    )


def _ratio(runs: pl.DataFrame, arm: str, column: str, own_column: str, params: float) -> float:
    """FLOPs in `column` over those in `own_column` of a model of `params`."""
    ratio = pl.col(column).cast(pl.Float64) / pl.col(own_column).cast(pl.Float64)
    return at_size(runs.filter(pl.col("arm") == arm), ratio.mean(), params)


def recount_lines(recounts: list[Recount]) -> list[str]:
    """For each convention and budget: what each arm's optimum costs there, the least first, over the least."""
    groups: dict[tuple[str, str, str], list[Recount]] = {}
    for recount in recounts:
        groups.setdefault((recount.convention, recount.approach, recount.budget), []).append(recount)
    lines = []
    for (convention, approach, budget), members in groups.items():
        if len(members) < 2:
            continue
        least, *rest = sorted(members, key=lambda recount: recount.flops)
        parts = [f"{least.arm} {short_power(least.flops)}"]
        parts += [
            f"{recount.arm} {short_power(recount.flops)} ({recount.flops / least.flops - 1:+.1%})" for recount in rest
        ]
        lines.append(
            f"the optima at {budget_label(budget)} ({approach}) cost in {convention} FLOPs: {', '.join(parts)}"
        )
    return lines
