"""What a pilot found, as plain values, as sentences and as the sweep file that it advises."""

import json
import math
from typing import Any

from analysis.advice.pilot import ASSUMED_EXPONENT, FoundOptimum, SeedNoise
from analysis.advice.power import MOST_SEEDS, PairAdvice, Wanted
from analysis.report.text import plain
from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import budget_label, budget_text, counted_text, short_count
from orchestrator.planning.ladder import ladder_of
from orchestrator.planning.spec.origins import settings_of
from orchestrator.planning.spec.sections import SizesSection
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.search.pilot import Found, Pilot

ASSUMED = (
    "Assumed: the noise of a cell is the same at every budget and independent between arms, and the minimum lies in "
    "the middle of the sizes."
)
"""What every number of a pilot rests on."""
ARM_HEAD = ("arm", "seed noise (nats)", "N*", "at FLOPs", "exponent", "tokens/s", "degrees of freedom")
PAIR_HEAD = ("arms", "gap (nats)", "seen", "from", "seeds")
UNKNOWN = "?"
"""In place of a number that is not known."""


def document(findings: Found) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "sweep": findings.name,
        "noise": plain(dict(findings.fit.noise)),
        "optima": plain(dict(findings.fit.optima)),
        "tokens_per_second": dict(findings.tokens_per_second),
        "wanted": plain(findings.wanted),
        "pairs": [plain(pair) for pair in findings.advice],
        "seeds": findings.seeds,
    }


def sweep_text(pilot: Pilot, findings: Found) -> str:
    """The sweep file with what was found laid over it: N*(C) of each arm, seeds; what is not known is a comment."""
    spec = pilot.spec.model_copy(update={"seeds": _seeds(pilot.spec, findings.seeds), "sizes": _sizes(pilot, findings)})
    lines = [f"# {line}" for line in summary_lines(findings)]
    lines = [f"# {pilot.spec.name} as a pilot of it advises: `mor-sweep pilot` wrote this file.", *lines, ""]
    lines += [setting.line() for setting in settings_of(spec, pilot.file)]
    return "\n".join(lines) + "\n"


def _seeds(spec: SweepSpec, count: int) -> tuple[int, ...]:
    """The sweep's own and the next ones."""
    more = (seed for seed in range(spec.seeds[-1] + 1, spec.seeds[-1] + 1 + count))
    return tuple(sorted((*spec.seeds, *more))[:count]) if count > len(spec.seeds) else spec.seeds


def _sizes(pilot: Pilot, findings: Found) -> SizesSection:
    """Windows around what was found. A sweep that names its sizes keeps them unless every arm's optimum is known."""
    sizes = pilot.spec.sizes
    assert sizes is not None
    optima = {arm: optimum for arm, optimum in findings.fit.optima.items() if isinstance(optimum, FoundOptimum)}
    tables = {arm: _table(findings, optimum) for arm, optimum in optima.items()}
    if sizes.auto is not None:
        document = sizes.auto.model_dump(mode="json")
        document["optimum"] = document["optimum"] | tables
        return _parsed(document)
    ladder = ladder_of(sizes.names or ())
    if ladder is None or {arm.label for arm in pilot.spec.members} - set(optima):
        return sizes
    return _parsed({"count": len(sizes.names or ()), "ladder": ladder, "optimum": tables})


def _parsed(auto: dict[str, Any]) -> SizesSection:
    return SizesSection.model_validate_json(json.dumps({"auto": auto}))


def _table(findings: Found, optimum: FoundOptimum) -> dict[str, Any]:
    budgets = ", ".join(budget_label(budget) for budget in optimum.budgets)
    params = optimum.params
    interval = f"{params.shown(short_count)} at the minima of {budgets}"
    return {
        "budget": str(optimum.flops),
        "unique_params": round(params.value),
        "exponent": round(optimum.growth, 4),
        "source": f"mor-sweep pilot {findings.name}: {interval}; exponent {_exponent_text(optimum)}",
    }


def _exponent_text(optimum: FoundOptimum) -> str:
    exponent = optimum.exponent
    if isinstance(exponent, Refusal):
        return f"{ASSUMED_EXPONENT} assumed"
    return f"{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"


def summary_lines(findings: Found) -> list[str]:
    """Sentences, one a line: what is advised, noise, speed and optimum of each arm, a gap each, what is assumed."""
    lines = [advice_line(findings)]
    for arm, noise in findings.fit.noise.items():
        speed = findings.tokens_per_second.get(arm)
        speed_text = f"; {speed:,.0f} training tokens/s of one worker" if speed else ""
        lines.append(f"{arm}: {_noise_text(noise)}{speed_text}")
        lines.append(f"{arm}: {_optimum_text(findings.fit.optima[arm])}")
    for row in pair_rows(findings):
        pair, *values = row
        named = zip(PAIR_HEAD[1:], values, strict=True)
        lines.append(f"{pair}: {'; '.join(f'{name} {value}' for name, value in named)}")
    if findings.advice:
        lines.append(pair_note(findings.wanted))
    return [*lines, ASSUMED]


def advice_line(findings: Found) -> str:
    """What the pilot advises, in a sentence."""
    seeds, pairs = counted_text(findings.seeds, "seed"), len(findings.advice)
    shown = sum(isinstance(pair.seeds, int) for pair in findings.advice)
    if not pairs:
        return f"Advised: {seeds} per cell, as planned; one arm alone has no gap to show."
    if not shown:
        return f"Advised: {seeds} per cell, as planned; the pilot does not say how many would show a gap between arms."
    if shown == pairs:
        return f"Advised: {seeds} per cell, to show the gap between any two arms at every budget."
    return f"Advised: {seeds} per cell, to show {shown} of {pairs} gaps between arms at every budget."


def arm_rows(findings: Found) -> list[list[str]]:
    """A row an arm under `ARM_HEAD`; what is not known is said by `unknown_lines`."""
    return [_arm_row(arm, noise, findings) for arm, noise in findings.fit.noise.items()]


def _arm_row(arm: str, noise: SeedNoise | Refusal, findings: Found) -> list[str]:
    optimum, speed = findings.fit.optima[arm], findings.tokens_per_second.get(arm)
    measured = [UNKNOWN, ""] if isinstance(noise, Refusal) else [noise.sd.shown(_nats), f"{noise.dof:.3g}"]
    place = (
        [UNKNOWN, "", ""]
        if isinstance(optimum, Refusal)
        else [optimum.params.shown(short_count), budget_text(_rounded(optimum.flops)), _exponent_text(optimum)]
    )
    return [arm, measured[0], *place, f"{speed:,.0f}" if speed else "", measured[1]]


def _nats(loss: float) -> str:
    return f"{loss:.4f}"


def pair_rows(findings: Found) -> list[list[str]]:
    """A row a pair of arms under `PAIR_HEAD`: which has the lower loss in the pilot, by how much, and what would show
    it."""
    return [_pair_row(pair) for pair in findings.advice]


def _pair_row(pair: PairAdvice) -> list[str]:
    gap, slope = pair.gap.gap, pair.gap.slope
    lower, higher, measured = pair.gap.arm, pair.gap.other, UNKNOWN
    if isinstance(gap, Estimate):
        sign = 1 if gap.value >= 0 else -1
        lower, higher = (lower, higher)[::sign]
        low, high = sorted((sign * gap.low, sign * gap.high))
        growth = "" if slope is None else f", {sign * slope.value:+.4f} per ln C"
        measured = f"{sign * gap.value:.4f} [{low:+.4f}, {high:+.4f}]{growth}"
    seen = UNKNOWN if isinstance(pair.detectable, Refusal) else _nats(pair.detectable.value)
    return [f"{lower} below {higher}", measured, seen, *_shown_by(pair)]


def _shown_by(pair: PairAdvice) -> tuple[str, str]:
    """The budget from which the sweep shows the gap, and the seeds that show it everywhere."""
    gap = pair.gap.gap
    if isinstance(pair.detectable, Refusal) or isinstance(gap, Refusal):
        return UNKNOWN, UNKNOWN
    more = f"> {MOST_SEEDS}"
    if gap.holds_zero:
        return UNKNOWN, more if pair.seeds_at_most_gap is None else f"≥ {pair.seeds_at_most_gap}"
    budget = "none" if isinstance(pair.budget, Refusal) else budget_label(pair.budget)
    return budget, more if isinstance(pair.seeds, Refusal) else str(pair.seeds)


def pair_note(goal: Wanted) -> str:
    """What the columns of `PAIR_HEAD` mean."""
    return (
        "gap: how much lower the L* of the first arm is in the pilot; seen: the smallest gap that the sweep as planned "
        f"shows ({goal.sizes} sizes of {counted_text(goal.seeds, 'seed')} per budget, confidence {goal.confidence:g}, "
        f"power {goal.power:g}); from: the budget from which it shows this gap; seeds: per cell, to show it at every "
        "budget (≥: the gap may be none, and so many show the largest that is possible)"
    )


def unknown_lines(findings: Found) -> list[str]:
    """Why something is not known, each reason once. A gap to an arm without N* is missing for the arm's own reason."""
    noise, optima = findings.fit.noise, findings.fit.optima
    lines = [answer.sentence for answer in noise.values() if isinstance(answer, Refusal)]
    lines += [f"{arm}: {_optimum_text(answer)}" for arm, answer in optima.items() if isinstance(answer, Refusal)]
    for pair in findings.advice:
        arms = (pair.gap.arm, pair.gap.other)
        if isinstance(pair.detectable, Refusal):
            lines.append(pair.detectable.sentence)
        if isinstance(pair.gap.gap, Refusal) and not any(isinstance(optima[arm], Refusal) for arm in arms):
            lines.append(pair.gap.gap.sentence)
    return list(dict.fromkeys(lines))


def _noise_text(noise: SeedNoise | Refusal) -> str:
    if isinstance(noise, Refusal):
        return f"seed noise not known: {noise.sentence}"
    sd = noise.sd
    return (
        f"seeds differ by {sd.value:.4f} nats [{sd.low:.4f}, {sd.high:.4f}] (standard deviation, "
        f"{noise.dof:.3g} degrees of freedom)"
    )


def _optimum_text(optimum: FoundOptimum | Refusal) -> str:
    if isinstance(optimum, Refusal):
        return f"N* not known, what the sweep expected is kept: {optimum.sentence}"
    params = optimum.params
    return (
        f"N* {params.shown(short_count)} at {budget_text(_rounded(optimum.flops))} FLOPs, "
        f"exponent {_exponent_text(optimum)}"
    )


def _rounded(flops: int) -> int:
    """Three significant digits, for reading."""
    unit = 10 ** max(0, math.floor(math.log10(flops)) - 2)
    return round(flops / unit) * unit
