"""The table of a sweep's cells: in one order, with what a cell is, and the best of each budget marked."""

import math

from orchestrator.cli.tables.status import cells_table
from orchestrator.records.status.states import CellState
from orchestrator.records.status.sweep_status import Status


def cell(arm: str, params: int, budget: int, loss: float | None, seed: int = 0, topk: float | None = None) -> CellState:
    return CellState(
        cell_id=f"{arm}{params}{budget}{seed}",
        arm=arm,
        size=f"{params // 1000}k",
        budget=budget,
        seed=seed,
        params=params,
        tokens=budget // (6 * params),
        steps=1000,
        status="pending" if loss is None else "finished",
        reason="",
        waits_for=None,
        loss=loss,
        loss_topk=loss if topk is None else topk,
        depth_mean=None if loss is None else 1.0,
    )


def rows_of(*cells: CellState) -> list[list[str]]:
    listing = cells_table(Status(name="toy", cells=cells, under_way=(), is_running=False))
    return [line.split() for line in listing.body_lines(math.inf)]


def test_cells_stand_by_arm_size_budget_and_seed_whichever_plan_they_are_of():
    rows = rows_of(
        cell("vanilla", 23_000, 10**9, 3.0),
        cell("vanilla", 9_000, 10**10, 3.1, seed=1),
        cell("mor-2", 9_000, 10**9, 3.2),
        cell("vanilla", 9_000, 10**10, 3.3),
        cell("vanilla", 9_000, 10**9, None),
    )
    assert [row[:4] for row in rows[:5]] == [
        ["vanilla", "9k", "1e9", "0"],
        ["vanilla", "9k", "1e10", "0"],
        ["vanilla", "9k", "1e10", "1"],
        ["vanilla", "23k", "1e9", "0"],
        ["mor-2", "9k", "1e9", "0"],
    ]


def test_a_row_says_parameters_and_tokens_and_marks_the_lowest_loss_of_its_arm_and_budget():
    rows = rows_of(
        cell("vanilla", 9_000, 10**9, 3.1),
        cell("vanilla", 23_000, 10**9, 3.0),
        cell("mor-2", 9_000, 10**9, 3.2, topk=3.05),
    )
    assert rows[0][4:8] == ["9k", "18.5k", "1,000", "3.1000"]
    assert [row[7] for row in rows[:3]] == ["3.1000", "3.0000*", "3.2000*"]
    assert rows[3] == ["*", *["the", "lowest", "loss", "of", "its", "arm", "at", "its", "budget"]]


def test_the_loss_of_top_k_is_shown_where_it_is_another():
    vanilla, routed, *_ = rows_of(cell("vanilla", 9_000, 10**9, 3.1), cell("mor-2", 9_000, 10**9, 3.2, topk=3.05))
    assert "3.0500" in routed
    assert vanilla[7:] == ["3.1000*", "1.00", "finished"]
