"""What a fit predicts for a budget, for people, with the named shape that is nearest to it."""

from collections.abc import Sequence

from analysis.advice.forecast.forecast import Advice, Forecast
from analysis.report.text import count_text, loss_text
from analysis.statistics.answers import Estimate, Refusal
from mor_core.config.own_model import OwnModel
from mor_core.units import amount_text, short_count
from orchestrator.planning.cells import Cell
from orchestrator.planning.ladder import NearestShape, nearest_shape
from orchestrator.records.fits.fitted import Fitted


def nearest_shapes(fitted: Fitted, answers: Sequence[Advice | Forecast], flops: int) -> list[NearestShape | None]:
    """The named shape nearest to each predicted N*; None where it is refused, and for a table, which has no shapes."""
    if fitted.sweep is None:
        return [None] * len(answers)
    cells = {cell.arm: cell for cell in fitted.sweep.cells}
    return [
        _nearest_shape(cells[answer.arm], answer.params, flops) if isinstance(answer.params, Estimate) else None
        for answer in answers
    ]


def _nearest_shape(cell: Cell, params: Estimate, flops: int) -> NearestShape | None:
    """None for a user's own model, whose ladder is in code that is not asked here."""
    if isinstance(cell.model, OwnModel):
        return None
    return nearest_shape(cell.size, cell.model, cell.budget_convention, params.value, flops)


def predicted_lines(answer: Advice, shape: NearestShape | None) -> list[str]:
    """What is said of one prediction, for people."""
    weight = "" if answer.weight is None else f"; weight {answer.weight:.2f}"
    lines = [
        f"{answer.arm} ({answer.approach}): N* {count_text(answer.params)}, D* {count_text(answer.tokens)}, "
        f"L* {loss_text(answer.loss)}{weight}"
    ]
    if shape is not None:
        lines.append(
            f"  nearest shape: {shape.size} ({shape.num_layers} layers, width {shape.d_model}; "
            f"N {shape.of_optimum:.2f} of N*), which the budget trains on {short_count(shape.tokens)} tokens"
        )
    if answer.record:
        lines.append(f"  record: {answer.record}")
    quantities = (answer.params, answer.tokens, answer.loss)
    refusals = (quantity.sentence for quantity in quantities if isinstance(quantity, Refusal))
    lines += [f"  refused: {sentence}" for sentence in dict.fromkeys(refusals)]
    if answer.flagged and not answer.refused:
        lines.append(
            f"  flagged: {amount_text(answer.reach)} times the largest budget fitted; an extrapolation this far is a "
            "guess"
        )
    return lines
