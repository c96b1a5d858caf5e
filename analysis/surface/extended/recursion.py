"""What a recursion is worth: L = E + A / (N_once + r^φ N_rec)^α + B / D^β over all arms together (arXiv:2604.21106).

φ = 0: going through a block again adds nothing; φ = 1: it is as good as fresh layers. For routed arms r is the realised
mean depth. Every family (fixed depth, routed) has its own φ, all else is common to the arms.

φ trades off against A and α wherever recursion counts do not overlap in (N_once, N_rec): it is given only where its
profile likelihood closes on both sides.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.runs.points import Points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval
from analysis.statistics.quadratic import Floats
from analysis.surface.draws import redraw_surface
from analysis.surface.fit import Residuals, describe_residuals, refuse_unidentified
from analysis.surface.law import ALPHA, BETA, NUM_BASE, A, B, LossSurface
from analysis.surface.optimum import SurfaceOptimum, SurfaceRules, fit_from, projected_starts
from analysis.surface.problem import SumOfParts, SurfacePoints, floor_part, power_part
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


@dataclass(frozen=True, kw_only=True, eq=False)
class RecursionPoints(SurfacePoints):
    """Runs of which some go through a block again; `log_params` is of unique parameters, N_once + N_rec."""

    log_once: Floats
    """(n,) ln of N_once; of all parameters where nothing is recursive. -inf where every layer is shared."""
    log_recursive: Floats
    """(n,) ln of N_rec; -inf where nothing is recursive."""
    log_depth: Floats
    """(n,) ln r; 0 where nothing is recursive."""
    family: NDArray[np.int64]
    """(n,) which φ a point obeys, by its place in `families`; -1 for none."""
    families: tuple[str, ...]
    """Each has a φ."""

    logarithms_beyond: ClassVar[bool] = False

    @property
    def names_beyond(self) -> tuple[str, ...]:
        """A φ a family."""
        return tuple(f"phi({family})" for family in self.families)

    def terms(self, theta_kp: Floats, centre: tuple[float, float]) -> SumOfParts:
        """The law of `theta_kp` (K, P), about `centre`."""
        phi_kn = np.where(self.family >= 0, theta_kp[:, NUM_BASE + np.maximum(self.family, 0)], 0.0)
        recursive_kn = self.log_recursive + phi_kn * self.log_depth
        effective_kn = np.logaddexp(self.log_once, recursive_kn)
        share_kn = np.exp(recursive_kn - effective_kn)
        # ln N_eff by φ, once and twice.
        turn_kn, bend_kn = self.log_depth * share_kn, self.log_depth**2 * share_kn * (1 - share_kn)
        alpha_k1 = theta_kp[:, ALPHA, None]
        params = power_part(theta_kp, A, ALPHA, effective_kn - centre[0])
        slopes, bends = dict(params.slopes), {}
        for number in range(len(self.families)):
            phi, of_family_n = NUM_BASE + number, self.family == number
            slopes[phi] = -alpha_k1 * turn_kn * of_family_n
            bends[ALPHA, phi] = -turn_kn * of_family_n
            bends[phi, phi] = -alpha_k1 * bend_kn * of_family_n
        tokens = power_part(theta_kp, B, BETA, self.log_tokens - centre[1])
        return SumOfParts(
            parts=(replace(params, slopes=slopes, bends=bends), tokens, floor_part(theta_kp)),
            num_parameters=theta_kp.shape[1],
        )


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
    points_of_arms = _points(frame, families)
    best = fit_from(points_of_arms, rules, _starts(points_of_arms, rules.tied))
    bounds = profiles(best, resampling.level)
    refusal = refuse_unidentified(bounds) or _refuse_open(bounds)
    if refusal:
        return refusal
    # By an arm's own trunks: φ is a contrast between arms, and moving them together would understate its spread.
    trunks = tuple(f"{arm}/{trunk}" for arm, trunk in zip(frame["arm"], frame["trunk_id"], strict=True))
    drawn_kf = redraw_surface(best, trunks, "every arm", resampling).law.theta_kp[:, NUM_BASE:]
    return RecursionFit(
        law=best.law,
        phi={
            family: interval(float(value), drawn_k, resampling.level)
            for family, value, drawn_k in zip(families, best.theta[NUM_BASE:], drawn_kf.T, strict=True)
        },
        profiles=bounds,
        best=best,
        residuals=describe_residuals(best, tuple(frame["cell_id"].to_list())),
    )


def _starts(points: RecursionPoints, tied: bool) -> Floats:
    """(K, P) starts of the law of the parameters that two values of φ make effective."""
    starts = []
    for phi in (0.2, 0.8):
        effective_n = np.logaddexp(points.log_once, points.log_recursive + phi * points.log_depth)
        plain = SurfacePoints(log_params=effective_n, log_tokens=points.log_tokens, loss=points.loss)
        starts_k5 = projected_starts(plain, points.centre, tied)
        starts.append(np.pad(starts_k5, ((0, 0), (0, len(points.families))), constant_values=phi))
    return np.concatenate(starts)


def _points(frame: pl.DataFrame, families: tuple[str, ...]) -> RecursionPoints:
    unique = frame["params"].to_numpy()
    count = frame["recursions"].to_numpy().astype(np.float64)
    is_recursive = count > 1
    recursive = np.where(is_recursive, (frame["unrolled_params"].to_numpy() - unique) / np.maximum(count - 1, 1), 0.0)
    depth = np.where(is_recursive & (frame["architecture"].to_numpy() == "mor"), frame["depth_mean"].to_numpy(), count)
    family = [families.index(name) if name in families else -1 for name in frame["architecture"]]
    with np.errstate(divide="ignore"):
        return RecursionPoints(
            families=families,
            log_params=np.log(unique),
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
