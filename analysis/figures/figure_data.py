"""What each figure shows, as plain values: the JSON beside it, and what the page draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.figures.advice.lifetime import LifetimeStudy
from analysis.figures.curves import smoothed
from analysis.figures.surface import relative_residuals, surfaces_of
from analysis.frontier.study import Frontier, Study
from analysis.isoflop.parabola import Parabola
from analysis.report.provenance import Provenance
from analysis.report.text import plain
from analysis.runs.curves import CellCurve
from analysis.statistics.answers import Refusal
from analysis.statistics.approach import QUANTITIES
from analysis.statistics.power_law import FittedPowerLaw
from analysis.surface.fit import SurfaceFit

SCHEMA = "mor-sweep.figure/1"
LINE_PLACES = 25
POINT_COLUMNS = ("cell_id", "size", "budget", "seed", "params", "tokens", "flops", "loss")


def figure_document(figure: str, provenance: Provenance, data: Any) -> dict[str, Any]:
    """The JSON file that stands beside a figure."""
    return {"schema": SCHEMA, "figure": figure, "provenance": plain(provenance), "data": plain(data)}


def points_of_arm(study: Study, arm: str) -> list[dict[str, Any]]:
    """The points of one arm, one dictionary each."""
    return study.points.of_arm(arm).select(POINT_COLUMNS).to_dicts()


def isoflop_data(study: Study) -> list[dict[str, Any]]:
    """By arm: the points, and for every budget the parabola with its optimum or the refusals."""
    return [
        {
            "arm": frontier.arm,
            "points": points_of_arm(study, frontier.arm),
            "budgets": [
                {
                    "budget": isoflop.budget,
                    "parabola": isoflop.params,
                    "line": _parabola_line(isoflop.params),
                    "params": optimum.params,
                    "loss": optimum.loss,
                }
                for isoflop, optimum in zip(frontier.isoflops, frontier.optima, strict=True)
            ],
        }
        for frontier in study.frontiers
        if frontier.isoflops
    ]


def _parabola_line(parabola: Parabola | Refusal) -> list[dict[str, float]]:
    if isinstance(parabola, Refusal):
        return []
    params = np.geomspace(parabola.lowest, parabola.highest, LINE_PLACES)
    return [
        {"params": float(x), "loss": float(y)} for x, y in zip(params, parabola.loss(params), strict=True)
    ]  # fmt: skip


def frontier_data(study: Study) -> list[dict[str, Any]]:
    """By arm and approach: the optima, and for each quantity the power law with its band."""
    return [
        {
            "arm": frontier.arm,
            "approach": frontier.approach,
            "optima": frontier.optima,
            "laws": {
                quantity: {"law": law, "line": _law_line(law)}
                for quantity in QUANTITIES
                for law in (getattr(frontier, f"{quantity}_law"),)
            },
        }
        for frontier in study.frontiers
    ]


def _law_line(law: FittedPowerLaw | Refusal) -> list[dict[str, float]]:
    if isinstance(law, Refusal):
        return []
    flops = np.geomspace(float(law.budgets[0]), float(law.budgets[-1]), LINE_PLACES)
    low, high = law.band(flops)
    columns = {"flops": flops, "value": law.law(flops), "low": low, "high": high}
    return [{name: float(values[place]) for name, values in columns.items()} for place in range(LINE_PLACES)]


def surface_data(study: Study) -> list[dict[str, Any]]:
    """By arm: the points, the law, its contour of equal FLOPs and the optima."""
    return [
        {
            "arm": frontier.arm,
            "points": points_of_arm(study, frontier.arm),
            "surface": frontier.surface,
            "optima": frontier.optima,
            "contour": _contour(frontier),
        }
        for frontier in surfaces_of(study)
    ]


def _contour(frontier: Frontier) -> list[dict[str, float]]:
    if not isinstance(frontier.surface, SurfaceFit):
        return []
    contour = frontier.surface.contour
    params, cost = np.exp(contour.log_params), np.exp(contour.log_value)
    return [{"params": float(x), "flops_per_token": float(y)} for x, y in zip(params, cost, strict=True)]


def residuals_data(study: Study) -> list[dict[str, Any]]:
    """By arm: predicted over measured loss less one for every point, and budgets left out; or the refusal."""
    entries = []
    for frontier in surfaces_of(study):
        surface = frontier.surface
        if not isinstance(surface, SurfaceFit):
            entries.append({"arm": frontier.arm, "refusal": surface, "points": [], "held_out": []})
            continue
        relative = relative_residuals(surface)
        points = points_of_arm(study, frontier.arm)
        entries.append(
            {
                "arm": frontier.arm,
                "sd": surface.residuals.sd,
                "points": [
                    point | {"relative": float(residual)} for point, residual in zip(points, relative, strict=True)
                ],
                "held_out": surface.held_out,
            }
        )
    return entries


def compare_data(studies: Sequence[Study]) -> dict[str, Any]:
    """By kind of loss: every pair of arms at every budget; and over all budgets."""
    return {
        **{study.points.loss_column: study.comparisons for study in studies},
        "over_budgets": {study.points.loss_column: study.over_budgets for study in studies},
    }


def lifetime_data(lifetime: LifetimeStudy) -> dict[str, Any]:
    """The target, the tokens that are marked, and the cheapest model at every number of tokens served."""
    marked = lifetime.served or None
    return {"target_loss": lifetime.target, "served_tokens": marked, "places": lifetime.places}


def curves_data(curves: Sequence[CellCurve]) -> list[dict[str, Any]]:
    """By cell: tokens, logged loss and the line that is drawn through it."""
    return [
        {
            "cell": curve.cell,
            "arm": curve.arm,
            "size": curve.size,
            "budget": curve.budget,
            "tokens": curve.tokens.tolist(),
            "loss": curve.loss.tolist(),
            "line": smoothed(curve.tokens, curve.loss).tolist(),
            "cooldown_from": curve.cooldown_from,
            "final_loss": curve.final_loss,
        }
        for curve in curves
    ]
