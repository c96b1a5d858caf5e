"""How the loss of one rung answers to hyper-parameters: a quadratic in their logarithms, and where it is lowest.

Shapes: n trials, d hyper-parameters, p = (d + 1)(d + 2) / 2 coefficients, M draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.quadratic import Floats, Noise

DRAWS = 600
"""Redrawings behind an interval."""

LEVEL = 0.95
"""Nominal coverage of intervals."""

KEPT_SHARE = 0.7
"""Share of the trials, those of the lowest losses, that the quadratic is fitted to: far from the optimum a loss grows
like no quadratic."""

FEWEST_INSIDE = 0.5
"""Share of draws that must have a minimum inside the range tried."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of the hyper-parameters, trained with one seed or several."""

    values: Mapping[str, float]
    """By hyper-parameter; all above 0."""
    losses: tuple[float, ...]
    """Of each seed that finished, nats/token."""
    diverged: int = 0
    """Seeds whose run diverged."""

    @property
    def counts(self) -> bool:
        """Whether every seed that was tried finished: a setting that diverges once is no setting to use."""
        return bool(self.losses) and not self.diverged

    @property
    def loss(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.losses))


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """The fitted quadratic of one rung: loss = c + g·u + u·H·u / 2 with u = (ln x - centre) / scale."""

    names: tuple[str, ...]
    """(d,) hyper-parameters that were varied."""
    centre_d: Floats
    """(d,) mean of ln x."""
    scale_d: Floats
    """(d,) half of the range of ln x."""
    low_d: Floats
    """(d,) lowest ln x of a trial that counts."""
    high_d: Floats
    """(d,) highest."""
    coefficients_p: Floats
    """(p,) of 1, u, and the products of two."""
    draws_Mp: Floats = field(repr=False)
    """(M, p) the same under the noise of the losses."""
    noise: Noise
    """How far the mean loss of a trial scatters about the quadratic, as the draws assume."""
    trials: int
    """Trials that it was fitted to."""

    @property
    def optimum_d(self) -> Floats:
        """(d,) ln x of the lowest loss inside the range."""
        return self._clipped(_minima(self.coefficients_p[None], len(self.names)))[0]

    @property
    def draws_Md(self) -> Floats:
        """(M, d) ln x of the lowest loss of each draw, at the end of the range where there is none inside."""
        return self._clipped(_minima(self.draws_Mp, len(self.names)))

    def _clipped(self, u_Md: Floats) -> Floats:
        inside_Md = np.clip(u_Md * self.scale_d + self.centre_d, self.low_d, self.high_d)
        return np.where(np.isnan(u_Md), self.low_d, inside_Md)

    def loss(self, values: Mapping[str, float]) -> float:
        """The quadratic at some values; what is left out stays at its optimum."""
        log_d = np.array(
            [
                np.log(values[name]) if name in values else best
                for name, best in zip(self.names, self.optimum_d, strict=True)
            ]
        )
        u_d = (log_d - self.centre_d) / self.scale_d
        return float(_design(u_d[None])[0] @ self.coefficients_p)

    def lost_M(self, values: Mapping[str, float]) -> Floats:
        """(M,) loss at some values over the lowest inside the range, of each draw; none below 0."""
        best_Md = self.draws_Md
        at_Md = best_Md.copy()
        for index, name in enumerate(self.names):
            if name in values:
                at_Md[:, index] = np.log(values[name])
        at_Mp, best_Mp = (_design((log_Md - self.centre_d) / self.scale_d) for log_Md in (at_Md, best_Md))
        return np.maximum(((at_Mp - best_Mp) * self.draws_Mp).sum(axis=1), 0.0)

    def optimum(self, name: str) -> Estimate:
        """The value of a hyper-parameter at the lowest loss, with its interval."""
        index = self.names.index(name)
        low, high = np.quantile(self.draws_Md[:, index], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(
            value=float(np.exp(self.optimum_d[index])),
            low=float(np.exp(low)),
            high=float(np.exp(high)),
            level=LEVEL,
            low_open=bool(low <= self.low_d[index]),
            high_open=bool(high >= self.high_d[index]),
        )


def fit_responses(rungs: Sequence[Sequence[Trial]]) -> list[Response | Refusal]:
    """The quadratics of several rungs, which share their noise: one rung has too few trials to know its own."""
    first = [fit_response(trials) for trials in rungs]
    noises = [response.noise for response in first if isinstance(response, Response)]
    if not noises:
        return first
    dof = sum(noise.dof for noise in noises)
    variance = sum(noise.dof * noise.sd**2 for noise in noises) / dof
    pooled = Noise(sd=float(np.sqrt(variance)), dof=dof, source="pooled")
    return [fit_response(trials, seed, pooled) for seed, trials in enumerate(rungs)]


def fit_response(trials: Sequence[Trial], seed: int = 0, noise: Noise | None = None) -> Response | Refusal:
    """The quadratic through the better trials of one rung, or why there is no optimum in them.

    `noise` is that of several rungs; None estimates it from this one.
    """
    counted = sorted((trial for trial in trials if trial.counts), key=lambda trial: trial.loss)
    names = tuple(sorted({name for trial in trials for name in trial.values}))
    names = tuple(name for name in names if len({trial.values[name] for trial in counted}) > 1)
    terms = (len(names) + 1) * (len(names) + 2) // 2
    if not names or len(counted) < terms + 1:
        return _too_few(trials, counted, terms + 1)
    kept = _near_the_best(counted, names, max(terms + 1, round(KEPT_SHARE * len(counted))))
    log_nd = np.log([[trial.values[name] for name in names] for trial in kept])
    low_d, high_d = log_nd.min(axis=0), log_nd.max(axis=0)
    centre_d, scale_d = log_nd.mean(axis=0), np.maximum((high_d - low_d) / 2, 1e-9)
    design_np = _design((log_nd - centre_d) / scale_d)
    loss_n = np.array([trial.loss for trial in kept])
    solved_p, _, rank, _ = np.linalg.lstsq(design_np, loss_n, rcond=None)
    coefficients_p = np.asarray(solved_p, dtype=np.float64)
    if rank < terms:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"the {len(kept)} best settings do not span {', '.join(names)}: try more of them",
        )
    noise = noise or _noise(loss_n - design_np @ coefficients_p, terms)
    response = Response(
        names=names,
        centre_d=centre_d,
        scale_d=scale_d,
        low_d=low_d,
        high_d=high_d,
        coefficients_p=coefficients_p,
        draws_Mp=(loss_n + _scatter(noise, len(kept), seed)) @ np.linalg.pinv(design_np).T,
        noise=noise,
        trials=len(kept),
    )
    return _judged(response, counted)


def _near_the_best(counted: Sequence[Trial], names: Sequence[str], count: int) -> list[Trial]:
    """The `count` lowest losses, and the best one's neighbours on either side along each hyper-parameter: where a loss
    rises steeply they may be no low ones, and without them there is no side to the minimum."""
    kept = list(counted[:count])
    for name in names:
        best = counted[0].values[name]
        below = [trial for trial in counted if trial.values[name] < best]
        above = [trial for trial in counted if trial.values[name] > best]
        nearest = [
            max(below, key=lambda trial: trial.values[name], default=None),
            min(above, key=lambda trial: trial.values[name], default=None),
        ]
        kept += [trial for trial in nearest if trial is not None and trial not in kept]
    return kept


def _too_few(trials: Sequence[Trial], counted: Sequence[Trial], needed: int) -> Refusal:
    diverged = sum(bool(trial.diverged) for trial in trials)
    if diverged and not counted:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"all {diverged} settings diverged: lower the learning rates, or warm up for longer",
        )
    also = f" ({diverged} others diverged)" if diverged else ""
    return Refusal(
        kind=RefusalKind.TOO_FEW_POINTS,
        sentence=f"{len(counted)} settings finished{also}: {needed} are needed, with different values",
    )


def _noise(residual_n: Floats, terms: int) -> Noise:
    dof = len(residual_n) - terms
    return Noise(sd=float(np.sqrt(residual_n @ residual_n / dof)), dof=dof, source="own")


def _scatter(noise: Noise, count: int, seed: int) -> Floats:
    """(M, n) noise of each draw. So few residuals know the noise itself badly: its own spread makes the draws Student's
    and not Gauss's."""
    random = np.random.default_rng(seed)
    spread_M1 = np.sqrt(noise.dof / random.chisquare(noise.dof, size=(DRAWS, 1)))
    return random.normal(size=(DRAWS, count)) * noise.sd * spread_M1


def _judged(response: Response, counted: Sequence[Trial]) -> Response | Refusal:
    """The response, or why its minimum is none."""
    outside_d = _outside(response, response.coefficients_p[None])[0]
    outside = [name for name, beyond in zip(response.names, outside_d, strict=True) if beyond]
    if outside:
        best = counted[0].values[outside[0]]
        others = [trial.values[outside[0]] for trial in counted]
        end = "lowest" if best <= np.median(others) else "highest"
        return Refusal(
            kind=RefusalKind.MINIMUM_AT_EDGE,
            sentence=f"the loss is lowest towards the {end} {outside[0].replace('_', ' ')} that finished ({best:.3g}): "
            "no minimum inside; widen the range on that side",
        )
    inside = np.mean(~_outside(response, response.draws_Mp).any(axis=1))
    if inside < FEWEST_INSIDE:
        return Refusal(
            kind=RefusalKind.UNSTABLE_MINIMUM,
            sentence=f"{inside:.0%} of redrawings have a minimum inside the range: train more settings, or more seeds",
        )
    return response


def _outside(response: Response, coefficients_Mp: Floats) -> NDArray[np.bool_]:
    """(M, d): the hyper-parameters along which quadratics have no minimum inside the range; all where there is none."""
    u_Md = _minima(coefficients_Mp, len(response.names))
    log_Md = u_Md * response.scale_d + response.centre_d
    return np.isnan(u_Md) | (log_Md <= response.low_d) | (log_Md >= response.high_d)


def _design(u_nd: Floats) -> Floats:
    """(n, p): 1, each u, and each product of two, squares halved."""
    d = u_nd.shape[1]
    columns = [np.ones(len(u_nd)), *u_nd.T]
    for i, j in combinations_with_replacement(range(d), 2):
        columns.append(u_nd[:, i] * u_nd[:, j] * (0.5 if i == j else 1.0))
    return np.stack(columns, axis=1)


def _minima(coefficients_Mp: Floats, d: int) -> Floats:
    """(M, d) where the gradients vanish; not a number where a quadratic does not open upwards in every direction."""
    hessian_Mdd = np.zeros((len(coefficients_Mp), d, d))
    for value_M, (i, j) in zip(coefficients_Mp[:, 1 + d :].T, combinations_with_replacement(range(d), 2), strict=True):
        hessian_Mdd[:, i, j] = hessian_Mdd[:, j, i] = value_M
    opens_M = np.linalg.eigvalsh(hessian_Mdd)[:, 0] > 0
    u_Md = np.full((len(coefficients_Mp), d), np.nan)
    gradient_Md1 = coefficients_Mp[opens_M, 1 : 1 + d, None]
    u_Md[opens_M] = -np.linalg.solve(hessian_Mdd[opens_M], gradient_Md1)[:, :, 0]
    return u_Md
