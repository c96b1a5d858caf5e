"""Forecasts of a sweep: what its runs say of a larger budget, frozen before anything is trained with it; and how far
off they were, once it is.

    sweeps/<name>/forecasts/<key>.json    one an arm, budget, loss, inputs and approach; written once, never changed

A file appears whole by a link that fails where the name is taken, and where results are shared by the bucket's
conditional creation: of two machines that freeze at once, both print what the first one wrote.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from analysis.advice.forecast.forecast import Forecast, forecasts, roll_study
from analysis.advice.forecast.frozen_forecast import (
    ForecastError,
    ForecastKey,
    ForecastShape,
    FrozenForecast,
    forecast_from_json,
    losses_of_shape,
)
from analysis.advice.forecast.score import ScoredForecast, TrainedCell, score_forecast
from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.report.forecasts import run_refusals
from analysis.runs.points import read_points
from analysis.runs.quality import MOST_EPOCHS
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.approach import QUANTITIES
from mor_core.errors import UserError
from mor_core.files import UnreadableFileError, create_bytes, parse_json_object, read_regular_file
from mor_core.units import budget_text, short_count
from orchestrator.records.fits.fitted import Fitted
from orchestrator.records.fits.predictions import nearest_shapes
from orchestrator.records.revisions import Sweep, package_version
from orchestrator.records.table import table
from orchestrator.store.folder import writing
from orchestrator.store.published import StoreError, ends_with_its_sum, summed_content
from orchestrator.store.store import FORECASTS, Store

LARGEST_BYTES = 16 * 2**20
LIBRARIES = ("numpy", "scipy", "polars")
"""What its numbers depend on, beside this package."""

MOVE_AWAY = "move it away, or bring the file back as it was frozen"
NOT_FINITE = Refusal(kind=RefusalKind.NOT_IDENTIFIED, sentence="some of its draws are no finite numbers.")


class NoForecast(UserError):
    """A forecast that cannot be asked for."""


class UnreadableForecast(StoreError, UserError):
    """A file of a forecast that is damaged; the message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be forecast."""

    flops: int
    """The budget."""
    arm: str | None = None
    """Of one arm; None for all."""
    asymptote: float | None = None
    """Where E is pinned; None for the surface's."""
    forced: bool = False
    """Beyond 100 times the largest budget too."""


@dataclass(frozen=True, kw_only=True)
class NotFrozen:
    """An approach that the runs do not support."""

    arm: str
    """The architecture."""
    approach: str
    """The approach; empty for all of them."""
    sentence: str
    """Why."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What was frozen, now or before."""

    forecasts: tuple[FrozenForecast, ...]
    """As they lie in the folder."""
    refused: tuple[NotFrozen, ...]
    """What the runs do not support."""

    @property
    def refusals(self) -> list[str]:
        """Why numbers are missing: of approaches that were not frozen, of single numbers, and of one more run; each
        reason once an arm."""
        numbers = [
            (forecast.key.arm, forecast.key.approach, answer.sentence)
            for forecast in self.forecasts
            for answer in (forecast.params, forecast.tokens, forecast.loss)
            if isinstance(answer, Refusal)
        ]
        approaches: dict[tuple[str, str], dict[str, None]] = {}
        for arm, approach, sentence in [*numbers, *((out.arm, out.approach, out.sentence) for out in self.refused)]:
            approaches.setdefault((arm, sentence), {})[approach] = None
        lines = [
            f"{arm} ({', '.join(names)}): {sentence}" if any(names) else f"{arm}: {sentence}"
            for (arm, sentence), names in approaches.items()
        ]
        return run_refusals(self.forecasts) + lines


def read_forecasts(store: Store, name: str) -> list[FrozenForecast]:
    """All forecasts of a sweep, the oldest first. Raises UnreadableForecast: none is passed over."""
    frozen = [read_forecast(path) for path in store.forecast_files(name)]
    return sorted(
        frozen,
        key=lambda forecast: (forecast.created, forecast.key.arm, int(forecast.key.budget), forecast.key.approach),
    )


def read_forecast(path: Path) -> FrozenForecast:
    """A forecast by its file. Raises UnreadableForecast, also where it was changed since it was frozen."""
    try:
        content = read_regular_file(path, LARGEST_BYTES)
        if not ends_with_its_sum(content):
            raise ForecastError("it was changed after it was frozen: its bytes do not have the sha256 at its end")
        forecast = forecast_from_json(parse_json_object(content, path))
        if path.name != f"{forecast.key.sha256}.json":
            raise ForecastError("it is another forecast than its name says")
    except (FileNotFoundError, UnreadableFileError, ForecastError) as error:
        fault = str(error) if isinstance(error, UnreadableFileError) else f"{path} cannot be read ({error})"
        raise UnreadableForecast(f"{fault}: {MOVE_AWAY}") from error
    return forecast


def freeze(store: Store, fitted: Fitted, request: Asked) -> Frozen:
    """Freeze what every approach says that the runs support; what was frozen before stays as it is.

    Raises:
        NoForecast: there is no such arm, or every arm asked for has a finished cell with at least this budget.
        UnreadableForecast: what was frozen before is damaged.
        StoreError: the bucket cannot be used.
    """
    assert fitted.sweep is not None
    arms, refused = _arms_ahead(fitted, request)
    study = fitted.study
    rolled = roll_study(study, request.asymptote, arms)
    finished, now = _finished_evaluations(store, fitted.sweep), datetime.datetime.now(datetime.UTC)
    kept: list[FrozenForecast] = []
    for arm in arms:
        if arm not in rolled:
            refused.append(NotFrozen(arm=arm, approach="", sentence="no cell of it that a fit can use is finished."))
            continue
        frame = study.points.of_arm(arm)
        predictions = forecasts(frame, rolled[arm], str(request.flops), forced=request.forced)
        for forecast, shape in zip(predictions, _shapes(fitted, predictions, request.flops), strict=True):
            frozen = _refuse_repeats(fitted, forecast) or _frozen(fitted, forecast, shape, request, finished, now)
            if isinstance(frozen, Refusal):
                refused.append(NotFrozen(arm=arm, approach=forecast.approach, sentence=frozen.sentence))
            else:
                kept.append(keep_forecast(store, fitted.sweep.name, frozen))
    return Frozen(forecasts=tuple(kept), refused=tuple(refused))


def _arms_ahead(fitted: Fitted, request: Asked) -> tuple[list[str], list[NotFrozen]]:
    """The arms asked for that have no finished cell at or above the budget, and those that have. Raises NoForecast."""
    arms = sorted(set(fitted.runs["arm"].to_list()))
    if request.arm is not None and request.arm not in arms:
        raise NoForecast(f"sweep {fitted.name!r} has no arm {request.arm!r:.80}: it has {', '.join(arms)}")
    chosen = arms if request.arm is None else [request.arm]
    finished = fitted.runs.filter(pl.col("status") == "finished")
    largest = {arm: max(map(int, arm_runs["budget"]), default=0) for (arm,), arm_runs in finished.group_by("arm")}
    measured = {arm: largest[arm] for arm in chosen if largest.get(arm, 0) >= request.flops}
    reasons = {
        arm: f"it has a finished cell at {budget_text(most)} FLOPs, so that {budget_text(request.flops)} lies within "
        "its data: name a larger budget, or ask `predict`"
        for arm, most in measured.items()
    }
    if len(reasons) == len(chosen):
        raise NoForecast("; ".join(f"{arm}: {sentence}" for arm, sentence in reasons.items()))
    refused = [NotFrozen(arm=arm, approach="", sentence=f"{sentence}.") for arm, sentence in reasons.items()]
    return [arm for arm in chosen if arm not in reasons], refused


def _finished_evaluations(store: Store, sweep: Sweep) -> tuple[str, ...]:
    names = {str(cell.evaluate_segment) for cell in sweep.cells}
    return tuple(sorted(name for name in names if store.is_done(name)))


def _shapes(fitted: Fitted, predictions: tuple[Forecast, ...], flops: int) -> list[ForecastShape | None]:
    return [
        None
        if shape is None
        else ForecastShape(
            size=shape.size,
            num_layers=shape.num_layers,
            d_model=shape.d_model,
            params=float(shape.unique_params),
            tokens=shape.tokens,
        )
        for shape in nearest_shapes(fitted, predictions, flops)
    ]


def _refuse_repeats(fitted: Fitted, forecast: Forecast) -> Refusal | None:
    """The refusal of a forecast that would pass over the text of a sweep as often as runs do that no law of fresh text
    is fitted to; None for a sweep without such runs."""
    runs = fitted.runs.filter(pl.col("epochs") > 0)
    if isinstance(forecast.tokens, Refusal) or runs.filter(pl.col("epochs") > MOST_EPOCHS).is_empty():
        return None
    corpus = float((runs["tokens"] / runs["epochs"]).to_numpy().mean())
    passes = forecast.tokens.value / corpus
    if passes <= MOST_EPOCHS:
        return None
    return Refusal(
        kind=RefusalKind.EXTRAPOLATION,
        sentence=f"its D* of {short_count(forecast.tokens.value)} tokens is {passes:.3g} passes over the "
        f"{short_count(corpus)} of this sweep, and what is frozen holds for fresh text: ask `predict` what a corpus of "
        "that size is worth.",
    )


def _frozen(
    fitted: Fitted,
    forecast: Forecast,
    shape: ForecastShape | None,
    request: Asked,
    finished: tuple[str, ...],
    now: datetime.datetime,
) -> FrozenForecast | Refusal:
    """The document, where the approach has a law whose every number is one."""
    assert fitted.sweep is not None
    if isinstance(forecast.law, Refusal):
        return forecast.law
    study = fitted.study
    mean_loss, run_loss = losses_of_shape(forecast, shape)
    frozen = FrozenForecast(
        key=ForecastKey(
            arm=forecast.arm,
            budget=forecast.budget,
            loss_column=study.points.loss_column,
            inputs_sha256=study.points.inputs_sha256,
            approach=forecast.approach,
            asymptote=request.asymptote,
        ),
        budget_convention=study.points.budget_convention,
        loss_unit=study.points.loss_unit,
        reach=forecast.reach,
        params=forecast.params,
        tokens=forecast.tokens,
        loss=forecast.loss,
        shape=shape,
        mean_loss=mean_loss,
        run_loss=run_loss,
        law=forecast.law,
        weight=forecast.weight,
        record=forecast.record,
        noise=None if isinstance(forecast.noise, Refusal) else forecast.noise,
        resampling=forecast.resampling,
        settings_id=fitted.sweep.settings_id,
        known=finished,
        created=now.isoformat(timespec="seconds"),
        versions={"mor-sweep": package_version()} | {name: version(name) for name in LIBRARIES},
    )
    return frozen if frozen.is_finite else NOT_FINITE


def keep_forecast(store: Store, sweep: str, forecast: FrozenForecast) -> FrozenForecast:
    """Write a forecast of a sweep where there is none of its key; what lies there then.

    Raises UnreadableForecast for what was frozen before and is damaged, ResultsError where nothing can be written, and
    StoreError where a bucket cannot be used.
    """
    path = store.forecasts_folder(sweep) / f"{forecast.key.sha256}.json"
    if not path.exists():
        content = summed_content(forecast.as_json(), indent=None)  # Thousands of draws, a line each, are for nobody.
        with writing(path):
            store.make_folder(path.parent)
            create_bytes(path, store.upstream.create(sweep, f"{FORECASTS}/{path.name}", content))
    return read_forecast(path)


def score_forecasts(store: Store, sweep: Sweep) -> list[ScoredForecast]:
    """Every forecast of a sweep, none left out, against the cells that it did not know. Raises UnreadableForecast."""
    frozen = read_forecasts(store, sweep.name)
    runs = table(store, sweep)
    losses = {forecast.key.loss_column for forecast in frozen if forecast.settings_id == sweep.settings_id}
    studies = {loss: fit_study(runs, FitSettings(loss_column=loss)) for loss in losses}
    cells = {loss: _trained(runs, study) for loss, study in studies.items()}
    return [
        _scored(forecast, cells[forecast.key.loss_column], studies[forecast.key.loss_column])
        if forecast.settings_id == sweep.settings_id
        else ScoredForecast(forecast=forecast, cells=(), minima=(), comparable=False)
        for forecast in frozen
    ]


def _trained(runs: pl.DataFrame, study: Study) -> list[tuple[dict[str, Any], TrainedCell]]:
    """The rows of the run table that are finished and have a loss, those too that fits leave out."""
    settings = study.settings
    points = read_points(runs, loss_column=settings.loss_column).frame
    rows = {row["cell_id"]: row for row in runs.iter_rows(named=True)}
    reasons = {exclusion.cell_id: exclusion.reason for exclusion in study.exclusions}
    return [
        (
            rows[point["cell_id"]],
            TrainedCell(
                cell_id=point["cell_id"],
                params=point["params"],
                tokens=point["tokens"],
                flops=point["flops"],
                loss=point["loss"],
                left_out=reasons.get(point["cell_id"], ""),
            ),
        )
        for point in points.iter_rows(named=True)
    ]


def _scored(
    forecast: FrozenForecast, trained: list[tuple[dict[str, Any], TrainedCell]], study: Study
) -> ScoredForecast:
    key, earlier = forecast.key, set(forecast.known)
    cells = [
        cell
        for row, cell in trained
        if (row["arm"], row["budget"]) == (key.arm, key.budget) and row["evaluate_segment"] not in earlier
    ]
    return score_forecast(forecast, cells, _minimum(study, key))


def _minimum(study: Study, key: ForecastKey) -> Mapping[str, Estimate | Refusal]:
    """Quantity -> what the parabola says of the arm at the budget; empty where no cell was trained there."""
    optima = [
        optimum
        for frontier in study.frontiers
        if frontier.arm == key.arm
        for optimum in frontier.optima
        if optimum.budget == key.budget
    ]
    return {name: getattr(optima[0], name) for name in QUANTITIES} if optima else {}
