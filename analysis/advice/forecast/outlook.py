"""What each approach says of an arm at any budget: surfaces, and laws through the minima.

- `surface`: the optimum of L(N, D) on the contour of equal FLOPs.
- `minima-free`, `minima-pinned`, `minima-power`: N* = k C^a, D* = k C^b, and L* with an asymptote that is fitted,
  that of the surface (or the user's), or none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.isoflop.approach import IsoflopFit, fit_isoflops
from analysis.isoflop.parabola import Parabola, ParabolaRules
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.approach import QUANTITIES, SampledOptimum
from analysis.statistics.asymptotic_law import Asymptote, AsymptoticLaw, fit_asymptotic_law
from analysis.statistics.bootstrap import Resampling, Sample
from analysis.statistics.power_law import FittedPowerLaw, fit_power_law
from analysis.surface.approach import fit_surface_approach, surface_optimum
from analysis.surface.fit import SurfaceFit
from analysis.surface.optimum import SurfaceRules

SURFACE = "surface"
OF_MINIMA: dict[str, Asymptote] = {"minima-free": "free", "minima-pinned": "pinned", "minima-power": "absent"}
APPROACHES = (SURFACE, *OF_MINIMA)
MINIMA = "minima"
"""N*(C) and D*(C) through the minima, which the laws of L* have in common."""


def law_name(approach: str, quantity: str) -> str:
    """What the law of a quantity is called: laws through the minima differ in the loss alone."""
    return approach if quantity == "loss" or approach not in OF_MINIMA else MINIMA


@dataclass(frozen=True, kw_only=True)
class OutlookRules:
    """What an outlook depends on besides the points."""

    parabola: ParabolaRules
    """When a parabola is believed."""
    surface: SurfaceRules | None
    """How a surface is fitted; None for the laws through the minima alone, which take no time."""
    resampling: Resampling
    """How intervals are drawn."""
    asymptote: float | None = None
    """Where the asymptote is pinned; None takes the surface's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MinimaOutlook:
    """Laws through the minima of the budgets."""

    params: FittedPowerLaw | Refusal
    """N*(C)."""
    tokens: FittedPowerLaw | Refusal
    """D*(C)."""
    loss: AsymptoticLaw | Refusal
    """L*(C)."""
    curvature: float
    """Of the loss about its minimum, nats/token per squared natural logarithm of N: the mean of the parabolas'."""

    def optimum(self, budget: str) -> SampledOptimum:
        """N*, D* and L* at `budget` (decimal FLOPs)."""
        params, tokens = (
            law if isinstance(law, Refusal) else _of_power_law(law, budget) for law in (self.params, self.tokens)
        )
        loss = self.loss if isinstance(self.loss, Refusal) else self.loss.loss(float(budget))
        return SampledOptimum(budget=budget, params=params, tokens=tokens, loss=loss)


Outlook = MinimaOutlook | SurfaceFit


def optimum_at(outlook: Outlook, budget: str, *, forced: bool = False) -> SampledOptimum:
    """N*, D* and L* at `budget` (decimal FLOPs); `forced`: by a surface that is doubted too."""
    if isinstance(outlook, SurfaceFit):
        return surface_optimum(outlook, budget, forced=forced)
    return outlook.optimum(budget)


def outlooks(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: OutlookRules
) -> dict[str, Outlook | Refusal]:
    """Approach -> what it says of `arm`, whose points are `frame`, fitted to `budgets` (decimal FLOPs, ascending)."""
    minima = fit_isoflops(frame, arm, budgets, rules.parabola, rules.resampling)
    if rules.surface is None:
        unasked = Refusal(kind=RefusalKind.NOT_IDENTIFIED, sentence="none was asked for.")
        return minima_outlooks(minima, _pinned(unasked, rules), rules.resampling.level)
    surface = fit_surface_approach(frame, arm, (), rules.surface, rules.resampling).surface
    return {SURFACE: surface} | minima_outlooks(minima, _pinned(surface, rules), rules.resampling.level)


def minima_outlooks(fit: IsoflopFit, pinned: Sample | Refusal, level: float) -> dict[str, Outlook | Refusal]:
    """Approach -> the laws through the minima of an arm."""
    samples = samples_of(fit)
    params, tokens = (fit_power_law(samples[name], level, fewest=2) for name in ("params", "tokens"))
    bends = [isoflop.params.curvature for isoflop in fit.isoflops if isinstance(isoflop.params, Parabola)]
    return {
        approach: MinimaOutlook(
            params=params,
            tokens=tokens,
            loss=_loss_law(samples["loss"], asymptote, level, pinned),
            curvature=float(np.mean(bends)) if bends else float("nan"),
        )
        for approach, asymptote in OF_MINIMA.items()
    }


def samples_of(fit: IsoflopFit) -> dict[str, dict[str, Sample]]:
    """Quantity -> budget -> its minimum, where there is one."""
    return {quantity: fit.samples(quantity) for quantity in QUANTITIES}


def _loss_law(
    minima: Mapping[str, Sample], asymptote: Asymptote, level: float, pinned: Sample | Refusal
) -> AsymptoticLaw | Refusal:
    if asymptote != "pinned":
        return fit_asymptotic_law(dict(minima), asymptote, level)
    if isinstance(pinned, Refusal):
        return pinned
    return fit_asymptotic_law(dict(minima), asymptote, level, pinned)


def _pinned(surface: SurfaceFit | Refusal, rules: OutlookRules) -> Sample | Refusal:
    """E of the user's, or of the surface."""
    level, draws = rules.resampling.level, rules.resampling.draws
    if rules.asymptote is not None:
        fixed = Estimate(value=rules.asymptote, low=rules.asymptote, high=rules.asymptote, level=level)
        return Sample(estimate=fixed, draws=np.full(draws, rules.asymptote))
    if isinstance(surface, Refusal):
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED, sentence=f"there is no surface to pin the asymptote by: {surface.sentence}"
        )
    return Sample(estimate=surface.parameters["E"], draws=surface.draws.law.E)


def _of_power_law(law: FittedPowerLaw, budget: str) -> Sample:
    draws = np.exp(law.draws_k2[:, 0] + law.draws_k2[:, 1] * (np.log(float(budget)) - law.centre))
    return Sample(estimate=law.predict(float(budget)), draws=draws)
