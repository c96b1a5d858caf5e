"""What a notebook shows of runs: their plan, status, fit, answers and figures, each as text and as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup, escape

from analysis.frontier.study import Study
from analysis.report.text import count_text, law_text, loss_text, study_as_markdown
from mor_core.units import budget_text
from mor_core.units import count_text as short
from orchestrator.records.revisions import Sweep as StoredSweep
from orchestrator.records.status.sweep_status import Status, counts_text, state_text

MOST_ROWS = 100
"""Cells that a page shows one by one; the frames hold all of them."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PlannedCells:
    """What a sweep has been asked for."""

    sweep: StoredSweep
    """With its segments."""

    def frame(self) -> pl.DataFrame:
        """A row a cell. Budgets are decimal text, for they can pass 2^63."""
        rows = [
            {
                "arm": cell.arm,
                "size": cell.size,
                "budget": str(cell.budget),
                "seed": cell.seed,
                "unique_params": cell.unique_params,
                "steps": cell.steps,
                "tokens": cell.tokens,
                "flops_exact": float(cell.flops["exact"]),
                "cell_id": cell.cell_id,
            }
            for cell in self.sweep.cells
        ]
        return pl.DataFrame(rows)

    def __repr__(self) -> str:
        return f"{self.sweep.name}: {len(self.sweep.cells)} cells, {len(self.sweep.segments)} segments"

    def _repr_html_(self) -> str:
        head = ("arm", "size", "N", "budget", "seed", "steps", "tokens")
        rows = [
            (
                cell.arm,
                cell.size,
                short(cell.unique_params),
                budget_text(cell.budget),
                str(cell.seed),
                f"{cell.steps:,}",
                short(cell.tokens),
            )
            for cell in self.sweep.cells
        ]
        return html_table(repr(self), head, rows, most=MOST_ROWS)


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepStatus:
    """Where every cell of a sweep stands at one moment."""

    status: Status
    """Cells, and what is under way."""

    def frame(self) -> pl.DataFrame:
        """A row a cell."""
        return pl.DataFrame([{**vars(cell), "budget": str(cell.budget)} for cell in self.status.cells])

    def __repr__(self) -> str:
        return counts_text(self.status)

    def _repr_html_(self) -> str:
        under_way = self.status.by_cell()
        rows = [
            (
                cell.arm,
                cell.size,
                budget_text(cell.budget),
                str(cell.seed),
                "" if cell.loss is None else f"{cell.loss:.4f}",
                state_text(cell, under_way.get(cell.cell_id)),
            )
            for cell in self.status.cells
        ]
        return html_table(
            counts_text(self.status), ("arm", "size", "budget", "seed", "loss", "status"), rows, most=MOST_ROWS
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepFit:
    """A fitted study."""

    name: str
    """The sweep's."""
    study: Study
    """Every number with its interval, every refusal with its reason, every row left out."""

    def markdown(self) -> str:
        """What `mor-sweep fit` prints."""
        return study_as_markdown(self.study)

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        parts = []
        for frontier in self.study.frontiers:
            head = ("C (FLOPs)", "N*", "D* (tokens)", f"L* ({self.study.points.loss_unit})")
            rows = [
                (
                    budget_text(int(optimum.budget)),
                    count_text(optimum.params),
                    count_text(optimum.tokens),
                    loss_text(optimum.loss),
                )
                for optimum in frontier.optima
            ]
            title = f"{self.name}, {frontier.arm} ({frontier.approach})"
            laws: dict[str, Any] = {
                "N*": ("params", frontier.params_law),
                "D*": ("tokens", frontier.tokens_law),
                "L*": ("loss", frontier.loss_law),
            }
            parts.append(html_table(title, head, rows, most=MOST_ROWS))
            parts.append(html_list([f"{symbol}: {law_text(*law)}" for symbol, law in laws.items()]))
        return "".join(parts)


@dataclass(frozen=True, kw_only=True, repr=False)
class Answer:
    """What runs say to a question."""

    values: Any
    """As values."""
    text: str
    """As the command line prints it."""

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return str(Markup("<pre>{}</pre>").format(self.text))


@dataclass(frozen=True, kw_only=True, repr=False)
class Drawing:
    """A figure that a notebook shows."""

    name: str
    """Which."""
    svg: str
    """Its text."""

    def save(self, path: str | Path) -> None:
        """Write it where you say."""
        Path(path).write_text(self.svg)

    def __repr__(self) -> str:
        return f"figure {self.name}, {len(self.svg):,} characters of SVG"

    def _repr_html_(self) -> str:
        return self.svg[self.svg.index("<svg") :]


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, most: int) -> str:
    """A table with a caption; of more than `most` rows the first, and how many are left out."""
    cells = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    body = Markup("").join(_row(row) for row in rows[:most])
    more = f" (the first {most} of {len(rows)} rows)" if len(rows) > most else ""
    return str(
        Markup("<table><caption>{}{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
            title, more, cells, body
        )
    )


def html_list(lines: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return str(Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)))


def _row(row: Sequence[str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(escape(cell)) for cell in row))
