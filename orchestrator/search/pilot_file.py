"""What a pilot found, as plain values, as sentences and as the sweep file that it advises."""

import json
import math
from typing import Any

from analysis.advice.pilot import ASSUMED_EXPONENT, FoundOptimum, SeedNoise
from analysis.advice.power import PairAdvice, Wanted
from analysis.report.text import plain
from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import budget_label, budget_text, counted_text, short_count
from orchestrator.planning.ladder import ladder_of
from orchestrator.planning.spec.origins import settings_of
from orchestrator.planning.spec.sections import SizesSection
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.search.pilot import Found, Pilot


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
    """Sentences, one a line: noise, speed and optimum of each arm, what each gap needs, what is assumed."""
    lines = []
    for arm, noise in findings.fit.noise.items():
        speed = findings.tokens_per_second.get(arm)
        speed_text = f"; {speed:,.0f} training tokens/s of one worker" if speed else ""
        lines.append(f"{arm}: {_noise_text(noise)}{speed_text}")
        lines.append(f"{arm}: {_optimum_text(findings.fit.optima[arm])}")
    for pair in findings.advice:
        lines += _pair_lines(pair, findings.wanted)
    lines.append(
        "Assumed: the noise of a cell is the same at every budget and independent between arms, the minimum lies in "
        "the middle of the sizes."
    )
    return lines


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


def _pair_lines(pair: PairAdvice, goal: Wanted) -> list[str]:
    gap_name = f"{pair.gap.other} less {pair.gap.arm}"
    conditions = f"confidence {goal.confidence:g}, power {goal.power:g}"
    if isinstance(pair.detectable, Refusal):
        return [f"{gap_name}: no power known: {pair.detectable.sentence}"]
    detectable = pair.detectable
    lines = [
        f"{gap_name}: {goal.sizes} sizes of {counted_text(goal.seeds, 'seed')} per budget see a gap of "
        f"{detectable.value:.4f} nats [{detectable.low:.4f}, {detectable.high:.4f}] ({conditions})"
    ]
    gap = pair.gap.gap
    if isinstance(gap, Estimate):
        growth = "taken as constant" if pair.gap.slope is None else f"growing by {pair.gap.slope.value:+.4f} per ln C"
        lines.append(f"{gap_name}: {gap.value:+.4f} nats [{gap.low:+.4f}, {gap.high:+.4f}] in the pilot, {growth}")
    if isinstance(pair.seeds, int):
        lines.append(f"{gap_name}: {counted_text(pair.seeds, 'seed')} per cell would show it at every budget")
    if isinstance(pair.budget, str):
        lines.append(f"{gap_name}: the sweep as it stands shows it from {budget_label(pair.budget)} on")
    refused = [answer.sentence for answer in (pair.budget, pair.seeds) if isinstance(answer, Refusal)]
    return [*lines, *(f"{gap_name}: no: {sentence}" for sentence in dict.fromkeys(refused))]
