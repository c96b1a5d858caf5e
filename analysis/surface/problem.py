"""The optimisation problem of a fit: the runs, the law with its derivatives at them, and the robust sum to minimise.

Legend: K fits side by side, n points, P parameters (`analysis.surface.law`). A law with more parameters than
L = E + A / N^α + B / D^β brings points of its own (`LawPoints`); search, profiles and redrawn studies are the same.
"""

from dataclasses import dataclass
from typing import Protocol

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
    free_directions,
)


class Terms(Protocol):
    """A law and its derivatives at every point."""

    @property
    def log_loss_kn(self) -> Floats:
        """ln of the law."""
        ...

    def slopes(self) -> Floats:
        """(K, n, P) derivative of ln of the law."""
        ...

    def curvature(self, psi_kn: Floats) -> Floats:
        """(K, P, P): sum over points of psi · (second derivative of ln of the law + slope slopeᵀ)."""
        ...


class LawPoints(Protocol):
    """Runs, and the law that they are to obey."""

    @property
    def loss(self) -> Floats:
        """(n,) units of loss."""
        ...

    @property
    def log_params(self) -> Floats:
        """(n,) ln N."""
        ...

    @property
    def log_tokens(self) -> Floats:
        """(n,) ln D."""
        ...

    @property
    def centre(self) -> tuple[float, float]:
        """ln N₀ and ln D₀."""
        ...

    def __len__(self) -> int: ...

    def subset(self, chosen: NDArray) -> "LawPoints":
        """The points at `chosen`, a mask or indices."""
        ...

    def terms(self, theta_kp: Floats, centre: tuple[float, float]) -> Terms:
        """The law of `theta_kp` (K, P), about `centre`."""
        ...

    def constants(self, centre: tuple[float, float]) -> tuple[Constant, ...]:
        """The constants of the law, as directions in θ."""
        ...

    def free_directions(self, tied: bool) -> Floats:
        """(P, Q): every parameter for itself, or α and β as one."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """What a surface is fitted to."""

    log_once: Floats
    """(n,) ln of N_once; of all parameters where nothing is recursive. -inf where every layer is shared."""
    log_recursive: Floats
    """(n,) ln of N_rec; -inf where nothing is recursive."""
    log_depth: Floats
    """(n,) ln r; 0 where nothing is recursive."""
    family: NDArray[np.int64]
    """(n,) which φ a point obeys; -1 for none."""
    log_tokens: Floats
    """(n,) ln D."""
    loss: Floats
    """(n,) units of loss."""

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def num_families(self) -> int:
        """F, the number of exponents φ."""
        return int(self.family.max()) + 1 if len(self) else 0

    @property
    def log_params(self) -> Floats:
        """(n,) ln of the unique parameters, N_once + N_rec."""
        return np.logaddexp(self.log_once, self.log_recursive)

    @property
    def centre(self) -> tuple[float, float]:
        """ln N₀ and ln D₀."""
        return float(self.log_params.mean()), float(self.log_tokens.mean())

    def constants(self, centre: tuple[float, float]) -> tuple[Constant, ...]:
        """E, A, alpha, B, beta and a φ a family."""
        return constants_along(NUM_BASE + self.num_families, centre)

    def free_directions(self, tied: bool) -> Floats:
        """(P, Q): every parameter for itself, or α and β as one."""
        return free_directions(self.num_families, tied)

    def subset(self, chosen: NDArray) -> "SurfacePoints":
        """The points at `chosen`, a mask or indices."""
        return SurfacePoints(
            log_once=self.log_once[chosen],
            log_recursive=self.log_recursive[chosen],
            log_depth=self.log_depth[chosen],
            family=self.family[chosen],
            log_tokens=self.log_tokens[chosen],
            loss=self.loss[chosen],
        )

    def terms(self, theta_kp: Floats, centre: tuple[float, float]) -> "_Terms":
        """The law of `theta_kp` (K, P), about `centre`."""
        num_families = theta_kp.shape[1] - NUM_BASE
        if num_families:
            phi_kn = np.where(self.family >= 0, theta_kp[:, NUM_BASE + np.maximum(self.family, 0)], 0.0)
            recursive_kn = self.log_recursive + phi_kn * self.log_depth
            effective_kn = np.logaddexp(self.log_once, recursive_kn)
            share_kn = np.exp(recursive_kn - effective_kn)
        else:
            effective_kn, share_kn = self.log_params[None], np.zeros((1, len(self)))
        x_kn, y_n = effective_kn - centre[0], self.log_tokens - centre[1]
        first_kn = theta_kp[:, A, None] - theta_kp[:, ALPHA, None] * x_kn
        second_kn = theta_kp[:, B, None] - theta_kp[:, BETA, None] * y_n
        third_kn = theta_kp[:, E, None]
        top_kn = np.maximum(np.maximum(first_kn, second_kn), third_kn)
        p_kn, q_kn, s_kn = np.exp(first_kn - top_kn), np.exp(second_kn - top_kn), np.exp(third_kn - top_kn)
        total_kn = p_kn + q_kn + s_kn
        return _Terms(
            log_loss_kn=top_kn + np.log(total_kn),
            p_kn=p_kn / total_kn,
            q_kn=q_kn / total_kn,
            s_kn=s_kn / total_kn,
            x_kn=x_kn,
            y_n=y_n,
            turn_kn=self.log_depth * share_kn,
            bend_kn=self.log_depth**2 * share_kn * (1 - share_kn),
            alpha_k1=theta_kp[:, ALPHA, None],
            members_fn=self.family == np.arange(num_families)[:, None],
        )


def plain_points(params: Floats, tokens: Floats, loss: Floats) -> SurfacePoints:
    """Points without recursion: all arrays (n,), in parameters, tokens and units of loss."""
    n = len(loss)
    return SurfacePoints(
        log_once=np.log(params),
        log_recursive=np.full(n, -np.inf),
        log_depth=np.zeros(n),
        family=np.full(n, -1),
        log_tokens=np.log(tokens),
        loss=np.asarray(loss, dtype=np.float64),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """K robust fits to the same places: sum of weight · Huber(residual)."""

    points: LawPoints
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
        return Problem(
            points=self.points,
            centre=self.centre,
            loss_kn=self.loss_kn if len(self.loss_kn) == 1 else self.loss_kn[chosen],
            weights_kn=self.weights_kn if len(self.weights_kn) == 1 else self.weights_kn[chosen],
            delta=self.delta,
            residual=self.residual,
        )

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Terms:
    """ln of the law at every point, and what its derivatives are made of."""

    log_loss_kn: Floats
    """ln of the law."""
    p_kn: Floats
    """Share of the parameter term in the law."""
    q_kn: Floats
    """Share of the token term."""
    s_kn: Floats
    """Share of E."""
    x_kn: Floats
    """(K or 1, n) ln N_eff - ln N₀."""
    y_n: Floats
    """ln D - ln D₀."""
    turn_kn: Floats
    """(K or 1, n) d ln N_eff / d φ."""
    bend_kn: Floats
    """(K or 1, n) d² ln N_eff / d φ²."""
    alpha_k1: Floats
    """(K, 1) α."""
    members_fn: NDArray[np.bool_]
    """(F, n) which points obey which φ."""

    def slopes(self) -> Floats:
        """(K, n, P) derivative of ln of the law."""
        columns = [self.p_kn, self.q_kn, self.s_kn, -self.p_kn * self.x_kn, -self.q_kn * self.y_n]
        columns += [-self.p_kn * self.alpha_k1 * self.turn_kn * mine_n for mine_n in self.members_fn]
        return np.stack(columns, axis=2)

    def curvature(self, psi_kn: Floats) -> Floats:
        """(K, P, P): sum over points of psi · (sum of share · (slope slopeᵀ + curvature) of the three terms)."""
        first_kn, second_kn = psi_kn * self.p_kn, psi_kn * self.q_kn
        num_fits, num_families = len(psi_kn), len(self.members_fn)
        out = np.zeros((num_fits, NUM_BASE + num_families, NUM_BASE + num_families))
        out[:, A, A] = first_kn.sum(axis=1)
        out[:, A, ALPHA] = out[:, ALPHA, A] = -np.sum(first_kn * self.x_kn, axis=1)
        out[:, ALPHA, ALPHA] = np.sum(first_kn * self.x_kn**2, axis=1)
        out[:, B, B] = second_kn.sum(axis=1)
        out[:, B, BETA] = out[:, BETA, B] = -second_kn @ self.y_n
        out[:, BETA, BETA] = second_kn @ self.y_n**2
        out[:, E, E] = np.sum(psi_kn * self.s_kn, axis=1)
        for number, mine_n in enumerate(self.members_fn):
            phi = NUM_BASE + number
            mine_kn = first_kn * mine_n
            slope_kn = self.alpha_k1 * self.turn_kn
            out[:, A, phi] = out[:, phi, A] = -np.sum(mine_kn * slope_kn, axis=1)
            mixed_kn = self.x_kn * slope_kn - self.turn_kn
            out[:, ALPHA, phi] = out[:, phi, ALPHA] = np.sum(mine_kn * mixed_kn, axis=1)
            out[:, phi, phi] = np.sum(mine_kn * (slope_kn**2 - self.alpha_k1 * self.bend_kn), axis=1)
        return out


def huber(residual: Floats, delta: float) -> Floats:
    """r²/2 up to delta, a line of slope delta beyond."""
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return inside * (size - inside / 2)
