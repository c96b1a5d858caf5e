"""The cheapest model over its lifetime: training and serving together, at a loss to reach."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis.advice.serving import served_token_flops
from analysis.frontier.study import Study
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Sample, interval, sample
from analysis.statistics.quadratic import Floats
from analysis.surface.fit import SurfaceFit, refuse_reach
from analysis.surface.law import SEARCH_DECADES, SurfaceLaw

PLACES = 160
"""Models tried between the ends of the search."""
NEAR_PLACES = 9
"""Models tried around the cheapest one so far, in each of further rounds."""
ROUNDS = 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Lifetime:
    """The cheapest model of one arm that reaches a loss and then serves tokens."""

    arm: str
    """The architecture."""
    params: Estimate
    """N, parameters."""
    tokens: Estimate
    """D, training tokens."""
    training: Estimate
    """FLOPs of the training."""
    serving: Estimate
    """FLOPs of the tokens served."""
    total: Estimate
    """Their sum."""
    reach: float
    """Training FLOPs over the largest budget fitted; above 1 this extrapolates."""
    total_k: Floats
    """(draws,) the sum in every redrawn study, paired between arms."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one arm costs over the cheapest one."""

    arm: str
    """The architecture."""
    least: str
    """The cheapest arm."""
    ratio: Estimate
    """Total of `arm` over that of `least`."""

    @property
    def sentence(self) -> str:
        """In words."""
        numbers = f"{self.ratio.value:.3f} times ({self.ratio.level:.0%} interval {self.ratio.low:.3f} to "
        numbers += f"{self.ratio.high:.3f}) what {self.least} costs"
        unclear = "; no difference seen" if self.ratio.low <= 1.0 else ""
        return f"{self.arm} costs {numbers}{unclear}"


def lifetime_study(
    study: Study,
    target: float,
    served: float,
    ratios: Mapping[str, float] | None = None,
    *,
    forced: bool = False,
) -> dict[str, Lifetime | Refusal]:
    """By arm that was fitted with a surface, or whose surface was refused; `ratios` of depth by arm are those of
    `analysis.advice.serving.depth_ratios`, 1 where there is none."""
    answers: dict[str, Lifetime | Refusal] = {}
    for frontier in study.frontiers:
        surface = frontier.surface
        if isinstance(surface, Refusal):
            answers[frontier.arm] = surface
        if isinstance(surface, SurfaceFit):
            ratio = (ratios or {}).get(frontier.arm, 1.0)
            answers[frontier.arm] = lifetime_optimum(
                surface, target, served, study.points.budget_convention, ratio, forced=forced
            )
    return answers


def verdicts(answers: Mapping[str, Lifetime | Refusal]) -> list[Verdict]:
    """Every other arm against the cheapest, the cheapest first; empty for fewer than two answers."""
    lifetimes = [answer for answer in answers.values() if isinstance(answer, Lifetime)]
    if not lifetimes:
        return []
    least, *others = sorted(lifetimes, key=lambda lifetime: lifetime.total.value)
    return [
        Verdict(
            arm=other.arm,
            least=least.arm,
            ratio=interval(other.total.value / least.total.value, other.total_k / least.total_k, other.total.level),
        )
        for other in others
    ]


def lifetime_optimum(
    surface: SurfaceFit,
    target: float,
    served: float,
    convention: str,
    depth_ratio: float = 1.0,
    *,
    forced: bool = False,
) -> Lifetime | Refusal:
    """The (N, D) that costs the fewest FLOPs in training and serving at a loss of `target`.

    D follows from the loss at every N; the sum is then minimised over N.

    Args:
        surface: the arm's law with its contour of equal FLOPs.
        target: the loss to reach, above the law's E.
        served: tokens that go through the trained model.
        convention: of the surface's FLOPs: "paper" counts the forward pass alone.
        depth_ratio: FLOPs of a served token over those at the planned depths.
        forced: answer also where training takes more than 100 times the largest budget fitted, and beyond the runs of
            a law that is doubted.
    """
    serving_flops = partial(served_token_flops, surface.contour, convention, depth_ratio)
    laws = surface.best.as_law.then(surface.draws.law)
    params_k, tokens_k, training_k, serving_k = _cheapest(
        laws, _ends(surface), target, served, surface.contour.flops_per_token, serving_flops
    )
    reached = np.isfinite(training_k)
    if not reached[0] or reached[1:].mean() < surface.resampling.min_interior_share:
        return Refusal(
            kind=RefusalKind.EXTRAPOLATION,
            sentence=f"a loss of {target:g} is not reached by any model near the sizes trained "
            f"(E = {surface.law.E:.4f}).",
        )
    flops = float(surface.contour.flops_per_token(params_k[:1])[0] * tokens_k[0])
    far = refuse_reach(flops, surface.largest_flops, forced=forced)
    refusal = far or (None if forced else surface.refuse_beyond(float(params_k[0]), float(tokens_k[0])))
    if refusal:
        return refusal

    def sampled(values_k: Floats) -> Sample:
        # A draw that never reaches the target costs more than any that does.
        drawn_k = np.where(reached[1:], values_k[1:], values_k[1:][reached[1:]].max())
        return sample(float(values_k[0]), drawn_k, surface.resampling.level)

    total = sampled(training_k + serving_k)
    return Lifetime(
        arm=surface.arm,
        params=sampled(params_k).estimate,
        tokens=sampled(tokens_k).estimate,
        training=sampled(training_k).estimate,
        serving=sampled(serving_k).estimate,
        total=total.estimate,
        reach=flops / surface.largest_flops,
        total_k=total.draws,
    )


def _ends(surface: SurfaceFit) -> tuple[float, float]:
    """ln N at the ends of the search."""
    reach, log_params = SEARCH_DECADES / 2 * np.log(10), surface.contour.log_params
    return float(log_params[0] - reach), float(log_params[-1] + reach)


def _cheapest(
    laws: SurfaceLaw,
    ends: tuple[float, float],
    target: float,
    served: float,
    training_flops: Callable[[Floats], Floats],
    serving_flops: Callable[[Floats], Floats],
) -> tuple[Floats, Floats, Floats, Floats]:
    """N, D, training and serving FLOPs of K laws, each (K,); inf where no N between the ends, given as ln N, reaches
    the target and is the cheapest. `training_flops` and `serving_flops` are those of a token, by N.

    The search is over t = logit of the share that D has in the loss to be reached above E. Over N it would have to be
    ever finer towards the smallest N that reaches the target, where D grows without bound.
    """
    low_k, high_k = (laws.token_logit(target, log_params) for log_params in ends)
    reached_k = high_k > low_k
    low_k, high_k = np.where(reached_k, low_k, 0.0), np.where(reached_k, high_k, 1.0)

    def total(t_km: Floats) -> Floats:
        x_km, y_km = laws.at_loss(target, t_km)
        params_km = np.exp(x_km)
        return np.log(training_flops(params_km) * np.exp(np.minimum(y_km, 300)) + served * serving_flops(params_km))

    t_km = low_k[:, None] + (high_k - low_k)[:, None] * np.linspace(0, 1, PLACES)
    total_km = total(t_km)
    best_k = total_km.argmin(axis=1)
    # An end of the search is no minimum: the cheapest model lies beyond.
    inside_k = reached_k & (best_k > 0) & (best_k < PLACES - 1) & np.isfinite(total_km.min(axis=1))
    rows, step_k = np.arange(len(laws)), (high_k - low_k) / (PLACES - 1)
    t_k = t_km[rows, best_k]
    for _ in range(ROUNDS):
        near_km = t_k[:, None] + step_k[:, None] * np.linspace(-1, 1, NEAR_PLACES)
        t_k = near_km[rows, total(near_km).argmin(axis=1)]
        step_k = step_k * 2 / (NEAR_PLACES - 1)
    x_k1, y_k1 = laws.at_loss(target, t_k[:, None])
    params_k, tokens_k = np.exp(x_k1[:, 0]), np.where(inside_k, np.exp(np.minimum(y_k1[:, 0], 300)), np.inf)
    return params_k, tokens_k, training_flops(params_k) * tokens_k, serving_flops(params_k) * served
