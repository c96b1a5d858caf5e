"""A plan as tables for people (rich) and as JSON for programs."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from typing import Any

from mor_core.units import count_text, power_text, short_budget
from orchestrator.cli.tables.costs import (
    cost_heading,
    cost_json,
    cost_table,
    evaluation_notes,
    totals_json,
    totals_table,
)
from orchestrator.cli.tables.listing import Column, Listing, output_console, show, show_text
from orchestrator.planning.canonical import to_jsonable
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.estimate import Estimate
from orchestrator.planning.identity import trunk_id
from orchestrator.planning.plan import Plan, flops_by_segment, lost_arm_lines
from orchestrator.records.console import Console

UNRESOLVED = "unresolved: data"
"""In the place of ids, while no data is prepared."""

COLUMNS: dict[str, Callable[[Cell], str]] = {
    "arm": lambda cell: cell.arm,
    "size": lambda cell: cell.size,
    "N": lambda cell: count_text(cell.unique_params),
    "budget": lambda cell: short_budget(cell.budget),
    "seed": lambda cell: str(cell.seed),
    "steps": lambda cell: f"{cell.steps:,}",
    "tokens": lambda cell: count_text(cell.tokens),
    "warm up": lambda cell: str(cell.train.warmup_steps),
    "epochs": lambda cell: "?" if cell.epochs is None else f"{cell.epochs:.2g}",
    "peak rate": lambda cell: f"{cell.train.peak_learning_rate:.3g}",
    "exact FLOPs": lambda cell: power_text(cell.flops["exact"]),
    "paper FLOPs": lambda cell: power_text(cell.flops["paper"]),
    "6nd FLOPs": lambda cell: power_text(cell.flops["6nd"]),
    "flags": lambda cell: " ".join(cell.flags),
}
"""What the table of cells shows, in order."""

NAMED_ONCE = ("arm", "size", "N")
"""Shown on the first row of a group only."""

SPARE = {"6nd FLOPs": 5, "paper FLOPs": 4, "warm up": 3, "peak rate": 2, "epochs": 1}
"""What is left out where the window is too narrow, the highest first."""

SAID_ONCE = ("seed", "epochs", "peak rate", "flags")
"""Left out of the table where all cells agree, and said in a line instead."""


def print_plan(plan: Plan, estimate: Estimate, price: float | None = None) -> None:
    """The whole plan to stdout: cells, what each costs, what is left out and why, totals. `price` of a device-hour."""
    console = output_console()
    show_text(console, _heading(plan))
    if common := _said_once(plan):
        show_text(console, common)
    show(console, cells_table(plan))
    if plan.budget_convention == "paper" and plan.tokens is None:
        console.print()
        show_text(console, "exact FLOPs per paper FLOP of budget (and against the first arm)")
        show(console, gap_table(plan))
    console.print()
    show_text(console, cost_heading(estimate))
    show(console, cost_table(plan, estimate, price))
    _print_notes(console, plan, estimate)
    show(console, totals_table(plan, estimate, price))


def print_summary(plan: Plan, estimate: Estimate, price: float | None = None) -> None:
    """A few lines to stderr before a sweep starts."""
    console = output_console(stderr=True)
    show_text(console, _heading(plan))
    _print_notes(console, plan, estimate)
    show(console, totals_table(plan, estimate, price))


def print_news(before: Plan, after: Plan) -> None:
    """What is known of a plan, to stderr, now that its data is prepared: what could not be said `before`."""
    earlier_lines = {*before.notes, *flag_lines(before)}
    for line in (*after.notes, *flag_lines(after)):
        if line not in earlier_lines:
            show_text(output_console(stderr=True), f"note: {line}")


def _print_notes(console: Console, plan: Plan, estimate: Estimate) -> None:
    if plan.dropped:
        console.print("\nleft out")
        show(console, dropped_table(plan))
    console.print()
    for line in (*lost_arm_lines(plan), *plan.notes, *flag_lines(plan), *evaluation_notes(estimate)):
        show_text(console, f"note: {line}")


def _heading(plan: Plan) -> str:
    data = f"data {plan.data_name}" if plan.data_name else f"ids {UNRESOLVED} is not prepared"
    return (
        f"{plan.name}: {len(plan.cells)} cells, {_goal_text(plan)} in {plan.budget_convention} FLOPs, "
        f"{plan.trunks} trunks, {data}"
    )


def _goal_text(plan: Plan) -> str:
    """What decides how long cells train."""
    if plan.tokens is None:
        return "budgets"
    return f"{' and '.join(map(count_text, plan.tokens))} tokens each, their cost"


def _said_once(plan: Plan) -> str:
    """What all cells have in common; empty where they share nothing."""
    common = {name: COLUMNS[name](plan.cells[0]) for name in SAID_ONCE if _is_common(plan, name)}
    values = ", ".join(f"{name} {value}" for name, value in common.items() if value)
    return f"all cells: {values}" if values else ""


def _is_common(plan: Plan, name: str) -> bool:
    return len({COLUMNS[name](cell) for cell in plan.cells}) == 1


def cells_table(plan: Plan) -> Listing:
    """One row a cell, grouped by arm and size; the names stand on the first row of a group."""
    shown = [name for name in COLUMNS if name not in SAID_ONCE or not _is_common(plan, name)]
    if plan.tokens is not None:
        shown.remove("budget")  # It is one of the FLOP columns.
    # What budgets are counted in says once more what the budget says.
    spare = SPARE if plan.tokens is not None else SPARE | {f"{plan.budget_convention} FLOPs": len(SPARE) + 1}
    columns = tuple(
        Column(name=name, is_text=name in ("arm", "size"), wraps=name == "flags", spare=spare.get(name, 0))
        for name in shown
    )
    rows = tuple(
        tuple("" if index and name in NAMED_ONCE else COLUMNS[name](cell) for name in shown)
        for _, group in groupby(plan.cells, key=lambda cell: (cell.arm, cell.size))
        for index, cell in enumerate(group)
    )
    return Listing(columns=columns, rows=rows)


def gap_table(plan: Plan) -> Listing:
    """Where budgets count in the paper's convention: what each arm really costs at an equal budget."""
    arms = list(dict.fromkeys(cell.arm for cell in plan.cells))
    exact = {(cell.size, cell.arm): cell.flops["exact"] / cell.flops["paper"] for cell in plan.cells}
    rows: list[tuple[str, ...]] = []
    for size in dict.fromkeys(cell.size for cell in plan.cells):
        if (size, arms[0]) in exact:
            base = exact[size, arms[0]]
            ratios = [exact.get((size, arm)) for arm in arms]
            rows.append((size, *("" if x is None else f"{x:.3f} ({x / base - 1:+.1%})" for x in ratios)))
    return Listing(columns=(Column(name="size", is_text=True), *(Column(name=arm) for arm in arms)), rows=tuple(rows))


def dropped_table(plan: Plan) -> Listing:
    """What was asked for and is left out, with the reason."""
    columns = tuple(Column(name=name, is_text=True) for name in ("arm", "size", "budget", "seeds"))
    groups = groupby(plan.dropped, key=lambda d: (d.arm, d.size, d.budget, d.reason))
    rows = tuple(
        (arm, size, short_budget(budget), ",".join(str(dropped.seed) for dropped in group), reason)
        for (arm, size, budget, reason), group in groups
    )
    return Listing(columns=(*columns, Column(name="reason", wraps=True)), rows=rows)


FLAG_MEANINGS = {
    "few-steps": "fewer than 200 optimiser steps: the cell measures the optimiser more than the size",
    "long-warmup": "warm-up takes more than 10 % of the steps",
    "repeated-data": "more than 4 passes over the training tokens: a repeated token is worth less than a fresh one",
}


def flag_lines(plan: Plan) -> list[str]:
    """What the flags in the table mean, for those that occur."""
    flags = [flag for cell in plan.cells for flag in cell.flags]
    return [f"{flag} ({flags.count(flag)} cells): {text}" for flag, text in FLAG_MEANINGS.items() if flag in flags]


def plan_json(plan: Plan, estimate: Estimate, price: float | None = None) -> dict[str, Any]:
    """The plan as JSON values, what the document mor-sweep.plan/1 holds; counts of FLOPs are exact integers, those of
    segments by the exact convention."""
    flops = flops_by_segment(plan.segments)
    trunk_ids = {trunk: trunk_id(trunk) for trunk in {segment.trunk for segment in plan.segments}}
    return {
        "name": plan.name,
        "budget_convention": plan.budget_convention,
        "trunks": plan.trunks,
        "data_snapshot": plan.data_name or UNRESOLVED,
        "cells": [
            _cell_json(cell) | {"cost": cost_json(cost, price)}
            for cell, cost in zip(plan.cells, estimate.cells, strict=True)
        ],
        "segments": [
            {
                "id": segment.id,
                "kind": segment.kind,
                "stop_step": segment.stop_step,
                "decay_start": segment.decay_start,
                "needs": list(segment.needs),
                "trunk_id": trunk_ids[segment.trunk],
                "flops": flops[segment.id],
            }
            for segment in plan.segments
        ],
        "dropped": [asdict(dropped) for dropped in plan.dropped],
        "notes": [*plan.notes, *evaluation_notes(estimate)],
        "estimate": totals_json(estimate, price),
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    ids = {name: getattr(cell, name) or UNRESOLVED for name in ("cell_id", "trunk_id", "evaluate_segment")}
    counts = {"warmup_steps": cell.train.warmup_steps, "decay_steps": cell.decay_steps}
    return to_jsonable(cell) | counts | ids
