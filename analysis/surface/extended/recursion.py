"""What a recursion is worth: L = E + A / (N_once + r^φ N_rec)^α + B / D^β over all arms together (arXiv:2604.21106).

φ = 0: going through a block again adds nothing; φ = 1: it is as good as fresh layers. For routed arms r is the realised
mean depth. Every family (fixed depth, routed) has its own φ, all else is common to the arms.

φ trades off against A and α wherever recursion counts do not overlap in (N_once, N_rec): it is given only where its
profile likelihood closes on both sides.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.runs.points import Points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval
from analysis.statistics.quadratic import Floats
from analysis.surface.draws import redraw_surface
from analysis.surface.fit import Residuals, describe_residuals, refuse_unidentified
from analysis.surface.law import NUM_BASE, LossSurface
from analysis.surface.optimum import SurfaceOptimum, SurfaceRules, fit_optimum
from analysis.surface.problem import SurfacePoints
from analysis.surface.profile import Profile, profiles

FAMILIES = ("recursive", "mor")
COLUMNS = ("unrolled_params", "recursions", "depth_mean", "architecture")


@dataclass(frozen=True, kw_only=True, eq=False)
class RecursionFit:
    """The recursion-aware law over all arms."""

    law: LossSurface
    """The law of effective parameters and tokens."""
    phi: dict[str, Estimate]
    """By family: what a recursion is worth, with its interval from redrawn studies."""
    profiles: tuple[Profile, ...]
    """Profile-likelihood intervals of all parameters; φ's are named phi(family)."""
    best: SurfaceOptimum
    """Objective, gradient, conditioning and the share of starts that reached it."""
    residuals: Residuals
    """What the law leaves unexplained."""

    def effective_params(self, once: Floats, recursive: Floats, depth: Floats, family: str) -> Floats:
        """N_once + r^φ N_rec; all shapes that broadcast."""
        return once + depth ** self.phi[family].value * recursive

    def loss(self, once: Floats, recursive: Floats, depth: Floats, tokens: Floats, family: str) -> Floats:
        """Loss of a model of that family at mean depth r and D tokens."""
        return self.law.loss(self.effective_params(once, recursive, depth, family), tokens)


def fit_recursion(
    table: pl.DataFrame, points: Points, rules: SurfaceRules, resampling: Resampling
) -> RecursionFit | Refusal | None:
    """Fit the law to `points`, all arms together; None where the table says nothing of recursion.

    `table` is the run table that the points came from: unrolled_params, recursions, depth_mean and architecture are
    read from it.
    """
    if not {"cell_id", *COLUMNS} <= set(table.columns):
        return None
    frame = points.frame.join(table.select("cell_id", *COLUMNS), on="cell_id", how="left", maintain_order="left")
    recursive = frame.filter(pl.col("recursions") > 1)
    if recursive.is_empty():
        return None
    refusal = _refuse(frame)
    if refusal:
        return refusal
    families = tuple(name for name in FAMILIES if name in set(recursive["architecture"]))
    best = fit_optimum(_points(frame, families), rules)
    names = {f"phi{number}": f"phi({family})" for number, family in enumerate(families)}
    bounds = tuple(
        Profile(name=names.get(profile.name, profile.name), interval=profile.interval)
        for profile in profiles(best, resampling.level)
    )
    refusal = refuse_unidentified(bounds) or _refuse_open(bounds)
    if refusal:
        return refusal
    # By an arm's own trunks: φ is a contrast between arms, and moving them together would understate its spread.
    trunks = tuple(f"{arm}/{trunk}" for arm, trunk in zip(frame["arm"], frame["trunk_id"], strict=True))
    draws = redraw_surface(best, trunks, "every arm", resampling)
    return RecursionFit(
        law=best.law,
        phi={
            family: interval(float(value), drawn_k, resampling.level)
            for family, value, drawn_k in zip(families, best.as_law.phi_kf[0], draws.law.phi_kf.T, strict=True)
        },
        profiles=bounds,
        best=best,
        residuals=describe_residuals(best, tuple(frame["cell_id"].to_list())),
    )


def _points(frame: pl.DataFrame, families: tuple[str, ...]) -> SurfacePoints:
    unique = frame["params"].to_numpy()
    count = frame["recursions"].to_numpy().astype(np.float64)
    is_recursive = count > 1
    recursive = np.where(is_recursive, (frame["unrolled_params"].to_numpy() - unique) / np.maximum(count - 1, 1), 0.0)
    depth = np.where(is_recursive & (frame["architecture"].to_numpy() == "mor"), frame["depth_mean"].to_numpy(), count)
    family = [families.index(name) if name in families else -1 for name in frame["architecture"]]
    with np.errstate(divide="ignore"):
        return SurfacePoints(
            log_once=np.log(np.maximum(unique - recursive, 0.0)),
            log_recursive=np.log(recursive),
            log_depth=np.log(np.where(is_recursive, depth, 1.0)),
            family=np.where(is_recursive, np.array(family), -1),
            log_tokens=np.log(frame["tokens"].to_numpy()),
            loss=frame["loss"].to_numpy(),
        )


def _refuse(frame: pl.DataFrame) -> Refusal | None:
    """The refusal of a table that cannot identify φ, or None."""
    counts = sorted(set(frame["recursions"].to_list()))
    if len(counts) < 2:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence=f"every run has {counts[0]} recursions: what one is worth needs at least two counts.",
        )
    undepth = frame.filter((pl.col("architecture") == "mor") & pl.col("depth_mean").is_null())
    if undepth.height:
        return Refusal(
            kind=RefusalKind.NOT_IDENTIFIED,
            sentence=f"{undepth.height} routed runs have no measured depth (cell {undepth['cell_id'][0]}, for one).",
        )
    least = NUM_BASE + len(FAMILIES) + 2
    if frame.height < least:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"{frame.height} runs over all arms; the recursion-aware law needs at least {least}.",
        )
    return None


def _refuse_open(bounds: tuple[Profile, ...]) -> Refusal | None:
    loose = [profile for profile in bounds if profile.name.startswith("phi") and not profile.bounded]
    if not loose:
        return None
    ranges = ", ".join(
        f"{profile.name} from {'anything lower' if profile.interval.low_open else f'{profile.interval.low:.3g}'} to "
        f"{'anything higher' if profile.interval.high_open else f'{profile.interval.high:.3g}'}"
        for profile in loose
    )
    return Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence=f"what a recursion is worth is not identified by these runs: they allow {ranges}; train at least two "
        "recursion counts at overlapping sizes.",
    )


def recursion_as_json(fit: RecursionFit) -> dict[str, Any]:
    """Everything but arrays; estimates and dataclasses are left for the caller to make plain."""
    return {
        "law": fit.law,
        "phi": fit.phi,
        "profiles": {profile.name: profile.interval for profile in fit.profiles},
        "objective": fit.best.objective,
        "share_reached": fit.best.share_reached,
        "condition": fit.best.condition,
        "residuals": fit.residuals,
    }


def recursion_lines(fit: RecursionFit | Refusal) -> list[str]:
    """The fit in words, one line each."""
    if isinstance(fit, Refusal):
        return [f"what a recursion is worth: refused: {fit.sentence}"]
    lines = ["L = E + A / (N_once + r^φ N_rec)^α + B / D^β over all arms"]
    bounds = {profile.name: profile.interval for profile in fit.profiles}
    for family, phi in fit.phi.items():
        profile = bounds[f"phi({family})"]
        lines.append(
            f"φ of {family} = {phi.value:.4f} [{phi.low:.4f}, {phi.high:.4f}]; profile likelihood [{profile.low:.4f}, "
            f"{profile.high:.4f}]; 0: a recursion adds nothing, 1: it is worth fresh layers"
        )
    law = fit.law
    lines.append(
        f"E = {law.E:.6g}, A = {law.A:.6g}, α = {law.alpha:.6g}, B = {law.B:.6g}, β = {law.beta:.6g}; "
        f"{fit.best.share_reached:.0%} of {fit.best.num_starts} starts reached the optimum, condition "
        f"{fit.best.condition:.1e}, residuals {fit.residuals.sd:.4f} in ln L"
    )
    return lines
