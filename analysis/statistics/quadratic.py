"""Least squares of loss on a quadratic in ln N or ln D, with what resampling and t-tests need from it."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

NUM_COEFFICIENTS = 3
TOLERANCE = 1e-9

Floats = NDArray[np.float64]


class Axis(StrEnum):
    """What the loss is plotted against."""

    PARAMS = "params"
    TOKENS = "tokens"

    @property
    def noun(self) -> str:
        """The word for one place on this axis."""
        return "size" if self is Axis.PARAMS else "token count"


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The points of one (arm, budget) along one axis."""

    axis: Axis
    """N or D."""
    log_x: Floats
    """(n,) natural logarithm of parameters or tokens."""
    loss: Floats
    """(n,) units of loss."""
    cell_ids: tuple[str, ...]
    """(n,) cells, for naming a point."""
    trunk_keys: tuple[str, ...]
    """(n,) trunks, for resampling."""

    def subset(self, chosen: NDArray[np.bool_]) -> "Curve":
        """The points where `chosen` (n,) is true."""
        return Curve(
            axis=self.axis,
            log_x=self.log_x[chosen],
            loss=self.loss[chosen],
            cell_ids=tuple(np.array(self.cell_ids, dtype=object)[chosen]),
            trunk_keys=tuple(np.array(self.trunk_keys, dtype=object)[chosen]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic:
    """Least squares of loss on (1, u, u²) with u = (ln x - centre) / scale; not yet judged."""

    curve: Curve
    """The n points fitted."""
    centre: float
    """Mean of ln x."""
    scale: float
    """Half the range of ln x."""
    solver_3n: Floats
    """(3, n) maps losses to coefficients; the same for every resampled set of losses."""
    coefficients: Floats
    """(3,) in powers of u, units of loss."""
    residuals: Floats
    """(n,) units of loss."""
    leverages: Floats
    """(n,) diagonal of the hat matrix."""

    @property
    def dof(self) -> int:
        """Degrees of freedom left for the noise."""
        return len(self.residuals) - NUM_COEFFICIENTS

    @property
    def sum_of_squares(self) -> float:
        """Residual sum of squares, units of loss squared."""
        return float(self.residuals @ self.residuals)

    @property
    def range_u(self) -> tuple[float, float]:
        """Smallest and largest u fitted."""
        u_n = (self.curve.log_x - self.centre) / self.scale
        return float(u_n.min()), float(u_n.max())

    @property
    def vertex_u(self) -> float:
        """Where the slope is zero, in units of u; nan for a straight line."""
        _, slope, bend = self.coefficients
        return float(-slope / (2 * bend)) if bend else float("nan")

    @property
    def opens_upwards_inside(self) -> bool:
        """True for a minimum strictly inside the points fitted."""
        low, high = self.range_u
        return bool(self.coefficients[2] > 0 and low + TOLERANCE < self.vertex_u < high - TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A residual standard deviation and how well it is known."""

    sd: float
    """Units of loss."""
    dof: int
    """Degrees of freedom behind it."""
    source: str
    """"own" for the curve's residuals, "pooled" for those of all curves of its kind, such as all budgets of the arm."""


def quadratic_design(u: Floats) -> Floats:
    """(..., 3) the powers 1, u and u² of `u` (...)."""
    return np.stack([np.ones_like(u), u, u**2], axis=-1)


def least_squares(curve: Curve) -> Quadratic:
    """Fit loss on (1, u, u²). Needs at least three distinct places on the axis."""
    centre = float(curve.log_x.mean())
    scale = float(np.ptp(curve.log_x)) / 2
    u_n = (curve.log_x - centre) / scale
    design_n3 = quadratic_design(u_n)
    solver_3n = np.linalg.pinv(design_n3).astype(np.float64)
    coefficients = solver_3n @ curve.loss
    return Quadratic(
        curve=curve,
        centre=centre,
        scale=scale,
        solver_3n=solver_3n,
        coefficients=coefficients,
        residuals=curve.loss - design_n3 @ coefficients,
        leverages=np.einsum("nk,kn->n", design_n3, solver_3n),
    )


def pool_noise(quadratics: list[Quadratic]) -> Noise:
    """One residual standard deviation over the budgets of an arm, each with its own parabola."""
    dof = sum(quadratic.dof for quadratic in quadratics)
    total = sum(quadratic.sum_of_squares for quadratic in quadratics)
    return Noise(sd=float(np.sqrt(total / dof)), dof=dof, source="pooled")
