"""A figure of runs as a value: how it is drawn, which numbers it shows, and why where it shows none. And the runs that
figures are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from analysis.report.provenance import Provenance
from mor_core.errors import UserError
from orchestrator.records.fits.fitted import Fitted
from orchestrator.records.revisions import Sweep
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from analysis.figures.layout import Sheet

PARABOLA, SURFACE = ("parabola",), ("surface",)
"""Approaches of a fit."""


class NoFigure(UserError):
    """A figure that there is not, or that these runs do not support; the message says why."""


class RefusedFigure(NoFigure):
    """A figure that would show no number, so that nothing is drawn."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"refused: {sentence}")
        self.sentence = sentence


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


def by_losses(compare: Callable[[str], Fitted], loss: str | None) -> list[Fitted]:
    """The fits of a sweep's arms by the loss named; where none is, by the causal loss, and by the top-k loss too where
    anything is routed."""
    first = compare(loss or "loss")
    is_routed = bool((first.runs["architecture"] == "mor").any())
    return [first, compare("loss_topk")] if is_routed and loss is None else [first]


@dataclass(frozen=True, kw_only=True)
class RunsFigure:
    """A figure of fitted runs."""

    name: str
    """What it is called, in its JSON too."""
    fitted: Fitted
    """What it is of."""
    plot: Callable[["Sheet"], None]
    """Draws it."""
    data: Callable[[], Any]
    """The numbers that it shows."""
    method: str = ""
    """How its numbers come from the cells, where that is not how the fit's do."""
    stem: str = ""
    """Of its files' names, where they are not its name."""
    refusals: Sequence[str] = ()
    """Why it shows no number; empty where it shows one."""

    @property
    def provenance(self) -> Provenance:
        """Where it comes from."""
        provenance = self.fitted.provenance
        return replace(provenance, method=self.method) if self.method else provenance

    def draw(self, paths: list[Path], width: float | None) -> None:
        """Draw it to files, as wide as so many inches; None for a screen."""
        from analysis.figures.layout import Sheet

        self.plot(Sheet(out_paths=paths, provenance=self.provenance, width=width))
