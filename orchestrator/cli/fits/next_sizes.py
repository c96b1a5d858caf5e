"""Where a fit was refused for want of sizes: which base shapes to train next. Pure."""

from collections.abc import Sequence

import polars as pl

from analysis.frontier.study import Frontier, Study
from analysis.statistics.answers import Refusal, RefusalKind
from mor_core.units import budget_text
from orchestrator.planning.ladder import LADDERS

BEYOND_AN_END = 2
"""Rungs to add where the lowest loss is at the last one: a minimum wants two sizes on either side."""

WANTED = 6
"""Sizes a budget that give a parabola some room for noise."""


def next_sizes(study: Study, runs: pl.DataFrame) -> list[str]:
    """A sentence for each arm and list of sizes, where N* was refused for its sizes and the ladder has others.

    `runs` is the run table that the study was fitted from.
    """
    budgets: dict[tuple[str, str], list[str]] = {}
    for frontier in study.frontiers:
        for budget, kind in _refused_for_sizes(frontier):
            mine = runs.filter((pl.col("arm") == frontier.arm) & (pl.col("budget") == budget))
            rungs = _rungs_to_add(mine, study.settings.loss_column, kind)
            if rungs:
                budgets.setdefault((frontier.arm, ",".join(rungs)), []).append(budget_text(int(budget)))
    return [f"{arm} at {', '.join(at)}: next sizes to try: --sizes {rungs}" for (arm, rungs), at in budgets.items()]


def _refused_for_sizes(frontier: Frontier) -> list[tuple[str, RefusalKind]]:
    kinds = (RefusalKind.MINIMUM_AT_EDGE, RefusalKind.TOO_FEW_SIZES)
    refused = [(each.budget, each.params) for each in frontier.optima if isinstance(each.params, Refusal)]
    return [(budget, refusal.kind) for budget, refusal in refused if refusal.kind in kinds]


def _rungs_to_add(cells: pl.DataFrame, loss_column: str, kind: RefusalKind) -> list[str]:
    """Names of untried rungs: beyond the end where the loss is lowest, or the nearest around those tried."""
    tried = cells["size"].unique().to_list()
    ladder = next((names for names in _ladders() if set(tried) <= set(names)), [])
    if not ladder:
        return []
    places = sorted(ladder.index(name) for name in tried)
    below, above = ladder[: places[0]], ladder[places[-1] + 1 :]
    if kind is RefusalKind.TOO_FEW_SIZES:
        return _nearest(ladder, places, WANTED - len(places))
    finished = cells.drop_nulls(loss_column).group_by("size").agg(pl.col(loss_column).mean())
    best = ladder.index(finished.sort(loss_column)["size"][0])
    if best == places[0]:
        return below[-BEYOND_AN_END:]
    return above[:BEYOND_AN_END] if best == places[-1] else []


def _ladders() -> list[list[str]]:
    return [[size.name for size in ladder] for ladder in LADDERS.values()]


def _nearest(ladder: Sequence[str], places: Sequence[int], count: int) -> list[str]:
    """The untried rungs nearest to the middle of those tried, in the ladder's order."""
    middle = sum(places) / len(places)
    untried = [place for place in range(len(ladder)) if place not in places]
    return [ladder[place] for place in sorted(sorted(untried, key=lambda place: abs(place - middle))[: max(0, count)])]
