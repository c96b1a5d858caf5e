"""The contour of equal FLOPs of an arm: how many tokens a budget buys at a number of parameters.

FLOPs per token are taken from the runs themselves (budget over tokens), never assumed to be 6N: in small models the
head and attention cost as much as the layers, and a shared or routed layer costs more or less than its parameters say.
`SizeCurve` is any positive quantity as a smooth function of the parameters, from the sizes where it is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.statistics.quadratic import Floats

STRAIGHT = 0.02
"""Spread of ln(quantity / N) up to which the quantity is taken as proportional to N."""
SMOOTH = 0.02
"""Largest misfit of a quadratic in log-log up to which it takes the place of lines between the knots."""
FEWEST_SMOOTHED = 5
"""Knots that leave a quadratic something to smooth."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeCurve:
    """A positive quantity of an arm as a smooth function of its parameters: log-log, slopes at its ends continued.

    Shapes round their widths, so that the knots scatter by a per cent around a smooth curve. Lines between them have a
    corner at each, and minima along them stick to corners; a quadratic through them all has none.
    """

    log_params: Floats
    """(m,) ln N of the knots, ascending."""
    log_value: Floats
    """(m,) ln of the quantity there."""

    @cached_property
    def factor(self) -> float | None:
        """k where the quantity is k N at every size, None where it is not."""
        ratio = self.log_value - self.log_params
        return float(np.exp(ratio.mean())) if np.ptp(ratio) <= STRAIGHT else None

    @cached_property
    def quadratic(self) -> Floats | None:
        """Coefficients of a quadratic in ln N through the knots, the highest power first; None where it misses them."""
        if len(self.log_params) < FEWEST_SMOOTHED:
            return None
        coefficients = np.polyfit(self.log_params, self.log_value, 2)
        return coefficients if self._misfit(coefficients) <= SMOOTH else None

    def _misfit(self, quadratic: Floats) -> float:
        return float(np.abs(np.polyval(quadratic, self.log_params) - self.log_value).max())

    def __call__(self, params: Floats) -> Floats:
        """The quantity at `params` (any shape)."""
        x = np.log(params)
        if self.factor is not None:
            return self.factor * np.exp(x)
        if self.quadratic is not None:
            inside = np.clip(x, self.log_params[0], self.log_params[-1])
            value, slope = np.polyval(self.quadratic, inside), np.polyval(np.polyder(self.quadratic), inside)
            return np.exp(value + slope * (x - inside))
        knots, values = self.log_params, self.log_value
        inside = np.interp(x, knots, values)
        first = (values[1] - values[0]) / (knots[1] - knots[0])
        last = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
        below, above = np.minimum(x - knots[0], 0.0), np.maximum(x - knots[-1], 0.0)
        return np.exp(inside + first * below + last * above)


def size_curve(params_n: Floats, value_n: Floats) -> SizeCurve:
    """The curve through runs (n,); sizes with several runs are averaged."""
    log_params, place = np.unique(np.log(params_n), return_inverse=True)
    mean = np.bincount(place, weights=np.log(value_n)) / np.bincount(place)
    return SizeCurve(log_params=log_params, log_value=mean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contour(SizeCurve):
    """Training FLOPs per token of an arm as a function of its parameters; `factor` is k where FLOPs are k N D."""

    source: str
    """Where the knots come from, for people."""

    @property
    def described(self) -> str:
        """Where it comes from, and what stands between the knots."""
        if self.factor is not None or self.quadratic is None:
            return self.source
        misfit = np.expm1(self._misfit(self.quadratic))
        return f"{self.source}, a quadratic in ln N through them (within {misfit:.1%})"

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
        return self(params)

    def tokens(self, params: Floats, flops: float) -> Floats:
        """D that `flops` buy at `params` (any shape)."""
        return flops / self.flops_per_token(params)


def proportional_contour(params: Sequence[float] | Floats, factor: float = 6.0) -> Contour:
    """C = factor · N · D, over the sizes `params`: for tables whose stated convention is that."""
    log_params = np.unique(np.log(np.asarray(params, dtype=np.float64)))
    return Contour(log_params=log_params, log_value=log_params + np.log(factor), source=f"C = {factor:g} N D")


def contour_of_runs(params: Floats, tokens: Floats, flops: Floats) -> Contour:
    """The contour that the runs lie on; all (n,). Sizes trained at several budgets are averaged."""
    curve = size_curve(params, flops / tokens)
    if curve.factor is not None:
        return proportional_contour(np.exp(curve.log_params), round(curve.factor, 3))
    return Contour(log_params=curve.log_params, log_value=curve.log_value, source="the runs' FLOPs over tokens")
