"""The task laws of every arm of a run table. `fit_task_study` is the one door for callers."""

from dataclasses import dataclass

import polars as pl

from analysis.advice.tasks.direct import DirectLaw, fit_direct_laws
from analysis.advice.tasks.scores import TaskCells, task_cells
from analysis.advice.tasks.two_steps import TaskLaw, fit_task_law
from analysis.frontier.study import Study
from analysis.statistics.answers import Refusal


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmLaws:
    """What the cells of one arm say about a task."""

    cells: TaskCells
    """What was fitted."""
    two_steps: TaskLaw | Refusal
    """Bits per byte by N and D, and the score by bits per byte."""
    direct: tuple[DirectLaw, ...] | Refusal
    """The score by compute, one law for each D/N that cells share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskStudy:
    """The laws of one task."""

    task: str
    """Its name."""
    study: Study
    """The fit of its bits per byte: surfaces, and the rows left out."""
    arms: tuple[ArmLaws, ...]
    """In alphabetical order."""

    @property
    def refused(self) -> bool:
        """True where no arm has a law."""
        return all(isinstance(arm.two_steps, Refusal) and isinstance(arm.direct, Refusal) for arm in self.arms)


def fit_task_study(runs: pl.DataFrame, task: str, study: Study, *, chance: float | None = None) -> TaskStudy:
    """Fit the laws of `task` to a run table, of which `study` is the fit by surfaces of its bits per byte (the loss
    `bpb:TASK`).

    `chance`, a share, is for tables that do not say what picking at random gets. Raises TableError and LossError.
    """
    scored = task_cells(runs, study.points, task, chance)
    surfaces = {frontier.arm: frontier.surface for frontier in study.frontiers if frontier.surface is not None}
    resampling = study.settings.resampling
    arms = tuple(
        ArmLaws(
            cells=cells,
            two_steps=fit_task_law(cells, surfaces[cells.arm], resampling),
            direct=fit_direct_laws(cells, resampling),
        )
        for cells in scored
    )
    return TaskStudy(task=task, study=study, arms=arms)
