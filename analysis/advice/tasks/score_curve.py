"""A task's score along one number, from chance up to 1: score = chance + (1 - chance) · link(level + slope · z).

z is x about its mean in units of its standard deviation; the score rises with x. Two links:

- **logistic**, 1 / (1 + e^-u), where x is minus the bits per byte of the right answer: the second step of Bhagia et al.
  2024 (arXiv:2412.04403), with their floor held at chance and their top at 1, which cells far below it cannot tell.
- **power**, exp(-e^-u), where x is ln C: -ln q = A C^-γ for the share q of the way from chance to 1, the direct law of
  log accuracy (Krajewski et al. 2025, arXiv:2512.08894). γ is the slope in units of ln C.

Least squares in the score; intervals from redrawn studies, normal noise with the part that the runs of a trunk share
(`analysis.statistics.trunk_noise`). Only 39 % of published task laws fit at all (Lourie et al. 2025, arXiv:2507.00885),
so that a curve is refused where the cells do not show it.

Legend: K fits side by side, n cells, P = 3 parameters (level, slope, bend), of which a curve has the first two; the
third is what it is tested against.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval, mixed_noise, normals
from analysis.statistics.descent import descend
from analysis.statistics.quadratic import Floats
from analysis.statistics.trunk_noise import TrunkNoise, split_noise
from mor_core.units import counted_text

Link = Literal["logistic", "power"]

LEVEL, SLOPE, BEND = range(3)
NUM_PARAMETERS = 3
EVERY_33 = np.eye(NUM_PARAMETERS)
CURVE_32 = EVERY_33[:, :BEND]
"""What a curve is free in."""
MIN_CELLS = 4
"""Two parameters, and two cells more."""
LEAST_REACH = 0.1
"""Share of the way from chance to 1 that the best cells must have come: below, a curve's steep part is a guess."""
LARGEST_RATIO = 2.0
"""Upper over lower end of the slope's interval beyond which the stretch that the cells cover does not tell it."""
AT_CHANCE_ERRORS = 2.0
"""Standard errors by which the best third of the cells must be above chance."""
MONOTONE_LEVEL = 0.05
"""Of the one-sided test that the score rises with x (Spearman's rank correlation)."""
MISFIT_LEVEL = 0.01
"""Of the test against a bent curve."""
FARTHEST = 40.0
"""Size of u beyond which a link is flat to double precision."""
LARGEST_START = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorePoints:
    """Cells of one arm, and what they score on one task."""

    x_n: Floats
    """(n,) what the score rises with: minus bits per byte, or ln C."""
    score_n: Floats
    """(n,) shares from 0 to 1."""
    trunk_keys: tuple[str, ...]
    """(n,) cells of one trunk share a key."""
    chance: float
    """What picking at random gets."""

    def subset(self, chosen_n: NDArray[np.bool_]) -> "ScorePoints":
        """The cells at `chosen_n` (n,)."""
        keys = tuple(key for key, is_chosen in zip(self.trunk_keys, chosen_n, strict=True) if is_chosen)
        return replace(self, x_n=self.x_n[chosen_n], score_n=self.score_n[chosen_n], trunk_keys=keys)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreCurve:
    """A fitted curve with its draws."""

    link: Link
    """Its shape."""
    chance: float
    """Its floor."""
    centre: float
    """Mean x of the cells."""
    scale: float
    """Standard deviation of x of the cells."""
    fitted_3: Floats
    """(3,) level, slope, and a bend of 0."""
    draws_k3: Floats
    """(draws, 3) the same in every redrawn study."""
    noise: TrunkNoise
    """Of a cell's score about the curve."""
    reached: float
    """Share of the way from chance to 1 at the cell with the largest x, on the curve."""
    num_cells: int
    """Cells behind it."""
    resampling: Resampling
    """How the draws were made."""

    def score(self, x: float) -> float:
        """The share that the curve gives at `x`."""
        return float(self._scores(self.fitted_3[None], np.array([x]))[0])

    def drawn(self, x_k: Floats) -> Floats:
        """(draws,) the curve of every redrawn study at `x_k` (draws,) or (1,)."""
        return self._scores(self.draws_k3, x_k)

    def run_noise(self, *name: str) -> Floats:
        """(draws,) noise of one more cell's score, of the stream `name`."""
        return self.noise.sd * normals(self.resampling, "one more score", *name)

    @property
    def rate(self) -> float:
        """Slope of u with x: per bit/byte of a logistic curve, γ of a power curve."""
        return float(self.fitted_3[SLOPE] / self.scale)

    @property
    def midpoint(self) -> float:
        """The x at which u is 0: half way from chance to 1 where the link is logistic."""
        return float(self.centre - self.scale * self.fitted_3[LEVEL] / self.fitted_3[SLOPE])

    def _scores(self, theta_k3: Floats, x_k: Floats) -> Floats:
        z_k = (x_k - self.centre) / self.scale
        share_k, _ = _linked(theta_k3[:, LEVEL] + theta_k3[:, SLOPE] * z_k, self.link)
        return self.chance + (1 - self.chance) * share_k


def fit_score_curve(points: ScorePoints, link: Link, arm: str, resampling: Resampling) -> ScoreCurve | Refusal:
    """Fit the curve to cells, or say why not: too few, a constant column, at chance, not monotone, another shape, or a
    stretch that does not tell the slope."""
    refusal = _refuse_columns(points) or _refuse_chance(points) or _refuse_order(points)
    if refusal:
        return refusal
    problem = _problem(points, link)
    fitted_3, objective = _fitted(problem, CURVE_32)
    refusal = _refuse_bent(problem, objective)
    if refusal:
        return refusal
    curve = _with_draws(problem, fitted_3, points, arm, resampling)
    return _refuse_range(curve) or curve


def _with_draws(
    problem: "_Problem", fitted_3: Floats, points: ScorePoints, arm: str, resampling: Resampling
) -> ScoreCurve:
    residual_n = problem.residuals(fitted_3[None])[0]
    noise = split_noise(residual_n, problem.slopes(fitted_3[None])[0][:, :BEND], points.trunk_keys)
    names = [("score", arm, str(place)) for place in range(len(points.score_n))]
    offset_kn = mixed_noise(noise, names, points.trunk_keys, arm, resampling)
    redrawn = replace(problem, score_kn=points.score_n[None] + residual_n + offset_kn)
    starts_k3 = np.repeat(fitted_3[None], resampling.draws, axis=0)
    draws_k3 = descend(redrawn, starts_k3, CURVE_32, tolerance=1e-10, newton=False).theta_kp
    share, _ = _linked(fitted_3[LEVEL] + fitted_3[SLOPE] * problem.z_n.max(), problem.link)
    return ScoreCurve(
        link=problem.link,
        chance=points.chance,
        centre=float(points.x_n.mean()),
        scale=float(points.x_n.std()),
        fitted_3=fitted_3,
        draws_k3=draws_k3,
        noise=noise,
        reached=float(share),
        num_cells=len(points.score_n),
        resampling=resampling,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """K least-squares fits to cells at the same places."""

    z_n: Floats
    """(n,) x about its mean, over its standard deviation."""
    score_kn: Floats
    """(K or 1, n) scores."""
    chance: float
    """The floor."""
    link: Link
    """The shape."""

    def subset(self, chosen: NDArray) -> "_Problem":
        """The fits at `chosen`."""
        return self if len(self.score_kn) == 1 else replace(self, score_kn=self.score_kn[chosen])

    def residuals(self, theta_kp: Floats) -> Floats:
        """(K, n) fitted less measured score."""
        return self.chance + (1 - self.chance) * _linked(self._u(theta_kp), self.link)[0] - self.score_kn

    def slopes(self, theta_kp: Floats) -> Floats:
        """(K, n, P) derivatives of the residuals."""
        rise_kn = (1 - self.chance) * _linked(self._u(theta_kp), self.link)[1]
        return rise_kn[..., None] * np.stack([np.ones_like(self.z_n), self.z_n, self.z_n**2], axis=1)

    def objective(self, theta_kp: Floats) -> Floats:
        """(K,) half of the sum of squares."""
        return 0.5 * np.sum(self.residuals(theta_kp) ** 2, axis=1)

    def derivatives(self, theta_kp: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Objective, gradient, and Gauss and Newton's matrix twice: residuals are small beside the slopes."""
        residual_kn, slope_knp = self.residuals(theta_kp), self.slopes(theta_kp)
        turned_kpn = np.swapaxes(slope_knp, 1, 2)
        majorant_kpp = turned_kpn @ slope_knp
        gradient_kp = (turned_kpn @ residual_kn[..., None])[..., 0]
        return 0.5 * np.sum(residual_kn**2, axis=1), gradient_kp, majorant_kpp, majorant_kpp

    def _u(self, theta_kp: Floats) -> Floats:
        return theta_kp[:, [LEVEL]] + theta_kp[:, [SLOPE]] * self.z_n + theta_kp[:, [BEND]] * self.z_n**2


def _problem(points: ScorePoints, link: Link) -> _Problem:
    z_n = (points.x_n - points.x_n.mean()) / points.x_n.std()
    return _Problem(z_n=z_n, score_kn=points.score_n[None], chance=points.chance, link=link)


def _fitted(problem: _Problem, free_pq: Floats) -> tuple[Floats, float]:
    """(3,) the best of a few starts, and half of the sum of squares there."""
    levels = np.linspace(-LARGEST_START, LARGEST_START, 5)
    starts_kp = np.array([[level, slope, 0.0] for level in levels for slope in (0.3, 1.0, 3.0)])
    ended = descend(problem, starts_kp, free_pq, newton=False)
    best = int(np.argmin(ended.objective_k))
    return ended.theta_kp[best], float(ended.objective_k[best])


def _linked(u: Floats, link: Link) -> tuple[Floats, Floats]:
    """Share of the way from chance to 1 at u (any shape), and its derivative."""
    u = np.clip(u, -FARTHEST if link == "logistic" else -np.log(FARTHEST), FARTHEST)
    if link == "logistic":
        share = 1 / (1 + np.exp(-u))
        return share, share * (1 - share)
    share = np.exp(-np.exp(-u))
    return share, share * np.exp(-u)


def _refuse_columns(points: ScorePoints) -> Refusal | None:
    count = len(points.score_n)
    if count < MIN_CELLS:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"{counted_text(count, 'cell')} with a score; a curve from chance needs {MIN_CELLS}.",
        )
    for values_n, noun in ((points.x_n, "place on the curve"), (points.score_n, "score")):
        if float(np.ptp(values_n)) <= 1e-12 * max(1.0, float(np.abs(values_n).max())):
            return Refusal(
                kind=RefusalKind.CONSTANT_COLUMN,
                sentence=f"all {count} cells have one {noun}, {abs(float(values_n[0])):.4g}: a curve needs cells that "
                "differ.",
            )
    return None


def _refuse_chance(points: ScorePoints) -> Refusal | None:
    """Of a task that even the best cells do no better on than chance."""
    count = max(2, len(points.x_n) // 3)
    best_n = np.argsort(points.x_n)[-count:]
    line = np.polyfit(points.x_n - points.x_n.mean(), points.score_n, 1)
    left_n = points.score_n - np.polyval(line, points.x_n - points.x_n.mean())
    error = float(np.sqrt(left_n @ left_n / (len(left_n) - 2) / count))
    excess = float(points.score_n[best_n].mean()) - points.chance
    if excess > AT_CHANCE_ERRORS * error:
        return None
    return Refusal(
        kind=RefusalKind.AT_CHANCE,
        sentence=f"at chance: the best {count} of {len(points.x_n)} cells score {100 * (excess + points.chance):.1f} % "
        f"± {100 * error:.1f}, and picking at random gets {100 * points.chance:.1f} %.",
    )


def _refuse_order(points: ScorePoints) -> Refusal | None:
    correlation, luck = np.asarray(stats.spearmanr(points.x_n, points.score_n, alternative="greater"), dtype=float)
    if luck <= MONOTONE_LEVEL:
        return None
    return Refusal(
        kind=RefusalKind.NOT_MONOTONE,
        sentence=f"the score does not rise steadily with better cells (rank correlation {correlation:+.2f}, "
        f"p = {luck:.2g}; at most {MONOTONE_LEVEL:g} is needed).",
    )


def _refuse_bent(problem: _Problem, objective: float) -> Refusal | None:
    """Of cells on which a curve with one more parameter fits better than chance would have it (F-test)."""
    spare = len(problem.z_n) - NUM_PARAMETERS
    _, bent = _fitted(problem, EVERY_33)
    if spare < 1 or objective <= 1e-12:
        return None
    ratio = max(objective - bent, 0.0) / max(bent / spare, 1e-18)
    chance = float(stats.f.sf(ratio, 1, spare))
    if chance >= MISFIT_LEVEL:
        return None
    return Refusal(
        kind=RefusalKind.DOES_NOT_FIT,
        sentence=f"the {problem.link} curve from chance to 1 is not that of these cells: one with a bend more fits "
        f"better (p = {chance:.2g}; less than {MISFIT_LEVEL:g} is refused).",
    )


def _refuse_range(curve: ScoreCurve) -> Refusal | None:
    if curve.reached < LEAST_REACH:
        return Refusal(
            kind=RefusalKind.RANGE_NOT_REACHED,
            sentence=f"the best cells have come {curve.reached:.1%} of the way from chance to 1; a curve needs "
            f"{LEAST_REACH:.0%}, or its steep part is a guess.",
        )
    slope = interval(float(curve.fitted_3[SLOPE]), curve.draws_k3[:, SLOPE], curve.resampling.level)
    if 0 < slope.high <= LARGEST_RATIO * slope.low:
        return None
    return Refusal(
        kind=RefusalKind.RANGE_NOT_REACHED,
        sentence=f"the cells cover too little of the curve: they allow slopes from {slope.low / curve.scale:.3g} to "
        f"{slope.high / curve.scale:.3g} ({slope.level:.0%}), more than a factor of {LARGEST_RATIO:g}.",
    )
