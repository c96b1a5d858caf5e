"""How well a task law would have predicted the cells of a size that it was not fitted to."""

from dataclasses import dataclass

import polars as pl

from analysis.advice.tasks.scores import TaskCells
from analysis.advice.tasks.two_steps import TaskLaw, fit_task_law
from analysis.statistics.answers import Refusal
from analysis.statistics.bootstrap import Resampling
from analysis.surface.contour import contour_of_runs
from analysis.surface.fit import fit_surface
from analysis.surface.optimum import SurfaceRules


@dataclass(frozen=True, kw_only=True)
class SizeHeldOut:
    """One size left out of both steps."""

    size: str
    """Its name."""
    extrapolates: bool
    """True where all other sizes are smaller, or all larger."""
    cells: int
    """Its cells."""
    mean_error: float
    """Mean of predicted less measured score, a share."""
    mean_size: float
    """Mean size of these errors."""
    largest_size: float
    """Size of the largest of these errors."""
    inside: int
    """Cells whose score the interval of one more run holds."""


def leave_sizes_out(cells: TaskCells, rules: SurfaceRules, resampling: Resampling) -> dict[str, SizeHeldOut | Refusal]:
    """By size, ascending: how the law of the other sizes meets its cells, or why there is none."""
    sizes = cells.frame.group_by("size").agg(pl.col("params").mean()).sort("params")["size"].to_list()
    by_size: dict[str, SizeHeldOut | Refusal] = {}
    for place, size in enumerate(sizes):
        is_out = pl.col("size") == size
        law = _law(cells, cells.frame.filter(~is_out), rules, resampling)
        ends = place in (0, len(sizes) - 1)
        by_size[size] = law if isinstance(law, Refusal) else _meets(law, size, cells.frame.filter(is_out), ends)
    return by_size


def _law(cells: TaskCells, kept: pl.DataFrame, rules: SurfaceRules, resampling: Resampling) -> TaskLaw | Refusal:
    frame = kept.rename({"bits_per_byte": "loss"})
    contour = contour_of_runs(*(frame[name].to_numpy() for name in ("params", "tokens", "flops")))
    surface = fit_surface(frame, cells.arm, contour, rules, resampling)
    others = TaskCells(arm=cells.arm, task=cells.task, chance=cells.chance, frame=kept)
    return fit_task_law(others, surface, resampling)


def _meets(law: TaskLaw, size: str, out: pl.DataFrame, extrapolates: bool) -> SizeHeldOut | Refusal:
    errors, inside = [], 0
    for params, tokens, score in out.select("params", "tokens", "score").iter_rows():
        answer = law.predict(params, tokens, forced=True)
        assert not isinstance(answer, Refusal)
        errors.append(answer.run.value - score)
        inside += answer.run.low <= score <= answer.run.high
    return SizeHeldOut(
        size=size,
        extrapolates=extrapolates,
        cells=len(errors),
        mean_error=sum(errors) / len(errors),
        mean_size=sum(map(abs, errors)) / len(errors),
        largest_size=max(map(abs, errors)),
        inside=inside,
    )
