"""One row of a sweep's table, resolved: which steps, tokens and FLOPs a budget buys for one arm and size. Pure.

Planned tokens are a budget's to within half an optimiser step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mor_core.config.model import Architecture
from mor_core.config.own_model import Model, OwnModel
from mor_core.config.sizes import Size
from mor_core.config.training import TrainConfig
from mor_core.flops import (
    CONVENTIONS,
    Convention,
    nearest_steps,
    total_params,
    training_cost,
    unique_params,
    unrolled_params,
)
from mor_core.units import budget_text
from orchestrator.planning.recipe import batch_size, resolve_model, train_config, trains_whole_runs
from orchestrator.planning.spec.arms import Arm
from orchestrator.planning.spec.sweep_spec import SweepSpec

FEWEST_STEPS = 10
"""A cell with fewer optimiser steps is not worth a row."""

FEW_STEPS = 200
"""Below this a cell measures the optimiser more than the size (flag few-steps)."""

COOLDOWN_FRACTION = 0.2
"""Share of a trapezoid's steps where the sweep says nothing: the paper's (appendix D)."""

LONG_WARMUP = Fraction(1, 10)
"""Share of a cell's steps above which warm-up is flagged (long-warmup)."""

MANY_EPOCHS = 4
"""Passes over the training tokens beyond which a repeated token is worth much less (flag repeated-data)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (arm, size, budget, seed): one row of the results table."""

    arm: str
    """The arm's label: an architecture with its recursion count, such as mor-3, or a variant's name."""
    architecture: Architecture
    """vanilla, recursive or mor; own of a user's model."""
    recursions: int
    """Nr; 1 for vanilla."""
    size: str
    """Name of the base shape."""
    budget: int
    """C, planned training FLOPs under budget_convention."""
    budget_convention: Convention
    """How the budget's FLOPs are counted."""
    seed: int
    """Of the initial weights and the order of the data."""
    model: Model
    """Resolved architecture."""
    train: TrainConfig
    """Resolved optimiser and schedule."""
    steps: int
    """Optimiser steps in all."""
    tokens: int
    """D, training tokens: steps * batch_size * context_length."""
    decay_start: int
    """Step at which the cooldown branches from the trunk; the last step where there is no cooldown."""
    flops: dict[Convention, int] = field(hash=False)
    """Training FLOPs of `tokens` in each convention, capacity warm-up included."""
    unique_params: int
    """N: non-embedding parameters that exist."""
    unrolled_params: int
    """Non-embedding parameters, counted once per application."""
    total_params: int
    """Parameters that exist, embedding included."""
    epochs: float | None
    """Passes over the training tokens; None without prepared data."""
    flags: tuple[str, ...]
    """few-steps, long-warmup, repeated-data: reasons to read the cell with care."""
    cell_id: str | None = None
    """Content id of (arm, evaluation, budget, convention); None without prepared data."""
    trunk_id: str | None = None
    """Trunk it branches from; None without prepared data."""
    evaluate_segment: str | None = None
    """Id of the segment that yields its losses; None without prepared data."""

    @property
    def decay_steps(self) -> int:
        """Steps of the cooldown; 0 under a cosine."""
        return self.steps - self.decay_start

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimiser step."""
        return self.train.batch_size * self.model.context_length

    def but(self, **changes: Any) -> "Cell":
        """The same cell with some fields changed: dataclasses.replace in half the time, for 100,000 of them."""
        return Cell(**(vars(self) | changes))

    @property
    def trunk_key(self) -> tuple[Model, TrainConfig, int]:
        """Equal for cells of one plan that share a trunk, with or without data."""
        return self.model, self.train, self.seed


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A combination that was asked for and is left out."""

    arm: str
    """The arm's label."""
    size: str
    """Name of the base shape."""
    budget: int
    """C in FLOPs."""
    seed: int
    """Seed."""
    reason: str
    """Why, and what to change."""


@dataclass(frozen=True, kw_only=True)
class _Column:
    """What the cells of one (arm, size) have in common."""

    arm: Arm
    size: Size | OwnModel
    model: Model
    batch_size: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.model.context_length


@dataclass(frozen=True, kw_only=True)
class _Length:
    """How long the cells of a column train for one goal."""

    budget: int
    steps: int
    decay_start: int
    warmup_steps: int


def cells_of(
    spec: SweepSpec, arm: Arm, size: Size | OwnModel, goals: Sequence[int], train_tokens: int | None
) -> Iterator[Cell | Dropped]:
    """The cells of one arm and size, seed by seed, each resolved or dropped with a reason.

    `goals` are budgets (FLOPs), or numbers of tokens where the sweep has those. `train_tokens` is what the data
    snapshot holds; None where no data is prepared.
    """
    model = resolve_model(spec, arm, size)
    column = _Column(arm=arm, size=size, model=model, batch_size=batch_size(spec, arm, model))
    step_counts: set[int] = set()
    for goal in goals:
        length = _length(spec, column, goal)
        reason = _reason_to_drop(spec, column, length)
        if spec.tokens is not None and length.steps in step_counts:
            reason = reason or f"{budget_text(goal)} tokens are as many whole steps as a smaller number: leave one out"
        step_counts.add(length.steps)
        if reason:
            yield from (
                Dropped(arm=arm.label, size=size.name, budget=length.budget, seed=seed, reason=reason)
                for seed in spec.seeds
            )
            continue
        cell = _cell(spec, column, length, train_tokens)
        yield from (cell.but(seed=seed) for seed in spec.seeds)


def _length(spec: SweepSpec, column: _Column, goal: int) -> _Length:
    convention = spec.budget_convention
    if spec.tokens is None:
        steps, budget = nearest_steps(column.model, column.batch_size, goal, convention), goal
    else:
        steps = round(Fraction(goal, column.tokens_per_step))
        budget = round(training_cost(column.model, column.batch_size, steps, convention))
    cooldown = _exact(spec.schedule.cooldown_fraction or COOLDOWN_FRACTION)
    return _Length(
        budget=budget,
        steps=steps,
        decay_start=steps if trains_whole_runs(spec, column.model) else steps - max(1, round(cooldown * steps)),
        warmup_steps=_warmup_steps(spec, column, steps),
    )


def _warmup_steps(spec: SweepSpec, column: _Column, steps: int) -> int:
    """A share of the steps at the sweep's warm-up budget, or of the cell's own where it shares no trunk."""
    schedule = spec.schedule
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    if schedule.warmup_budget is not None and spec.shares_trunks and not trains_whole_runs(spec, column.model):
        steps = nearest_steps(column.model, column.batch_size, schedule.warmup_budget, spec.budget_convention)
    return round(_exact(schedule.warmup_fraction) * steps)


def _exact(fraction: float) -> Fraction:
    """A written decimal such as 0.05 as the fraction it stands for."""
    return Fraction(repr(fraction))


def _reason_to_drop(spec: SweepSpec, column: _Column, length: _Length) -> str | None:
    if length.steps < FEWEST_STEPS:
        return (
            f"{length.steps} steps of {column.tokens_per_step:,} tokens fit, {FEWEST_STEPS} are needed: "
            f"use a smaller size or {'a larger budget' if spec.tokens is None else 'more tokens'}"
        )
    if trains_whole_runs(spec, column.model) and length.warmup_steps >= length.steps:
        return (
            f"the warm-up of {length.warmup_steps} steps would leave none of {length.steps} for the cosine: "
            "lower schedule.warmup_steps or warmup_fraction"
        )
    if length.decay_start < length.warmup_steps:
        return (
            f"the cooldown would start at step {length.decay_start}, inside the warm-up of {length.warmup_steps} "
            f"steps: use a larger budget, or lower schedule.{_warmup_key(spec)}"
        )
    return None


def _warmup_key(spec: SweepSpec) -> str:
    if spec.schedule.warmup_steps is not None:
        return "warmup_steps"
    return "warmup_budget or warmup_fraction" if spec.schedule.warmup_budget is not None else "warmup_fraction"


def _cell(spec: SweepSpec, column: _Column, length: _Length, train_tokens: int | None) -> Cell:
    """The cell of the first seed, without ids."""
    model, steps = column.model, length.steps
    tokens = steps * column.tokens_per_step
    epochs = tokens / train_tokens if train_tokens else None
    return Cell(
        arm=column.arm.label,
        architecture=column.arm.architecture,
        recursions=column.arm.recursions,
        size=column.size.name,
        budget=length.budget,
        budget_convention=spec.budget_convention,
        seed=spec.seeds[0],
        model=model,
        train=train_config(
            spec, column.arm, model, budget=length.budget, steps=steps, warmup_steps=length.warmup_steps
        ),
        steps=steps,
        tokens=tokens,
        decay_start=length.decay_start,
        flops={
            convention: round(training_cost(model, column.batch_size, steps, convention)) for convention in CONVENTIONS
        },
        unique_params=unique_params(model),
        unrolled_params=unrolled_params(model),
        total_params=total_params(model),
        epochs=epochs,
        flags=_flags(steps, length.warmup_steps, epochs),
    )


def _flags(steps: int, warmup_steps: int, epochs: float | None) -> tuple[str, ...]:
    raised = {
        "few-steps": steps < FEW_STEPS,
        "long-warmup": warmup_steps > LONG_WARMUP * steps,
        "repeated-data": epochs is not None and epochs > MANY_EPOCHS,
    }
    return tuple(flag for flag, holds in raised.items() if holds)
