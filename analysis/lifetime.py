"""The cheapest model over its lifetime: training and serving together, at a loss to reach."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import interval
from analysis.estimate import Estimate, Refusal, RefusalKind
from analysis.frontier import Study
from analysis.quadratic import Floats
from analysis.serving import Demand, Per, Price, ServedArm, decoding, price_of
from analysis.surface import SEARCH_DECADES
from analysis.surface_fit import SurfaceFit, refuse_reach
from analysis.surface_law import ALPHA, BETA, A, B, E

PLACES = 400
"""Sizes tried between the ends of the search."""


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
    """By arm that was fitted with a surface, or whose surface was refused; `arms` from `analysis.serving`."""
    found: dict[str, Lifetime | Refusal] = {}
    for frontier in study.frontiers:
        surface = frontier.surface
        if isinstance(surface, Refusal):
            found[frontier.arm] = surface
        if isinstance(surface, SurfaceFit):
            served = (arms or {}).get(frontier.arm, ServedArm())
            found[frontier.arm] = lifetime_optimum(
                surface, target, demand, study.points.budget_convention, served, forced=forced
            )
    return found


def verdicts(answers: Mapping[str, Lifetime | Refusal]) -> list[Verdict]:
    """Every other arm against the cheapest, the cheapest first; empty for fewer than two answers."""
    given = sorted((each for each in answers.values() if isinstance(each, Lifetime)), key=lambda each: each.total.value)
    return [
        Verdict(
            arm=each.arm,
            least=given[0].arm,
            ratio=interval(each.total.value / given[0].total.value, each.total_k / given[0].total_k, each.total.level),
        )
        for each in given[1:]
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
    """The (N, D) that costs least in training and serving at a loss of `target` nats/token.

    D follows from the loss at every N; the sum is then minimised over N.

    Args:
        surface: the arm's law with its contour of equal FLOPs.
        target: nats/token, above the law's E.
        demand: what is served, and what is to be small.
        convention: of the surface's FLOPs: "paper" counts the forward pass alone.
        arm: what serving it takes; as planned by default. Must say what is kept in memory where `demand` is limited.
        forced: answer also where training takes more than 100 times the largest budget fitted.
    """
    arm = arm or ServedArm()
    if demand.limited and arm.memory is None:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence="the table does not say, for two sizes or more, what weights, keys and values take.",
        )
    price = price_of(arm, demand, surface.contour, convention)
    theta_kp = np.concatenate([surface.best.theta[None], surface.draws.theta_kp])
    params_k, tokens_k, training_k, serving_k = _cheapest(surface, theta_kp, target, demand.tokens, price)
    reached = np.isfinite(training_k)
    wanted = surface.resampling.min_interior_share
    if not reached[0] or reached[1:].mean() < wanted:
        return _refuse_unreached(surface, target, price, demand)
    flops = float(surface.contour.flops_per_token(params_k[:1])[0] * tokens_k[0])
    refusal = refuse_reach(flops, surface.largest_flops, forced=forced)
    if refusal:
        return refusal

    def filled(values_k: Floats) -> Floats:
        # A draw that never reaches the target costs more than any that does.
        return np.where(reached[1:], values_k[1:], values_k[1:][reached[1:]].max())

    def estimate(values_k: Floats) -> Estimate:
        return interval(float(values_k[0]), filled(values_k), surface.resampling.level)

    moved = decoding(arm, demand, params_k[:1])
    return Lifetime(
        arm=surface.arm,
        per=demand.per,
        params=estimate(params_k),
        tokens=estimate(tokens_k),
        training=estimate(training_k),
        serving=estimate(serving_k),
        total=estimate(training_k + serving_k),
        reach=flops / surface.largest_flops,
        sequences=None if moved is None else float(moved.sequences[0]),
        weight_bytes=None if moved is None else float(moved.weight_bytes[0]),
        kv_bytes=None if moved is None else float(moved.kv_bytes[0]),
        kv_scatter=None if moved is None or arm.memory is None else arm.memory.kv_scatter,
        total_k=filled(training_k + serving_k),
    )


def _refuse_unreached(surface: SurfaceFit, target: float, price: Price, demand: Demand) -> Refusal:
    if not np.isfinite(price.serving(_sizes(surface))).any():
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


def _sizes(surface: SurfaceFit) -> Floats:
    """(m,) parameters between the ends of the search."""
    reach, log_params = SEARCH_DECADES / 2 * np.log(10), surface.contour.log_params
    return np.exp(np.linspace(log_params[0] - reach, log_params[-1] + reach, PLACES))


def _cheapest(
    surface: SurfaceFit, theta_kp: Floats, target: float, served: float, price: Price
) -> tuple[Floats, Floats, Floats, Floats]:
    """N, D, training and serving costs of K laws, each (K,); inf where the target is out of reach."""
    x_m = np.log(_sizes(surface))
    x_km = np.broadcast_to(x_m, (len(theta_kp), PLACES))
    serving_m = price.serving(np.exp(x_m))
    fixed_m = np.where(np.isfinite(serving_m), served * np.nan_to_num(serving_m, posinf=0.0), np.inf)
    total_km = np.log(price.training(np.exp(x_m)) * _tokens(surface, theta_kp, x_km, target) + fixed_m)
    best_k = total_km.argmin(axis=1)
    # An end of the search is no minimum: the cheapest model lies beyond.
    inside_k = (best_k > 0) & (best_k < PLACES - 1) & np.isfinite(total_km.min(axis=1))
    rows, middle_k = np.arange(len(theta_kp)), np.clip(best_k, 1, PLACES - 2)
    left_k, centre_k, right_k = (total_km[rows, middle_k + shift] for shift in (-1, 0, 1))
    sound_k = inside_k & np.isfinite(left_k) & np.isfinite(centre_k) & np.isfinite(right_k)
    left_k, centre_k, right_k = (np.where(sound_k, each, 0.0) for each in (left_k, centre_k, right_k))
    bend_k = left_k - 2 * centre_k + right_k
    move_k = np.where(bend_k > 0, (left_k - right_k) / np.where(bend_k > 0, 2 * bend_k, 1.0), 0.0)
    x_k1 = (x_m[middle_k] + move_k * (x_m[1] - x_m[0]))[:, None]
    tokens_k = np.where(inside_k, _tokens(surface, theta_kp, x_k1, target)[:, 0], np.inf)
    params_k = np.exp(x_k1[:, 0])
    return params_k, tokens_k, price.training(params_k) * tokens_k, price.serving(params_k) * served


def _tokens(surface: SurfaceFit, theta_kp: Floats, x_km: Floats, target: float) -> Floats:
    """(K, m) D at which K laws reach the target with ln N = x; inf where no number of tokens does."""
    log_n, log_d = surface.best.problem.centre
    first_km = np.exp(theta_kp[:, A, None] - theta_kp[:, ALPHA, None] * (x_km - log_n))
    left_km = target - np.exp(theta_kp[:, E, None]) - first_km
    positive = (left_km > 0) & (theta_kp[:, BETA, None] > 0)
    beta_k1 = np.where(theta_kp[:, BETA, None] > 0, theta_kp[:, BETA, None], 1.0)
    log_tokens_km = log_d + (theta_kp[:, B, None] - np.log(np.where(positive, left_km, 1.0))) / beta_k1
    return np.where(positive, np.exp(np.minimum(log_tokens_km, 300)), np.inf)
