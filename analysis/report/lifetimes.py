"""The cheapest models over their lifetimes as Markdown, LaTeX, CSV or JSON."""

import json
from collections.abc import Mapping

from analysis.advice.lifetime import Lifetime, verdicts
from analysis.report.tables import Format, as_csv, as_latex, as_markdown, numbers
from analysis.report.text import count_text, plain, reading_as_json
from analysis.runs.column_map import Reading
from analysis.statistics.answers import Refusal
from analysis.surface.fit import FLAGGED_REACH
from mor_core.units import amount_text, short_power

SCHEMA = "mor-sweep.lifetime/2"
COSTS = ("training", "serving", "total")


def tabulate_lifetime(
    answers: Mapping[str, Lifetime | Refusal],
    target: float,
    served: float,
    form: Format,
    reading: Reading | None = None,
) -> str:
    """One row an arm, and what each costs over the cheapest; ends with a newline."""
    if form is Format.csv:
        return as_csv([_numbers(arm, answer) for arm, answer in answers.items()])
    if form is Format.json:
        document = {
            "target_loss": target,
            "served_tokens": served,
            "arms": dict(answers),
            "verdicts": verdicts(answers),
        }
        return json.dumps({"schema": SCHEMA, "data": plain(document) | reading_as_json(reading)}, indent=1) + "\n"
    head = ["arm", "N", "D (tokens)", *(f"{cost} (FLOPs)" for cost in COSTS)]
    rows = [_texts(answer, arm, len(head)) for arm, answer in answers.items()]
    return as_markdown(head, rows) if form is Format.markdown else as_latex(head, rows, words=1)


def lifetime_notes(answers: Mapping[str, Lifetime | Refusal]) -> list[str]:
    """Which arm is cheapest, what is extrapolated, and why an arm has no answer."""
    notes = [verdict.sentence for verdict in verdicts(answers)]
    for arm, answer in answers.items():
        if isinstance(answer, Refusal):
            notes.append(f"{arm}: refused: {answer.sentence}")
            continue
        if answer.reach > 1:
            guess = "; an extrapolation this far is a guess" if answer.reach > FLAGGED_REACH else ""
            notes.append(f"{arm}: its training is {amount_text(answer.reach)} times the largest budget fitted{guess}")
    return notes


def _texts(answer: Lifetime | Refusal, arm: str, width: int) -> list[str]:
    if isinstance(answer, Refusal):
        return [arm, f"refused ({answer.kind})", *[""] * (width - 2)]
    cells = [arm, count_text(answer.params), count_text(answer.tokens)]
    return cells + [getattr(answer, cost).shown(short_power) for cost in COSTS]


def _numbers(arm: str, answer: Lifetime | Refusal) -> dict[str, str | float | None]:
    row: dict[str, str | float | None] = {"arm": arm}
    for name in ("params", "tokens", *COSTS):
        row |= numbers(name, answer if isinstance(answer, Refusal) else getattr(answer, name))
    return row | {"refusal": answer.kind.value if isinstance(answer, Refusal) else None}
