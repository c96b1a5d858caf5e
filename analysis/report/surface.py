"""A fitted surface in words and as plain values."""

from typing import Any

from analysis.statistics.answers import Refusal
from analysis.surface.fit import SurfaceFit
from analysis.surface.identifiability import HeldOut, budgets_text

SYMBOLS = {"E": "E", "A": "A", "alpha": "α", "B": "B", "beta": "β", "exponent": "a = β/(α+β)"}


def surface_as_json(surface: SurfaceFit) -> dict[str, Any]:
    """Everything but the draws; estimates and dataclasses are left for the caller to make plain."""
    best = surface.best
    return {
        "law": surface.law,
        "parameters": surface.parameters,
        "profiles": {profile.name: profile.interval for profile in surface.profiles},
        "objective": best.objective,
        "delta": best.problem.delta,
        "residual": best.problem.residual,
        "tied": best.free_pq.shape[1] < best.free_pq.shape[0],
        "num_points": len(best.problem.points),
        "relative_gradient": best.gradient_norm,
        "num_starts": best.num_starts,
        "share_reached": best.share_reached,
        "condition": best.condition,
        "residuals": surface.residuals,
        "held_out": surface.held_out,
        "contour": surface.contour.described,
        "resampling": surface.draws.method,
        "warnings": surface.warnings,
        "doubts": surface.doubts,
    }


def surface_lines(surface: SurfaceFit | Refusal) -> list[str]:
    """The law, how it was reached, what it leaves and what it predicts unseen: one line each."""
    if isinstance(surface, Refusal):
        return [f"surface refused: {surface.sentence}"]
    best, residuals = surface.best, surface.residuals
    intervals = {profile.name: profile.interval for profile in surface.profiles}
    lines = ["L = E + A / N^α + B / D^β"]
    for name, estimate in surface.parameters.items():
        line = f"{SYMBOLS[name]} = {estimate.value:.6g} [{estimate.low:.4g}, {estimate.high:.4g}]"
        lines.append(line + (f"; profile likelihood {intervals[name].rounded_ends}" if name in intervals else ""))
    lines += [
        f"objective {best.objective:.10g} (Huber, delta {best.problem.delta:g}), relative gradient "
        f"{best.gradient_norm:.1e}, {best.share_reached:.0%} of {best.num_starts} starts reached it, condition "
        f"{best.condition:.1e}; intervals by {surface.draws.method} resampling",
        f"residuals: standard deviation {residuals.sd:.4f} in ln L, median size {residuals.median_size:.4f}, largest "
        f"{residuals.largest:+.4f} (cell {residuals.largest_cell}); {residuals.explained:.2%} of the spread explained",
        f"contour of equal FLOPs: {surface.contour.described}",
    ]
    if surface.held_out:
        lines.append(f"left out and predicted: {'; '.join(_held_out(left_out) for left_out in surface.held_out)}")
    lines += [f"warning: {warning}" for warning in surface.warnings]
    return [*lines, *(f"doubted, and refused beyond its runs: {doubt.sentence}" for doubt in surface.doubts)]


def _held_out(left_out: HeldOut) -> str:
    return f"{budgets_text(left_out)} {left_out.mean_size:.2%}{' (extrapolated)' if left_out.extrapolates else ''}"
