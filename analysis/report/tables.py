"""One table of a study's optima, exponents and comparisons, written as Markdown, LaTeX, CSV or JSON."""

import csv
import io
import json
from enum import StrEnum
from typing import Any

from analysis.frontier.study import Frontier, Study
from analysis.report.text import EXPONENTS, count_text, loss_text, number_text, reading_as_json
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.approach import QUANTITIES
from mor_core.units import budget_label

SCHEMA = "mor-sweep.table/1"
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "≤": r"$\le$", "≥": r"$\ge$", "*": r"$^*$",
}  # fmt: skip


class Format(StrEnum):
    """How a table is written."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


def tabulate(study: Study, form: Format) -> str:
    """The optima of every arm and approach, one row a budget, then one row of exponents; ends with a newline."""
    if form in (Format.csv, Format.json):
        rows = [row for frontier in study.frontiers for row in _number_rows(frontier)]
        return as_csv(rows) if form is Format.csv else as_json(SCHEMA, rows, **reading_as_json(study.reading))
    rows = [row for frontier in study.frontiers for row in _text_rows(frontier)]
    head = ["arm", "approach", "C (FLOPs)", "N*", "D* (tokens)", f"L* ({study.points.loss_unit})"]
    return as_markdown(head, rows) if form is Format.markdown else as_latex(head, rows)


def _number_rows(frontier: Frontier) -> list[dict[str, str | float | None]]:
    """Every number in a column of its own; a refusal leaves them empty and names its kind."""
    contents = [
        ("optimum", optimum.budget, {quantity: getattr(optimum, quantity) for quantity in QUANTITIES})
        for optimum in frontier.optima
    ]
    contents.append(("exponent", "", {quantity: _exponent(frontier, quantity) for quantity in QUANTITIES}))
    rows: list[dict[str, str | float | None]] = []
    for kind, budget, answers in contents:
        rows.append({"arm": frontier.arm, "approach": frontier.approach, "row": kind, "budget": budget})
        for quantity, answer in answers.items():
            kind = answer.kind.value if isinstance(answer, Refusal) else None
            rows[-1] |= numbers(quantity, answer) | {f"{quantity}_refusal": kind}
    return rows


def _exponent(frontier: Frontier, quantity: str) -> Estimate | Refusal:
    law = getattr(frontier, f"{quantity}_law")
    return law if isinstance(law, Refusal) else law.exponent


def numbers(name: str, answer: Estimate | Refusal) -> dict[str, float | None]:
    """A number and the ends of its interval, in columns called after `name`; empty where it is refused."""
    if isinstance(answer, Refusal):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: answer.value, f"{name}_low": answer.low, f"{name}_high": answer.high}


def _text_rows(frontier: Frontier) -> list[list[str]]:
    name = [frontier.arm, frontier.approach]
    rows = [
        [*name, budget_label(optimum.budget), count_text(optimum.params), count_text(optimum.tokens),
         loss_text(optimum.loss)]
        for optimum in frontier.optima
    ]  # fmt: skip
    return [*rows, [*name, "exponent of C", *(_exponent_text(frontier, quantity) for quantity in QUANTITIES)]]


def _exponent_text(frontier: Frontier, quantity: str) -> str:
    exponent = _exponent(frontier, quantity)
    if isinstance(exponent, Refusal):
        return f"refused ({exponent.kind})"
    return f"{EXPONENTS[quantity]} = {number_text(exponent)}"


def as_markdown(head: list[str], rows: list[list[str]]) -> str:
    """Rows of text under their heads."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def as_latex(head: list[str], rows: list[list[str]], *, words: int = 3) -> str:
    """The same for the package booktabs; the first columns, `words` of them, are no numbers."""
    body = [f"{' & '.join(map(_escaped, line))} \\\\" for line in [head, *rows]]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{'l' * words}{'r' * (len(head) - words)}}}",
            "\\toprule",
            body[0],
            "\\midrule",
            *body[1:],
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(letter, letter) for letter in text)


def as_json(schema: str, rows: list[dict[str, str | float | None]], **more: Any) -> str:
    """Rows, and more beside them, as a document that says what it is and in which version; ends with a newline."""
    return json.dumps({"schema": schema, "data": {"rows": rows, **more}}, indent=1) + "\n"


def as_csv(rows: list[dict[str, str | float | None]]) -> str:
    """Rows that have the same keys, under them; empty for none."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
