"""Quality control of a run table: reasons to leave a run out, and suspicions of mistaken units.

Rows are plain dictionaries with `cell`, `arm`, `params`, `tokens`, `loss`, `flops`, `budget` (decimal string),
`on_budget`, `seed`, and whatever else the table says (`status`, `epochs`, `steps`, `warmup_steps`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from analysis.runs.losses import NATS_PER_TOKEN

OFF_BUDGET = 0.05
"""Largest relative difference between a run's FLOPs and its stated budget."""
MOST_EPOCHS = 4.0
"""A token seen more often is worth much less than a fresh one (Muennighoff et al. 2023, arXiv:2305.16264)."""
REPEATED = "repeated data"
"""How the reason of a run that saw its text too often begins."""
LONGEST_WARMUP = 0.25
"""Largest share of the steps; beyond it the loss measures the warm-up (the cause that Porian et al. 2024 found)."""
ROSE = 0.1
"""Nats by which a loss above that of the same size on fewer tokens is a divergence."""
FEWEST_TOKENS = 1e6
FEWEST_PARAMS = 1e3
LOWEST_NATS = 1.4
"""A median loss below this is rare in nats per token, and usual in bits or nats per byte."""
THOUSAND_LOGS = 3


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """What looks like a mistake."""

    column: str
    """The quantity."""
    sentence: str
    """Why, and what to give if it is one."""
    impossible: bool = False
    """True where the numbers contradict each other, so that no fit is made."""


def find_reasons(rows: list[dict]) -> dict[str, str]:
    """Cell -> why it enters no fit."""
    reasons = {row["cell"]: reason for row in rows if (reason := _own_reason(row))}
    sound = [row for row in rows if row["cell"] not in reasons]
    reasons |= _duplicates(sound)
    return reasons | _risen([row for row in sound if row["cell"] not in reasons])


def _own_reason(row: dict) -> str:
    if row.get("status") not in (None, "", "finished"):
        return str(row["status"])
    if row["loss"] is None or not math.isfinite(row["loss"]):
        return f"diverged: its loss is {row['loss']}"
    for name in ("params", "tokens", "flops"):
        value = row[name]
        if value is None or not math.isfinite(value) or value <= 0:
            return f"its {name} is {value}, not a positive finite number"
    if (row.get("epochs") or 0) > MOST_EPOCHS:
        return f"{REPEATED}: {row['epochs']:.3g} passes over the data, more than {MOST_EPOCHS:g}"
    steps, warmup = row.get("steps"), row.get("warmup_steps")
    if steps and warmup and warmup / steps > LONGEST_WARMUP:
        return f"under-warmed: {warmup / steps:.0%} of its steps were warm-up, more than {LONGEST_WARMUP:.0%}"
    return ""


def find_off_budget(rows: list[dict]) -> dict[str, str]:
    """Cell -> how far its FLOPs lie from its stated budget, where that is too far."""
    reasons = {}
    for row in rows:
        is_stated = row["on_budget"] and row.get("stated_budget")
        if not is_stated or row["flops"] is None or not math.isfinite(row["flops"]):
            continue
        ratio = row["flops"] / int(row["budget"]) - 1
        if abs(ratio) > OFF_BUDGET:
            reasons[row["cell"]] = f"off-budget: its FLOPs differ from its budget by {ratio:+.0%}"
    return reasons


def _duplicates(rows: list[dict]) -> dict[str, str]:
    firsts: dict[tuple, str] = {}
    reasons = {}
    for row in rows:
        first = firsts.setdefault((row["arm"], row["params"], row["tokens"], row["loss"]), row["cell"])
        if first != row["cell"]:
            reasons[row["cell"]] = f"duplicate: the same arm, N, D and loss as {first}"
    return reasons


def _risen(rows: list[dict]) -> dict[str, str]:
    """A run whose loss is far above that of the same size, arm and seed on fewer tokens went wrong on the way."""
    reasons = {}
    groups: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["tokens"]):
        earlier = groups.setdefault((row["arm"], row["params"]), [])
        below = min(
            (other for other in earlier if other["tokens"] < row["tokens"]),
            key=lambda other: other["loss"],
            default=None,
        )
        if below and row["loss"] > below["loss"] + ROSE:
            reasons[row["cell"]] = (
                f"diverged: its loss, {row['loss']:.4f}, is above that of {below['cell']}, {below['loss']:.4f}, "
                f"which is as large and saw {below['tokens'] / row['tokens']:.0%} of its tokens"
            )
        else:
            earlier.append(row)
    return reasons


def find_suspicions(
    rows: list[dict], loss_name: str, *, has_flops: bool, has_tokens: bool = True, unit: str = NATS_PER_TOKEN
) -> Iterator[Suspicion]:
    """What looks like a mistaken unit; judged by medians, so that single rows do not matter. FLOPs that follow from the
    tokens, and tokens that follow from the FLOPs, say nothing about each other."""
    sound = [row for row in rows if not _own_reason(row)]
    if not sound:
        return
    tokens, params, loss = (median(row[name] for row in sound) for name in ("tokens", "params", "loss"))
    independent = has_flops and has_tokens
    if tokens < FEWEST_TOKENS:
        remedy = "if they are billions, map tokens=COLUMN*1e9"
        if not has_tokens:
            remedy = "they are C / (6 N), so give the factor of the FLOPs, such as flops=COLUMN*1e18"
        yield Suspicion(
            column="tokens",
            sentence=f"tokens are {tokens:.3g} in the median, very few for tokens: {remedy}.",
            impossible=not independent and tokens < 1e4,
        )
    if params < FEWEST_PARAMS:
        yield Suspicion(
            column="params",
            sentence=f"params are {params:.3g} in the median, very few for parameters: if they are millions, map "
            "params=COLUMN*1e6.",
        )
    if independent:
        yield from _flop_suspicions(median(row["flops"] / (6 * row["params"] * row["tokens"]) for row in sound))
    lowered = loss_name.lower()
    if unit == NATS_PER_TOKEN and (loss < LOWEST_NATS or "bpb" in lowered or "bit" in lowered):
        yield Suspicion(
            column="loss",
            sentence=f"losses (median {loss:.3g}, column {loss_name!r}) look like bits or losses per byte: nats per "
            "token are expected; if they are bits per byte, fit them as the loss bits_per_byte; for bits per token map "
            "loss=COLUMN*0.693147.",
        )
    worst = max(sound, key=lambda row: row["loss"])
    if worst["loss"] > 3 * loss:
        yield Suspicion(
            column="loss",
            sentence=f"the loss of {worst['cell']}, {worst['loss']:.3g}, is more than three times the median, "
            f"{loss:.3g}: a perplexity among losses, or a run that diverged.",
        )


def _flop_suspicions(ratio: float) -> Iterator[Suspicion]:
    thousands = round(math.log10(ratio) / THOUSAND_LOGS)
    if thousands:
        yield Suspicion(
            column="flops",
            sentence=f"FLOPs are {ratio:.2g} times 6 N D in the median: some unit is off by about "
            f"1e{3 * thousands:+d} (tokens or parameters in millions or billions, FLOPs in EFLOPs?); give the "
            "factor, such as tokens=COLUMN*1e9.",
            impossible=True,
        )
    elif 0.28 < ratio < 0.4:
        yield Suspicion(
            column="flops",
            sentence=f"FLOPs are {ratio:.2f} of 6 N D in the median: they look like the forward pass alone "
            "(2 N D); budgets then compare only with budgets counted the same way.",
        )
