"""What a user asks for: a sweep file (TOML) with flags laid over it, checked strictly. The one door to pydantic.

Every mistake becomes a `SpecError` that says where it is, which value was found and what was expected.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from mor_core.config import Architecture, ModelConfig, Precision, Routing
from mor_core.data.spec import PYTHON_SOURCES, DataSpec
from mor_core.sharing import SharingStrategy
from mor_core.sizes import SIZES
from orchestrator.budgets import parse_budget
from orchestrator.sweep_file import Override, SpecError, SweepFile, did_you_mean, read_sweep_file

Entry = TypeVar("Entry")

DEFAULT = "default"
"""The key of a per-arm table that holds for every arm without a key of its own."""


def _known_size(name: str) -> str:
    if name not in SIZES:
        raise ValueError(f"size {name!r} is unknown: {did_you_mean(name, SIZES)}")
    return name


def _architecture(name: object) -> object:
    """Points from an arm's label (mor-3) to the two keys that make it; everything else is checked by its type."""
    label = re.fullmatch(r"(recursive|mor)-(\d+)", name) if isinstance(name, str) else None
    if label:
        raise ValueError(
            f"{name!r} is an arm's label: ask for {label[1]} (--arms {label[1]}) and its recursion count "
            f"(--recursions {label[2]})"
        )
    return name


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            f"{name!r} cannot name a folder: expected up to 100 letters, digits, dots, dashes and underscores, "
            "with a letter or digit first"
        )
    return name


def _merged(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(sorted(set(values)))


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("the list is empty: give at least one")
    return values


Budget = Annotated[int, BeforeValidator(parse_budget)]
ProperFraction = Annotated[FiniteFloat, Field(gt=0, lt=1)]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Merged = AfterValidator(_merged)
Ascending = AfterValidator(_ascending)
NotEmpty = AfterValidator(_not_empty)


class _Section(BaseModel):
    """A table of the sweep file: unknown keys are errors, values are not converted from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An architecture being compared, with its recursion count."""

    architecture: Architecture
    """vanilla, recursive or mor."""
    recursions: int
    """Nr; 1 for vanilla."""

    @property
    def label(self) -> str:
        """What tables and files call it: vanilla, recursive-3, mor-3."""
        return self.architecture if self.architecture == "vanilla" else f"{self.architecture}-{self.recursions}"

    def entry(self, table: Mapping[str, Entry]) -> Entry:
        """Its value in a per-arm table: under its label, else its architecture, else "default"."""
        return next(table[key] for key in (self.label, self.architecture, DEFAULT) if key in table)


class ArmsSection(_Section):
    """Which architectures are compared."""

    architectures: Annotated[tuple[Annotated[Architecture, BeforeValidator(_architecture)], ...], NotEmpty, Merged]
    """vanilla, recursive (fixed depth), mor (routed)."""
    recursions: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Ascending] = ()
    """Recursion counts of recursive and mor; each count is an arm of its own."""
    sharing: SharingStrategy = "middle-cycle"
    """Which unrolled layers share weights."""

    @property
    def members(self) -> tuple[Arm, ...]:
        """The arms, in order: vanilla, recursive-3, mor-2, mor-3."""
        return tuple(
            Arm(architecture=architecture, recursions=count)
            for architecture in self.architectures
            for count in ((1,) if architecture == "vanilla" else self.recursions)
        )

    @model_validator(mode="after")
    def _has_recursions(self) -> Self:
        if set(self.architectures) != {"vanilla"} and not self.recursions:
            raise ValueError("recursive and mor need at least one recursion count, such as recursions = [3]")
        return self

    @model_validator(mode="after")
    def _routes_a_cycle(self) -> Self:
        if "mor" in self.architectures and not self.sharing.endswith("cycle"):
            raise ValueError(f"sharing {self.sharing!r} cannot be routed: for mor, use cycle or middle-cycle")
        return self


class ExpectedOptimum(_Section):
    """Where the best size is expected: N*(C) = unique_params * (C / budget) ** exponent, in the arm's own N."""

    budget: Budget
    """C at which unique_params is expected to be best, in FLOPs of the sweep's convention."""
    unique_params: PositiveInt
    """N* at that budget: non-embedding parameters that exist."""
    exponent: FiniteFloat
    """Growth of N* with C."""
    source: str
    """Where the numbers come from."""


class AutoSizes(_Section):
    """For each arm and budget, consecutive rungs of a ladder around the expected optimum."""

    count: Annotated[int, Field(ge=1)]
    """Rungs per budget."""
    ladder: Literal["small", "paper"] = "small"
    """Which list of base shapes."""
    optimum: dict[str, ExpectedOptimum]
    """By arm (mor-2), architecture (mor) or "default"; the most specific key holds."""


class SizesSection(_Section):
    """Either explicit names or automatic windows."""

    names: Annotated[tuple[Annotated[str, AfterValidator(_known_size)], ...], NotEmpty, Merged] | None = None
    """Base shapes that every arm and budget uses."""
    auto: AutoSizes | None = None
    """Windows around the expected optimum of each budget."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.names is None) == (self.auto is None):
            raise ValueError("give either names = [...] or a table auto, not both")
        return self


class ScheduleSection(_Section):
    """The trapezoid: linear warm-up, constant learning rate, linear cooldown to 0."""

    warmup_budget: Budget
    """FLOPs: warm-up is a share of the steps at this budget. It does not follow --budgets, so that trunks stay."""
    warmup_fraction: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.05
    """Share of the steps at warmup_budget."""
    cooldown_fraction: ProperFraction = 0.2
    """Share of each cell's steps."""


class ModelSection(_Section):
    """What all models of the sweep have in common."""

    vocab_size: PositiveInt
    """Token ids."""
    context_length: PositiveInt
    """Tokens in a training sequence."""
    rope_theta: PositiveFloat = ModelConfig.rope_theta
    """Base of the rotary position frequencies."""
    norm_eps: PositiveFloat = ModelConfig.norm_eps
    """Added to the mean square inside RMSNorm."""
    init_std: PositiveFloat = ModelConfig.init_std
    """Standard deviation of initial matrices and embeddings."""


class RoutingSection(_Section):
    """Expert-choice routing, for the mor arms; see mor_core.config.Routing."""

    alpha: PositiveFloat = Routing.alpha
    """Gate scale."""
    aux_loss_weight: Annotated[FiniteFloat, Field(ge=0)] = Routing.aux_loss_weight
    """Weight of the routers' binary cross-entropy."""
    threshold_decay: Annotated[FiniteFloat, Field(ge=0, lt=1)] = Routing.threshold_decay
    """Decay per step of the running mean of the top-k cut-off."""


class LearningRateLaw(_Section):
    """Peak rate = base * (unrolled_params / reference_params)^exponent * (C / reference_budget)^budget_exponent."""

    base: PositiveFloat
    """Peak learning rate at the reference."""
    reference_params: PositiveInt
    """Unrolled non-embedding parameters at which base holds."""
    exponent: FiniteFloat = 0.0
    """Growth with unrolled parameters."""
    reference_budget: Budget | None = None
    """FLOPs at which base holds; only for trunks = "per-budget"."""
    budget_exponent: FiniteFloat = 0.0
    """Growth with the budget; only for trunks = "per-budget"."""
    source: str
    """Where the numbers come from."""

    @model_validator(mode="after")
    def _has_a_reference_budget(self) -> Self:
        if self.budget_exponent and self.reference_budget is None:
            raise ValueError("budget_exponent needs a reference_budget")
        return self


class TrainSection(_Section):
    """A recipe by name and what is changed in it; the recipes are in orchestrator/recipe.py."""

    recipe: Literal["paper", "small"]
    """Where batch, peak learning rate and optimiser come from."""
    precision: Precision = "fp32"
    """Compute precision."""
    batch_size: PositiveInt | None = None
    """Sequences per optimiser step; None leaves the recipe's."""
    peak_learning_rate: PositiveFloat | None = None
    """One rate for every arm and size; None leaves the recipe's rule."""
    learning_rate: dict[str, LearningRateLaw] | None = None
    """Laws of the small recipe by arm, architecture or "default"; the most specific key holds."""
    beta1: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    beta2: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    adam_eps: PositiveFloat | None = None
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] | None = None
    gradient_clip: PositiveFloat | None = None

    @model_validator(mode="after")
    def _fits_the_recipe(self) -> Self:
        rates = [self.peak_learning_rate, self.learning_rate]
        if self.recipe == "paper" and self.learning_rate is not None:
            raise ValueError("recipe paper has one rate for all sizes: set peak_learning_rate, or use recipe small")
        if self.recipe == "small" and (self.batch_size is None or rates.count(None) != 1):
            raise ValueError("recipe small needs batch_size and either peak_learning_rate or a table learning_rate")
        return self


class DataSection(_Section):
    """The corpus."""

    corpus: Annotated[str, Field(min_length=1)] = PYTHON_SOURCES
    """python-sources, or the path of a file or folder of text."""
    max_megabytes: PositiveFloat | None = None
    """Most text to keep, in 10^6 bytes."""


class EvaluationSection(_Section):
    """How the loss of a cell is measured."""

    num_sequences: PositiveInt
    """Validation sequences of the context length."""


class ExecutionSection(_Section):
    """How the work is done; no part of any identity."""

    checkpoint_every_steps: PositiveInt
    """Most optimiser steps that a crash can lose."""
    micro_batch: PositiveInt | None = None
    """Sequences in one forward and backward pass; None takes the whole batch."""


class SweepSpec(_Section):
    """A sweep as asked for: the content of a sweep file with the flags laid over it."""

    name: Annotated[str, AfterValidator(_folder_name)]
    """Names the sweep's folder and tables."""
    budgets: Annotated[tuple[Budget, ...], NotEmpty, Ascending]
    """C, training FLOPs of a cell, exact, ascending, without duplicates."""
    budget_convention: Literal["exact", "paper"]
    """How the FLOPs of a budget are counted; see mor_core.flops."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], NotEmpty, Ascending] = (0,)
    """Each seed trains every cell once more."""
    trunks: Literal["shared", "per-budget"] = "shared"
    """Whether budgets branch from one trunk or are runs of their own."""
    arms: ArmsSection
    sizes: SizesSection
    schedule: ScheduleSection
    model: ModelSection
    routing: RoutingSection = RoutingSection()
    train: TrainSection
    data: DataSection = DataSection()
    evaluation: EvaluationSection
    execution: ExecutionSection

    @property
    def data_spec(self) -> DataSpec:
        """The text and the vocabulary that the sweep trains on."""
        return DataSpec(
            corpus=self.data.corpus, vocab_size=self.model.vocab_size, max_megabytes=self.data.max_megabytes
        )

    @model_validator(mode="after")
    def _shares_only_what_is_equal(self) -> Self:
        laws = (self.train.learning_rate or {}).values()
        if self.trunks == "shared" and any(law.budget_exponent for law in laws):
            raise ValueError('a learning rate with a budget_exponent needs trunks = "per-budget"')
        return self

    @model_validator(mode="after")
    def _covers_every_arm(self) -> Self:
        _check_arm_table("train.learning_rate", self.train.learning_rate, self.arms.members)
        _check_arm_table("sizes.auto.optimum", self.sizes.auto and self.sizes.auto.optimum, self.arms.members)
        return self


def _check_arm_table(path: str, table: Mapping[str, object] | None, arms: Sequence[Arm]) -> None:
    """A per-arm table has an entry for each arm, and no key that could never be an arm's."""
    if table is None:
        return
    for arm in arms:
        if not {arm.label, arm.architecture, DEFAULT} & set(table):
            raise ValueError(f"{path} has no entry for the arm {arm.label}: add [{path}.{arm.architecture}]")
    known = (DEFAULT, *get_args(Architecture))
    for key in table:
        if key not in known and not re.fullmatch(r"(mor|recursive)-\d+", key):
            raise ValueError(f"{path}.{key} names no arm: {did_you_mean(key, (*known, *(arm.label for arm in arms)))}")


def load_spec(preset: str = "paper", overrides: Sequence[Override] = ()) -> SweepSpec:
    """The sweep file `preset` (a shipped name, or the path of a TOML file) with flags over it. Raises SpecError."""
    return parse_spec(read_sweep_file(preset, overrides))


def parse_spec(file: SweepFile) -> SweepSpec:
    """The checked content of a sweep file. Raises SpecError with a sentence for each problem."""
    try:
        return SweepSpec.model_validate_json(json.dumps(file.document, default=str))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise SpecError("\n".join(_sentence(problem, file) for problem in problems)) from None


def _sentence(problem: Any, file: SweepFile) -> str:
    """One of pydantic's problems as a sentence for the person who wrote the file or the flag."""
    location, kind = tuple(problem["loc"]), problem["type"]
    path = ".".join(str(part) for part in location)
    flag = next((item.flag for item in file.overrides if location[: len(item.path)] == item.path), None)
    where = flag or (f"{file.source}: {path}" if path else file.source)
    if kind == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if kind == "missing":
        return f"{where} is missing: add it"
    if kind == "extra_forbidden":
        return f"{where} is no known key: {did_you_mean(str(location[-1]), _known_keys(location[:-1]))}"
    expected = re.sub("^Input should (be )?", "", problem["msg"])
    expected = re.sub("^(greater|less) than", r"a number \1 than", expected)
    return f"{where}: found {_shortened(problem['input'])}, expected {expected}"


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """The keys of the table at a location; the keys of per-arm tables (mor-2) belong to their values' table."""
    section: type[BaseModel] = SweepSpec
    for part in location:
        if part in section.model_fields:
            section = _section_within(section.model_fields[str(part)].annotation) or section
    return list(section.model_fields)


def _section_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_within, get_args(annotation))), None)
