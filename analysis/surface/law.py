"""The law L(N, D) = E + A / N^α + B / D^β, and what it answers.

Hoffmann et al. 2022 (arXiv:2203.15556, section 3.3, approach 3). `analysis.surface.extended` has laws with more to say.

Legend: K fits side by side, n points, P parameters: a, b, e, α, β, and what an extended law has beyond them.
a = ln A - α ln N₀ and b = ln B - β ln D₀ are the terms at the geometric mean (N₀, D₀) of the points, and e = ln E:
with a term at the middle of the data, and not at N = 1, the condition number of the problem falls by orders of
magnitude. The place of each in the vector is known to this file alone; others ask a `SurfaceLaw`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.quadratic import Floats
from analysis.surface.contour import Contour

A, B, E, ALPHA, BETA = range(5)
NUM_BASE = 5
"""Parameters of the law itself."""
LARGEST_LOG_LOSS = 50.0  # keeps exp finite on the way; no fit ends there
LARGEST_LOG_TERM = 700.0
"""ln of what a term of a law is cut at, so that it stays finite."""
LARGEST_LOG_COUNT = 200.0
"""ln of the parameters beyond which a law counts as never reaching a loss."""
LEAST_LOGIT = -25.0
"""Where the share of D is as good as nothing."""
SEARCH_DECADES = 4.0
"""How far beyond the sizes trained an optimum is searched for."""
GOLDEN = (np.sqrt(5) - 1) / 2

Residual = Literal["log", "loss"]
"""What is made small: ln of the predicted loss less ln of the measured one, or their difference."""


@dataclass(frozen=True, kw_only=True)
class LossSurface:
    """One law by its constants: loss(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    """Irreducible loss."""
    A: float
    """Units of loss · parameters^alpha."""
    alpha: float
    """Exponent of the parameters."""
    B: float
    """Units of loss · tokens^beta."""
    beta: float
    """Exponent of the tokens."""

    def loss(self, params: Floats | float, tokens: Floats | float) -> Floats:
        """Units of loss at `params` and `tokens` (shapes that broadcast)."""
        return self.E + self.A * np.power(params, -self.alpha) + self.B * np.power(tokens, -self.beta)

    @property
    def exponent(self) -> float:
        """a of N* ∝ C^a where FLOPs are proportional to N D: β / (α + β)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def as_law(self) -> "SurfaceLaw":
        """The same law as one of K = 1, about N = D = 1."""
        theta = parameter_vector(np.log(self.A), np.log(self.B), np.log(self.E), self.alpha, self.beta)
        return SurfaceLaw(theta_kp=theta[None], centre=(0.0, 0.0))

    def n_opt(self, flops: float, contour: Contour) -> float:
        """N* at `flops`: the least loss along the contour of equal FLOPs."""
        return float(self.as_law.optimum(flops, contour).params_k[0])

    def d_opt(self, flops: float, contour: Contour) -> float:
        """D* at `flops`, tokens."""
        return float(self.as_law.optimum(flops, contour).tokens_k[0])

    def l_opt(self, flops: float, contour: Contour) -> float:
        """L* at `flops`."""
        best = self.as_law.optimum(flops, contour)
        return float(self.loss(best.params_k[0], best.tokens_k[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class LawOptimum:
    """Where K laws have their least loss at one budget."""

    params_k: Floats
    """(K,) N*, parameters."""
    tokens_k: Floats
    """(K,) D*, tokens."""
    loss_k: Floats
    """(K,) L*."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceLaw:
    """K laws side by side, such as one for every redrawn study: E + A / N^α + B / D^β (Hoffmann et al. 2022).

    Here each is e^e + e^(a - α (ln N - ln N₀)) + e^(b - β (ln D - ln D₀)): the same law, with A = e^a N₀^α and
    B = e^b D₀^β. N is of unique parameters.

    N, D and losses are given as numbers, or as arrays of which the first axis is that of the laws (or of length 1), as
    (K,), (K, m) or (1, m). Answers are (K, ...).
    """

    theta_kp: Floats
    """(K, P) the parameters that a `Problem` is about."""
    centre: tuple[float, float]
    """ln N₀ and ln D₀."""

    def __len__(self) -> int:
        return len(self.theta_kp)

    @property
    def E(self) -> Floats:
        """(K,) irreducible loss."""
        return np.exp(self.theta_kp[:, E])

    @property
    def A(self) -> Floats:
        """(K,) units of loss · parameters^alpha."""
        return np.exp(np.minimum(self.theta_kp[:, A] + self.alpha * self.centre[0], LARGEST_LOG_TERM))

    @property
    def alpha(self) -> Floats:
        """(K,) exponent of the parameters."""
        return self.theta_kp[:, ALPHA]

    @property
    def B(self) -> Floats:
        """(K,) units of loss · tokens^beta."""
        return np.exp(np.minimum(self.theta_kp[:, B] + self.beta * self.centre[1], LARGEST_LOG_TERM))

    @property
    def beta(self) -> Floats:
        """(K,) exponent of the tokens."""
        return self.theta_kp[:, BETA]

    @property
    def exponent(self) -> Floats:
        """(K,) a of N* ∝ C^a where FLOPs are proportional to N D: β / (α + β)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def falls(self) -> NDArray[np.bool_]:
        """(K,) whether the loss falls with N and with D: α and β above 0."""
        return (self.alpha > 0) & (self.beta > 0)

    def constants(self) -> LossSurface:
        """The first of the laws by its constants."""
        values = {name: float(getattr(self, name)[0]) for name in ("E", "A", "alpha", "B", "beta")}
        return LossSurface(**values)

    def then(self, others: "SurfaceLaw") -> "SurfaceLaw":
        """These laws and after them others about the same centre."""
        return SurfaceLaw(theta_kp=np.concatenate([self.theta_kp, others.theta_kp]), centre=self.centre)

    def about(self, centre: tuple[float, float]) -> "SurfaceLaw":
        """The same laws with their terms taken at another ln N₀ and ln D₀."""
        theta_kp = self.theta_kp.copy()
        theta_kp[:, A] -= self.alpha * (centre[0] - self.centre[0])
        theta_kp[:, B] -= self.beta * (centre[1] - self.centre[1])
        return SurfaceLaw(theta_kp=theta_kp, centre=centre)

    def loss(self, params: Floats | float, tokens: Floats | float) -> Floats:
        """(K, ...) units of loss at `params` and `tokens`."""
        return self._loss(np.log(params), np.log(tokens))

    def params_for(self, loss: Floats | float, tokens: Floats | float) -> Floats:
        """(K, ...) N, parameters, that reach `loss` on `tokens`; inf where no number of parameters does."""
        target, log_d, a, b, e, alpha, beta = _aligned(loss, np.log(tokens), *self._base)
        left = target - np.exp(np.minimum(b - beta * (log_d - self.centre[1]), LARGEST_LOG_TERM)) - np.exp(e)
        reachable = (left > 0) & (alpha > 0)
        log_n = self.centre[0] + (a - np.log(np.where(reachable, left, 1.0))) / np.where(reachable, alpha, 1.0)
        within = reachable & (log_n < LARGEST_LOG_COUNT)
        return np.where(within, np.exp(np.minimum(log_n, LARGEST_LOG_COUNT)), np.inf)

    def optimum(self, flops: float, contour: Contour) -> LawOptimum:
        """N*, D* and L* at `flops`: the least loss along the contour of equal FLOPs.

        Where FLOPs are k N D that is where the derivative vanishes, N*^(α + β) = (α A / β B) (C / k)^β; elsewhere
        golden section finds it, within `SEARCH_DECADES` of the sizes trained.
        """
        log_n_k = self._log_optimum(flops, contour)
        params_k = np.exp(log_n_k)
        tokens_k = contour.tokens(params_k, flops)
        return LawOptimum(params_k=params_k, tokens_k=tokens_k, loss_k=self._loss(log_n_k, np.log(tokens_k)))

    def reaches(self, loss: float) -> NDArray[np.bool_]:
        """(K,) whether large enough N and D have `loss`: laws that fall, and to less than it."""
        return (loss > self.E) & self.falls

    def token_logit(self, loss: float, log_params: float) -> Floats:
        """(K,) logit of the share that the term of D has in what `loss` is above E, at ln N.

        `LEAST_LOGIT` where that is no more than nothing: too few parameters for that loss.
        """
        of_first_k = np.exp(self._base[A] - self.alpha * (log_params - self.centre[0])) / self._above(loss)
        share_k = np.clip(1.0 - of_first_k, 0.0, 1.0)
        with np.errstate(divide="ignore"):
            logit_k = np.log(share_k) - np.log(of_first_k)
        return np.where(self.reaches(loss), np.maximum(logit_k, LEAST_LOGIT), LEAST_LOGIT)

    def at_loss(self, loss: float, logit_km: Floats) -> tuple[Floats, Floats]:
        """(K, m) ln N and ln D of models that have `loss`, by the logit of the share that the term of D has in what it
        is above E. Without meaning for laws that never reach it."""
        log_left_k1 = np.log(self._above(loss))[:, None]
        # ln of the two shares, exact also where one of them is next to 0.
        first_km = log_left_k1 - np.logaddexp(0.0, logit_km)
        second_km = log_left_k1 - np.logaddexp(0.0, -logit_km)
        reached_k = self.reaches(loss)
        alpha_k, beta_k = np.where(reached_k, self.alpha, 1.0), np.where(reached_k, self.beta, 1.0)
        log_params_km = self.centre[0] + (self._base[A][:, None] - first_km) / alpha_k[:, None]
        log_tokens_km = self.centre[1] + (self._base[B][:, None] - second_km) / beta_k[:, None]
        return log_params_km, log_tokens_km

    @property
    def _base(self) -> Floats:
        """(5, K): a, b, e, α, β."""
        return self.theta_kp[:, :NUM_BASE].T

    def _above(self, loss: float) -> Floats:
        """(K,) how far `loss` is above E; 1 for a law that never reaches it."""
        above_k = loss - self.E
        return np.where(above_k > 0, above_k, 1.0)

    def _loss(self, log_params: Floats, log_tokens: Floats) -> Floats:
        log_n, log_d, a, b, e, alpha, beta = _aligned(log_params, log_tokens, *self._base)
        first, second = a - alpha * (log_n - self.centre[0]), b - beta * (log_d - self.centre[1])
        terms = np.exp(np.minimum(first, LARGEST_LOG_TERM)) + np.exp(np.minimum(second, LARGEST_LOG_TERM))
        return terms + np.exp(e)

    def _log_optimum(self, flops: float, contour: Contour) -> Floats:
        """(K,) ln N*."""
        reach = SEARCH_DECADES * np.log(10.0)
        if contour.factor is None:
            low, high = contour.log_params[0] - reach, contour.log_params[-1] + reach
            return golden(lambda x_k: self._loss(x_k, np.log(contour.tokens(np.exp(x_k), flops))), len(self), low, high)
        a_k, b_k, _, alpha_k, beta_k = self._base
        ratio_k = np.log(np.maximum(alpha_k, 1e-12) / np.maximum(beta_k, 1e-12)) + a_k - b_k
        middle = np.log(flops / contour.factor) - self.centre[1]
        sum_k = np.maximum(alpha_k + beta_k, 1e-12)
        log_n_k = (ratio_k + alpha_k * self.centre[0] + beta_k * middle) / sum_k
        return np.clip(log_n_k, contour.log_params[0] - 3 * reach, contour.log_params[-1] + 3 * reach)


def _aligned(*values: Floats | float) -> list[Floats]:
    """The values with axes added at their end until all have as many, at least one: the first is that of the laws."""
    arrays = [np.asarray(value, dtype=np.float64) for value in values]
    most = max(1, *(array.ndim for array in arrays))
    return [array.reshape(array.shape + (1,) * (most - array.ndim)) for array in arrays]


def golden(function: Callable[[Floats], Floats], count: int, low: Floats | float, high: Floats | float) -> Floats:
    """(count,) where functions side by side are least between `low` and `high`, by golden section."""
    left, right = np.full(count, low), np.full(count, high)
    for _ in range(60):
        width = right - left
        first, second = right - GOLDEN * width, left + GOLDEN * width
        lower = function(first) < function(second)
        left, right = np.where(lower, left, first), np.where(lower, second, right)
    return (left + right) / 2


def parameter_vector(a: float, b: float, e: float, alpha: float, beta: float, *beyond: float) -> Floats:
    """(P,) the parameters of one law, as a `Problem` takes them."""
    theta = np.concatenate([np.zeros(NUM_BASE), beyond])
    theta[[A, B, E, ALPHA, BETA]] = a, b, e, alpha, beta
    return theta


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant:
    """One constant of a law, as a direction in the space of its parameters θ."""

    name: str
    """E, A, alpha, B, beta, or another of an extended law."""
    direction: Floats
    """(P,) the constant, or its logarithm, is direction · θ."""
    logarithmic: bool
    """Whether it is the logarithm."""

    def value(self, along: float) -> float:
        """The constant where direction · θ is `along`."""
        return float(np.exp(along)) if self.logarithmic else float(along)


def constants_along(
    centre: tuple[float, float], beyond: tuple[str, ...] = (), *, logarithmic: bool = True
) -> tuple[Constant, ...]:
    """The constants of a law about `centre`; `beyond` names those after the first five, whose logarithms are parameters
    where `logarithmic`."""
    unit = np.eye(NUM_BASE + len(beyond))
    base = (
        Constant(name="E", direction=unit[E], logarithmic=True),
        Constant(name="A", direction=unit[A] + centre[0] * unit[ALPHA], logarithmic=True),
        Constant(name="alpha", direction=unit[ALPHA], logarithmic=False),
        Constant(name="B", direction=unit[B] + centre[1] * unit[BETA], logarithmic=True),
        Constant(name="beta", direction=unit[BETA], logarithmic=False),
    )
    return base + tuple(
        Constant(name=name, direction=direction, logarithmic=logarithmic)
        for name, direction in zip(beyond, unit[NUM_BASE:], strict=True)
    )
