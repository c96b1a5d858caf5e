"""What a pilot found, as plain values, as sentences and as the sweep file that it advises."""

import json
import math
from typing import Any

from analysis.advice.pilot import ASSUMED_EXPONENT, FoundOptimum, SeedNoise
from analysis.advice.power import PairAdvice, Wanted
from analysis.report.text import plain
from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import budget_label, budget_text, short_count
from orchestrator.planning.ladder import ladder_of
from orchestrator.planning.spec.origins import settings_of
from orchestrator.planning.spec.sections import SizesSection
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.search.pilot import Found, Pilot


def document(found: Found) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "sweep": found.name,
        "noise": plain(dict(found.fit.noise)),
        "optima": plain(dict(found.fit.optima)),
        "tokens_per_second": dict(found.tokens_per_second),
        "wanted": plain(found.wanted),
        "pairs": [plain(pair) for pair in found.advice],
        "seeds": found.seeds,
    }


def sweep_text(pilot: Pilot, found: Found) -> str:
    """The sweep file with what was found laid over it: N*(C) of each arm, seeds; what is not known is a comment."""
    spec = pilot.spec.model_copy(update={"seeds": _seeds(pilot.spec, found.seeds), "sizes": _sizes(pilot, found)})
    lines = [f"# {line}" for line in summary_lines(found)]
    lines = [f"# {pilot.spec.name} as a pilot of it advises: `mor-sweep pilot` wrote this file.", *lines, ""]
    lines += [each.line() for each in settings_of(spec, pilot.file)]
    return "\n".join(lines) + "\n"


def _seeds(spec: SweepSpec, count: int) -> tuple[int, ...]:
    """The sweep's own and the next ones."""
    more = (seed for seed in range(spec.seeds[-1] + 1, spec.seeds[-1] + 1 + count))
    return tuple(sorted((*spec.seeds, *more))[:count]) if count > len(spec.seeds) else spec.seeds


def _sizes(pilot: Pilot, found: Found) -> SizesSection:
    """Windows around what was found. A sweep that names its sizes keeps them unless every arm's optimum is known."""
    sizes = pilot.spec.sizes
    assert sizes is not None
    known = {arm: each for arm, each in found.fit.optima.items() if isinstance(each, FoundOptimum)}
    optimum = {arm: _table(found, each) for arm, each in known.items()}
    if sizes.auto is not None:
        document = sizes.auto.model_dump(mode="json")
        document["optimum"] = document["optimum"] | optimum
        return _parsed(document)
    ladder = ladder_of(sizes.names or ())
    if ladder is None or {arm.label for arm in pilot.spec.members} - set(known):
        return sizes
    return _parsed({"count": len(sizes.names or ()), "ladder": ladder, "optimum": optimum})


def _parsed(auto: dict[str, Any]) -> SizesSection:
    return SizesSection.model_validate_json(json.dumps({"auto": auto}))


def _table(found: Found, optimum: FoundOptimum) -> dict[str, Any]:
    budgets = ", ".join(budget_label(budget) for budget in optimum.budgets)
    params = optimum.params
    said = f"{params.shown(short_count)} at the minima of {budgets}"
    return {
        "budget": str(optimum.flops),
        "unique_params": round(params.value),
        "exponent": round(optimum.growth, 4),
        "source": f"mor-sweep pilot {found.name}: {said}; exponent {_exponent_text(optimum)}",
    }


def _exponent_text(optimum: FoundOptimum) -> str:
    each = optimum.exponent
    if isinstance(each, Refusal):
        return f"{ASSUMED_EXPONENT} assumed"
    return f"{each.value:.2f} [{each.low:.2f}, {each.high:.2f}]"


def summary_lines(found: Found) -> list[str]:
    """Sentences, one a line: noise, speed and optimum of each arm, what each gap needs, what is assumed."""
    lines = []
    for arm, noise in found.fit.noise.items():
        speed = found.tokens_per_second.get(arm)
        told = f"; {speed:,.0f} training tokens/s of one worker" if speed else ""
        lines.append(f"{arm}: {_noise_text(noise)}{told}")
        lines.append(f"{arm}: {_optimum_text(found.fit.optima[arm])}")
    for each in found.advice:
        lines += _pair_lines(each, found.wanted)
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


def _pair_lines(each: PairAdvice, wanted: Wanted) -> list[str]:
    whose = f"{each.gap.other} less {each.gap.arm}"
    how = f"confidence {wanted.confidence:g}, power {wanted.power:g}"
    if isinstance(each.detectable, Refusal):
        return [f"{whose}: no power known: {each.detectable.sentence}"]
    detectable = each.detectable
    lines = [
        f"{whose}: {wanted.sizes} sizes x {wanted.seeds} seed(s) a budget see a gap of {detectable.value:.4f} nats "
        f"[{detectable.low:.4f}, {detectable.high:.4f}] ({how})"
    ]
    gap = each.gap.gap
    if isinstance(gap, Estimate):
        growth = "taken as constant" if each.gap.slope is None else f"growing by {each.gap.slope.value:+.4f} per ln C"
        lines.append(f"{whose}: {gap.value:+.4f} nats [{gap.low:+.4f}, {gap.high:+.4f}] in the pilot, {growth}")
    if isinstance(each.seeds, int):
        lines.append(f"{whose}: {each.seeds} seed(s) show it at every budget")
    if isinstance(each.budget, str):
        lines.append(f"{whose}: the sweep as it stands shows it from {budget_label(each.budget)} on")
    refused = [answer.sentence for answer in (each.budget, each.seeds) if isinstance(answer, Refusal)]
    return [*lines, *(f"{whose}: no: {sentence}" for sentence in dict.fromkeys(refused))]
