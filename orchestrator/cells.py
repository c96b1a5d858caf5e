"""One row of a sweep's table, resolved: which steps, tokens and FLOPs a budget buys for one arm and size. Pure.

Planned tokens are a budget's to within half an optimiser step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from mor_core.config import Architecture, ModelConfig, TrainConfig
from mor_core.flops import (
    CONVENTIONS,
    Convention,
    total_params,
    training_flops_per_token,
    unique_params,
    unrolled_params,
)
from mor_core.sizes import Size
from orchestrator.recipe import batch_size, resolve_model, train_config
from orchestrator.spec import Arm, SweepSpec

FEWEST_STEPS = 10
"""A cell with fewer optimiser steps is not worth a row."""

FEW_STEPS = 200
"""Below this a cell measures the optimiser more than the size (flag few-steps)."""

LONG_WARMUP = Fraction(1, 10)
"""Share of a cell's steps above which warm-up is flagged (long-warmup)."""

MANY_EPOCHS = 4
"""Passes over the training tokens beyond which a repeated token is worth much less (flag repeated-data)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (arm, size, budget, seed): one row of the results table."""

    arm: str
    """Label of the architecture with its recursion count, such as mor-3."""
    architecture: Architecture
    """vanilla, recursive or mor."""
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
    model: ModelConfig
    """Resolved architecture."""
    train: TrainConfig
    """Resolved optimiser and schedule."""
    steps: int
    """Optimiser steps in all."""
    tokens: int
    """D, training tokens: steps * batch_size * context_length."""
    decay_start: int
    """Step at which the cooldown branches from the trunk."""
    flops: dict[Convention, int] = field(hash=False)
    """Training FLOPs of `tokens` in each convention."""
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
    """Content id of (evaluation, budget, convention); None without prepared data."""
    trunk_id: str | None = None
    """Trunk it branches from; None without prepared data."""
    evaluate_segment: str | None = None
    """Id of the segment that yields its losses; None without prepared data."""

    @property
    def decay_steps(self) -> int:
        """Steps of the cooldown."""
        return self.steps - self.decay_start

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimiser step."""
        return self.train.batch_size * self.model.context_length

    @property
    def trunk_key(self) -> tuple[ModelConfig, TrainConfig, int]:
        """Equal for cells of one plan that share a trunk, with or without data."""
        return self.model, self.train, self.seed


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A combination that was asked for and is left out."""

    arm: str
    """Label of the architecture."""
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
    size: Size
    model: ModelConfig
    tokens_per_step: int
    flops_per_token: dict[Convention, Fraction]


def cells_of(
    spec: SweepSpec, arm: Arm, size: Size, budgets: Sequence[int], train_tokens: int | None
) -> Iterator[Cell | Dropped]:
    """The cells of one arm and size at `budgets` (FLOPs), seed by seed, each resolved or dropped with a reason.

    `train_tokens` is what the data snapshot holds; None where no data is prepared.
    """
    column = _column(spec, arm, size)
    for budget in budgets:
        steps = _steps(spec, column, budget)
        decay_start = steps - max(1, round(_exact(spec.schedule.cooldown_fraction) * steps))
        warmup_steps = _warmup_steps(spec, column, budget)
        reason = _reason_to_drop(column, steps, decay_start, warmup_steps)
        if reason:
            yield from (
                Dropped(arm=arm.label, size=size.name, budget=budget, seed=seed, reason=reason) for seed in spec.seeds
            )
            continue
        train = train_config(spec, arm, column.model, budget=budget, warmup_steps=warmup_steps)
        cell = _cell(spec, column, train, budget, steps, decay_start, train_tokens)
        yield from (replace(cell, seed=seed) for seed in spec.seeds)


def _column(spec: SweepSpec, arm: Arm, size: Size) -> _Column:
    model = resolve_model(spec, arm, size)
    return _Column(
        arm=arm,
        size=size,
        model=model,
        tokens_per_step=batch_size(spec) * model.context_length,
        flops_per_token={convention: training_flops_per_token(model, convention) for convention in CONVENTIONS},
    )


def _steps(spec: SweepSpec, column: _Column, budget: int) -> int:
    """The whole number of optimiser steps that comes nearest to the budget."""
    return round(budget / (column.flops_per_token[spec.budget_convention] * column.tokens_per_step))


def _warmup_steps(spec: SweepSpec, column: _Column, budget: int) -> int:
    """A share of the steps at the sweep's warm-up budget, or of the cell's own where budgets share nothing."""
    reference = spec.schedule.warmup_budget if spec.trunks == "shared" else budget
    return round(_exact(spec.schedule.warmup_fraction) * _steps(spec, column, reference))


def _exact(fraction: float) -> Fraction:
    """A written decimal such as 0.05 as the fraction it stands for."""
    return Fraction(repr(fraction))


def _reason_to_drop(column: _Column, steps: int, decay_start: int, warmup_steps: int) -> str | None:
    if steps < FEWEST_STEPS:
        return (
            f"{steps} steps of {column.tokens_per_step:,} tokens fit, {FEWEST_STEPS} are needed: "
            "use a smaller size or a larger budget"
        )
    if decay_start < warmup_steps:
        return (
            f"the cooldown would start at step {decay_start}, inside the warm-up of {warmup_steps} steps: "
            "use a larger budget, or lower schedule.warmup_budget or warmup_fraction"
        )
    return None


def _cell(
    spec: SweepSpec,
    column: _Column,
    train: TrainConfig,
    budget: int,
    steps: int,
    decay_start: int,
    train_tokens: int | None,
) -> Cell:
    """The cell of the first seed, without ids."""
    tokens = steps * column.tokens_per_step
    epochs = tokens / train_tokens if train_tokens else None
    return Cell(
        arm=column.arm.label,
        architecture=column.arm.architecture,
        recursions=column.arm.recursions,
        size=column.size.name,
        budget=budget,
        budget_convention=spec.budget_convention,
        seed=spec.seeds[0],
        model=column.model,
        train=train,
        steps=steps,
        tokens=tokens,
        decay_start=decay_start,
        flops={convention: round(each * tokens) for convention, each in column.flops_per_token.items()},
        unique_params=unique_params(column.model),
        unrolled_params=unrolled_params(column.model),
        total_params=total_params(column.model),
        epochs=epochs,
        flags=_flags(steps, train.warmup_steps, epochs),
    )


def _flags(steps: int, warmup_steps: int, epochs: float | None) -> tuple[str, ...]:
    raised = {
        "few-steps": steps < FEW_STEPS,
        "long-warmup": warmup_steps > LONG_WARMUP * steps,
        "repeated-data": epochs is not None and epochs > MANY_EPOCHS,
    }
    return tuple(flag for flag, holds in raised.items() if holds)
