"""Reasons not to start a plan: data that are not prepared, text repeated too often, too little memory.

Each reason is one sentence that says what to do instead.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mor_core.units import bytes_text, count_text
from orchestrator.cli.options import say

if TYPE_CHECKING:
    from orchestrator.planning.costs.estimate import Estimate
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.spec.sweep_spec import SweepSpec

MOST = 0.5
"""Share of a plan's cells; where more than this would be left out of fits, the plan is refused."""

ESTIMATE_FACTOR = 2
"""Between the training tokens that are expected of text and those that it makes."""


@dataclass(frozen=True, kw_only=True)
class Objection:
    """One reason."""

    sentence: str
    """What is wrong and what to do."""
    is_final: bool
    """Whether --yes does not start the plan either: nothing would come of it."""


def objections(planned: "Plan", cost: "Estimate", spec: "SweepSpec", *, is_here: bool) -> tuple[Objection, ...]:
    """Why not to start a plan; nothing where all of it is trained. `is_here` where this machine trains."""
    if cost.hours_remaining == 0:
        return ()
    unprepared = needs_preparation(spec) if planned.data_name is None else None
    data_objections = [Objection(sentence=unprepared, is_final=True)] if unprepared else [*_repeated(planned, spec)]
    return (*data_objections, *_memory(cost, spec, is_here=is_here))


def holds(raised: Iterable[Objection], *, yes: bool) -> bool:
    """Whether a plan is not started: any objection without --yes, a final one also with it."""
    return any(objection.is_final or not yes for objection in raised)


def check(raised: Collection[Objection], *, yes: bool) -> None:
    """Raises PlanError with all objections where they hold; else they are notes on stderr."""
    from orchestrator.planning.plan import PlanError

    if holds(raised, yes=yes):
        raise PlanError("\n".join(objection.sentence for objection in raised))
    show(raised)


def show(raised: Iterable[Objection]) -> None:
    """As notes on stderr."""
    for objection in raised:
        say(f"note: {objection.sentence}")


def needs_preparation(spec: "SweepSpec") -> str | None:
    """What to say where the sweep's text, which is not prepared, is too much for a sweep to prepare itself by what is
    known without asking the hub; else None."""
    from mor_core.data.spec import FINEWEB_EDU

    if spec.data.corpus != FINEWEB_EDU:
        return None
    return (
        f"{spec.name} trains on FineWeb-Edu, which is not prepared here: run `mor-sweep data prepare fineweb-edu` with "
        "the same --preset first (all of it is some 220B tokens; max_megabytes under [data] takes less), or use "
        "--preset cpu for a study of minutes on a CPU, or --data FILE for text of your own"
    )


def _repeated(planned: "Plan", spec: "SweepSpec") -> Iterator[Objection]:
    """Where most cells would pass over the text so often that every fit leaves them out."""
    from mor_core.data.tokens.expected_tokens import expected_train_tokens
    from orchestrator.planning.cells import MANY_EPOCHS

    if spec.data.unique_tokens is not None:  # Repetition is what is studied.
        return
    if planned.data_name is not None:
        passes, least, text = [cell.epochs or 0 for cell in planned.cells], MANY_EPOCHS, "the training tokens"
    elif (expected := expected_train_tokens(spec.data_spec)) is not None:
        passes, least = [cell.tokens / expected for cell in planned.cells], ESTIMATE_FACTOR * MANY_EPOCHS
        text = f"the some {count_text(expected)} tokens, by the size of its files,"
    else:
        return
    repeating = sum(count > least for count in passes)
    if repeating <= MOST * len(passes):
        return
    is_final = repeating == len(passes) and spec.budgets is not None  # Losses at fixed tokens need no fit.
    less = "fewer --tokens" if spec.budgets is None else "smaller --budgets, or --preset cpu"
    yield Objection(
        sentence=f"{repeating} of {len(passes)} cells would pass more than {MANY_EPOCHS} times over {text} of "
        f"{spec.data.corpus}, up to {count_text(max(passes))} times, and fits leave such cells out: use more text "
        f"(`mor-sweep data prepare fineweb-edu`, then --data fineweb-edu; or --data FILE), or {less}"
        f"{'' if is_final else ', or start it with --yes all the same'}",
        is_final=is_final,
    )


def _memory(cost: "Estimate", spec: "SweepSpec", *, is_here: bool) -> Iterator[Objection]:
    """Where the largest cell, or as many as would train at a time on a CPU, need more than there is."""
    capacity, where = _available_memory(cost, spec, is_here=is_here)
    if capacity is None:
        return
    workers = cost.throughput.workers if cost.throughput.device == "cpu" else 1
    fitting = capacity // cost.memory_bytes
    if fitting >= workers:
        return
    needed = f"{cost.memory_cell} needs about {bytes_text(cost.memory_bytes)} of memory"
    if fitting:
        yield Objection(
            sentence=f"{needed} and {workers} workers together more than the {bytes_text(capacity)} of {where}: add "
            f"--workers {fitting}, or start it with --yes all the same",
            is_final=False,
        )
        return
    lower = f"lower execution.micro_batch ({spec.execution.micro_batch or 'now the whole batch'})"
    yield Objection(
        sentence=f"{needed} and {where} has {bytes_text(capacity)}: leave large sizes out (--sizes), {lower} or set "
        "execution.activation_checkpointing = true, train on a larger machine (--address), or start it with --yes all "
        "the same",
        is_final=False,
    )


def _available_memory(cost: "Estimate", spec: "SweepSpec", *, is_here: bool) -> tuple[int | None, str]:
    """Bytes that a worker may fill and whose they are; None where that is not known."""
    from orchestrator.planning.costs.gpu_shares import card_of
    from orchestrator.planning.costs.machine import driver_memories, machine_memory

    if cost.throughput.device == "cpu":
        return (machine_memory(), "this machine") if is_here else (None, "")
    card_gigabytes, memories = spec.execution.gpu_memory_gigabytes, driver_memories() if is_here else []
    return (
        (card_of(card_gigabytes, memories).memory_bytes, "a GPU")
        if card_gigabytes is not None or memories
        else (None, "")
    )
