"""What a fit predicts for a budget, for people, with the named shape that is nearest to it."""

from collections.abc import Sequence

from analysis.advice.forecast.forecast import Advice, Forecast
from analysis.report.text import count_text, loss_text
from analysis.statistics.answers import Estimate, Refusal
from mor_core.config.model import ModelConfig
from mor_core.config.own_model import OwnModel
from mor_core.units import amount_text, short_count
from orchestrator.planning.cells import Cell
from orchestrator.planning.ladder import NearestShape, nearest_rung, nearest_shape
from orchestrator.records.fits.fitted import Fitted


def nearest_shapes(fitted: Fitted, answers: Sequence[Advice | Forecast], flops: int) -> list[NearestShape | None]:
    """The named shape nearest to each predicted N*; None where it is refused, and for a table, which has no shapes."""
    if fitted.sweep is None:
        return [None] * len(answers)
    cells: dict[str, list[Cell]] = {}
    for cell in fitted.sweep.cells:
        cells.setdefault(cell.arm, []).append(cell)
    return [
        _nearest_shape(cells[answer.arm], answer.params.value, flops) if isinstance(answer.params, Estimate) else None
        for answer in answers
    ]


def _nearest_shape(cells: Sequence[Cell], params: float, flops: int) -> NearestShape:
    """The shape nearest to N* as the arm that some cells are of."""
    newest = cells[-1]
    if isinstance(newest.model, ModelConfig):
        return nearest_shape(newest.size, newest.model, newest.budget_convention, params, flops)
    models = [cell.model for cell in cells if isinstance(cell.model, OwnModel)]
    tried = [model for model in models if (model.object, model.version) == (newest.model.object, newest.model.version)]
    return nearest_rung(tried, newest.budget_convention, params, flops)


def predicted_lines(answer: Advice, shape: NearestShape | None) -> list[str]:
    """What is said of one prediction, for people."""
    weight = "" if answer.weight is None else f"; weight {answer.weight:.2f}"
    lines = [
        f"{answer.arm} ({answer.approach}): N* {count_text(answer.params)}, D* {count_text(answer.tokens)}, "
        f"L* {loss_text(answer.loss)}{weight}"
    ]
    if shape is not None:
        lines.append(_shape_line(shape))
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


def _shape_line(shape: NearestShape) -> str:
    """What to build, and what the budget trains it on."""
    is_own = shape.num_layers is None
    built = "" if is_own else f"{shape.num_layers} layers, width {shape.d_model}; "
    return (
        f"  nearest {'size' if is_own else 'shape'}: {shape.size} ({built}N {shape.of_optimum:.2f} of N*), which the "
        f"budget trains on {short_count(shape.tokens)} tokens{f'; {shape.note}' if shape.note else ''}"
    )
