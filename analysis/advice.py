"""What to train: the optimum at a budget nobody trained, and the cheapest model over its lifetime at a target loss."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.bootstrap import Sample, interval
from analysis.estimate import Estimate, Refusal, RefusalKind
from analysis.frontier import Frontier, Study
from analysis.quadratic import Floats
from analysis.surface import SEARCH_DECADES
from analysis.surface_approach import surface_optimum
from analysis.surface_fit import FLAGGED_REACH, SurfaceFit, refuse_reach
from analysis.surface_law import ALPHA, BETA, A, B, E

PLACES = 400
"""Sizes tried between the ends of the search."""
FORWARD_SHARE = {"paper": 1.0}
"""Share of the forward pass in training FLOPs by convention; a third where the convention counts the backward pass."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The optimum of one arm at one budget."""

    arm: str
    """The architecture."""
    approach: str
    """The fit that it comes from."""
    budget: str
    """FLOPs, an exact decimal integer."""
    reach: float
    """The budget over the largest one fitted; above 1 this extrapolates."""
    params: Estimate | Refusal
    """N*."""
    tokens: Estimate | Refusal
    """D*, tokens."""
    loss: Estimate | Refusal
    """L*, nats/token."""

    @property
    def flagged(self) -> bool:
        """True more than ten times beyond the largest budget."""
        return self.reach > FLAGGED_REACH

    @property
    def refused(self) -> bool:
        """True where no number is supported."""
        return all(isinstance(each, Refusal) for each in (self.params, self.tokens, self.loss))


def predict_budget(study: Study, budget: str, *, forced: bool = False) -> tuple[Advice, ...]:
    """N*, D* and L* of every arm and approach of a study at `budget` (decimal FLOPs)."""
    return tuple(_advice(study, frontier, budget, forced) for frontier in study.frontiers)


def _advice(study: Study, frontier: Frontier, budget: str, forced: bool) -> Advice:
    mine = study.points.frame.filter(study.points.frame["arm"] == frontier.arm)
    largest = float(mine["flops"].to_numpy().max()) if mine.height else float("nan")
    reach = float(budget) / largest
    refusal = refuse_reach(float(budget), largest, forced=forced)
    if refusal is None and isinstance(frontier.surface, SurfaceFit):
        optimum = surface_optimum(frontier.surface, budget)
        params, tokens, loss = (
            each.estimate if isinstance(each, Sample) else each
            for each in (optimum.params, optimum.tokens, optimum.loss)
        )
    elif refusal is None:
        laws = frontier.predict(budget)
        params, tokens, loss = laws.params, laws.tokens, laws.loss
        if reach > 1 and not isinstance(loss, Refusal):
            loss = Refusal(
                kind=RefusalKind.EXTRAPOLATION,
                sentence="a power law without an asymptote is not read beyond its budgets; a surface has one.",
            )
    else:
        params = tokens = loss = refusal
    return Advice(
        arm=frontier.arm,
        approach=frontier.approach,
        budget=budget,
        reach=reach,
        params=params,
        tokens=tokens,
        loss=loss,
    )


@dataclass(frozen=True, kw_only=True)
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
    """FLOPs of the forward passes over the tokens served."""
    total: Estimate
    """Their sum."""
    reach: float
    """Training FLOPs over the largest budget fitted; above 1 this extrapolates."""


def serving_ratios(runs: pl.DataFrame) -> dict[str, float]:
    """By arm: FLOPs of a served token over those of a forward pass at the planned depths, the median over its cells.

    A routed arm goes on by thresholds when it serves, so that its depth is what it turns out to be. Empty for a table
    that does not say; FLOPs are exact on both sides.
    """
    if not {"forward_flops_per_token", "flops_exact", "tokens"} <= set(runs.columns):
        return {}
    planned = pl.col("flops_exact").cast(pl.Float64) / pl.col("tokens") / 3
    ratio = (pl.col("forward_flops_per_token") / planned).alias("ratio")
    found = runs.select("arm", ratio).drop_nulls().group_by("arm").agg(pl.col("ratio").median())
    return {arm: float(ratio) for arm, ratio in found.iter_rows()}


def lifetime_optimum(
    surface: SurfaceFit, target: float, served: float, convention: str, serving_ratio: float = 1.0
) -> Lifetime | Refusal:
    """The (N, D) with the least training and serving FLOPs at a loss of `target` nats/token.

    D follows from the loss at every N; the sum is then minimised over N.

    Args:
        surface: the arm's law with its contour of equal FLOPs.
        target: nats/token, above the law's E.
        served: tokens that will go through the model once trained.
        convention: of the surface's FLOPs: "paper" counts the forward pass alone.
        serving_ratio: of the arm, from `serving_ratios`.
    """
    theta_kp = np.concatenate([surface.best.theta[None], surface.draws.theta_kp])
    share = FORWARD_SHARE.get(convention, 1 / 3) * serving_ratio
    params_k, tokens_k, training_k, serving_k = _cheapest(surface, theta_kp, target, served, share)
    reached = np.isfinite(training_k)
    wanted = surface.resampling.min_interior_share
    if not reached[0] or reached[1:].mean() < wanted:
        return Refusal(
            kind=RefusalKind.EXTRAPOLATION,
            sentence=f"a loss of {target:g} is not reached by any model near the sizes trained "
            f"(E = {surface.law.E:.4f}).",
        )
    refusal = refuse_reach(float(training_k[0]), surface.largest_flops, forced=False)
    if refusal:
        return refusal

    def estimate(values_k: Floats) -> Estimate:
        # A draw that never reaches the target costs more than any that does.
        drawn = np.where(reached[1:], values_k[1:], values_k[1:][reached[1:]].max())
        return interval(float(values_k[0]), drawn, surface.resampling.level)

    return Lifetime(
        arm=surface.arm,
        params=estimate(params_k),
        tokens=estimate(tokens_k),
        training=estimate(training_k),
        serving=estimate(serving_k),
        total=estimate(training_k + serving_k),
        reach=float(training_k[0]) / surface.largest_flops,
    )


def _cheapest(
    surface: SurfaceFit, theta_kp: Floats, target: float, served: float, share: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """N, D, training and serving FLOPs of K laws, each (K,); inf where the target is out of reach."""
    reach = SEARCH_DECADES / 2 * np.log(10)
    contour = surface.contour
    x_m = np.linspace(contour.log_params[0] - reach, contour.log_params[-1] + reach, PLACES)
    x_km = np.broadcast_to(x_m, (len(theta_kp), PLACES))
    total_km = np.log(
        contour.flops_per_token(np.exp(x_m)) * (_tokens(surface, theta_kp, x_km, target) + share * served)
    )
    best_k = total_km.argmin(axis=1)
    # An end of the search is no minimum: the cheapest model lies beyond.
    inside_k = (best_k > 0) & (best_k < PLACES - 1)
    rows, middle_k = np.arange(len(theta_kp)), np.clip(best_k, 1, PLACES - 2)
    left_k, centre_k, right_k = (total_km[rows, middle_k + shift] for shift in (-1, 0, 1))
    sound_k = inside_k & np.isfinite(left_k) & np.isfinite(centre_k) & np.isfinite(right_k)
    left_k, centre_k, right_k = (np.where(sound_k, each, 0.0) for each in (left_k, centre_k, right_k))
    bend_k = left_k - 2 * centre_k + right_k
    move_k = np.where(bend_k > 0, (left_k - right_k) / np.where(bend_k > 0, 2 * bend_k, 1.0), 0.0)
    x_k1 = (x_m[middle_k] + move_k * (x_m[1] - x_m[0]))[:, None]
    tokens_k = np.where(inside_k, _tokens(surface, theta_kp, x_k1, target)[:, 0], np.inf)
    params_k = np.exp(x_k1[:, 0])
    cost_k = contour.flops_per_token(params_k)
    return params_k, tokens_k, cost_k * tokens_k, cost_k * share * served


def _tokens(surface: SurfaceFit, theta_kp: Floats, x_km: Floats, target: float) -> Floats:
    """(K, m) D at which K laws reach the target with ln N = x; inf where no number of tokens does."""
    log_n, log_d = surface.best.problem.centre
    first_km = np.exp(theta_kp[:, A, None] - theta_kp[:, ALPHA, None] * (x_km - log_n))
    left_km = target - np.exp(theta_kp[:, E, None]) - first_km
    positive = (left_km > 0) & (theta_kp[:, BETA, None] > 0)
    beta_k1 = np.where(theta_kp[:, BETA, None] > 0, theta_kp[:, BETA, None], 1.0)
    log_tokens_km = log_d + (theta_kp[:, B, None] - np.log(np.where(positive, left_km, 1.0))) / beta_k1
    return np.where(positive, np.exp(np.minimum(log_tokens_km, 300)), np.inf)
