"""Frozen forecasts, and how they fared, in words and as tables."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from analysis.advice.forecast.forecaster import COMBINED
from analysis.advice.forecast.frozen_forecast import FrozenForecast
from analysis.advice.forecast.outlook import APPROACHES
from analysis.advice.forecast.score import MinimumScore, Score, ScoredForecast
from analysis.report.headline import REFUSED, in_cell
from analysis.report.tables import as_markdown
from analysis.report.text import count_text, loss_text, number_text, plain, refused_of
from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import amount_text, budget_label, counted_text, short_count

SCORE_HEAD = ("arm", "C (FLOPs)", "reach", "law", "of", "predicted", "measured", "error", "inside", "N*", "runs inside")
RECORD_HEAD = ("law", "L* inside", "L* off by", "N* inside", "N* off by", "runs inside", "runs off by")
RECORD_TITLE = "All forecasts by law: how many intervals held what was measured, and the median error"
ANSWER_HEAD = ("arm", "train", "on tokens", "its loss", "N*", "D*", "L*")
LAWS_TITLE = "L* by each law (its weight among them)"
OF_MEAN = "*"
"""After a loss that is the mean over seeds, where nobody knows how far one run lies from it."""


def preferred(forecasts: Sequence[FrozenForecast]) -> dict[str, FrozenForecast]:
    """Arm -> the forecast that answers for it: of all approaches combined, or of the one with the greatest weight where
    the combination names no shape."""
    by_arm: dict[str, list[FrozenForecast]] = {}
    for forecast in forecasts:
        by_arm.setdefault(forecast.key.arm, []).append(forecast)
    return {arm: max(of_arm, key=_authority) for arm, of_arm in by_arm.items()}


def _authority(forecast: FrozenForecast) -> tuple[bool, float]:
    weight = math.inf if forecast.key.approach == COMBINED else forecast.weight or 0.0
    return forecast.shape is not None, weight


def answer_rows(forecasts: Sequence[FrozenForecast]) -> list[list[str]]:
    """A row an arm under `ANSWER_HEAD`: the shape to train, its loss, and the optimum it is near to."""
    return [_answer_row(arm, forecast) for arm, forecast in preferred(forecasts).items()]


def _answer_row(arm: str, forecast: FrozenForecast) -> list[str]:
    approach, shape = forecast.key.approach, forecast.shape
    name = arm if approach == COMBINED else f"{arm} (by {approach})"
    trained = ["", "", ""]
    if shape is not None:
        mark = "" if isinstance(forecast.run_loss, Estimate) else OF_MEAN
        trained = [shape.size, short_count(shape.tokens), in_cell(forecast.stated_loss, number_text) + mark]
    optimum = [in_cell(answer, count_text) for answer in (forecast.params, forecast.tokens)]
    return [name, *trained, *optimum, in_cell(forecast.loss, number_text)]


def answer_title(forecasts: Sequence[FrozenForecast]) -> str:
    """Which budget the answers are for, and how far it lies from what was fitted."""
    first, reaches = forecasts[0], dict.fromkeys(map(amount_text, sorted(forecast.reach for forecast in forecasts)))
    return (
        f"{budget_label(first.key.budget)} FLOPs ({first.budget_convention}), {' or '.join(reaches)} times the largest "
        f"budget fitted; {first.key.loss_column} in {first.loss_unit}"
    )


def answer_notes(forecasts: Sequence[FrozenForecast]) -> list[str]:
    """What the losses of the answers are, how the combination fared on the sweep's own budgets, and what is a guess."""
    answers = preferred(forecasts)
    of_run = [isinstance(answer.run_loss, Estimate) for answer in answers.values() if answer.shape is not None]
    notes = []
    if of_run:
        meant = f"{ANSWER_HEAD[3]}: of one more run of that shape, with the noise of its seed"
        of_mean = f"{OF_MEAN} the mean over seeds, and not the loss of one run"
        notes += [meant if all(of_run) else of_mean if not any(of_run) else f"{meant}; {of_mean}"]
    notes += [f"{arm}: {answer.record}" for arm, answer in answers.items() if answer.record]
    flagged = dict.fromkeys(amount_text(forecast.reach) for forecast in forecasts if forecast.flagged)
    notes += [
        f"flagged: {reach} times the largest budget fitted; an extrapolation this far is a guess" for reach in flagged
    ]
    return notes


def single_laws(forecasts: Sequence[FrozenForecast]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the laws that are combined, a column a law and a row an arm: L* and its weight."""
    laws = [law for law in APPROACHES if any(forecast.key.approach == law for forecast in forecasts)]
    frozen = {(forecast.key.arm, forecast.key.approach): forecast for forecast in forecasts}
    rows = [[arm, *(_weighed(frozen.get((arm, law))) for law in laws)] for arm in preferred(forecasts)]
    return ["arm", *laws], rows


def _weighed(forecast: FrozenForecast | None) -> str:
    if forecast is None or isinstance(forecast.loss, Refusal):
        return REFUSED
    return f"{forecast.loss.value:.4f}" + ("" if forecast.weight is None else f" ({forecast.weight:.2f})")


def forecast_lines(forecasts: Sequence[FrozenForecast]) -> list[str]:
    """The answer of each arm and the laws behind it, as text."""
    if not forecasts:
        return []
    head, rows = single_laws(forecasts)
    answers = as_markdown(list(ANSWER_HEAD), answer_rows(forecasts))
    laws = as_markdown(head, rows)
    return [answer_title(forecasts), answers, *answer_notes(forecasts), "", LAWS_TITLE, laws]


def run_refusals(forecasts: Sequence[FrozenForecast]) -> list[str]:
    """Why no interval of one more run is given, each reason once."""
    arms = refused_of((forecast.key.arm, forecast.run_loss) for forecast in forecasts if forecast.shape is not None)
    return [f"{names}: one more run: {sentence}" for sentence, names in arms.items()]


def forecast_sentence(forecast: FrozenForecast) -> str:
    """What a forecast says and when it was frozen, in one line."""
    key, shape = forecast.key, forecast.shape
    of = _kind(forecast.of_run) + ("" if shape is None else f" of {shape.size}")
    return (
        f"{key.arm} at {budget_label(key.budget)} by {key.approach}: N* {count_text(forecast.params)}, "
        f"{key.loss_column} of {of} {loss_text(forecast.stated_loss)}; frozen {forecast.created}"
    )


def score_lines(scored: Sequence[ScoredForecast]) -> list[str]:
    """How the answers fared, a row a forecast, and all laws behind them, as text."""
    answers = as_markdown(list(SCORE_HEAD), score_rows(answering(scored)))
    records = record_rows(scored)
    by_law = ["", RECORD_TITLE, as_markdown(list(RECORD_HEAD), records)] if records else []
    return [answers, *by_law, score_summary(scored)]


def answering(scored: Sequence[ScoredForecast]) -> list[ScoredForecast]:
    """Of each arm, budget, loss and distance the forecast that answered when it was frozen."""
    questions: dict[tuple[str, str, str, float], list[ScoredForecast]] = {}
    for record in scored:
        key, reach = record.forecast.key, record.forecast.reach
        questions.setdefault((key.arm, key.budget, key.loss_column, reach), []).append(record)
    return [max(records, key=lambda record: _authority(record.forecast)) for records in questions.values()]


def score_rows(scored: Sequence[ScoredForecast]) -> list[list[str]]:
    """A row a forecast under `SCORE_HEAD`: its L* where the cells at its budget have a minimum, else their losses."""
    return [_score_row(record) for record in scored]


def _score_row(record: ScoredForecast) -> list[str]:
    forecast = record.forecast
    key = forecast.key
    law = key.approach if key.loss_column == "loss" else f"{key.approach} ({key.loss_column})"
    name = [key.arm, budget_label(key.budget), amount_text(forecast.reach), law]
    minima = {minimum.quantity: minimum for minimum in record.minima}
    loss, params = minima.get("loss"), minima.get("params")
    inside = _share(record.cells)
    if record.waiting:
        state = "waiting" if record.comparable else "the sweep has other settings now"
        return [*name, _kind(forecast.of_run), loss_text(forecast.stated_loss), state, "", "", "", ""]
    if loss is not None:
        verdict = [f"{loss.error:+.2%}", "yes" if loss.covered else "no"]
        optimum = "" if params is None else f"{params.error:+.0%}, {'inside' if params.covered else 'outside'}"
        return [*name, "L*", number_text(loss.predicted), number_text(loss.measured), *verdict, optimum, inside]
    predictions = {cell.predicted.value for cell in record.cells}
    first = record.cells[0]
    of = _kind(first.of_run) if len(predictions) == 1 else "runs"
    predicted = number_text(first.predicted) if len(predictions) == 1 else ""
    measured = ", ".join(f"{cell.measured:.4f}" for cell in record.cells)
    covered = "yes" if all(cell.covered for cell in record.cells) else "no"
    return [*name, of, predicted, measured, f"{_median_error(record.cells):+.2%}", covered, "", inside]


def record_rows(scored: Sequence[ScoredForecast]) -> list[list[str]]:
    """A row a law under `RECORD_HEAD`, over all that was trained since; none while everything waits."""
    rows = []
    for law in [*APPROACHES, COMBINED]:
        of_law = [record for record in scored if record.forecast.key.approach == law and not record.waiting]
        results: list[Sequence[Score | MinimumScore]] = [
            [minimum for record in of_law for minimum in record.minima if minimum.quantity == quantity]
            for quantity in ("loss", "params")
        ]
        results.append([cell for record in of_law for cell in record.cells])
        if of_law:
            rows.append([law, *(text for of_kind in results for text in (_share(of_kind), _off_by(of_kind)))])
    return rows


def _share(results: Sequence[Score | MinimumScore]) -> str:
    return f"{sum(result.covered for result in results)} of {len(results)}" if results else ""


def _off_by(results: Sequence[Score | MinimumScore]) -> str:
    return f"{_median_error(results):+.2%}" if results else ""


def _median_error(results: Sequence[Score | MinimumScore]) -> float:
    return median(result.error for result in results)


def _kind(of_run: bool) -> str:
    return "a run" if of_run else "the mean"


def score_summary(scored: Sequence[ScoredForecast]) -> str:
    """How many intervals held what was measured, those of a run and those of the mean apart; one sentence."""
    cells = [cell for record in scored for cell in record.cells]
    waiting = sum(record.waiting for record in scored)
    parts = [counted_text(len(scored), "forecast")]
    for of_run in (True, False):
        of_kind = [cell for cell in cells if cell.of_run is of_run]
        if of_kind:
            covered = sum(cell.covered for cell in of_kind)
            parts.append(f"{covered} of {len(of_kind)} intervals of {_kind(of_run)} held the measured loss")
    return ", ".join([*parts, f"{waiting} waiting"])


def scores_as_json(scored: Sequence[ScoredForecast]) -> list[dict[str, Any]]:
    """Every forecast with its scores, as plain JSON values."""
    return [
        record.forecast.summary()
        | {
            "waiting": record.waiting,
            "comparable": record.comparable,
            "cells": [plain(cell) | _verdict_as_json(cell) for cell in record.cells],
            "minima": [plain(minimum) | _verdict_as_json(minimum) for minimum in record.minima],
        }
        for record in scored
    ]


def _verdict_as_json(result: Score | MinimumScore) -> dict[str, Any]:
    return {"error": result.error, "in_widths": result.in_widths, "covered": result.covered}
