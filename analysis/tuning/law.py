"""How the best hyper-parameters grow with the model: a power law through the optima of several rungs.

value*(N) = base * (N / reference)^exponent, with N the unrolled non-embedding parameters (each application counted).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.quadratic import Floats
from analysis.tuning.response import LEVEL, Response

LEAST_DEVIATION = 0.02
"""Of the logarithm of an optimum: no rung counts as knowing its own better than to 2 %."""


@dataclass(frozen=True, kw_only=True)
class TunedRung:
    """One arm and size after its trials."""

    arm: str
    """Label of the arm."""
    size: str
    """Base shape."""
    params: int
    """N, unrolled non-embedding parameters."""
    tokens: int
    """Training tokens of every trial."""
    response: Response | Refusal
    """How its loss answers."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a law costs on a rung that it was not fitted to."""

    size: str
    """The rung."""
    value: float
    """What the law of the other rungs says."""
    optimum: float
    """What the rung's own trials say."""
    loss_lost: float
    """Loss at the law's value over the lowest, nats/token, by the rung's own quadratic."""


@dataclass(frozen=True, kw_only=True)
class HyperparameterLaw:
    """One hyper-parameter of one arm as a function of size."""

    arm: str
    """Label of the arm."""
    name: str
    """Which hyper-parameter."""
    base: Estimate
    """Its value at `reference`."""
    reference: int
    """N at which `base` holds: the geometric mean of the rungs."""
    exponent: Estimate | Refusal
    """Growth with N."""
    held_out: tuple[HeldOut, ...]
    """For each rung, the law of the others; empty with fewer than three rungs."""
    sizes: tuple[str, ...]
    """The rungs behind it, ascending."""

    def value(self, params: float) -> float:
        """The law at a size; constant where the exponent is not known."""
        exponent = self.exponent.value if isinstance(self.exponent, Estimate) else 0.0
        return self.base.value * (params / self.reference) ** exponent


def fit_law(name: str, rungs: Sequence[TunedRung]) -> HyperparameterLaw | Refusal:
    """The law of one hyper-parameter through the rungs of one arm that have an optimum, or why there is none."""
    ascending = sorted(rungs, key=lambda rung: rung.params)
    tuned = [
        (rung, rung.response)
        for rung in ascending
        if isinstance(rung.response, Response) and name in rung.response.names
    ]
    if not tuned:
        reasons = "; ".join(
            f"{rung.size}: {rung.response.sentence}" for rung in rungs if isinstance(rung.response, Refusal)
        )
        return Refusal(kind=RefusalKind.NO_OPTIMUM, sentence=reasons or f"{name.replace('_', ' ')} was not varied")
    params_n = np.array([rung.params for rung, _ in tuned], dtype=np.float64)
    reference = round(float(np.exp(np.log(params_n).mean())))
    u_n = np.log(params_n / reference)
    draws_Mn = np.stack([response.draws_Md[:, response.names.index(name)] for _, response in tuned], axis=1)
    best_n = np.array([response.optimum_d[response.names.index(name)] for _, response in tuned])
    weights_n = 1 / np.maximum(draws_Mn.std(axis=0), LEAST_DEVIATION)
    base, exponent = _line(u_n, best_n, weights_n)
    lines_M2 = np.array([_line(u_n, row_n, weights_n) for row_n in draws_Mn])
    held_out = ()
    if len(tuned) >= 3:
        held_out = tuple(
            _held_out(
                name,
                rung,
                response,
                _line(*(np.delete(column, index) for column in (u_n, best_n, weights_n))),
                float(u_n[index]),
            )
            for index, (rung, response) in enumerate(tuned)
        )
    return HyperparameterLaw(
        arm=tuned[0][0].arm,
        name=name,
        base=_estimate(np.exp(base), np.exp(lines_M2[:, 0])),
        reference=reference,
        exponent=_estimate(exponent, lines_M2[:, 1])
        if len(tuned) > 1
        else Refusal(
            kind=RefusalKind.TOO_FEW_SIZES, sentence="one rung has an optimum: two are needed to see it grow with size"
        ),
        held_out=held_out,
        sizes=tuple(rung.size for rung, _ in tuned),
    )


def _line(u_n: Floats, y_n: Floats, weights_n: Floats) -> tuple[float, float]:
    """Intercept and slope, weighted; a slope of 0 through one place."""
    if len(u_n) == 1:
        return float(y_n[0]), 0.0
    slope, intercept = np.polyfit(u_n, y_n, 1, w=weights_n)
    return float(intercept), float(slope)


def _held_out(name: str, rung: TunedRung, response: Response, line: tuple[float, float], u: float) -> HeldOut:
    value = float(np.exp(line[0] + line[1] * u))
    return HeldOut(
        size=rung.size,
        value=value,
        optimum=response.optimum(name).value,
        loss_lost=response.loss({name: value}) - response.loss({}),
    )


def _estimate(value: float, draws_M: Floats) -> Estimate:
    low, high = np.quantile(draws_M, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(value), low=float(min(low, value)), high=float(max(high, value)), level=LEVEL)


def loss_of_sharing(shared: Mapping[str, float], response: Response) -> Estimate:
    """Loss at some settings over the lowest, nats/token, by the quadratic of another number of tokens than they were
    tuned at. The interval tells how well that quadratic is known; the settings are taken as given."""
    return _estimate(response.loss(shared) - response.loss({}), response.lost_M(shared))
