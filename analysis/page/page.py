"""One self-contained HTML page about a study: tables, interactive figures, and what could not be said.

The page loads nothing: its Content-Security-Policy names the hashes of its own script and style and forbids all else,
so that text from a run (an arm's label, an error message) could not run even where it were not escaped.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from analysis.advice.forecast.score import ScoredForecast
from analysis.frontier.coverage import coverage_notes
from analysis.frontier.study import Frontier, Study
from analysis.page.charts import BESIDE, Chart, charts_of
from analysis.report.forecasts import (
    RECORD_HEAD,
    RECORD_TITLE,
    SCORE_HEAD,
    answering,
    record_rows,
    score_rows,
    score_summary,
)
from analysis.report.headline import headline
from analysis.report.provenance import Provenance
from analysis.report.surface import surface_lines
from analysis.report.text import (
    SLOPE_NOTE,
    caveat_of,
    comparison_lines,
    count_text,
    law_texts,
    loss_text,
    params_label,
    plain,
    refusals_of,
    repetition_lines,
    sharing_lines,
    with_cell_names,
)
from analysis.runs.curves import CellCurve
from analysis.runs.losses import loss_values, parse_loss
from analysis.statistics.answers import Refusal
from analysis.surface.extended.recursion import recursion_lines
from mor_core.units import budget_label, short_count

SCHEMA = "mor-sweep.report/1"
SECTIONS = {
    "frontier": "Compute-optimal frontiers",
    "isoflop": "Loss against size, one curve per budget",
    "surface": "The loss surface and its residuals",
    "compare": "Arms at equal FLOPs",
    "curves": "Training curves",
}
ALWAYS = ("frontier", "surface", "compare")
"""Sections that have words where they have no figure."""


def render_page(
    study: Study,
    provenance: Provenance,
    runs: pl.DataFrame,
    curves: Sequence[CellCurve] = (),
    own_record: Sequence[str] = (),
    forecasts: Sequence[ScoredForecast] = (),
    on_tasks: Sequence[tuple[str, Sequence[str]]] = (),
) -> str:
    """The page; `runs` is the run table that the study was fitted from, `curves` its training curves, `own_record` what
    `analysis.report.backtests` says of its predictions of itself, `forecasts` what was frozen of its sweep, `on_tasks`
    tasks with what `analysis.report.task_laws` says of each."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script, style = _asset("report.js"), _asset("report.css")
    charts = charts_of(study, curves)
    sections = _sections(charts)
    return environment.from_string(_asset("report.html")).render(
        provenance=provenance,
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
        payload=Markup(_embedded({"schema": SCHEMA, "provenance": plain(provenance), "charts": plain(charts)})),
        summary=_summary(headline(study, small=caveat_of(study) is not None)),
        contents=[
            *((name, title) for name, title, _, _ in sections),
            *([("forecasts", "Forecasts")] if forecasts else []),
            *([("tasks", "Scores on tasks")] if on_tasks else []),
            ("unsaid", "What these runs cannot say"),
            ("cells", "Cells"),
            ("provenance", "Where this comes from"),
        ],
        caveats=[line for line in (provenance.assumed, caveat_of(study), *coverage_notes(study)) if line],
        sections=sections,
        statuses=_statuses(runs, study),
        cells=_cell_rows(runs, study),
        **_words(study),
        own_record=own_record,
        on_tasks=on_tasks,
        forecast_tables=[
            ("", SCORE_HEAD, score_rows(answering(forecasts))),
            (RECORD_TITLE, RECORD_HEAD, record_rows(forecasts)),
        ],
        forecast_summary=score_summary(forecasts),
    )


def _words(study: Study) -> dict[str, Any]:
    """What the fits say, and what they refuse, by the template's names."""
    return {
        "arms": study.points.arms,
        "params_label": params_label(study),
        "frontiers": [_frontier_rows(frontier) for frontier in study.frontiers],
        "surfaces": [
            (frontier.arm, [with_cell_names(line, study) for line in surface_lines(frontier.surface)])
            for frontier in study.frontiers
            if frontier.surface is not None
        ],
        "recursion": recursion_lines(study.recursion) if study.recursion is not None else [],
        "repeated": repetition_lines(study),
        "sharing": sharing_lines(study),
        "comparisons": comparison_lines(study),
        "unsaid": [
            (f"{frontier.arm} ({frontier.approach})", [with_cell_names(line, study) for line in lines])
            for frontier in study.frontiers
            if (lines := refusals_of(frontier))
        ],
    }


def _sections(charts: Sequence[Chart]) -> list[tuple[str, str, int, list[Chart]]]:
    """Name, title, figures beside each other, and figures of each part that has any, or words in their place."""
    parts = [(name, title, [chart for chart in charts if chart["section"] == name]) for name, title in SECTIONS.items()]
    return [(name, title, BESIDE[name], shown) for name, title, shown in parts if shown or name in ALWAYS]


def _summary(markdown: str) -> list[tuple[str, Any]]:
    """The paragraphs of a headline: ("table", rows of cells) and ("words", text)."""
    return [
        ("table", [_cells(line) for line in block.splitlines() if not line.startswith("|---")])
        if block.startswith("| ")
        else ("words", block.replace("**", ""))
        for block in markdown.split("\n\n")
    ]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _asset(name: str) -> str:
    return (resources.files("analysis.page") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy writes it: of the bytes between the tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(document: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(document, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _statuses(runs: pl.DataFrame, study: Study) -> list[tuple[str, int]]:
    """How many cells there are of each kind, and why those left out are."""
    reasons = Counter(exclusion.reason.split(":")[0] for exclusion in study.exclusions)
    return [("cells", runs.height), ("used", study.points.frame.height), *sorted(reasons.items())]


def _cell_rows(runs: pl.DataFrame, study: Study) -> list[dict[str, str]]:
    reasons = {exclusion.cell_id: exclusion.reason for exclusion in study.exclusions}
    values = loss_values(runs, parse_loss(study.points.loss_column))
    losses = dict(zip(runs["cell_id"], values, strict=True)) if values is not None else {}
    rows = sorted(runs.to_dicts(), key=lambda row: (row["arm"], int(row["budget"]), row["unique_params"] or 0))
    return [
        {
            "arm": row["arm"],
            "size": row["size"],
            "budget": budget_label(row["budget"]),
            "seed": str(row["seed"]),
            "params": _count(row["unique_params"]),
            "tokens": _count(row["tokens"]),
            "loss": "" if (loss := losses.get(row["cell_id"])) is None else f"{loss:.4f}",
            "flags": (row.get("flags") or "").replace(";", ", "),
            "reason": reasons.get(row["cell_id"], ""),
            "cell": row["cell_id"][:12],
        }
        for row in rows
    ]


def _count(value: float | None) -> str:
    return "" if value is None else short_count(float(value))


def _frontier_rows(frontier: Frontier) -> dict[str, Any]:
    return {
        "arm": frontier.arm,
        "approach": frontier.approach,
        "optima": [
            {
                "budget": budget_label(optimum.budget),
                "params": count_text(optimum.params),
                "tokens": count_text(optimum.tokens),
                "loss": loss_text(optimum.loss),
            }
            for optimum in frontier.optima
        ],
        "laws": law_texts(frontier) + ([] if isinstance(frontier.loss_law, Refusal) else [SLOPE_NOTE]),
    }
