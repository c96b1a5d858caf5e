"""The fitted law of repeated text (`analysis.surface.extended.repetition`), and its optimum for a corpus of given size.

Legend: K laws side by side, n points, P = 5 parameters of the law of fresh text (`analysis.surface.law`) and the
logarithms of what the form has beyond it.
"""

from dataclasses import dataclass

import numpy as np

from analysis.statistics.quadratic import Floats
from analysis.surface.contour import Contour
from analysis.surface.extended.repetition import (
    CONSTANTS,
    OVERFIT_POWERS,
    SMALLEST_EXPONENT,
    Form,
    repeats,
    worth_of,
)
from analysis.surface.law import (
    ALPHA,
    BETA,
    NUM_BASE,
    SEARCH_DECADES,
    A,
    B,
    LawOptimum,
    SurfaceLaw,
    golden,
)
from analysis.surface.problem import Part, SumOfParts, SurfacePoints, floor_part, power_part

PLACES = 161
"""Sizes at which a loss is tried first: along a contour it may have two minima, on either side of the whole corpus."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedPoints(SurfacePoints):
    """Runs that repeat their text, and runs that do not; `log_tokens` is of the tokens seen."""

    form: Form
    """The law that they are to obey."""
    log_unique: Floats
    """(n,) ln U, distinct tokens seen: never above ln D."""

    @property
    def names_beyond(self) -> tuple[str, ...]:
        """What the form has beyond the law of fresh text."""
        return CONSTANTS[self.form]

    def terms(self, theta_kp: Floats, centre: tuple[float, float]) -> SumOfParts:
        """The law of `theta_kp` (K, P), about `centre`."""
        return law_at(self.form, theta_kp, centre, (self.log_params, self.log_tokens, self.log_unique))


def law_at(
    form: Form, theta_kp: Floats, centre: tuple[float, float], places: tuple[Floats, Floats, Floats]
) -> SumOfParts:
    """The law at ln N, ln D and ln U, each (n,) or of a shape that broadcasts to (K, n)."""
    log_n, log_d, log_u = (np.atleast_2d(place) for place in places)
    again = repeats(log_d, log_u)
    params, fresh = power_part(theta_kp, A, ALPHA, log_n - centre[0]), floor_part(theta_kp)
    if form == "overfitting":
        tokens = power_part(theta_kp, B, BETA, log_d - centre[1])
        of_repeats, of_params = OVERFIT_POWERS
        with np.errstate(divide="ignore"):
            log_excess = of_repeats * np.log(again) + of_params * (log_n - log_u)
        excess = Part(log_value=theta_kp[:, NUM_BASE, None] + log_excess, slopes={NUM_BASE: np.ones((1, 1))})
        parts = (params, tokens, fresh, excess)
    else:
        log_u = np.minimum(log_u, log_d)
        tokens = _repeated_part(theta_kp, log_u - centre[1], again)
        if form == "decay":
            params = _surplus_part(theta_kp, centre, log_n, log_u)
        parts = (params, tokens, fresh)
    return SumOfParts(parts=parts, num_parameters=theta_kp.shape[1])


def _repeated_part(theta_kp: Floats, log_unique: Floats, again: Floats) -> Part:
    """b - β (ln U + ln(1 + W) - ln D₀)."""
    beta, worth = theta_kp[:, BETA, None], worth_of(again, theta_kp[:, NUM_BASE, None])
    y = log_unique + np.log1p(worth.value)
    return Part(
        log_value=theta_kp[:, B, None] - beta * y,
        slopes={B: np.ones((1, 1)), BETA: -y, NUM_BASE: -beta * worth.log_slope},
        bends={(BETA, NUM_BASE): -worth.log_slope, (NUM_BASE, NUM_BASE): -beta * worth.log_bend},
    )


def _surplus_part(theta_kp: Floats, centre: tuple[float, float], log_params: Floats, log_unique: Floats) -> Part:
    """a - α (ln N' - ln N₀), where ln N' = ln N_U + ln(1 + W) beyond N_U, which depends on a, b, α and β itself.

    With m = N / N_U: d ln N' / d ln N_U = 1 - m W_R / (1 + W), and so on by the chain rule.
    """
    scale = NUM_BASE + 1
    alpha = np.maximum(theta_kp[:, ALPHA, None], SMALLEST_EXPONENT)
    called, first, second = _called_for(theta_kp, centre, log_unique)
    surplus = repeats(log_params, called)
    worth, ratio = worth_of(surplus, theta_kp[:, scale, None]), 1 + surplus
    above, steep = 1 + worth.value, ratio * worth.by_again / (1 + worth.value)
    beyond = surplus > 0
    turn = np.where(beyond, 1 - steep, 0.0)
    turn_twice = np.where(beyond, steep + ratio**2 * worth.by_again_twice / above - steep**2, 0.0)
    mixed = np.where(beyond, steep * worth.log_slope - ratio * worth.by_both / above, 0.0)
    # ln N' by each parameter, and by each two of them.
    turns = {index: turn * slope for index, slope in first.items()} | {scale: np.where(beyond, worth.log_slope, 0.0)}
    bends = {
        (one, other): turn_twice * first[one] * first[other] + turn * second.get((one, other), 0.0)
        for one in first
        for other in first
        if one <= other
    }
    bends |= {(index, scale): mixed * slope for index, slope in first.items()}
    bends[scale, scale] = np.where(beyond, worth.log_bend, 0.0)
    x = np.where(beyond, called + np.log(above), log_params) - centre[0]
    slopes = {index: -alpha * along for index, along in turns.items()}
    slopes[A], slopes[ALPHA] = slopes[A] + 1.0, slopes[ALPHA] - x
    out = {pair: -alpha * bend for pair, bend in bends.items()}
    for index, along in turns.items():
        pair = (min(index, ALPHA), max(index, ALPHA))
        out[pair] = out[pair] - along * (2.0 if index == ALPHA else 1.0)
    return Part(log_value=theta_kp[:, A, None] - theta_kp[:, ALPHA, None] * x, slopes=slopes, bends=out)


def _called_for(
    theta_kp: Floats, centre: tuple[float, float], log_unique: Floats
) -> tuple[Floats, dict[int, Floats], dict[tuple[int, int], Floats]]:
    """ln N_U and its first and second derivatives by a, b, α and β; N_U is the size at which U tokens are
    compute-optimal where FLOPs are k N D: α A / N_U^α = β B / U^β."""
    a, b = theta_kp[:, A, None], theta_kp[:, B, None]
    alpha, beta = (np.maximum(theta_kp[:, index, None], SMALLEST_EXPONENT) for index in (ALPHA, BETA))
    y = log_unique - centre[1]
    called = (np.log(alpha) - np.log(beta) + a - b + alpha * centre[0] + beta * y) / alpha
    by_alpha, by_beta = (1 / alpha + centre[0] - called) / alpha, (y - 1 / beta) / alpha
    first = {A: 1 / alpha, B: -1 / alpha, ALPHA: by_alpha, BETA: by_beta}
    second = {
        (A, ALPHA): -1 / alpha**2,
        (B, ALPHA): 1 / alpha**2,
        (ALPHA, ALPHA): -(1 / alpha**2 + 2 * by_alpha) / alpha,
        (ALPHA, BETA): -by_beta / alpha,
        (BETA, BETA): 1 / (alpha * beta**2),
    }
    return called, first, second


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatedLaw:
    """K laws of one form side by side, such as one for every redrawn study."""

    form: Form
    """What repetition does."""
    theta_kp: Floats
    """(K, P) parameters."""
    centre: tuple[float, float]
    """ln N₀ and ln D₀."""

    @property
    def fresh(self) -> SurfaceLaw:
        """The laws of text that does not repeat."""
        return SurfaceLaw(theta_kp=self.theta_kp[:, :NUM_BASE], centre=self.centre)

    def constant(self, name: str) -> Floats:
        """(K,) a constant that the form has beyond those of fresh text."""
        return np.exp(self.theta_kp[:, NUM_BASE + CONSTANTS[self.form].index(name)])

    def loss(self, params: Floats | float, tokens: Floats | float, unique_tokens: Floats | float) -> Floats:
        """(K, n) units of loss at N, D and U, numbers or shapes that broadcast to (K, n)."""
        log_n, log_d = np.log(params), np.log(tokens)
        log_u = np.minimum(np.log(unique_tokens), log_d)
        return np.exp(law_at(self.form, self.theta_kp, self.centre, (log_n, log_d, log_u)).log_loss_kn)

    def optimum(self, flops: float, contour: Contour, unique_tokens: float) -> LawOptimum:
        """N*, D* and L* at `flops` from a corpus of `unique_tokens`: the least loss along the contour of equal FLOPs,
        within `SEARCH_DECADES` of the sizes trained. D* / U are the passes."""

        def at(log_params: Floats) -> Floats:
            return self.loss(np.exp(log_params), contour.tokens(np.exp(log_params), flops), unique_tokens)

        reach = SEARCH_DECADES * np.log(10.0)
        places = np.linspace(contour.log_params[0] - reach, contour.log_params[-1] + reach, PLACES)
        middle_k = places[np.argmin(at(places[None]), axis=1)]
        step = places[1] - places[0]
        log_n_k = golden(lambda x_k: at(x_k[:, None])[:, 0], len(middle_k), middle_k - step, middle_k + step)
        params_k = np.exp(log_n_k)
        tokens_k = contour.tokens(params_k, flops)
        return LawOptimum(params_k=params_k, tokens_k=tokens_k, loss_k=at(log_n_k[:, None])[:, 0])
