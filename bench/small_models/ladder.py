"""The search behind the shapes of small models: depth, width, rate, batch, heads and initial scale at equal FLOPs.

    python -m bench.small_models.ladder STAGE OUT [--workers N]     trains what OUT/trials.jsonl lacks

Rates lie on a grid of sqrt(2) around a law; from three neighbours the grid goes on until the best is not at its end.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.small_models.trials import REFERENCE_PARAMS, Book, Shape, Trial, along_rates, law_rate, reader, train
from mor_core.flops import nearest_steps, unique_params, unrolled_params


def shapes_near(params: int, depths: Sequence[int], heads: int = 2) -> list[Shape]:
    """For each depth the shape whose parameters come nearest."""
    widths = range(2 * heads, 200, 2 * heads)
    return [
        min(
            (Shape(layers=layers, width=width, heads=heads) for width in widths),
            key=lambda shape: abs(math.log(unique_params(shape.model(1)) / params)),
        )
        for layers in depths
    ]


GRID = {12_000: (20_000_000_000,), 35_000: (80_000_000_000,), 100_000: (320_000_000_000,), 250_000: (640_000_000_000,)}
"""Parameters of a vanilla shape -> budgets."""
DEPTHS = (2, 3, 4, 6, 8)


def shape_stage() -> list[Trial]:
    """Depth by width, each at the middle of its grid of rates."""
    return [
        Trial(layers=shape.layers, width=shape.width, rate_step=0, budgets=budgets)
        for params, budgets in GRID.items()
        for shape in shapes_near(params, DEPTHS)
    ]


def routed_stage() -> list[Trial]:
    """The depths that leave middle-cycle a block to share, as MoR-2."""
    return [
        replace(trial, recursions=2)
        for trial in shape_stage()
        if trial.layers in (4, 6, 8) and trial.budgets[0] in (20_000_000_000, 80_000_000_000, 320_000_000_000)
    ]


WINNER = Trial(layers=4, width=28, rate_step=0, budgets=GRID[35_000])
"""The shape at which one factor at a time is changed."""
LARGER = Trial(layers=4, width=48, rate_step=0, budgets=GRID[100_000])


def factor_stage() -> list[Trial]:
    """One factor at a time at the winner; heads at a larger width too, which more numbers of them divide."""
    return [
        WINNER,
        *(replace(WINNER, batch=batch) for batch in (4, 16)),
        *(replace(WINNER, init=init) for init in ("residual", "fan-in", "fan-in-residual")),
        replace(WINNER, heads=1),
        LARGER,
        *(replace(LARGER, heads=heads) for heads in (1, 4)),
        replace(LARGER, init="residual"),
        replace(WINNER, recursions=2, init="residual"),
    ]


CONFIRMED = (3, 4, 6, 8)
"""Depths that are trained again with more seeds: the best, those beside it, and the depth of the older rungs."""
SEEDS = 4


def confirmed(trials: Sequence[Trial], book: Book) -> list[Trial]:
    """Further seeds of each trial at its best rate; weights and data order change together."""
    return [
        replace(best, seed=seed, order=seed)
        for trial in trials
        if (best := book.best(trial)) is not None
        for seed in range(1, SEEDS)
    ]


WIDTHS = (12, 16, 20, 24, 28, 36, 44, 52)
"""Of the shallow rungs, for the pilot."""
TUNED_RATE, TUNED_EXPONENT = 6.5e-3, -0.3
"""The law through the best rates of four layers: peak rate at REFERENCE_PARAMS, growth with unrolled parameters."""
PILOT_BUDGETS = (20_000_000_000, 40_000_000_000, 80_000_000_000, 160_000_000_000, 320_000_000_000)
FEWEST_STEPS, WIDEST = 100, 7.0
"""Cells of the pilot have so many steps, and parameters within this factor of where the optimum was expected."""


def pilot() -> list[Trial]:
    """Four layers at the tuned law over budgets, both arms: where the optima lie."""
    trials = []
    for recursions in (1, 2):
        for width in WIDTHS:
            model = Shape(layers=4, width=width).model(recursions)
            budgets = tuple(
                budget
                for budget in PILOT_BUDGETS
                if nearest_steps(model, 8, budget, "exact") >= FEWEST_STEPS
                and abs(math.log(unique_params(model) / 38_000 / (budget / 160_000_000_000) ** 0.5)) < math.log(WIDEST)
            )
            tuned = TUNED_RATE * (unrolled_params(model) / REFERENCE_PARAMS) ** TUNED_EXPONENT
            step = round(2 * math.log2(tuned / law_rate(model)), 3)
            trials += [
                Trial(
                    layers=4, width=width, recursions=recursions, rate_step=step, budgets=budgets, seed=seed, order=seed
                )
                for seed in (0,)
                if budgets
            ]
    return trials


STAGES: dict[str, Callable[[], list[Trial]]] = {
    "shapes": shape_stage,
    "routed": routed_stage,
    "factors": factor_stage,
}
CONFIRMATIONS: dict[str, Callable[[], list[Trial]]] = {
    "confirm-shapes": lambda: [
        trial for trial in shape_stage() if trial.layers in CONFIRMED and trial.budgets != GRID[250_000]
    ],
    "confirm-routed": routed_stage,
    "confirm-factors": lambda: [trial for trial in factor_stage() if trial.heads == 2],
}
"""Stages that need the best rates of those above."""


def missing(trials: Sequence[Trial], book: Book) -> list[Trial]:
    """What the grid of rates of each trial still needs: the best rate and both beside it."""
    lacking = {}
    for trial in trials:
        around = (book.best(trial) or trial).rate_step
        for beside in along_rates(trial):
            if abs(beside.rate_step - around) <= 1 and beside.key not in book.rows:
                lacking[beside.key] = beside
    return list(lacking.values())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, *CONFIRMATIONS, "pilot"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    reader()  # Prepared once, before workers ask for it.
    book = Book(options.out)
    if options.stage == "pilot":
        train(pilot(), book, options.workers)
        return
    if options.stage in CONFIRMATIONS:
        train(confirmed(CONFIRMATIONS[options.stage](), book), book, options.workers)
        return
    while todo := missing(STAGES[options.stage](), book):
        train(todo, book, options.workers)


if __name__ == "__main__":
    main()
