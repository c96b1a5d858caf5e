"""The law of a forecast with its draws, as a document that is read back without refitting anything.

`FrozenLaw.loss_of` answers for any (N, D): what is trained in the end is seldom the very shape that was forecast.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.advice.forecast.forecaster import COMBINED, Forecaster, kept_weights
from analysis.advice.forecast.law_error import GROWTH, law_error
from analysis.advice.forecast.outlook import Outlook, law_name
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.asymptotic_law import AsymptoticLaw
from analysis.statistics.bootstrap import Sample, sample
from analysis.statistics.power_law import FittedPowerLaw
from analysis.statistics.quadratic import Floats
from analysis.surface.fit import SurfaceFit
from analysis.surface.law import SurfaceLaw

MOST_DRAWS = 1000
DIGITS = 9
"""Significant digits of a number in a document."""
_NO_LAW = Refusal(kind=RefusalKind.NO_OPTIMUM, sentence="no approach answers.")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenSurface:
    """E + A / N^α + B / D^β; row 0 is the fit, the others are its draws."""

    law: SurfaceLaw
    """K + 1 laws."""

    def loss_of(self, params: float, tokens: float, flops: float) -> Floats:
        """(K + 1,) nats/token."""
        return self.law.loss(params, tokens)

    def as_json(self) -> dict[str, Any]:
        """The document of this part."""
        return {"law": "surface", "centre": list(self.law.centre), "theta": _numbers(self.law.theta_kp)}


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenMinima:
    """L*(C) + curvature (ln N - ln N*(C))²; row 0 is the fit, the others are its draws."""

    centre: float
    """ln C about which both laws are."""
    loss_k3: Floats
    """(K + 1, 3) E, a and c of L* = E + exp(a - c (ln C - centre))."""
    params_k2: Floats
    """(K + 1, 2) ln N* at the centre, and its exponent."""
    curvature: float
    """nats/token per squared natural logarithm of N."""

    def loss_of(self, params: float, tokens: float, flops: float) -> Floats:
        """(K + 1,) nats/token."""
        x = np.log(flops) - self.centre
        least_k = self.loss_k3[:, 0] + np.exp(self.loss_k3[:, 1] - self.loss_k3[:, 2] * x)
        return least_k + self.curvature * (np.log(params) - self.params_k2 @ np.array([1.0, x])) ** 2

    def as_json(self) -> dict[str, Any]:
        """The document of this part."""
        laws = {"loss": _numbers(self.loss_k3), "params": _numbers(self.params_k2)}
        return {"law": "minima", "centre": self.centre, "curvature": self.curvature} | laws


FrozenPart = FrozenSurface | FrozenMinima


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenLaw:
    """One approach, or several mixed."""

    parts: Mapping[str, FrozenPart]
    """Approach -> its law."""
    weights: Mapping[str, float]
    """Approach -> its weight; they sum to one."""
    drift: Mapping[str, Floats]
    """Approach -> (K,) what its law may miss in ln L, over a factor of e beyond the largest budget."""
    chosen_k: tuple[str, ...]
    """Whose each draw is."""
    largest: float
    """The largest budget fitted, FLOPs."""
    level: float
    """Nominal coverage of its intervals."""

    def loss_of(self, params: float, tokens: float, flops: float) -> Sample:
        """The mean loss of models of `params` on `tokens`, which take `flops`, nats/token."""
        growth = max(float(np.log(flops / self.largest)), 0.0) ** GROWTH
        value, draws = 0.0, np.empty(len(self.chosen_k))
        owner_k = np.array(self.chosen_k)
        for approach, part in self.parts.items():
            loss_k = part.loss_of(params, tokens, flops)
            value += self.weights[approach] * float(np.log(loss_k[0]))
            mine_k = owner_k == approach
            draws[mine_k] = (loss_k[1:] * np.exp(growth * self.drift[approach]))[mine_k]
        return sample(float(np.exp(value)), draws, self.level)

    def as_json(self) -> dict[str, Any]:
        """The document."""
        names = list(self.parts)
        return {
            "parts": {approach: part.as_json() for approach, part in self.parts.items()},
            "weights": dict(self.weights),
            "drift": {approach: _numbers(draws) for approach, draws in self.drift.items()},
            "chosen": [names.index(approach) for approach in self.chosen_k],
            "largest": self.largest,
            "level": self.level,
        }


def freeze(forecaster: Forecaster, approach: str, believed: Collection[str]) -> FrozenLaw | Refusal:
    """The law of the loss by `approach`, or of those `believed` mixed where it is `COMBINED`; the refusal of one that
    has none."""
    parts = {name: _part(outlook) for name, outlook in forecaster.outlooks.items() if name in (*believed, approach)}
    whole = {name: part for name, part in parts.items() if not isinstance(part, Refusal)}
    if approach != COMBINED and isinstance(refusal := parts[approach], Refusal):
        return refusal
    if not whole:
        return next((part for part in parts.values() if isinstance(part, Refusal)), _NO_LAW)
    weights = kept_weights(forecaster.past, "loss", list(whole)) if approach == COMBINED else {approach: 1.0}
    number = min(MOST_DRAWS, forecaster.resampling.draws)
    return FrozenLaw(
        parts={name: whole[name] for name in weights},
        weights=weights,
        drift={name: _drift(forecaster, name)[:number] for name in weights},
        chosen_k=tuple(list(weights)[owner] for owner in forecaster.owners("loss", weights)[:number]),
        largest=forecaster.largest,
        level=forecaster.resampling.level,
    )


def frozen_from_json(document: Mapping[str, Any]) -> FrozenLaw:
    """Read back what `FrozenLaw.as_json` wrote."""
    parts = {approach: _part_from_json(part) for approach, part in document["parts"].items()}
    names = list(parts)
    return FrozenLaw(
        parts=parts,
        weights=document["weights"],
        drift={approach: np.array(draws) for approach, draws in document["drift"].items()},
        chosen_k=tuple(names[index] for index in document["chosen"]),
        largest=document["largest"],
        level=document["level"],
    )


def _part(outlook: Outlook | Refusal) -> FrozenPart | Refusal:
    if isinstance(outlook, Refusal):
        return outlook
    if isinstance(outlook, SurfaceFit):
        best, draws = outlook.best.as_law, outlook.draws.law
        theta_kp = np.concatenate([best.theta_kp, draws.theta_kp[:MOST_DRAWS]])
        return FrozenSurface(law=SurfaceLaw(theta_kp=theta_kp, centre=draws.centre))
    for law in (outlook.loss, outlook.params):
        if isinstance(law, Refusal):
            return law
    assert isinstance(outlook.loss, AsymptoticLaw)
    assert isinstance(outlook.params, FittedPowerLaw)
    return _frozen_minima(outlook.loss, outlook.params, outlook.curvature)


def _frozen_minima(loss: AsymptoticLaw, params: FittedPowerLaw, curvature: float) -> FrozenMinima:
    """Both laws about one centre, that of the loss."""
    shift = loss.centre - params.centre
    middle = float(np.log(params.law(np.exp(np.array(params.centre)))))
    params_k2 = np.concatenate([[[middle, params.law.exponent]], params.draws_k2[:MOST_DRAWS]])
    params_k2[:, 0] += params_k2[:, 1] * shift
    return FrozenMinima(
        centre=loss.centre,
        loss_k3=np.concatenate([loss.fitted_3[None], loss.draws_k3[:MOST_DRAWS]]),
        params_k2=params_k2,
        curvature=curvature,
    )


def _part_from_json(document: Mapping[str, Any]) -> FrozenPart:
    if document["law"] == "surface":
        first, second = document["centre"]
        return FrozenSurface(law=SurfaceLaw(theta_kp=np.array(document["theta"]), centre=(first, second)))
    return FrozenMinima(
        centre=document["centre"],
        loss_k3=np.array(document["loss"]),
        params_k2=np.array(document["params"]),
        curvature=document["curvature"],
    )


def _drift(forecaster: Forecaster, approach: str) -> Floats:
    past = forecaster.past["loss"].get(law_name(approach, "loss"), ())
    return law_error("loss", past).draws(1.0, forecaster.resampling, forecaster.arm, "loss")


def _numbers(array: Floats) -> list[Any]:
    """As nested lists, rounded so that a document stays small."""
    rounded = np.vectorize(lambda number: float(f"{number:.{DIGITS}g}"), otypes=[float])(array)
    return rounded.tolist()
