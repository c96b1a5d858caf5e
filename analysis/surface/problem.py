"""The optimisation problem of a fit: the runs, the law with its derivatives at them, and the robust sum to minimise.

A law is a sum of parts, each with the derivatives of its logarithm: all that a fit needs is computed from those. A law
with more to it than L = E + A / N^α + B / D^β brings points of its own, which extend `SurfacePoints`; search, profiles
and redrawn studies are the same.

Legend: K fits side by side, n points, P parameters (`analysis.surface.law`).
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.quadratic import Floats
from analysis.surface.law import (
    ALPHA,
    BETA,
    LARGEST_LOG_LOSS,
    NUM_BASE,
    A,
    B,
    Constant,
    E,
    Residual,
    constants_along,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One part of the sum, in logarithms; arrays of shapes that broadcast to (K, n)."""

    log_value: Floats
    """ln of the part; -inf where it is nothing."""
    slopes: dict[int, Floats]
    """By parameter, its derivative; parameters that it does not depend on are left out."""
    bends: dict[tuple[int, int], Floats] = field(default_factory=dict)
    """By two parameters, the lower first, its second derivative where it has one."""


def power_part(theta_kp: Floats, top: int, power: int, x: Floats) -> Part:
    """a - α x or b - β x, for x = ln N - ln N₀ or ln D - ln D₀; `top` and `power` are the places in θ."""
    return Part(
        log_value=theta_kp[:, top, None] - theta_kp[:, power, None] * x, slopes={top: np.ones((1, 1)), power: -x}
    )


def floor_part(theta_kp: Floats) -> Part:
    """E."""
    return Part(log_value=theta_kp[:, E, None], slopes={E: np.ones((1, 1))})


@dataclass(frozen=True, kw_only=True, eq=False)
class SumOfParts:
    """The law at every point."""

    parts: tuple[Part, ...]
    """What it is the sum of."""
    num_parameters: int
    """P."""

    @cached_property
    def _scaled(self) -> tuple[Floats, Floats]:
        """ln of the largest part (K, n), and all parts over it (parts, K, n)."""
        logs = np.stack(np.broadcast_arrays(*(part.log_value for part in self.parts)))
        top_kn = logs.max(axis=0)
        return top_kn, np.exp(logs - top_kn)

    @cached_property
    def log_loss_kn(self) -> Floats:
        """ln of the law."""
        top_kn, over_top = self._scaled
        return top_kn + np.log(over_top.sum(axis=0))

    @cached_property
    def _shares(self) -> Floats:
        """(parts, K, n) of the law."""
        _, over_top = self._scaled
        return over_top / over_top.sum(axis=0)

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


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """Runs, and the law that they are to obey: L = E + A / N^α + B / D^β."""

    log_params: Floats
    """(n,) ln N."""
    log_tokens: Floats
    """(n,) ln D."""
    loss: Floats
    """(n,) units of loss."""

    logarithms_beyond: ClassVar[bool] = True
    """Whether the parameters of `names_beyond` are logarithms of those constants."""

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def centre(self) -> tuple[float, float]:
        """ln N₀ and ln D₀."""
        return float(self.log_params.mean()), float(self.log_tokens.mean())

    @property
    def names_beyond(self) -> tuple[str, ...]:
        """The constants that the law has beyond E, A, alpha, B and beta, in the order of its parameters."""
        return ()

    def constants(self, centre: tuple[float, float]) -> tuple[Constant, ...]:
        """The constants of the law, as directions in θ."""
        return constants_along(centre, self.names_beyond, logarithmic=self.logarithms_beyond)

    def free_directions(self, tied: bool) -> Floats:
        """(P, Q): every parameter for itself, or α and β as one."""
        free_pq = np.eye(NUM_BASE + len(self.names_beyond))
        if not tied:
            return free_pq
        free_pq[BETA, ALPHA] = 1.0
        return np.delete(free_pq, BETA, axis=1)

    def subset(self, chosen: NDArray) -> Self:
        """The points at `chosen`, a mask or indices; what is no array stays."""
        columns = {name: column[chosen] for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        return replace(self, **columns)

    def terms(self, theta_kp: Floats, centre: tuple[float, float]) -> SumOfParts:
        """The law of `theta_kp` (K, P), about `centre`."""
        params = power_part(theta_kp, A, ALPHA, self.log_params - centre[0])
        tokens = power_part(theta_kp, B, BETA, self.log_tokens - centre[1])
        return SumOfParts(parts=(params, tokens, floor_part(theta_kp)), num_parameters=theta_kp.shape[1])


def plain_points(params: Floats, tokens: Floats, loss: Floats) -> SurfacePoints:
    """Points of runs: all arrays (n,), in parameters, tokens and units of loss."""
    return SurfacePoints(log_params=np.log(params), log_tokens=np.log(tokens), loss=np.asarray(loss, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """K robust fits to the same places: sum of weight · Huber(residual)."""

    points: SurfacePoints
    """The places, and the law."""
    centre: tuple[float, float]
    """ln N₀ and ln D₀, about which a and b are defined."""
    loss_kn: Floats
    """(K or 1, n) losses."""
    weights_kn: Floats
    """(K or 1, n) how often each point counts."""
    delta: float
    """Where the Huber function turns from a parabola into a line; inf for least squares."""
    residual: Residual
    """On what scale."""

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The constants of the law, as directions in θ."""
        return self.points.constants(self.centre)

    def subset(self, chosen: NDArray) -> "Problem":
        """The fits at `chosen`; what is common to all stays common."""
        return replace(
            self,
            loss_kn=self.loss_kn if len(self.loss_kn) == 1 else self.loss_kn[chosen],
            weights_kn=self.weights_kn if len(self.weights_kn) == 1 else self.weights_kn[chosen],
        )

    def at(self, points: SurfacePoints) -> "Problem":
        """One fit to other places, each of which counts once, about the same centre."""
        return replace(self, points=points, loss_kn=points.loss[None], weights_kn=np.ones((1, len(points))))

    def objective(self, theta_kp: Floats) -> Floats:
        """(K,) the sum that is minimised."""
        residual_kn = self.residuals(theta_kp)
        return np.sum(self.weights_kn * huber(residual_kn, self.delta), axis=1)

    def residuals(self, theta_kp: Floats) -> Floats:
        """(K, n) on the scale of the fit."""
        log_loss_kn = self.points.terms(theta_kp, self.centre).log_loss_kn
        if self.residual == "log":
            return log_loss_kn - np.log(self.loss_kn)
        return np.exp(np.minimum(log_loss_kn, LARGEST_LOG_LOSS)) - self.loss_kn

    def derivatives(self, theta_kp: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Objective (K,), gradient (K, P), Hessian and its positive-definite majorant (K, P, P).

        The majorant is that of iteratively reweighted least squares: Huber's psi(r)/r in place of its second
        derivative, the law's own curvature left out.
        """
        terms = self.points.terms(theta_kp, self.centre)
        slope_knp = terms.slopes()
        if self.residual == "log":
            residual_kn = terms.log_loss_kn - np.log(self.loss_kn)
            scale_kn = 1.0
        else:
            scale_kn = np.exp(np.minimum(terms.log_loss_kn, LARGEST_LOG_LOSS))
            residual_kn = scale_kn - self.loss_kn
        size_kn = np.abs(residual_kn)
        psi_kn = self.weights_kn * np.clip(residual_kn, -self.delta, self.delta) * scale_kn
        inner_kn = self.weights_kn * (size_kn <= self.delta) * scale_kn**2
        outer_kn = self.weights_kn / np.maximum(1.0, size_kn / self.delta) * scale_kn**2
        own_kn = inner_kn - psi_kn if self.residual == "log" else inner_kn
        turned_kpn = np.swapaxes(slope_knp, 1, 2)
        hessian = turned_kpn @ (own_kn[..., None] * slope_knp) + terms.curvature(psi_kn)
        majorant = turned_kpn @ (outer_kn[..., None] * slope_knp)
        objective_k = np.sum(self.weights_kn * huber(residual_kn, self.delta), axis=1)
        return objective_k, (turned_kpn @ psi_kn[..., None])[..., 0], hessian, majorant

    def slopes(self, theta_kp: Floats) -> Floats:
        """(K, n, P) derivatives of the residuals."""
        terms = self.points.terms(theta_kp, self.centre)
        if self.residual == "log":
            return terms.slopes()
        return terms.slopes() * np.exp(np.minimum(terms.log_loss_kn, LARGEST_LOG_LOSS))[..., None]


def huber(residual: Floats, delta: float) -> Floats:
    """r²/2 up to delta, a line of slope delta beyond."""
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return inside * (size - inside / 2)
