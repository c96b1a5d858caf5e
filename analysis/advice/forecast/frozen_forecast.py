"""A forecast as it was frozen: a document that says what was known then, and from which it is scored without refitting
anything."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from analysis.advice.forecast.forecast import Forecast, RunNoise
from analysis.advice.forecast.frozen_law import FrozenLaw, frozen_from_json
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.fit import FLAGGED_REACH

SCHEMA = "mor-sweep.frozen-forecast/1"
CLOSE = 1e-6
"""How near the law of a document must come to the loss that it states: its numbers are rounded."""


class ForecastError(ValueError):
    """A document that is no frozen forecast; the message says why, without the file's name."""


@dataclass(frozen=True, kw_only=True)
class ForecastKey:
    """What a forecast is of and from: there is one for each."""

    arm: str
    """The architecture."""
    budget: str
    """FLOPs, an exact decimal integer."""
    loss_column: str
    """The loss."""
    inputs_sha256: str
    """Of the points that it was made from."""
    approach: str
    """One of `outlook.APPROACHES`, or combined."""
    asymptote: float | None = None
    """Where the user pinned it; None where nobody did."""

    @property
    def sha256(self) -> str:
        """Its name, 64 hexadecimal digits."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ForecastShape:
    """The shape nearest to N* that can be built."""

    size: str
    """Its name, for --sizes."""
    num_layers: int | None
    """Unrolled layers; None of a user's own model."""
    d_model: int | None
    """Width; None of a user's own model."""
    params: float
    """N."""
    tokens: float
    """What the budget trains it on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenForecast:
    """What one approach said of one arm at one budget, when, and knowing what."""

    key: ForecastKey
    """What it is of and from."""
    budget_convention: str
    """How its FLOPs are counted."""
    loss_unit: str
    """Of its losses."""
    reach: float
    """The budget over the largest one fitted."""
    params: Estimate | Refusal
    """N*."""
    tokens: Estimate | Refusal
    """D*, tokens."""
    loss: Estimate | Refusal
    """L*: where the mean over seeds lies at the optimum."""
    shape: ForecastShape | None
    """The nearest shape; None where N* is refused."""
    mean_loss: Estimate | Refusal
    """Of that shape, over seeds: where the law lies."""
    run_loss: Estimate | Refusal
    """Of one more run of that shape; refused where nobody knows the noise of runs."""
    law: FrozenLaw
    """The loss at any (N, D)."""
    weight: float | None
    """Of its L* among the approaches; None for the mixture, and where it has no L*."""
    record: str
    """How well it would have predicted the study's own budgets; empty where nothing could be rolled."""
    noise: RunNoise | None
    """Of runs; None where no cell had a second seed."""
    resampling: Resampling
    """How its intervals are drawn."""
    settings_id: str
    """Of the sweep's plans: cells of other settings are other mathematics, or other data."""
    known: tuple[str, ...]
    """Evaluation segments of the sweep that were published when it was frozen, sorted."""
    created: str
    """When, ISO 8601 in UTC."""
    versions: Mapping[str, str]
    """Package -> version that made it."""

    @property
    def flagged(self) -> bool:
        """True more than ten times beyond the largest budget."""
        return self.reach > FLAGGED_REACH

    @property
    def of_run(self) -> bool:
        """Whether its interval is that of one more run, or of the law's mean alone."""
        return self.noise is not None

    @property
    def stated_loss(self) -> Estimate | Refusal:
        """Of its shape: of one more run where that is known, otherwise of the mean."""
        return self.run_loss if self.of_run else self.mean_loss

    @property
    def is_finite(self) -> bool:
        """Whether every number of it, draws included, is one that a document can hold."""
        try:
            json.dumps(self.as_json(), allow_nan=False)
        except ValueError:
            return False
        return True

    def as_json(self) -> dict[str, Any]:
        """The document."""
        return self.summary() | {
            "schema": SCHEMA,
            "law": self.law.as_json(),
            "resampling": asdict(self.resampling),
            "settings_id": self.settings_id,
            "known": list(self.known),
        }

    def summary(self) -> dict[str, Any]:
        """The document without the law's draws and what only scoring needs."""
        return asdict(self.key) | {
            "key": self.key.sha256,
            "budget_convention": self.budget_convention,
            "loss_unit": self.loss_unit,
            "reach": self.reach,
            "flagged": self.flagged,
            "params": _answer(self.params),
            "tokens": _answer(self.tokens),
            "loss": _answer(self.loss),
            "shape": None if self.shape is None else asdict(self.shape),
            "mean_loss": _answer(self.mean_loss),
            "run_loss": _answer(self.run_loss),
            "weight": self.weight,
            "record": self.record,
            "noise": None if self.noise is None else asdict(self.noise),
            "created": self.created,
            "versions": dict(self.versions),
        }


def losses_of_shape(forecast: Forecast, shape: ForecastShape | None) -> tuple[Estimate | Refusal, Estimate | Refusal]:
    """(of the mean over seeds, of one more run) at the shape; both refused where there is none."""
    if shape is None:
        refusal = Refusal(kind=RefusalKind.NO_OPTIMUM, sentence="there is no N* to name a shape by.")
        return refusal, refusal
    place = (shape.params, shape.tokens, float(forecast.budget))
    mean = forecast.mean_loss_of(*place)
    return (mean if isinstance(mean, Refusal) else mean.estimate), forecast.run_loss_of(*place)


def forecast_from_json(document: Mapping[str, Any]) -> FrozenForecast:
    """Read back what `FrozenForecast.as_json` wrote. Raises ForecastError for anything else."""
    if document.get("schema") != SCHEMA:
        raise ForecastError(f"its schema is {document.get('schema')!r:.80}, expected {SCHEMA}")
    try:
        forecast = _forecast(document)
        _check(document, forecast)
    except ForecastError:
        raise
    except (KeyError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ForecastError(f"it is no frozen forecast ({error!r:.200})") from error
    return forecast


def _forecast(document: Mapping[str, Any]) -> FrozenForecast:
    shape, noise = document["shape"], document["noise"]
    names = ForecastKey.__dataclass_fields__
    return FrozenForecast(
        key=ForecastKey(**{name: document[name] for name in names}),
        budget_convention=_text(document["budget_convention"]),
        loss_unit=_text(document["loss_unit"]),
        reach=float(document["reach"]),
        shape=None if shape is None else ForecastShape(**shape),
        law=frozen_from_json(document["law"]),
        weight=None if document["weight"] is None else float(document["weight"]),
        record=_text(document["record"]),
        noise=None if noise is None else RunNoise(**noise),
        resampling=Resampling(**document["resampling"]),
        settings_id=_text(document["settings_id"]),
        known=tuple(_text(name) for name in document["known"]),
        created=_text(document["created"]),
        versions={_text(name): _text(version) for name, version in document["versions"].items()},
        **{name: _read_answer(document[name]) for name in ("params", "tokens", "loss", "mean_loss", "run_loss")},
    )


def _check(document: Mapping[str, Any], forecast: FrozenForecast) -> None:
    """Raise ForecastError where a document contradicts itself."""
    key = forecast.key
    for text in (key.arm, key.loss_column, key.inputs_sha256, key.approach):
        _text(text)
    if document["key"] != key.sha256:
        raise ForecastError("its key is not the sha256 of what it is of")
    if not key.budget.isdecimal():
        raise ForecastError(f"its budget is {key.budget!r:.80}, expected whole FLOPs")
    if forecast.shape is None or isinstance(forecast.mean_loss, Refusal):
        return
    _text(forecast.shape.size)
    loss = forecast.law.loss_of(forecast.shape.params, forecast.shape.tokens, float(key.budget)).estimate
    ends = zip((loss.value, loss.low, loss.high), _ends(forecast.mean_loss), strict=True)
    if not all(math.isclose(one, other, rel_tol=CLOSE) for one, other in ends):
        raise ForecastError(f"its law says {loss.value:.6g} of its shape, it states {forecast.mean_loss.value:.6g}")


def _ends(answer: Estimate) -> tuple[float, float, float]:
    return answer.value, answer.low, answer.high


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ForecastError(f"it has {value!r:.80}, expected a line of text")
    return value


def _answer(answer: Estimate | Refusal) -> dict[str, Any]:
    if isinstance(answer, Refusal):
        return {"refusal": answer.kind.value, "sentence": answer.sentence}
    return asdict(answer)


def _read_answer(document: Mapping[str, Any]) -> Estimate | Refusal:
    if "refusal" in document:
        return Refusal(kind=RefusalKind(document["refusal"]), sentence=_text(document["sentence"]))
    estimate = Estimate(**document)
    if not all(math.isfinite(number) for number in (*_ends(estimate), estimate.level)):
        raise ForecastError(f"it has {estimate.value!r:.80}, expected a number")
    return estimate
