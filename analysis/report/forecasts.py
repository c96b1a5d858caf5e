"""Frozen forecasts, and how they fared, in words and as tables."""

from collections.abc import Sequence
from typing import Any

from analysis.advice.forecast.frozen_forecast import FrozenForecast
from analysis.advice.forecast.score import MinimumScore, Score, ScoredForecast
from analysis.report.tables import as_markdown
from analysis.report.text import count_text, loss_text, number_text, plain
from analysis.statistics.answers import Refusal
from analysis.statistics.approach import SYMBOLS
from mor_core.units import amount_text, budget_label, short_count

HEAD = ("arm", "C (FLOPs)", "approach", "loss", "frozen", "of", "predicted", "measured", "error", "half-widths", "held")


def forecast_lines(forecast: FrozenForecast) -> list[str]:
    """What a forecast says, for people."""
    key = forecast.key
    weight = "" if forecast.weight is None else f"; weight {forecast.weight:.2f}"
    lines = [
        f"{key.arm} ({key.approach}): N* {count_text(forecast.params)}, D* {count_text(forecast.tokens)}, "
        f"L* {loss_text(forecast.loss)}{weight}"
    ]
    lines += _shape_lines(forecast)
    if forecast.record:
        lines.append(f"  record: {forecast.record}")
    answers = (forecast.params, forecast.tokens, forecast.loss)
    refusals = dict.fromkeys(answer.sentence for answer in answers if isinstance(answer, Refusal))
    lines += [f"  refused: {sentence}" for sentence in refusals]
    if forecast.flagged:
        lines.append(
            f"  flagged: {amount_text(forecast.reach)} times the largest budget fitted; an extrapolation this far is a "
            "guess"
        )
    return lines


def _shape_lines(forecast: FrozenForecast) -> list[str]:
    shape, unit = forecast.shape, forecast.loss_unit
    if shape is None:
        return []
    lines = [
        f"  nearest shape: {shape.size} ({shape.num_layers} layers, width {shape.d_model}; N "
        f"{short_count(shape.params)}), which the budget trains on {short_count(shape.tokens)} tokens"
    ]
    if isinstance(forecast.run_loss, Refusal):
        return [*lines, f"  mean of the law there, not of a run: {number_text(forecast.mean_loss)} {unit}"]
    return [*lines, f"  one more run of it: {number_text(forecast.run_loss)} {unit}"]


def run_refusals(forecasts: Sequence[FrozenForecast]) -> list[str]:
    """Why no interval of one more run is given, each reason once an arm."""
    refused = [(forecast.key.arm, forecast.run_loss) for forecast in forecasts if forecast.shape is not None]
    return list(
        dict.fromkeys(f"{arm}: one more run: {run.sentence}" for arm, run in refused if isinstance(run, Refusal))
    )


def forecast_sentence(forecast: FrozenForecast) -> str:
    """What a forecast says and when it was frozen, in one line."""
    key, shape = forecast.key, forecast.shape
    of = _kind(forecast.of_run) + ("" if shape is None else f" of {shape.size}")
    return (
        f"{key.arm} at {budget_label(key.budget)} by {key.approach}: N* {count_text(forecast.params)}, "
        f"{key.loss_column} of {of} {loss_text(forecast.stated_loss)}; frozen {forecast.created}"
    )


def tabulate_scores(scored: Sequence[ScoredForecast]) -> str:
    """Every forecast in one table: a row a cell that was trained since, a row a minimum, and a row while it waits."""
    return as_markdown(list(HEAD), score_rows(scored))


def score_rows(scored: Sequence[ScoredForecast]) -> list[list[str]]:
    """The rows of the table under `HEAD`."""
    rows: list[list[str]] = []
    for record in scored:
        key, frozen = record.forecast.key, record.forecast.created[:10]
        name = [key.arm, budget_label(key.budget), key.approach, key.loss_column, frozen]
        rows += [name + _cell_row(cell) for cell in record.cells]
        rows += [name + _minimum_row(minimum) for minimum in record.minima]
        if record.waiting:
            state = "waiting" if record.comparable else "the sweep has other settings now"
            rows.append(
                [*name, _kind(record.forecast.of_run), loss_text(record.forecast.stated_loss), state, "", "", ""]
            )
    return rows


def _kind(of_run: bool) -> str:
    return "a run" if of_run else "the mean"


def _cell_row(cell: Score) -> list[str]:
    flags = f" ({cell.left_out})" if cell.left_out else ""
    of = f"{_kind(cell.of_run)}: cell {cell.cell_id[:12]}{flags}"
    return [of, number_text(cell.predicted), f"{cell.measured:.4f}", *_verdict(cell)]


def _minimum_row(minimum: MinimumScore) -> list[str]:
    text = number_text if minimum.quantity == "loss" else count_text
    return [SYMBOLS[minimum.quantity], text(minimum.predicted), text(minimum.measured), *_verdict(minimum)]


def _verdict(result: Score | MinimumScore) -> list[str]:
    return [f"{result.error:+.2%}", f"{result.in_widths:+.2f}", "yes" if result.covered else "no"]


def score_summary(scored: Sequence[ScoredForecast]) -> str:
    """How many intervals held what was measured, those of a run and those of the mean apart; one sentence."""
    cells = [cell for record in scored for cell in record.cells]
    waiting = sum(record.waiting for record in scored)
    parts = [f"{len(scored)} forecasts" if len(scored) != 1 else "1 forecast"]
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
