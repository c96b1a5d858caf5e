"""The cheapest model over its lifetime: training and serving together, at a loss to reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.advice.serving import Demand, Per, Price, ServedArm, decoding, price_of
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
    per: Per
    """The unit of the costs: FLOPs or bytes."""
    params: Estimate
    """N, parameters."""
    tokens: Estimate
    """D, training tokens."""
    training: Estimate
    """Cost of the training."""
    serving: Estimate
    """Cost of the tokens served."""
    total: Estimate
    """Their sum."""
    reach: float
    """Training FLOPs over the largest budget fitted; above 1 this extrapolates."""
    sequences: float | None
    """Sequences decoded together at N; None where memory sets no limit."""
    weight_bytes: float | None
    """Bytes of weights that a served token moves at N; None likewise."""
    kv_bytes: float | None
    """Bytes of keys and values that it moves; None likewise."""
    kv_scatter: float | None
    """How far, relatively, the keys and values of a shape lie off the power law of N that stands for them."""
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
    demand: Demand,
    arms: Mapping[str, ServedArm] | None = None,
    *,
    forced: bool = False,
) -> dict[str, Lifetime | Refusal]:
    """By arm that was fitted with a surface, or whose surface was refused; `arms` from `analysis.advice.serving`."""
    answers: dict[str, Lifetime | Refusal] = {}
    for frontier in study.frontiers:
        surface = frontier.surface
        if isinstance(surface, Refusal):
            answers[frontier.arm] = surface
        if isinstance(surface, SurfaceFit):
            served = (arms or {}).get(frontier.arm)
            answers[frontier.arm] = lifetime_optimum(
                surface, target, demand, study.points.budget_convention, served, forced=forced
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
    demand: Demand,
    convention: str,
    arm: ServedArm | None = None,
    *,
    forced: bool = False,
) -> Lifetime | Refusal:
    """The (N, D) that costs least in training and serving at a loss of `target`.

    D follows from the loss at every N; the sum is then minimised over N.

    Args:
        surface: the arm's law with its contour of equal FLOPs.
        target: the loss to reach, above the law's E.
        demand: what is served, and what is to be small.
        convention: of the surface's FLOPs: "paper" counts the forward pass alone.
        arm: what serving it takes; as planned by default. Must say what is kept in memory where `demand` is limited.
        forced: answer also where training takes more than 100 times the largest budget fitted, and beyond the runs of
            a law that is doubted.
    """
    arm = arm or ServedArm()
    if demand.limited and arm.memory is None:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence="the table does not say, for two sizes or more, what weights, keys and values take.",
        )
    price = price_of(arm, demand, surface.contour, convention)
    laws = surface.best.as_law.then(surface.draws.law)
    params_k, tokens_k, training_k, serving_k = _cheapest(laws, _ends(surface), target, demand.tokens, price)
    reached = np.isfinite(training_k)
    if not reached[0] or reached[1:].mean() < surface.resampling.min_interior_share:
        return _refuse_unreached(surface, target, price, demand)
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
        per=demand.per,
        params=sampled(params_k).estimate,
        tokens=sampled(tokens_k).estimate,
        training=sampled(training_k).estimate,
        serving=sampled(serving_k).estimate,
        total=total.estimate,
        reach=flops / surface.largest_flops,
        total_k=total.draws,
        **_moved(arm, demand, params_k[:1]),
    )


def _moved(arm: ServedArm, demand: Demand, params_1: Floats) -> dict[str, float | None]:
    """What a model of `params_1` (1,) moves to serve a token; None for each where memory sets no limit."""
    moved = decoding(arm, demand, params_1)
    if moved is None or arm.memory is None:
        return dict.fromkeys(("sequences", "weight_bytes", "kv_bytes", "kv_scatter"))
    return {
        "sequences": float(moved.sequences[0]),
        "weight_bytes": float(moved.weight_bytes[0]),
        "kv_bytes": float(moved.kv_bytes[0]),
        "kv_scatter": arm.memory.kv_scatter,
    }


def _refuse_unreached(surface: SurfaceFit, target: float, price: Price, demand: Demand) -> Refusal:
    sizes_m = np.exp(np.linspace(*_ends(surface), PLACES))
    if not np.isfinite(price.serving(sizes_m)).any():
        return Refusal(
            kind=RefusalKind.NO_OPTIMUM,
            sentence=f"not one sequence of {demand.context:g} tokens fits into the memory given, at any size near "
            "those trained.",
        )
    return Refusal(
        kind=RefusalKind.EXTRAPOLATION,
        sentence=f"a loss of {target:g} is not reached by any model near the sizes trained"
        f"{' that the memory given can serve' if demand.limited else ''} (E = {surface.law.E:.4f}).",
    )


def _ends(surface: SurfaceFit) -> tuple[float, float]:
    """ln N at the ends of the search."""
    reach, log_params = SEARCH_DECADES / 2 * np.log(10), surface.contour.log_params
    return float(log_params[0] - reach), float(log_params[-1] + reach)


def _cheapest(
    laws: SurfaceLaw, ends: tuple[float, float], target: float, served: float, price: Price
) -> tuple[Floats, Floats, Floats, Floats]:
    """N, D, training and serving costs of K laws, each (K,); inf where no N between the ends, given as ln N, reaches
    the target and is the cheapest.

    The search is over t = logit of the share that D has in the loss to be reached above E. Over N it would have to be
    ever finer towards the smallest N that reaches the target, where D grows without bound.
    """
    low_k, high_k = (laws.token_logit(target, log_params) for log_params in ends)
    reached_k = high_k > low_k
    low_k, high_k = np.where(reached_k, low_k, 0.0), np.where(reached_k, high_k, 1.0)

    def total(t_km: Floats) -> Floats:
        x_km, y_km = laws.at_loss(target, t_km)
        params_km = np.exp(x_km)
        serving_km = price.serving(params_km)
        fixed_km = np.where(np.isfinite(serving_km), served * np.nan_to_num(serving_km, posinf=0.0), np.inf)
        return np.log(price.training(params_km) * np.exp(np.minimum(y_km, 300)) + fixed_km)

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
    return params_k, tokens_k, price.training(params_k) * tokens_k, price.serving(params_k) * served
