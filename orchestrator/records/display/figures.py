"""What draws each figure of a notebook: fits the runs as the figure needs them, and writes it to files.

A figure function takes the runs and the paths of its files; its other parameters are the figure's options.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from analysis.runs.losses import parse_loss
from analysis.statistics.answers import Refusal
from mor_core.errors import UserError
from orchestrator.records.fits import Fitted
from orchestrator.records.revisions import Sweep
from orchestrator.records.table import cell_curves
from orchestrator.store.store import Store

PARABOLA, SURFACE = ("parabola",), ("surface",)
"""Approaches of a fit."""


class NoFigure(UserError):
    """A figure that there is not, or that these runs do not support; the message says why."""


class Fit(Protocol):
    """Fits runs by one loss. Raises TableError and LossError."""

    def __call__(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        """The fit."""
        ...


@dataclass(frozen=True, kw_only=True)
class DrawnRuns:
    """Runs, as figures need them."""

    fit: Fit
    """Fits them."""
    compare: Callable[[str | None, str | None], list[Fitted]]
    """(another sweep, loss) -> the fits whose arms are compared, one a loss."""
    store: Store | None
    """Where a sweep's results are; None for anyone's table."""

    def sweep_fit(self, figure: str, loss: str) -> tuple[Store, Sweep, Fitted]:
        """The store, the sweep and its fit. Raises NoFigure for anyone's table."""
        if self.store is None:
            raise NoFigure(f"a table of runs has no {figure} to draw: open the sweep itself for that figure")
        fitted = self.fit(loss, PARABOLA)
        assert fitted.sweep is not None
        return self.store, fitted.sweep, fitted


def _draw_isoflop(runs: DrawnRuns, paths: list[Path], *, loss: str = "loss") -> None:
    from analysis.figures.isoflop import plot_isoflop

    fitted = runs.fit(loss, PARABOLA)
    plot_isoflop(fitted.study, paths, fitted.provenance)


def _draw_frontier(runs: DrawnRuns, paths: list[Path], *, loss: str = "loss") -> None:
    from analysis.figures.frontier import plot_frontier

    fitted = runs.fit(loss, PARABOLA)
    plot_frontier(fitted.study, paths, fitted.provenance)


def _draw_surface(runs: DrawnRuns, paths: list[Path], *, loss: str = "loss", tied: bool = False) -> None:
    from analysis.figures.surface import plot_surface

    fitted = runs.fit(loss, SURFACE, tied)
    plot_surface(fitted.study, paths, fitted.provenance)


def _draw_residuals(runs: DrawnRuns, paths: list[Path], *, loss: str = "loss", tied: bool = False) -> None:
    from analysis.figures.surface import plot_residuals

    fitted = runs.fit(loss, SURFACE, tied)
    plot_residuals(fitted.study, paths, fitted.provenance)


def _draw_compare(runs: DrawnRuns, paths: list[Path], *, other: str | None = None, loss: str | None = None) -> None:
    from analysis.figures.compare import plot_compare

    compared = runs.compare(other, loss)
    plot_compare([fitted.study for fitted in compared], paths, compared[0].provenance)


def _draw_task(
    runs: DrawnRuns,
    paths: list[Path],
    *,
    task: str,
    params: float | None = None,
    tokens: float | None = None,
    chance: float | None = None,
    tied: bool = False,
) -> None:
    from analysis.advice.tasks.answers import answer_for_model
    from analysis.advice.tasks.task_study import fit_task_study
    from analysis.figures.advice.task_laws import plot_task
    from analysis.runs.losses import BPB

    fitted = runs.fit(f"{BPB}:{task}", SURFACE, tied)
    study = fit_task_study(fitted.runs, task, fitted.study.settings, chance=chance, reading=fitted.study.reading)
    model = None if params is None or tokens is None else (params, tokens)
    answers = () if model is None else tuple(answer_for_model(laws, *model) for laws in study.arms)
    provenance = replace(fitted.provenance, method="bits per byte by N and D, and the score by bits per byte")
    plot_task(study, paths, provenance, answers=answers)


def _draw_backtest(
    runs: DrawnRuns, paths: list[Path], *, loss: str = "loss", asymptote: float | None = None, tied: bool = False
) -> None:
    from analysis.advice.forecast.record import histories
    from analysis.figures.advice.backtest import plot_backtest

    fitted = runs.fit(loss, PARABOLA, tied)
    provenance = replace(fitted.provenance, method="each law fitted to the first budgets and asked for the later ones")
    plot_backtest(histories(fitted.study, asymptote), fitted.study.points.arms, paths, provenance)


def _draw_lifetime(
    runs: DrawnRuns,
    paths: list[Path],
    *,
    target_loss: float | None = None,
    served_tokens: float = 0.0,
    loss: str = "loss",
    tied: bool = False,
    per: Literal["flops", "bytes"] = "flops",
    kv_cache_bytes: float | None = None,
    memory_bytes: float | None = None,
    context: float | None = None,
) -> None:
    from analysis.advice.serving import Demand, served_arms, trained_context
    from analysis.figures.advice.lifetime import plot_lifetime, study_lifetime

    fitted = runs.fit(loss, SURFACE, tied)
    demand = Demand(
        tokens=served_tokens,
        per=per,
        context=trained_context(fitted.runs) if context is None else context,
        kv_cache_bytes=kv_cache_bytes,
        memory_bytes=memory_bytes,
    )
    arms = served_arms(fitted.runs, with_memory=demand.limited)
    lifetime = study_lifetime(fitted.study, target_loss, demand, arms)
    if isinstance(lifetime, Refusal):
        raise NoFigure(f"refused: {lifetime.sentence}")
    plot_lifetime(fitted.study, lifetime, paths, fitted.provenance)


def _draw_forecasts(runs: DrawnRuns, paths: list[Path]) -> None:
    from analysis.figures.advice.forecasts import plot_forecasts
    from orchestrator.records.forecasts import score_forecasts

    store, sweep, fitted = runs.sweep_fit("forecasts", "loss")
    method = "forecasts as they were frozen, against the cells trained since"
    plot_forecasts(score_forecasts(store, sweep), paths, replace(fitted.provenance, method=method))


def _draw_curves(runs: DrawnRuns, paths: list[Path], *, loss: str = "loss") -> None:
    from analysis.figures.curves import plot_curves

    column = parse_loss(loss).name
    store, sweep, fitted = runs.sweep_fit("curves", column)
    method = "means over seeds, a local straight line in ln tokens; a dot is the evaluation after the cooldown"
    plot_curves(cell_curves(store, sweep, column), column, paths, replace(fitted.provenance, method=method))


FIGURES: dict[str, Callable[..., None]] = {
    "isoflop": _draw_isoflop,
    "frontier": _draw_frontier,
    "surface": _draw_surface,
    "residuals": _draw_residuals,
    "compare": _draw_compare,
    "task": _draw_task,
    "backtest": _draw_backtest,
    "lifetime": _draw_lifetime,
    "forecasts": _draw_forecasts,
    "curves": _draw_curves,
}
"""What draws each figure: (runs, paths, its options)."""
