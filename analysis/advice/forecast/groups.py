"""A back-test of runs that lie on no common budgets: a surface of the groups of fewest FLOPs predicts the other groups.

What is predicted is the mean of ln L of a later group's runs, at the N and D of each. Its interval holds the law as
redrawn and the noise of so many runs, nothing for what the law itself may miss: groups lie close together and differ in
their shapes, so that a past error does not say how errors grow with compute.
"""

import numpy as np
import polars as pl

from analysis.advice.forecast.backtest import NO_PAST, BackTest, History, quickly
from analysis.advice.forecast.outlook import SURFACE, OutlookRules
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import interval, normals
from analysis.surface.approach import fit_surface_approach
from analysis.surface.fit import SurfaceFit
from analysis.surface.identifiability import neighbouring
from mor_core.units import counted_text

FEWEST_GROUPS = 2
"""Groups that the first surface is fitted to."""


def group_history(frame: pl.DataFrame, arm: str, rules: OutlookRules) -> History | Refusal:
    """Roll the surface of `arm`, whose points are `frame`, over at most twelve groups of neighbouring FLOPs."""
    # By the FLOPs of each run: a few of such a table may have been given a common budget.
    named = frame.with_columns(pl.Series("budget", [str(round(flops)) for flops in frame["flops"]], dtype=pl.Utf8))
    groups = [named.filter(pl.col("budget").is_in(group)) for group in neighbouring(named["budget"].to_list())]
    if len(groups) <= FEWEST_GROUPS:
        return Refusal(
            kind=RefusalKind.TOO_FEW_BUDGETS,
            sentence=f"its runs make {counted_text(len(groups), 'group')} of FLOPs; a back-test of a "
            f"surface needs {FEWEST_GROUPS + 1}, two to fit and one to predict.",
        )
    backtests, refusals = [], []
    for number in range(FEWEST_GROUPS, len(groups)):
        surface = _surface(pl.concat(groups[:number]), arm, rules)
        if isinstance(surface, Refusal):
            refusals.append(surface)
        else:
            backtests += [_backtest(surface, groups, number, later) for later in range(number, len(groups))]
    return History(past=NO_PAST, backtests=tuple(backtests), over="groups") if backtests else refusals[-1]


def _surface(frame: pl.DataFrame, arm: str, rules: OutlookRules) -> SurfaceFit | Refusal:
    quick = quickly(rules)
    assert quick.surface is not None
    return fit_surface_approach(frame, arm, (), quick.surface, quick.resampling).surface


def _backtest(surface: SurfaceFit, groups: list[pl.DataFrame], fitted: int, later: int) -> BackTest:
    """The group at `later` by a surface of the first `fitted` groups."""
    group, level = groups[later], surface.resampling.level
    params_1n, tokens_1n = (group[name].to_numpy()[None] for name in ("params", "tokens"))
    measured = float(np.exp(np.log(group["loss"].to_numpy()).mean()))
    predicted = float(np.exp(np.log(surface.best.as_law.loss(params_1n, tokens_1n)).mean()))
    law_k = np.exp(np.log(surface.draws.law.loss(params_1n, tokens_1n)).mean(axis=1))
    noise_k = np.exp(_noise(surface, measured, len(group)) * normals(surface.resampling, "group", surface.arm))
    prediction = interval(predicted, law_k * noise_k, level)
    return BackTest(
        arm=surface.arm,
        law=SURFACE,
        quantity="loss",
        fitted=fitted,
        budget=_named(group),
        reach=float(_named(group)) / float(_named(groups[fitted - 1])),
        predicted=prediction,
        measured=interval(measured, measured * noise_k, level),
        ahead=later == fitted,
        error=predicted / measured - 1,
        covered=prediction.low <= measured <= prediction.high,
    )


def _noise(surface: SurfaceFit, loss: float, runs: int) -> float:
    """Standard deviation of the mean of ln L over so many runs of about that loss."""
    of_run = surface.draws.noise if surface.best.problem.residual == "log" else surface.draws.noise / loss
    return of_run / float(np.sqrt(runs))


def _named(group: pl.DataFrame) -> str:
    """The geometric mean of its runs' FLOPs, decimal."""
    return str(round(float(np.exp(np.log(group["flops"].to_numpy()).mean()))))
