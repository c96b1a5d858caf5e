"""What a pilot and a hyper-parameter search found, as tables on a terminal."""

from analysis.statistics.answers import Estimate, Refusal
from analysis.tuning.law import HyperparameterLaw
from analysis.tuning.response import Response
from mor_core.units import short_count
from orchestrator.cli.tables.listing import Column, Listing, listing_of, show, show_text
from orchestrator.records.console import Console
from orchestrator.search.pilot import Found
from orchestrator.search.pilot_file import (
    ARM_HEAD,
    ASSUMED,
    PAIR_HEAD,
    advice_line,
    arm_rows,
    pair_note,
    pair_rows,
    unknown_lines,
)
from orchestrator.search.tuning.tune import Shared, Tuned

WORDS = ("arm", "arms")
"""Columns that hold names."""
SPARE = {"degrees of freedom": 3, "tokens/s": 2, "exponent": 1}
"""What a narrow window leaves out, the highest first."""


def print_pilot(findings: Found, console: Console) -> None:
    """What is advised, the tables, and what is not known."""
    show_text(console, advice_line(findings))
    for head, rows in ((ARM_HEAD, arm_rows(findings)), (PAIR_HEAD, pair_rows(findings))):
        if rows:
            show(console, "", listing_of(head, rows, words=WORDS, spare=SPARE))
    for line in (*([pair_note(findings.wanted)] if findings.advice else []), *unknown_lines(findings), ASSUMED):
        show_text(console, line)


COLUMNS = (
    Column(name="arm", is_text=True),
    Column(name="size", is_text=True),
    Column(name="tokens"),
    Column(name="settings", is_text=True, spare=1),
    Column(name="loss"),
    Column(name="best", wraps=True),
)
"""Of the table of optima."""


def print_tuned(tuned: Tuned, console: Console) -> None:
    """The optima as a table, and a line for each law and each cost of sharing."""
    rows: list[tuple[str, ...]] = []
    for rung, tried in zip(tuned.rungs, tuned.tried, strict=True):
        finished = f"{sum(trial.counts for trial in tried.trials)} of {len(tried.trials)}"
        best, loss = _best(rung.response)
        rows.append((rung.arm, rung.size, short_count(rung.tokens), finished, loss, best))
    title = f"{tuned.name}: the best settings of each arm and size"
    show(console, Listing(columns=COLUMNS, rows=tuple(rows), title=title))
    for law in tuned.laws:
        text = f"no law: {law.sentence}" if isinstance(law, Refusal) else _law_text(law)
        console.print(f"- {text}", soft_wrap=True, markup=False)
    for shared in tuned.shared:
        console.print(f"- {_shared_text(shared)}", soft_wrap=True, markup=False)


def _best(response: Response | Refusal) -> tuple[str, str]:
    if isinstance(response, Refusal):
        return f"none: {response.sentence}", ""
    values = (_value_text(name, response.optimum(name)) for name in response.names)
    return "; ".join(values), f"{response.loss({}):.4f}"


def _value_text(name: str, best: Estimate) -> str:
    return f"{name.replace('_', ' ')} {best.shown(lambda value: f'{value:.3g}')}"


def _law_text(law: HyperparameterLaw) -> str:
    base = f"{law.base.value:.3g} [{law.base.low:.3g}, {law.base.high:.3g}]"
    growth = (
        f"exponent not known ({law.exponent.sentence})"
        if isinstance(law.exponent, Refusal)
        else (f"exponent {law.exponent.value:.3f} [{law.exponent.low:.3f}, {law.exponent.high:.3f}]")
    )
    lost = "".join(f"; {rung.size} by the law of the others loses {rung.loss_lost:.4f}" for rung in law.held_out)
    return f"{law.arm}: {law.name.replace('_', ' ')} {base} at {law.reference:,} unrolled parameters, {growth}{lost}"


def _shared_text(shared: Shared) -> str:
    where = f"{shared.arm} {shared.size} at {short_count(shared.tokens)} tokens: "
    best = "".join(f"{_value_text(name, value)} is best there; " for name, value in shared.best.items())
    lost = shared.loss_lost
    if isinstance(lost, Refusal):
        return f"{where}{best}what the rung's own settings lose is not known: {lost.sentence}"
    return f"{where}{best}the rung's own settings lose {lost.value:.4f} [{lost.low:.4f}, {lost.high:.4f}] nats/token"
