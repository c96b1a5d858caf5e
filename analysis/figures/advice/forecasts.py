"""The figure of forecasts: what was predicted, and what was measured since, relative to the prediction."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.advice.forecast.score import ScoredForecast
from analysis.figures.drawing import FAINT, WARN, arm_style, plain_text, shortened
from analysis.figures.layout import Sheet, legend_below
from analysis.report.forecasts import answering
from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import amount_text, budget_label

ROW_INCHES = 0.34
DASHES = (0, (2, 1.5))
SPREAD = 0.8
"""Of a row, over which its cells are spread."""
MOST_LABEL = 60
"""Characters of a row's name."""
NARROW_INCHES = 5.0
"""Width of a figure up to which names of rows are broken."""
LABEL_SHARE = 0.4
"""Of a narrow figure, which names of rows may take."""
LABEL_CHARACTERS_PER_INCH = 18.0
"""Of the small print of paper."""


def plot_forecasts(scored: Sequence[ScoredForecast], sheet: Sheet) -> None:
    """A row a forecast that answered (the laws behind it are in the data): every cell that was trained for it since,
    against the interval that it predicts for that very (N, D); while it waits, the interval of its own shape. Intervals
    of the law's mean, which a run may leave by its noise, are dashed.
    """
    scored = answering(scored)
    arms = sorted({record.forecast.key.arm for record in scored})
    with sheet.style():
        figure = Figure(figsize=(sheet.width or 8.0, 1.3 + ROW_INCHES * max(len(scored), 1)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0.0, color="black", linewidth=0.8)
        for place, record in enumerate(scored):
            _draw_row(axes, float(-place), record, arm_style(arms, record.forecast.key.arm)[0])
        labels = [_label(record, sheet.width) for record in scored]
        axes.set_yticks([-float(place) for place in range(len(scored))], labels)
        axes.set_xlabel("loss over its prediction, less 1  (%)")
        axes.grid(visible=False, axis="y")
        if not scored:
            axes.text(0.5, 0.5, "no forecast yet", transform=axes.transAxes, ha="center", color=WARN)
        legend_below(figure, _handles())
        sheet.save(figure)


def _label(scored: ScoredForecast, width: float | None) -> str:
    """One line; in a narrow figure two, so that names leave room to what they name."""
    key = scored.forecast.key
    budget = f"{budget_label(key.budget)} ({amount_text(scored.forecast.reach)} times)"
    law = [key.approach, *([] if key.loss_column == "loss" else [key.loss_column])]
    if width is None or width > NARROW_INCHES:
        return plain_text(shortened(", ".join([key.arm, budget, *law]), MOST_LABEL))
    most = int(LABEL_SHARE * width * LABEL_CHARACTERS_PER_INCH)
    arm = shortened(key.arm, max(most - len(budget) - 2, 1))
    return plain_text(f"{arm}, {budget}\n{shortened(', '.join(law), most)}")


def _draw_row(axes: Axes, place: float, scored: ScoredForecast, colour: str) -> None:
    if scored.waiting:
        _draw_interval(axes, place, scored.forecast.stated_loss, scored.forecast.of_run, colour)
    for number, cell in enumerate(scored.cells, start=1):
        beside = place + SPREAD * (0.5 - number / (len(scored.cells) + 1))
        _draw_interval(axes, beside, cell.predicted, cell.of_run, colour)
        error = 100 * (cell.measured / cell.predicted.value - 1)
        filled = colour if cell.covered else "none"
        axes.plot([error], [beside], marker="o", color=colour, markerfacecolor=filled, markersize=4)


def _draw_interval(axes: Axes, place: float, predicted: Estimate | Refusal, of_run: bool, colour: str) -> None:
    if isinstance(predicted, Refusal):
        return
    low, high = (100 * (end / predicted.value - 1) for end in (predicted.low, predicted.high))
    dashes = "-" if of_run else DASHES
    axes.plot([low, high], [place, place], color=colour, linewidth=1.6, alpha=0.45, linestyle=dashes)


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color=FAINT, linewidth=1.6, alpha=0.6, label="interval of a run"),
        Line2D([], [], color=FAINT, linewidth=1.6, alpha=0.6, linestyle=DASHES, label="interval of the mean"),
        Line2D([], [], color=FAINT, marker="o", linestyle="", markersize=4.5, label="measured, held"),
        Line2D(
            [],
            [],
            color=FAINT,
            marker="o",
            linestyle="",
            markersize=4.5,
            markerfacecolor="none",
            label="measured, not held",
        ),
    ]
