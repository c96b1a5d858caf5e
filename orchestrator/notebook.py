"""A sweep in a notebook: what is planned, where it stands, its table, fits and figures. Reading starts nothing.

    from orchestrator.notebook import Sweep
    sweep = Sweep.open("isoflop-cpu")
    sweep.status                    # cells and what they wait for
    sweep.table().filter(...)       # the run table, polars; sweep.pandas()
    sweep.fit().study               # the fit as values: see analysis.frontier.study.Study
    sweep.figure("frontier")        # as `mor-sweep plot frontier` draws it

`Sweep.open("s3://bucket/study")` opens the last sweep used there, as it is in the bucket at that moment.

No torch, Ray or MLflow is imported, and nothing is written to the results folder. Each value is as the files are when
it is asked for.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from markupsafe import Markup, escape

from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.report.text import count_text, law_text, loss_text, study_as_markdown
from analysis.surface.optimum import SurfaceRules
from mor_core.units import budget_text
from mor_core.units import count_text as short
from orchestrator.records.revisions import Sweep as StoredSweep
from orchestrator.records.revisions import is_on_small_corpus, load_sweep
from orchestrator.records.status.sweep_status import Status, counts_text, read_status, state_text
from orchestrator.records.table import cell_curves, segment_table, table
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import address_in, open_store

if TYPE_CHECKING:
    import pandas as pd


FigureName = Literal["isoflop", "frontier", "surface", "residuals", "curves"]
"""Figures of one sweep that need no further question."""

MOST_ROWS = 100
"""Cells that a page shows one by one; the frames hold all of them."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep of a results folder."""

    name: str
    """Its name."""
    store: Store
    """Where its results are."""

    @classmethod
    def open(cls, name: str | None = None, results: str | Path = "results") -> "Sweep":
        """The sweep of that name, or the last one used, in a folder or at an s3:// address. An address in place of the
        name is that of the last sweep used there.

        Raises NoSuchSweep, OtherVersion, and StoreError, also for a bucket that cannot be used.
        """
        if name is not None and address_in(name):
            name, results = None, name
        store = open_store(results)
        store.upstream.pull()
        return cls(name=load_sweep(store, name).name, store=store)

    @property
    def plan(self) -> "PlannedCells":
        """Every cell that the sweep has been asked for."""
        return PlannedCells(sweep=self._load())

    @property
    def status(self) -> "SweepStatus":
        """Where every cell stands now."""
        return SweepStatus(status=read_status(self.store, self.name))

    def table(self) -> pl.DataFrame:
        """The run table, a row a cell; results/README.md explains the columns."""
        return table(self.store, self._load())

    def pandas(self) -> "pd.DataFrame":
        """The run table for pandas."""
        return self.table().to_pandas()

    def segments(self) -> pl.DataFrame:
        """What every segment took, each once."""
        return segment_table(self.store, self._load())

    def curves(self, loss: str = "loss") -> pl.DataFrame:
        """The training curves: cell, arm, size, budget, tokens, loss; a row a logged step."""
        frames = [
            pl.DataFrame({"tokens": each.tokens, "loss": each.loss}).select(
                pl.lit(each.cell).alias("cell"),
                pl.lit(each.arm).alias("arm"),
                pl.lit(each.size).alias("size"),
                pl.lit(each.budget).alias("budget"),
                pl.all(),
            )
            for each in cell_curves(self.store, self._load(), loss)
        ]
        return pl.concat(frames) if frames else pl.DataFrame()

    def fit(self, approaches: tuple[str, ...] = ("parabola",), *, loss: str = "loss", tied: bool = False) -> "SweepFit":
        """The frontier as `mor-sweep fit` finds it; `loss` is what `--loss` takes. Raises TableError and LossError."""
        settings = FitSettings(loss_column=loss, approaches=approaches, surface=SurfaceRules(tied=tied))
        study = fit_study(self.table(), settings, on_small_corpus=is_on_small_corpus(self._load()))
        return SweepFit(name=self.name, study=study)

    def figure(self, name: FigureName, *, loss: str = "loss") -> "Drawing":
        """A figure, as `mor-sweep plot` draws it."""
        return Drawing(name=name, svg=self._drawn(name, loss))

    def _drawn(self, name: FigureName, loss: str) -> str:
        from analysis.figures.curves import plot_curves
        from analysis.figures.frontier import plot_frontier
        from analysis.figures.isoflop import plot_isoflop
        from analysis.figures.surface import plot_residuals, plot_surface
        from analysis.report.provenance import provenance_of
        from orchestrator.records.revisions import data_label, package_version

        plots: dict[str, Callable[..., None]] = {
            "isoflop": plot_isoflop,
            "frontier": plot_frontier,
            "surface": plot_surface,
            "residuals": plot_residuals,
        }
        if name != "curves" and name not in plots:
            raise ValueError(f"figure {name!r}: expected one of {', '.join([*plots, 'curves'])}")
        sweep = self._load()
        approach = "surface" if name in ("surface", "residuals") else "parabola"
        study = self.fit((approach,), loss=loss).study
        provenance = provenance_of(study, source=self.name, data=data_label(sweep), version=package_version())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.svg"
            if name == "curves":
                plot_curves(cell_curves(self.store, sweep, loss), loss, [path], provenance)
            else:
                plots[name](study, [path], provenance)
            return path.read_text()

    def _load(self) -> StoredSweep:
        return load_sweep(self.store, self.name)

    def _repr_html_(self) -> str:
        return self.status._repr_html_()


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
                (budget_text(int(each.budget)), count_text(each.params), count_text(each.tokens), loss_text(each.loss))
                for each in frontier.optima
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
    return Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(escape(each)) for each in row))
