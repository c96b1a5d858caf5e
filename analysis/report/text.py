"""The fitted study as Markdown for people and as plain values for JSON."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from analysis.frontier.compare import REFERENCE, Comparison
from analysis.frontier.coverage import coverage_notes, coverage_sentence
from analysis.frontier.study import Frontier, Optimum, Study
from analysis.report.headline import headline, in_cell
from analysis.report.surface import surface_as_json, surface_lines
from analysis.runs.column_map import Reading, column_text
from analysis.runs.points import Exclusion
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.approach import QUANTITIES, SYMBOLS
from analysis.statistics.power_law import FittedPowerLaw
from analysis.surface.extended.excess import ArmExcess
from analysis.surface.extended.recursion import RecursionFit, recursion_as_json, recursion_lines
from analysis.surface.extended.repeated import RepeatedFit
from analysis.surface.extended.repeated_words import excess_as_json, excess_lines, repeated_as_json, repeated_lines
from analysis.surface.extended.shared_exponents.fit import SharedExponentsFit
from analysis.surface.extended.shared_exponents.words import (
    shared_exponents_as_json,
    shared_exponents_lines,
    worth_lines,
)
from analysis.surface.fit import SurfaceFit
from mor_core.units import budget_label, short_count, short_power

SCHEMA = "mor-sweep.fits/1"
SMALL_BUDGET = 10**17
CAVEAT = "These budgets are below 1e17 FLOPs: what holds for models this small need not hold for larger ones."
SMALL_CORPUS_CAVEAT = (
    "These budgets are below 1e17 FLOPs on a small corpus: the exponents say how this tool behaves, "
    "not how language models scale."
)
SLOPE_NOTE = "The exponent of L* is the local slope d ln L / d ln C (no asymptote fitted); do not extrapolate it."
EXPONENTS = {"params": "a", "tokens": "b", "loss": "c"}


def caveat_of(study: Study) -> str | None:
    """The standing warning about small budgets, or None where some budget is large."""
    budgets = [int(optimum.budget) for frontier in study.frontiers for optimum in frontier.optima]
    if not budgets or max(budgets) >= SMALL_BUDGET:
        return None
    return SMALL_CORPUS_CAVEAT if study.on_small_corpus else CAVEAT


def study_as_json(study: Study) -> dict[str, Any]:
    """Every number, interval, refusal, exclusion and setting of a study, as plain JSON values."""
    return {
        "schema": SCHEMA,
        **reading_as_json(study.reading),
        "inputs_sha256": study.points.inputs_sha256,
        "settings": plain(study.settings),
        "budget_convention": study.points.budget_convention,
        "loss_column": study.points.loss_column,
        "num_points": study.points.frame.height,
        "refused": study.refused,
        "caveat": caveat_of(study),
        "coverage": list(coverage_notes(study)),
        "frontiers": [plain(frontier) | {"refused": frontier.refused} for frontier in study.frontiers],
        "recursion": plain(study.recursion),
        "repeated": plain(study.repeated),
        "excess": plain(study.excess),
        "repetition": plain(study.repetition),
        "shared_exponents": plain(study.shared_exponents),
        "comparisons": [comparison_as_json(comparison) for comparison in study.comparisons],
        "over_budgets": plain(study.over_budgets),
        "exclusions": plain(study.exclusions),
    }


def reading_as_json(reading: Reading | None) -> dict[str, Any]:
    """`table`: the columns of a foreign table by meaning, and what was assumed; nothing for runs of this tool."""
    if reading is None:
        return {}
    columns = {meaning: column_text(column) for meaning, column in reading.columns.items()}
    return {"table": {"columns": columns, "assumed": list(reading.assumptions.values())}}


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """One comparison as plain JSON values, with the gap that could have been seen."""
    return plain(comparison) | {"smallest_visible_gap": plain(comparison.smallest_visible_gap)}


WRITERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    SurfaceFit: surface_as_json,
    RecursionFit: recursion_as_json,
    RepeatedFit: repeated_as_json,
    ArmExcess: excess_as_json,
    SharedExponentsFit: shared_exponents_as_json,
}
"""What a document says of fits, which hold more than it wants."""


def plain(value: Any) -> Any:
    """Numbers, text, lists and dictionaries that JSON can hold; a number that is not finite becomes None."""
    if isinstance(value, Refusal):
        return {"refusal": value.kind.value, "sentence": value.sentence}
    if type(value) in WRITERS:
        return plain(WRITERS[type(value)](value))
    if isinstance(value, FittedPowerLaw):
        return {name: plain(getattr(value, name)) for name in ("law", "exponent", "budgets", "scatter")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # Redrawn studies, thousands of numbers behind an interval, stay out.
        return {name: plain(entry) for name, entry in fields.items() if not isinstance(entry, np.ndarray)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def study_as_markdown(study: Study, own_record: Sequence[str] = ()) -> str:
    """The study as a Markdown document: frontiers, exponents, comparisons, refusals, rows left out; `own_record` says
    how well it would have predicted itself (`analysis.report.backtests`)."""
    sections = [
        headline(study, small=caveat_of(study) is not None),
        *(_frontier_section(frontier, study.points.loss_unit) for frontier in study.frontiers),
        _list_section("Recursion", recursion_lines(study.recursion) if study.recursion is not None else []),
        _list_section("Repeated text", repetition_lines(study)),
        _list_section("Arms with shared exponents", sharing_lines(study)),
        _list_section("Arms at equal FLOPs", comparison_lines(study)),
        _list_section("Had it predicted itself", list(own_record)),
        _list_section("Rows left out", [_exclusion_line(exclusion) for exclusion in study.exclusions]),
        _list_section("What was fitted", _notes(study)),
    ]
    return with_cell_names("\n\n".join(section for section in sections if section), study) + "\n"


def _notes(study: Study) -> list[str]:
    """Units, settings and standing warnings: what holds for every number above."""
    settings = study.settings.resampling
    has_laws = any(isinstance(frontier.loss_law, FittedPowerLaw) for frontier in study.frontiers)
    lines = [
        _quantities(study),
        None if study.reading is None or not study.reading.assumptions else study.reading.sentence,
        f"Intervals: {settings.level:.0%}, {settings.draws} redrawn studies, seed {settings.random_seed}. "
        f"{study.points.frame.height} points, {len(study.exclusions)} rows left out. "
        f"Inputs sha256 `{study.points.inputs_sha256}`.",
        coverage_sentence(study),
        SLOPE_NOTE if has_laws else None,
        caveat_of(study),
    ]
    return [line for line in lines if line]


CELL_ID = re.compile(r"\b[0-9a-f]{64}\b")


def with_cell_names(text: str, study: Study) -> str:
    """The text with cells of this tool called arm/size/budget/seed in place of their ids; a foreign table's runs are
    called as they are there."""
    rows = study.points.frame.select("cell_id", "arm", "size", "budget", "seed").rows()
    rows += [
        (exclusion.cell_id, exclusion.arm, exclusion.size, exclusion.budget, exclusion.seed)
        for exclusion in study.exclusions
    ]
    names = {cell_id: f"{arm}/{size}/{budget_label(budget)}/{seed}" for cell_id, arm, size, budget, seed in rows}
    return CELL_ID.sub(lambda match: names.get(match[0], match[0]), text)


OWN_PARAMS = "unique non-embedding parameters"


def params_label(study: Study) -> str:
    """What N counts: known of this tool's runs; of a foreign table only its column is."""
    return OWN_PARAMS if study.reading is None else f"column {column_text(study.reading.columns['params'])}, as given"


def _quantities(study: Study) -> str:
    """What the loss, the budgets and N are; of a foreign table the columns they come from, and nothing beyond."""
    points, reading = study.points, study.reading
    if reading is None:
        return (
            f"Loss: `{points.loss_column}` ({points.loss_unit}). Budgets: `{points.budget_convention}` training FLOPs. "
            f"N: {OWN_PARAMS}."
        )
    columns = {meaning: f"column `{column_text(column)}`" for meaning, column in reading.columns.items()}
    flops = columns.get("flops") or columns.get("budget") or "6 N D"
    return (
        f"Loss: {columns['loss']} ({points.loss_unit}). Budgets: {flops}, `{points.budget_convention}` training FLOPs. "
        f"N: {columns['params']}, as given. D: {columns.get('tokens', 'C / (6 N)')}."
    )


def _frontier_section(frontier: Frontier, unit: str) -> str:
    refusals = [f"refused: {line}" for line in _refusals(frontier)]
    warnings = [f"warning: {line}" for line in _warning_lines(frontier)]
    parts = [
        f"## {frontier.arm} ({frontier.approach})",
        _optima_table(frontier.optima, unit),
        _list_section("", law_texts(frontier)),
        _list_section("", surface_lines(frontier.surface) if frontier.surface is not None else []),
        _list_section("", refusals + warnings),
    ]
    return "\n\n".join(part for part in parts if part)


def _warning_lines(frontier: Frontier) -> list[str]:
    """One line a warning, with all the places where it holds."""
    places: dict[str, list[str]] = {}
    for quantity in ("params", "tokens"):
        for isoflop in frontier.isoflops:
            answer = getattr(isoflop, quantity)
            for warning in () if isinstance(answer, Refusal) else answer.warnings:
                places.setdefault(f"{warning} for {SYMBOLS[quantity]}", []).append(budget_label(isoflop.budget))
    return [f"{warning} at {', '.join(budgets)}." for warning, budgets in places.items()]


def _refusal_lines(optimum: Optimum) -> list[str]:
    """One line a sentence: N* and L* come from one parabola and are refused together."""
    symbols = refused_of((SYMBOLS[quantity], getattr(optimum, quantity)) for quantity in QUANTITIES)
    return [f"{names} at {budget_label(optimum.budget)}: {sentence}" for sentence, names in symbols.items()]


def _refusals(frontier: Frontier) -> list[str]:
    """One line a refusal; none where the surface was refused, which refuses every budget and is said once."""
    if isinstance(frontier.surface, Refusal):
        return []
    return [line for optimum in frontier.optima for line in _refusal_lines(optimum)]


def _optima_table(optima: tuple[Optimum, ...], unit: str) -> str:
    header = [f"| C (FLOPs) | N* | D* (tokens) | L* ({unit}) |", "|---|---|---|---|"]
    rows = [
        f"| {budget_label(optimum.budget)} | {in_cell(optimum.params, count_text)} "
        f"| {in_cell(optimum.tokens, count_text)} | {in_cell(optimum.loss, number_text)} |"
        for optimum in optima
    ]
    return "\n".join(header + rows)


def law_texts(frontier: Frontier) -> list[str]:
    """The power law of each quantity, and the sum of the exponents of N* and D*."""
    laws = {quantity: getattr(frontier, f"{quantity}_law") for quantity in QUANTITIES}
    texts = [f"{SYMBOLS[quantity]}: {law_text(quantity, law)}" for quantity, law in laws.items()]
    return [*texts, f"a + b: {number_text(frontier.exponent_sum)}"]


def law_text(quantity: str, law: FittedPowerLaw | Refusal) -> str:
    """A power law with the interval of its exponent, or the reason for none."""
    if isinstance(law, Refusal):
        return f"refused: {law.sentence}"
    return (
        f"{short_power(law.law.coefficient, 6)} · C^{EXPONENTS[quantity]}, {EXPONENTS[quantity]} = "
        f"{number_text(law.exponent)} from {len(law.budgets)} budgets"
    )


def number_text(answer: Estimate | Refusal) -> str:
    """A plain number such as an exponent, with its interval."""
    if isinstance(answer, Refusal):
        return f"refused: {answer.sentence}"
    return f"{answer.value:.4f} [{answer.low:.4f}, {answer.high:.4f}]"


def loss_text(answer: Estimate | Refusal) -> str:
    """A loss with its interval; a refusal is named by kind, its sentence is listed below the table."""
    return f"refused ({answer.kind})" if isinstance(answer, Refusal) else number_text(answer)


def count_text(answer: Estimate | Refusal) -> str:
    """Parameters or tokens with their interval; an end cut at the sizes measured is shown as ≤ or ≥."""
    return f"refused ({answer.kind})" if isinstance(answer, Refusal) else answer.shown(short_count)


def repetition_lines(study: Study) -> list[str]:
    """The laws of repeated text, what repetition costs run by run, and whether it costs one arm more than another."""
    return [*repeated_lines(study.repeated), *excess_lines(study.excess), *repetition_gaps(study)]


def repetition_gaps(study: Study) -> list[str]:
    """Whether repetition costs one arm more than another, a sentence a pair and measure."""
    return [gap.sentence for gap in study.repetition]


def sharing_lines(study: Study) -> list[str]:
    """The law of arms with shared exponents, or why there is none; nothing of a study of one arm."""
    if study.shared_exponents is None or len(study.points.arms) < 2:
        return []
    return shared_exponents_lines(study.shared_exponents)


def comparison_lines(study: Study) -> list[str]:
    """The findings over budgets, which single ones are too noisy to show, then what arms with shared exponents are
    worth, then those at each budget, then one line for each pair of arms that could not be compared somewhere.

    Pairs with the reference come first.
    """
    pairs = sorted(study.comparisons, key=lambda pair: REFERENCE not in (pair.arm, pair.other))
    whole = sorted(study.over_budgets, key=lambda pair: REFERENCE not in (pair.arm, pair.other))
    findings = [sentence for pair in whole for sentence in pair.sentences]
    findings += worth_lines(study.shared_exponents)
    findings += [_comparison_line(pair) for pair in pairs if isinstance(pair.gap, Estimate)]
    missing: dict[str, list[str]] = {}
    for pair in pairs:
        if isinstance(pair.gap, Refusal):
            missing.setdefault(f"{pair.arm} against {pair.other}", []).append(budget_label(pair.budget))
    return findings + [
        f"{pair}: not compared at {', '.join(budgets)}, where one of them has no supported optimum."
        for pair, budgets in missing.items()
    ]


def _comparison_line(comparison: Comparison) -> str:
    """The gap, and the multipliers that are supported."""
    parts = [comparison.sentence]
    if isinstance(comparison.compute, Estimate):
        parts.append(f"compute multiplier of {comparison.arm}: {_factor_text(comparison.compute)}.")
    if isinstance(comparison.params, Estimate):
        parts.append(
            f"one of its parameters is worth {_factor_text(comparison.params)} of {comparison.other}'s on equal tokens."
        )
    return " ".join(parts)


def _factor_text(answer: Estimate) -> str:
    high = f"{'≥ ' if answer.high_open else ''}{answer.high:.3g}"
    return f"{answer.value:.3g} [{answer.low:.3g}, {high}]"


def _exclusion_line(exclusion: Exclusion) -> str:
    place = f"{exclusion.arm}, {exclusion.size}, {budget_label(exclusion.budget)}, seed {exclusion.seed}"
    name = "" if CELL_ID.fullmatch(exclusion.cell_id) else f"{exclusion.cell_id}: "
    return f"{name}{place}: {exclusion.reason}"


def _list_section(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    bullets = "\n".join(f"- {line}" for line in lines)
    return f"## {title}\n\n{bullets}" if title else bullets


def refusals_of(frontier: Frontier) -> list[str]:
    """Sentences, each once: what this fit could not say."""
    answers: list[tuple[str, Any]] = [("surface", frontier.surface)]
    for optimum in frontier.optima:
        place = f"at {budget_label(optimum.budget)}"
        answers += [(f"{SYMBOLS[quantity]} {place}", getattr(optimum, quantity)) for quantity in QUANTITIES]
    answers += [
        (f"the exponent of {SYMBOLS[quantity]}", getattr(frontier, f"{quantity}_law")) for quantity in QUANTITIES
    ]
    return [f"{names}: {sentence}" for sentence, names in refused_of(answers).items()]


def refused_of(answers: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Sentence -> the names of all answers that are refused with it, each once."""
    names: dict[str, dict[str, None]] = {}
    for name, answer in answers:
        if isinstance(answer, Refusal):
            names.setdefault(answer.sentence, {})[name] = None
    return {sentence: ", ".join(of_sentence) for sentence, of_sentence in names.items()}
