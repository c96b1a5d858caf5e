"""A law as a sum of parts, each with the derivatives of its logarithm. All that a fit needs is computed from those.

Legend: K laws, n points, P parameters.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from analysis.statistics.quadratic import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One part of the sum, in logarithms; arrays of shapes that broadcast to (K, n)."""

    log_value: Floats
    """ln of the part; -inf where it is nothing."""
    slopes: dict[int, Floats]
    """By parameter, its derivative; parameters that it does not depend on are left out."""
    bends: dict[tuple[int, int], Floats] = field(default_factory=dict)
    """By two parameters, the lower first, its second derivative where it has one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SumOfParts:
    """The law at every point (`analysis.surface.problem.Terms`)."""

    parts: tuple[Part, ...]
    """What it is the sum of."""
    num_parameters: int
    """P."""

    @cached_property
    def _logs(self) -> Floats:
        """(parts, K, n)."""
        return np.stack(np.broadcast_arrays(*(part.log_value for part in self.parts)))

    @cached_property
    def log_loss_kn(self) -> Floats:
        """ln of the law."""
        top = self._logs.max(axis=0)
        return top + np.log(np.exp(self._logs - top).sum(axis=0))

    @cached_property
    def _shares(self) -> Floats:
        """(parts, K, n) of the law."""
        return np.exp(self._logs - self.log_loss_kn)

    def slopes(self) -> Floats:
        """(K, n, P) derivative of ln of the law."""
        slope_pkn = np.zeros((self.num_parameters, *self.log_loss_kn.shape))
        for part, share_kn in zip(self.parts, self._shares, strict=True):
            for index, along in part.slopes.items():
                slope_pkn[index] += share_kn * along
        return np.moveaxis(slope_pkn, 0, 2)

    def curvature(self, psi_kn: Floats) -> Floats:
        """(K, P, P): sum over points of psi · (second derivative of ln of the law + slope slopeᵀ)."""
        out = np.zeros((len(self.log_loss_kn), self.num_parameters, self.num_parameters))
        for part, share_kn in zip(self.parts, self._shares, strict=True):
            weight_kn = psi_kn * share_kn
            for one, along in part.slopes.items():
                for other, across in part.slopes.items():
                    if one <= other:
                        bend = along * across + part.bends.get((one, other), 0.0)
                        out[:, one, other] += np.sum(weight_kn * bend, axis=1)
        lower = np.tril_indices(self.num_parameters, -1)
        out[:, lower[0], lower[1]] = out[:, lower[1], lower[0]]
        return out
