"""The contour of equal FLOPs of an arm: how many tokens a budget buys at a number of parameters.

FLOPs per token are taken from the model shapes where they are known, otherwise from the runs themselves (budget over
tokens), never assumed to be 6N: in small models the head and attention cost as much as the layers, and a shared or
routed layer costs more or less than its parameters say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.statistics.quadratic import Floats
from analysis.surface.size_curve import SizeCurve, size_curve
from mor_core.config import ModelConfig
from mor_core.flops import Convention, training_flops_per_token, unique_params


@dataclass(frozen=True, kw_only=True, eq=False)
class Contour:
    """FLOPs per token of an arm as a function of its parameters (see `analysis.surface.size_curve`)."""

    log_params: Floats
    """(m,) ln N of the knots, ascending."""
    log_flops_per_token: Floats
    """(m,) ln of training FLOPs per token there."""
    source: str
    """Where the knots come from, for people."""

    @cached_property
    def _curve(self) -> SizeCurve:
        return SizeCurve(log_params=self.log_params, log_value=self.log_flops_per_token)

    @property
    def factor(self) -> float | None:
        """k where FLOPs are k N D at every size, None where they are not."""
        return self._curve.factor

    @property
    def described(self) -> str:
        """Where it comes from, and what stands between the knots."""
        misfit = self._curve.smoothed_by
        if misfit is None:
            return self.source
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
        return self._curve(params)

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
    curve = size_curve(params, flops / tokens)
    contour = Contour(
        log_params=curve.log_params, log_flops_per_token=curve.log_value, source="the runs' FLOPs over tokens"
    )
    factor = contour.factor
    return contour if factor is None else proportional_contour(np.exp(curve.log_params), round(factor, 3))


def contour_of_shapes(configs: Sequence[ModelConfig], convention: Convention) -> Contour:
    """The contour of model shapes of one arm, in a FLOP convention of `mor_core.flops`."""
    cost = {unique_params(config): training_flops_per_token(config, convention) for config in configs}
    params = sorted(cost)
    return Contour(
        log_params=np.log(np.array(params, dtype=np.float64)),
        log_flops_per_token=np.log(np.array([float(cost[each]) for each in params])),
        source=f"the shapes' FLOPs, convention {convention}",
    )
