"""What an optimum costs when its FLOPs are counted in another way.

Arms are compared at equal FLOPs of one convention. Another convention weighs the LM head, the attention or a shared
layer differently for each arm, so equal budgets here are unequal ones there, and a small gap can change its sign.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.frontier.study import Study
from analysis.statistics.answers import Estimate
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
    own = PREFIX + study.points.budget_convention
    if own not in runs.columns:
        return []
    others = [column for column in runs.columns if column.startswith(PREFIX) and column != own]
    found = []
    for frontier in study.frontiers:
        cells = runs.filter(pl.col("arm") == frontier.arm).with_columns(
            pl.col([own, *others]).cast(pl.Float64), pl.col("unique_params").cast(pl.Float64)
        )
        for optimum in frontier.optima:
            if not isinstance(optimum.params, Estimate):
                continue
            for other in others:
                ratio = _ratio(cells, own, other, optimum.params.value)
                found.append(
                    Recount(
                        arm=frontier.arm,
                        approach=frontier.approach,
                        budget=optimum.budget,
                        convention=other.removeprefix(PREFIX),
                        flops=float(optimum.budget) * ratio,
                    )
                )
    return sorted(found, key=lambda each: (each.convention, each.approach, int(each.budget), each.arm))


def _ratio(cells: pl.DataFrame, own: str, other: str, params: float) -> float:
    """FLOPs in `other` over those in `own` of a model of `params`."""
    sizes = cells.group_by("unique_params").agg((pl.col(other) / pl.col(own)).mean().alias("ratio"))
    sizes = sizes.sort("unique_params")
    return float(np.interp(np.log(params), np.log(sizes["unique_params"].to_numpy()), sizes["ratio"].to_numpy()))


def recount_lines(recounts: list[Recount]) -> list[str]:
    """For each convention and budget: what each arm's optimum costs there, the least first, over the least."""
    groups: dict[tuple[str, str, str], list[Recount]] = {}
    for each in recounts:
        groups.setdefault((each.convention, each.approach, each.budget), []).append(each)
    lines = []
    for (convention, approach, budget), members in groups.items():
        if len(members) < 2:
            continue
        least, *rest = sorted(members, key=lambda each: each.flops)
        parts = [f"{least.arm} {short_power(least.flops)}"]
        parts += [f"{each.arm} {short_power(each.flops)} ({each.flops / least.flops - 1:+.1%})" for each in rest]
        lines.append(
            f"the optima at {budget_label(budget)} ({approach}) cost in {convention} FLOPs: {', '.join(parts)}"
        )
    return lines
