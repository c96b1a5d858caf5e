"""The contour of equal FLOPs of an arm: how many tokens a budget buys at a number of parameters.

FLOPs per token are taken from the model shapes where they are known, otherwise from the runs themselves (budget over
tokens), never assumed to be 6N: in small models the head and attention cost as much as the layers, and a shared or
routed layer costs more or less than its parameters say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.quadratic import Floats
from mor_core.config import ModelConfig
from mor_core.flops import Convention, training_flops_per_token, unique_params

STRAIGHT = 0.02
"""Spread of ln(FLOPs / N D) over the runs below which FLOPs are taken as proportional to N D."""
SMOOTH = 0.02
"""Largest misfit of a quadratic to ln(FLOPs per token) up to which it takes the place of lines between the knots."""
FEWEST_SMOOTHED = 5
"""Knots that leave a quadratic something to smooth."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contour:
    """FLOPs per token of an arm as a function of its parameters, in log-log, the slopes at its ends continued.

    Shapes round their widths, so that the knots scatter by a per cent around a smooth curve. Lines between them have a
    corner at each, and minima along them stick to corners; a quadratic through them all has none.
    """

    log_params: Floats
    """(m,) ln N of the knots, ascending."""
    log_flops_per_token: Floats
    """(m,) ln of training FLOPs per token there."""
    source: str
    """Where the knots come from, for people."""

    @cached_property
    def factor(self) -> float | None:
        """k where FLOPs are k N D at every size, None where they are not."""
        ratio = self.log_flops_per_token - self.log_params
        return float(np.exp(ratio.mean())) if np.ptp(ratio) <= STRAIGHT else None

    @cached_property
    def quadratic(self) -> Floats | None:
        """Coefficients of a quadratic in ln N through the knots, the highest power first; None where it misses them."""
        if len(self.log_params) < FEWEST_SMOOTHED:
            return None
        found = np.polyfit(self.log_params, self.log_flops_per_token, 2)
        misfit = np.abs(np.polyval(found, self.log_params) - self.log_flops_per_token).max()
        return found if misfit <= SMOOTH else None

    @property
    def described(self) -> str:
        """Where it comes from, and what stands between the knots."""
        if self.factor is not None or self.quadratic is None:
            return self.source
        misfit = np.abs(np.polyval(self.quadratic, self.log_params) - self.log_flops_per_token).max()
        return f"{self.source}, a quadratic in ln N through them (within {np.expm1(misfit):.1%})"

    @property
    def lowest(self) -> float:
        """Smallest number of parameters with a knot."""
        return float(np.exp(self.log_params[0]))

    @property
    def highest(self) -> float:
        """Largest number of parameters with a knot."""
        return float(np.exp(self.log_params[-1]))

    def flops_per_token(self, params: Floats) -> Floats:
        """Training FLOPs per token at `params` (any shape)."""
        x = np.log(params)
        if self.factor is not None:
            return self.factor * np.exp(x)
        if self.quadratic is not None:
            inside = np.clip(x, self.log_params[0], self.log_params[-1])
            value, slope = np.polyval(self.quadratic, inside), np.polyval(np.polyder(self.quadratic), inside)
            return np.exp(value + slope * (x - inside))
        knots, values = self.log_params, self.log_flops_per_token
        inside = np.interp(x, knots, values)
        first = (values[1] - values[0]) / (knots[1] - knots[0])
        last = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
        below, above = np.minimum(x - knots[0], 0.0), np.maximum(x - knots[-1], 0.0)
        return np.exp(inside + first * below + last * above)

    def tokens(self, params: Floats, flops: float) -> Floats:
        """D that `flops` buy at `params` (any shape)."""
        return flops / self.flops_per_token(params)


def proportional_contour(params: Sequence[float] | Floats, factor: float = 6.0) -> Contour:
    """C = factor · N · D, over the sizes `params`: for tables whose stated convention is that."""
    log_params = np.unique(np.log(np.asarray(params, dtype=np.float64)))
    return Contour(
        log_params=log_params,
        log_flops_per_token=log_params + np.log(factor),
        source=f"C = {factor:g} N D",
    )


def contour_of_runs(params: Floats, tokens: Floats, flops: Floats) -> Contour:
    """The contour that the runs lie on; all (n,). Sizes trained at several budgets are averaged."""
    log_params, place = np.unique(np.log(params), return_inverse=True)
    log_cost = np.log(flops / tokens)
    mean = np.bincount(place, weights=log_cost) / np.bincount(place)
    contour = Contour(log_params=log_params, log_flops_per_token=mean, source="the runs' FLOPs over tokens")
    factor = contour.factor
    return contour if factor is None else proportional_contour(np.exp(log_params), round(factor, 3))


def contour_of_shapes(configs: Sequence[ModelConfig], convention: Convention) -> Contour:
    """The contour of model shapes of one arm, in a FLOP convention of `mor_core.flops`."""
    cost = {unique_params(config): training_flops_per_token(config, convention) for config in configs}
    params = sorted(cost)
    return Contour(
        log_params=np.log(np.array(params, dtype=np.float64)),
        log_flops_per_token=np.log(np.array([float(cost[each]) for each in params])),
        source=f"the shapes' FLOPs, convention {convention}",
    )
