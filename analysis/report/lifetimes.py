"""The cheapest models over their lifetimes as Markdown, LaTeX, CSV or JSON."""

import json
from collections.abc import Mapping

from analysis.advice.lifetime import Lifetime, verdicts
from analysis.advice.serving import Demand
from analysis.report.tables import Format, as_csv, as_latex, as_markdown, numbers
from analysis.report.text import count_text, plain, reading_as_json
from analysis.runs.column_map import Reading
from analysis.statistics.answers import Refusal
from analysis.surface.fit import FLAGGED_REACH
from mor_core.units import amount_text, short_power

SCHEMA = "mor-sweep.lifetime/1"
COSTS = ("training", "serving", "total")
LARGE_SCATTER = 0.1
AT_OPTIMUM = ("sequences", "weight_bytes", "kv_bytes")


def tabulate_lifetime(
    answers: Mapping[str, Lifetime | Refusal],
    target: float,
    demand: Demand,
    form: Format,
    reading: Reading | None = None,
) -> str:
    """One row an arm, and what each costs over the cheapest; ends with a newline."""
    if form is Format.csv:
        return as_csv([_numbers(arm, answer) for arm, answer in answers.items()])
    if form is Format.json:
        document = {"target_loss": target, "demand": demand, "arms": dict(answers), "verdicts": verdicts(answers)}
        return json.dumps({"schema": SCHEMA, "data": plain(document) | reading_as_json(reading)}, indent=1) + "\n"
    unit = "FLOPs" if demand.per == "flops" else "bytes"
    head = ["arm", "N", "D (tokens)", *(f"{cost} ({unit})" for cost in COSTS)]
    if demand.limited:
        head += [f"sequences of {amount_text(demand.context or 0)}", "bytes a token: weights + KV"]
    rows = [_texts(answer, arm, len(head)) for arm, answer in answers.items()]
    return as_markdown(head, rows) if form is Format.markdown else as_latex(head, rows, words=1)


def lifetime_notes(answers: Mapping[str, Lifetime | Refusal]) -> list[str]:
    """Which arm is cheapest, what is extrapolated, and why an arm has no answer."""
    notes = [verdict.sentence for verdict in verdicts(answers)]
    for arm, answer in answers.items():
        if isinstance(answer, Refusal):
            notes.append(f"{arm}: refused: {answer.sentence}")
            continue
        if (answer.kv_scatter or 0) > LARGE_SCATTER:
            notes.append(
                f"{arm}: the keys and values of its shapes lie up to {answer.kv_scatter:.0%} off the power law of N "
                "that stands for them"
            )
        if answer.reach > 1:
            guess = "; an extrapolation this far is a guess" if answer.reach > FLAGGED_REACH else ""
            notes.append(f"{arm}: its training is {amount_text(answer.reach)} times the largest budget fitted{guess}")
    return notes


def _texts(answer: Lifetime | Refusal, arm: str, width: int) -> list[str]:
    if isinstance(answer, Refusal):
        return [arm, f"refused ({answer.kind})", *[""] * (width - 2)]
    cells = [arm, count_text(answer.params), count_text(answer.tokens)]
    cells += [getattr(answer, cost).shown(short_power) for cost in COSTS]
    if answer.sequences is not None and answer.weight_bytes is not None and answer.kv_bytes is not None:
        cells += [f"{answer.sequences:,.1f}", f"{amount_text(answer.weight_bytes)} + {amount_text(answer.kv_bytes)}"]
    return cells


def _numbers(arm: str, answer: Lifetime | Refusal) -> dict[str, str | float | None]:
    row: dict[str, str | float | None] = {"arm": arm}
    for name in ("params", "tokens", *COSTS):
        row |= numbers(name, answer if isinstance(answer, Refusal) else getattr(answer, name))
    row |= {name: None if isinstance(answer, Refusal) else getattr(answer, name) for name in AT_OPTIMUM}
    return row | {"refusal": answer.kind.value if isinstance(answer, Refusal) else None}
