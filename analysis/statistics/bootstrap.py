"""Resampling by trunk -> intervals on any fit.

The cells of one trunk share warm-up, data order and weights, so their residuals move together from budget to budget.
Drawing whole trunks with replacement would respect that, but with one seed per size it drops sizes, and most draws then
have their minimum at an edge. Instead the sizes stay and the residuals around the fitted curves are redrawn:

- **parametric**, with fewer than `min_trunks` trunks: normal noise with the variance pooled over all budgets of the
  arm, of which a part, estimated from the residuals, is common to the cells of a trunk
  (`analysis.statistics.trunk_noise`), and a part of that to arms that trained one size on the same data
  (`analysis.statistics.pairing`).
- **wild**, from there on: each residual, divided by sqrt(1 - leverage), is multiplied by a standard normal weight of
  its trunk, the same weight at every budget and in every arm, so that whatever correlation residuals have is kept.

Both are multiplied by sqrt(dof / chi-squared(dof)), one factor per draw, because the size of the noise is itself
estimated: for quantities linear in the losses that turns normal intervals into t-intervals. The wild bootstrap needs
its many trunks: on curves of six sizes, whose residuals have three degrees of freedom, it held N* in 88 to 91 % of
simulated studies at a nominal 95 %; pooled noise holds it more often (`results/published/coverage`).

The window of a curve is held fixed while redrawing. Misfit of the parabola counts as noise.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.quadratic import Floats, Quadratic
from analysis.statistics.trunk_noise import TrunkNoise

SMALLEST_ROOM = 1e-6
FAR_AWAY = 100.0  # in half-widths of the sizes: a nearly straight draw has its vertex anywhere
SMALLEST_LOSS = 1e-9


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are drawn; the same settings give the same interval, whatever else is in the table."""

    draws: int = 2000
    """Redrawn studies."""
    random_seed: int = 20
    """Seed of every random number in the fits."""
    level: float = 0.95
    """Nominal coverage of the intervals."""
    min_trunks: int = 30
    """A fit to fewer trunks is redrawn with normal noise rather than with its own residuals or runs."""
    paired: float | None = None
    """Share of the noise of trunks that is common to arms trained on the same data; None estimates it."""
    min_interior_share: float = 0.5
    """An interval is refused when fewer of the draws have a minimum inside the sizes."""

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise ValueError(f"draws is {self.draws}: an interval needs at least 100 redrawn studies.")
        if self.paired is not None and not 0 <= self.paired <= 1:
            raise ValueError(f"paired is {self.paired}: give a share between 0 and 1, or None.")
        if not 0 < self.level < 1:
            raise ValueError(f"level is {self.level}: give a coverage between 0 and 1, such as 0.95.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """An estimate with the draws behind it, so that functions of several estimates get joint intervals."""

    estimate: Estimate
    """The value and its interval."""
    draws: Floats
    """(draws,) the value in every redrawn study; draw i is the same study for every sample of a study."""


def estimate_of(answer: Sample | Refusal) -> Estimate | Refusal:
    """An answer without its draws."""
    return answer if isinstance(answer, Refusal) else answer.estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class MinimumDraws:
    """Minima of one parabola in every redrawn study."""

    log_optimum: Floats
    """(draws,) ln of the minimum's place: the vertex where the draw opens upwards, even beyond the sizes, otherwise the
    end with the lower loss."""
    minimum_loss: Floats
    """(draws,) lowest value within the sizes, units of loss."""
    interior_share: float
    """Share of draws whose minimum is strictly inside the sizes."""


def redraw_minima(
    quadratic: Quadratic, *, noise: TrunkNoise, arm: str, budget: str, resampling: Resampling
) -> MinimumDraws:
    """Redraw the losses of one curve, fit each redrawn set, and find its minimum."""
    losses_kn = _redrawn_losses(quadratic, noise=noise, arm=arm, budget=budget, resampling=resampling)
    level_k, slope_k, bend_k = quadratic.solver_3n @ losses_kn.T
    low, high = quadratic.range_u
    opens_upwards = bend_k > 0
    lower_end_k = np.where(slope_k * (high - low) + bend_k * (high**2 - low**2) > 0, low, high)
    vertex_k = np.where(opens_upwards, -slope_k / (2 * np.where(opens_upwards, bend_k, 1.0)), lower_end_k)
    vertex_k = np.clip(vertex_k, -FAR_AWAY, FAR_AWAY)
    inside_k = np.clip(vertex_k, low, high)
    return MinimumDraws(
        log_optimum=quadratic.centre + quadratic.scale * vertex_k,
        minimum_loss=np.maximum(level_k + slope_k * inside_k + bend_k * inside_k**2, SMALLEST_LOSS),
        interior_share=float(np.mean(opens_upwards & (low < vertex_k) & (vertex_k < high))),
    )


def _redrawn_losses(
    quadratic: Quadratic, *, noise: TrunkNoise, arm: str, budget: str, resampling: Resampling
) -> Floats:  # (draws, n)
    curve = quadratic.curve
    trunks = curve.trunk_keys
    fitted_n = curve.loss - quadratic.residuals
    if len(set(trunks)) < resampling.min_trunks:
        names = [(arm, budget, trunk) for trunk in trunks]
        return fitted_n + mixed_noise(noise, names, trunks, arm, resampling)
    weights_kn = np.stack([normals(resampling, "trunk", trunk) for trunk in trunks], axis=1)
    room_n = np.maximum(1 - quadratic.leverages, SMALLEST_ROOM)
    return fitted_n + weights_kn * (quadratic.residuals / np.sqrt(room_n)) * tails(resampling, quadratic.dof)


def mixed_noise(
    noise: TrunkNoise, names: list[tuple[str, ...]], trunks: tuple[str, ...], arm: str, resampling: Resampling
) -> Floats:
    """(draws, n) noise of n runs: each its own by name, with their trunks, which arms share in part.

    Without an estimate of that part (see `analysis.statistics.pairing`) nothing is taken as shared between arms.
    """
    run_kn = np.stack([normals(resampling, "cell", *name) for name in names], axis=1)
    common_kn = np.stack([normals(resampling, "trunk", trunk) for trunk in trunks], axis=1)
    alone_kn = np.stack([normals(resampling, "trunk", arm, trunk) for trunk in trunks], axis=1)
    paired = resampling.paired or 0.0
    trunk_kn = np.sqrt(paired) * common_kn + np.sqrt(1 - paired) * alone_kn
    mixed_kn = np.sqrt(1 - noise.shared) * run_kn + np.sqrt(noise.shared) * trunk_kn
    return noise.sd * mixed_kn * tails(resampling, noise.dof)


def normals(resampling: Resampling, *name: str) -> Floats:
    """(draws,) standard normal numbers of the stream `name`."""
    return generator(resampling, *name).normal(size=resampling.draws)


def tails(resampling: Resampling, dof: float) -> Floats:  # (draws, 1)
    """One quantile a draw for every curve and arm: the gap of two paired arms is then a t-interval of its own noise."""
    quantile_k = generator(resampling, "tails").uniform(size=resampling.draws)
    return np.sqrt(dof / stats.chi2.ppf(quantile_k, dof))[:, None]


def generator(resampling: Resampling, *name: str) -> np.random.Generator:
    """One stream a name, so that adding or reordering rows changes no one else's draws."""
    digest = hashlib.sha256("\0".join((str(resampling.random_seed), *name)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def interval(value: float, draws: Floats, level: float, *, within: tuple[float, float] | None = None) -> Estimate:
    """Percentile interval of `draws` (draws,); `within` cuts it at the sizes measured and marks a cut end as open."""
    tail = 50 * (1 - level)
    low, high = (float(end) for end in np.percentile(draws, [tail, 100 - tail]))
    if within is None:
        return Estimate(value=value, low=low, high=high, level=level)
    smallest, largest = within
    return Estimate(
        value=value,
        low=max(low, smallest),
        high=min(high, largest),
        level=level,
        low_open=low <= smallest,
        high_open=high >= largest,
    )


def sample(value: float, draws: Floats, level: float, *, within: tuple[float, float] | None = None) -> Sample:
    """A value with its draws (draws,), and the `interval` that they make."""
    return Sample(estimate=interval(value, draws, level, within=within), draws=draws)


def refuse_unstable(
    share: float, resampling: Resampling, what: str = "studies have a minimum inside the sizes"
) -> Refusal | None:
    """The refusal of an interval where a `share` of the draws too small has a minimum to be believed, or None."""
    if share >= resampling.min_interior_share:
        return None
    return Refusal(
        kind=RefusalKind.UNSTABLE_MINIMUM,
        sentence=f"only {share:.0%} of {resampling.draws} redrawn {what}; an interval needs at least "
        f"{resampling.min_interior_share:.0%}.",
    )
