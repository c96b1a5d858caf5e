"""What a plan costs, as tables for people and as JSON for programs: each cell's, and the totals with their basis."""

from dataclasses import asdict
from typing import Any

from mor_core.units import amount_text, bytes_text, counted_text, duration_text, money_text, short_budget, short_power
from orchestrator.cli.tables.listing import Column, Listing, listing_of
from orchestrator.planning.costs.estimate import LIBRARY_BYTES, MOST_EVALUATION_PERCENT, CellCost, Estimate
from orchestrator.planning.costs.gpu_shares import share_text
from orchestrator.planning.plan import Plan

SPARE = {"speed": 3, "disk": 2, "alone": 1}
"""What the table of costs leaves out where the window is too narrow, the highest first."""

MEMORY_RULE = "16 bytes per parameter, and the activations of a micro-batch"


def totals_table(plan: Plan, estimate: Estimate, price: float | None = None) -> Listing:
    """Totals, each with its basis."""
    columns = (Column(name="", is_text=True), Column(name="", wraps=True))
    return Listing(columns=columns, rows=tuple(total_lines(plan, estimate, price)), has_head=False)


def total_lines(plan: Plan, estimate: Estimate, price: float | None = None) -> list[tuple[str, str]]:
    """Name and sentence of each total."""
    throughput = estimate.throughput
    lines = [
        ("segments", _segments_line(plan, estimate)),
        (
            "compute",
            f"{short_power(estimate.flops)} exact FLOPs, {_saving(estimate)}; evaluation adds "
            f"{short_power(estimate.flops_evaluation, 2)} "
            f"({_evaluation_percent(estimate)})",
        ),
    ]
    if plan.trunks == "per-budget" and estimate.flops_shared != estimate.flops:
        lines.append(
            (
                "",
                f"shared trunks would take {short_power(estimate.flops_shared)}: "
                f"per-budget runs cost {estimate.flops / estimate.flops_shared - 1:+.0%}",
            )
        )
    if estimate.flops_remaining != estimate.flops:
        lines.append(("remaining", f"{short_power(estimate.flops_remaining)} exact FLOPs"))
    return [
        *lines,
        (
            "time",
            f"about {duration_text(estimate.seconds)} on {counted_text(throughput.workers, 'worker')} at "
            f"{short_power(throughput.flops_per_second)} FLOP/s each ({throughput.basis})",
        ),
        (throughput.hours_unit, _hours_line(estimate)),
        *([] if price is None else [("money", _money_line(estimate, price))]),
        *([("GPU shares", estimate.sharing)] if estimate.sharing else []),
        ("memory", _memory_line(estimate)),
        ("disk", f"{bytes_text(estimate.disk_bytes)} of checkpoints ({_checkpoints_text(plan)})"),
    ]


def evaluation_notes(estimate: Estimate) -> list[str]:
    """A sentence where evaluation costs more than it should, with the number that would not; else nothing."""
    number, most = estimate.num_evaluation_sequences, estimate.most_evaluation_sequences
    if number <= most:
        return []
    advice = f"at most {most:,} keep it" if most else "not even 1 keeps it"
    return [
        f"evaluation adds {_evaluation_percent(estimate)} to the training FLOPs with "
        f"evaluation.num_sequences = {number}; {advice} within {MOST_EVALUATION_PERCENT}%"
    ]


def _evaluation_percent(estimate: Estimate) -> str:
    """Three digits, since it may be a ten-thousandth."""
    return f"{100 * estimate.evaluation_share:.3g}%"


def _hours_line(estimate: Estimate) -> str:
    """Of all the work, and of what remains where some is done."""
    if estimate.hours_remaining == estimate.hours:
        return f"about {amount_text(estimate.hours)}, shared work counted once"
    remain, whole = amount_text(estimate.hours_remaining), amount_text(estimate.hours)
    return f"about {remain} remain of {whole}, shared work counted once"


def _money_line(estimate: Estimate, price: float) -> str:
    unit = estimate.throughput.hours_unit.removesuffix("s")
    return f"about {money_text(estimate.hours_remaining * price)} at {price:g} per {unit}"


def _memory_line(estimate: Estimate) -> str:
    largest = max(estimate.cells, key=lambda cell: cell.memory_bytes)
    how = MEMORY_RULE
    if largest.memory_is_measured:
        how = "measured, libraries included"
    elif any(cell.memory_is_measured for cell in estimate.cells):
        how += ", with what libraries took where that was measured"
    elif library_bytes := LIBRARY_BYTES[estimate.throughput.device]:
        how += f", with {bytes_text(library_bytes)} for libraries"
    return f"about {bytes_text(estimate.memory_bytes)} per worker for {estimate.memory_cell} ({how})"


def cost_heading(estimate: Estimate) -> str:
    """What the table of costs shows."""
    unit = estimate.throughput.hours_unit
    return f"{unit} of each cell: with its share of trunks that others need too, and if it were trained alone"


def cost_table(plan: Plan, estimate: Estimate, price: float | None = None) -> Listing:
    """One row a cell: device-hours, money, memory, disk, and how its speed is known."""
    seeds = len({cell.seed for cell in plan.cells}) > 1
    money = [] if price is None else ["money"]
    shared = ["GPU"] if estimate.sharing else []
    names = ("arm", "size", "budget", *(["seed"] if seeds else []), "hours", "alone", *money, *shared)
    rows: list[tuple[str, ...]] = []
    previous = None
    for cell, cost in zip(plan.cells, estimate.cells, strict=True):
        group = ("", "") if previous == (cell.arm, cell.size) else (cell.arm, cell.size)
        previous = (cell.arm, cell.size)
        row = [*group, short_budget(cell.budget), *([str(cell.seed)] if seeds else [])]
        row += [amount_text(cost.hours), amount_text(cost.hours_alone)]
        row += [] if price is None else [money_text(cost.hours * price)]
        row += [share_text(cost.devices)] if shared else []
        row += [bytes_text(cost.memory_bytes), bytes_text(cost.disk_bytes), str(cost.basis)]
        rows.append(tuple(row))
    return listing_of((*names, "memory", "disk", "speed"), rows, words=("arm", "size", "speed"), spare=SPARE)


def _checkpoints_text(plan: Plan) -> str:
    cosine = all(cell.decay_steps == 0 for cell in plan.cells)
    return "12 bytes per parameter and cell" if cosine else "per parameter 12 bytes a branch point, 4 a cell"


def _segments_line(plan: Plan, estimate: Estimate) -> str:
    trunks, cells = counted_text(estimate.num_trunks, "trunk"), counted_text(len(plan.cells), "cell")
    return f"{estimate.num_segments} in {trunks} for {cells}"


def _saving(estimate: Estimate) -> str:
    if estimate.flops == estimate.flops_separate:
        return "each cell trained on its own"
    saving = 1 - estimate.flops / estimate.flops_separate
    return f"{saving:.0%} less than the {short_power(estimate.flops_separate)} of separate runs"


def totals_json(estimate: Estimate, price: float | None) -> dict[str, Any]:
    """The totals as JSON values; what each cell costs stands with the cell."""
    totals = asdict(estimate)
    del totals["cells"]
    return totals | {
        "evaluation_share": estimate.evaluation_share,
        "most_evaluation_sequences": estimate.most_evaluation_sequences,
        "hours_unit": estimate.throughput.hours_unit,
        "price_per_hour": price,
        "money": None if price is None else estimate.hours * price,
        "money_remaining": None if price is None else estimate.hours_remaining * price,
    }


def cost_json(cost: CellCost, price: float | None) -> dict[str, Any]:
    """What one cell costs, as JSON values."""
    money = {"money": cost.hours * price, "money_alone": cost.hours_alone * price} if price is not None else {}
    return asdict(cost) | money
