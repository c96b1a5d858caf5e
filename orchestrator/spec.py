"""What a user asks for: a sweep file (TOML) with flags laid over it, checked strictly.

Every mistake becomes a `SpecError` that says where it is, which value was found and what was expected.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from mor_core.config import Architecture, LayerSelection, ModelConfig, Precision
from mor_core.data.spec import PYTHON_SOURCES, DataSpec
from orchestrator.spec_arms import (
    DEFAULT,
    ROUTING_SECTIONS,
    Arm,
    ArmsSection,
    ExpertSection,
    RoutingTable,
    VariantSection,
    check_label,
    routing_from,
    with_choices,
)
from orchestrator.spec_fields import (
    Ascending,
    Budget,
    FolderName,
    Merged,
    NotEmpty,
    PositiveFloat,
    PositiveInt,
    ProperFraction,
    Section,
    Share,
    SizeName,
    TokenCount,
)
from orchestrator.sweep_file import Override, SpecError, SweepFile, did_you_mean, read_sweep_file


class ExpectedOptimum(Section):
    """Where the best size is expected: N*(C) = unique_params * (C / budget) ** exponent, in the arm's own N."""

    budget: Budget
    """C at which unique_params is expected to be best, in FLOPs of the sweep's convention."""
    unique_params: PositiveInt
    """N* at that budget: non-embedding parameters that exist."""
    exponent: FiniteFloat
    """Growth of N* with C."""
    source: str
    """Where the numbers come from."""


class AutoSizes(Section):
    """For each arm and budget, consecutive rungs of a ladder around the expected optimum."""

    count: Annotated[int, Field(ge=1)]
    """Rungs per budget."""
    ladder: Literal["small", "paper"] = "small"
    """Which list of base shapes."""
    optimum: dict[str, ExpectedOptimum]
    """By arm (mor-2), architecture (mor) or "default"; the most specific key holds."""


class SizesSection(Section):
    """Either explicit names or automatic windows."""

    names: Annotated[tuple[SizeName, ...], NotEmpty, Merged] | None = None
    """Base shapes that every arm and budget uses."""
    auto: AutoSizes | None = None
    """Windows around the expected optimum of each budget."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.names is None) == (self.auto is None):
            raise ValueError("give either names = [...] or a table auto, not both")
        return self


class InitFromSection(Section):
    """Pretrained weights that every model starts from: up-training. Their shape is the sweep's one size."""

    folder: Annotated[str, Field(min_length=1)]
    """A Hugging Face Llama folder: config.json and safetensors."""
    layers: LayerSelection = "stepwise"
    """Which of its layers fill the shared block (paper, Table 12)."""


class ScheduleSection(Section):
    """How the learning rate goes: linear warm-up, then a trapezoid's constant rate and linear cooldown, or a cosine."""

    kind: Literal["trapezoid", "cosine"] = "trapezoid"
    """trapezoid ends with a linear cooldown to 0; cosine falls from warm-up to the cell's last step."""
    warmup_budget: Budget | None = None
    """FLOPs: warm-up is a share of the steps at this budget. It does not follow --budgets, so that trunks stay. Where
    cells share no trunk, warm-up is a share of each cell's own steps."""
    warmup_fraction: Share = 0.05
    """Share of those steps."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of warm-up for every cell, in place of a share."""
    cooldown_fraction: ProperFraction | None = None
    """Share of each cell's steps that a trapezoid cools down over; None is 0.2."""
    cosine_floor: Share | None = None
    """Share of the peak rate at which a cosine ends; None is 0."""

    @model_validator(mode="after")
    def _has_only_what_it_uses(self) -> Self:
        if self.kind == "cosine" and self.cooldown_fraction is not None:
            raise ValueError("a cosine has no cooldown: leave out cooldown_fraction")
        if self.kind == "trapezoid" and self.cosine_floor is not None:
            raise ValueError('a trapezoid ends at 0: leave out cosine_floor, or use kind = "cosine"')
        if self.warmup_steps is not None and self.warmup_budget is not None:
            raise ValueError("give warmup_steps or warmup_budget, not both")
        return self


class ModelSection(Section):
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


class LearningRateLaw(Section):
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


class BatchLaw(Section):
    """Sequences per step = base * (unrolled_params / reference_params)^exponent, to the nearest power of two."""

    base: PositiveFloat
    """Sequences at the reference."""
    reference_params: PositiveInt
    """Unrolled non-embedding parameters at which base holds."""
    exponent: FiniteFloat = 0.0
    """Growth with unrolled parameters."""
    source: str
    """Where the numbers come from."""


class TrainSection(Section):
    """A recipe by name and what is changed in it; the recipes are in orchestrator/recipe.py."""

    recipe: Literal["paper", "small"]
    """Where batch, peak learning rate and optimiser come from."""
    precision: Precision = "fp32"
    """Compute precision."""
    batch_size: PositiveInt | None = None
    """Sequences per optimiser step; None leaves the recipe's."""
    batch_law: dict[str, BatchLaw] | None = None
    """In its place: laws by arm, architecture or "default"; the most specific key holds."""
    peak_learning_rate: PositiveFloat | None = None
    """One rate for every arm and size; None leaves the recipe's rule."""
    learning_rate: dict[str, LearningRateLaw] | None = None
    """Laws of the small recipe by arm, architecture or "default"; the most specific key holds."""
    beta1: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    """AdamW's first; None leaves the recipe's, as for those below."""
    beta2: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    """AdamW's second."""
    adam_eps: PositiveFloat | None = None
    """Added to the root of AdamW's second moment."""
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Times the rate, the share of a matrix that each step takes off."""
    gradient_clip: PositiveFloat | None = None
    """Largest global norm of a gradient."""
    decay_on: Literal["all-matrices", "hidden-matrices"] | None = None
    """What weight decay acts on; None is all-matrices, as in the paper."""

    @model_validator(mode="after")
    def _fits_the_recipe(self) -> Self:
        rates = [self.peak_learning_rate, self.learning_rate]
        if self.recipe == "paper" and self.learning_rate is not None:
            raise ValueError("recipe paper has one rate for all sizes: set peak_learning_rate, or use recipe small")
        if self.batch_size is not None and self.batch_law is not None:
            raise ValueError("give batch_size or a table batch_law, not both")
        batches = [self.batch_size, self.batch_law]
        if self.recipe == "small" and (batches.count(None) != 1 or rates.count(None) != 1):
            raise ValueError(
                "recipe small needs batch_size or a table batch_law, and peak_learning_rate or a table learning_rate"
            )
        return self


class DataSection(Section):
    """The corpus."""

    corpus: Annotated[str, Field(min_length=1)] = PYTHON_SOURCES
    """python-sources, fineweb-edu, hf:NAME[:CONFIG][@REVISION], or the path of a file or folder of text."""
    max_megabytes: PositiveFloat | None = None
    """Most text to keep, in 10^6 bytes."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """A tokenizer.json, a folder that holds one, or a model of the hub; None trains a tokenizer of model.vocab_size ids
    on the text."""
    deduplicate: Literal["none", "exact", "near"] = "exact"
    """Which repeated documents are left out."""


class EvaluationSection(Section):
    """How the loss of a cell is measured."""

    num_sequences: PositiveInt
    """Validation sequences of the context length."""


class ExecutionSection(Section):
    """How the work is done; no part of any identity."""

    checkpoint_every_steps: PositiveInt
    """Most optimiser steps that a crash can lose."""
    micro_batch: PositiveInt | None = None
    """Sequences in one forward and backward pass; None takes the whole batch."""
    compile: bool = False
    """Whether torch.compile translates the model first."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes activations again in place of keeping them."""
    deterministic: bool = True
    """Whether a GPU adds in a fixed order, so that the same work has the same bits."""
    stall_seconds: PositiveFloat = 600.0
    """A worker that takes no step for so long, or for 20 times its slowest step, is ended and replaced once."""
    gpus_per_segment: Annotated[FiniteFloat, Field(ge=0, le=1)] | Literal["auto"] | None = None
    """GPUs of each worker: 0, a share such as 0.25, or 1; "auto" gives each shape the smallest share whose memory holds
    it; None takes a whole one where the cluster has any."""
    gpu_memory_gigabytes: PositiveFloat | None = None
    """10^9 bytes of one GPU, by which "auto" divides it; None asks this machine's driver."""
    workers_per_segment: PositiveInt = 1
    """Processes that share the batches of one segment, each with a CPU and its GPUs."""

    @model_validator(mode="after")
    def _a_gpu_for_each_of_several_workers(self) -> Self:
        if self.workers_per_segment > 1 and self.gpus_per_segment not in (None, 0, 1, "auto"):
            raise ValueError(
                f"gpus_per_segment {self.gpus_per_segment} with {self.workers_per_segment} workers_per_segment: "
                "workers of one segment cannot share a GPU; give 0 or 1"
            )
        return self


class SweepSpec(Section):
    """A sweep as asked for: the content of a sweep file with the flags laid over it."""

    name: FolderName
    """Names the sweep's folder and tables."""
    budgets: Annotated[tuple[Budget, ...], NotEmpty, Ascending] | None = None
    """C, training FLOPs of a cell, exact, ascending, without duplicates."""
    tokens: Annotated[tuple[TokenCount, ...], NotEmpty, Ascending] | None = None
    """In place of budgets: the training tokens of every cell, to the nearest step."""
    budget_convention: Literal["exact", "paper"]
    """How the FLOPs of a budget are counted; see mor_core.flops."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], NotEmpty, Ascending] = (0,)
    """Each seed trains every cell once more."""
    trunks: Literal["shared", "per-budget"] = "shared"
    """Whether budgets branch from one trunk or are runs of their own."""
    arms: ArmsSection | None = None
    """The grid of arms."""
    variants: dict[FolderName, VariantSection] = Field(default_factory=dict)
    """Named arms, besides the grid or in place of it."""
    only: Annotated[tuple[str, ...], NotEmpty, Merged] | None = None
    """Labels of the arms to train; None trains all."""
    sizes: SizesSection | None = None
    """Base shapes; left out where init_from gives the only one."""
    init_from: InitFromSection | None = None
    """Start from pretrained weights in place of random ones."""
    schedule: ScheduleSection
    model: ModelSection
    routing: RoutingTable = ExpertSection()
    """How the tokens of mor choose their depth; see mor_core.config."""
    train: TrainSection
    data: DataSection = DataSection()
    evaluation: EvaluationSection
    execution: ExecutionSection

    @property
    def data_spec(self) -> DataSpec:
        """The text and the vocabulary that the sweep trains on."""
        return DataSpec(
            corpus=self.data.corpus,
            vocab_size=self.model.vocab_size,
            max_megabytes=self.data.max_megabytes,
            tokenizer=self.data.tokenizer,
            deduplicate=self.data.deduplicate,
        )

    @property
    def members(self) -> tuple[Arm, ...]:
        """The arms to train: the grid's, then the named ones."""
        return tuple(arm for arm in self._all_arms() if self.only is None or arm.label in self.only)

    def _all_arms(self) -> tuple[Arm, ...]:
        grid = self.arms.members(routing_from(self.routing)) if self.arms else ()
        return (*grid, *(variant.member(label, self.routing) for label, variant in self.variants.items()))

    @property
    def goals(self) -> tuple[int, ...]:
        """What decides how long each cell trains: the budgets (FLOPs), or the numbers of tokens."""
        return self.budgets or self.tokens or ()

    @property
    def shares_trunks(self) -> bool:
        """Whether budgets branch from one trunk: never under a cosine, which ends with its run."""
        return self.trunks == "shared" and self.schedule.kind == "trapezoid"

    @model_validator(mode="after")
    def _has_one_goal(self) -> Self:
        if (self.budgets is None) == (self.tokens is None):
            raise ValueError("give either budgets = [...] or tokens = [...], not both")
        if self.tokens is not None and self.sizes is not None and self.sizes.auto is not None:
            raise ValueError("sizes.auto chooses sizes by budget: with tokens, give sizes.names = [...]")
        if self.tokens is not None and self.schedule.warmup_budget is not None:
            raise ValueError(
                "schedule.warmup_budget goes with budgets: with tokens, give warmup_fraction or warmup_steps"
            )
        shared = self.budgets is not None and self.shares_trunks
        if shared and self.schedule.warmup_budget is None and self.schedule.warmup_steps is None:
            raise ValueError(
                "schedule.warmup_budget is missing: trunks that budgets share warm up over a share of its steps"
            )
        return self

    @model_validator(mode="after")
    def _has_sizes_or_weights(self) -> Self:
        if (self.sizes is None) == (self.init_from is None):
            raise ValueError("give either [sizes] or [init_from], whose weights have one size, not both")
        if self.init_from is not None and self.data.tokenizer is None:
            raise ValueError("init_from: pretrained weights know their own token ids: add tokenizer to [data]")
        return self

    @model_validator(mode="after")
    def _names_its_arms(self) -> Self:
        if self.arms is None and not self.variants:
            raise ValueError("no arm is asked for: add [arms] or [variants.LABEL]")
        labels = [arm.label for arm in self._all_arms()]
        for label, variant in self.variants.items():
            check_label(label, variant.architecture)
            if labels.count(label) > 1:
                raise ValueError(f"two arms are called {label}: give [variants.{label}] another label")
        for label in self.only or ():
            if label not in labels:
                raise ValueError(f"only: there is no arm {label!r}: {did_you_mean(label, labels)}")
        return self

    @model_validator(mode="after")
    def _shares_only_what_is_equal(self) -> Self:
        laws = (self.train.learning_rate or {}).values()
        if self.shares_trunks and any(law.budget_exponent for law in laws):
            raise ValueError('a learning rate with a budget_exponent needs trunks = "per-budget"')
        return self

    @model_validator(mode="after")
    def _covers_every_arm(self) -> Self:
        _check_arm_table("train.learning_rate", self.train.learning_rate, self._all_arms())
        _check_arm_table("train.batch_law", self.train.batch_law, self._all_arms())
        auto = self.sizes.auto if self.sizes else None
        _check_arm_table("sizes.auto.optimum", auto and auto.optimum, self._all_arms())
        return self


def _check_arm_table(path: str, table: Mapping[str, object] | None, arms: Sequence[Arm]) -> None:
    """A per-arm table has an entry for each arm, and no key that could never be an arm's."""
    if table is None:
        return
    for arm in arms:
        if not {arm.label, arm.architecture, DEFAULT} & set(table):
            raise ValueError(f"{path} has no entry for the arm {arm.label}: add [{path}.{arm.architecture}]")
    known = (DEFAULT, *get_args(Architecture), *(arm.label for arm in arms))
    for key in table:
        if key not in known and not re.fullmatch(r"(mor|recursive)-\d+", key):
            raise ValueError(f"{path}.{key} names no arm: {did_you_mean(key, known)}")


def load_spec(preset: str = "paper", overrides: Sequence[Override] = (), study: str = "isoflop") -> SweepSpec:
    """The sweep file `preset` (a shipped name of the study, or the path of a TOML file) with flags over it.

    Raises SpecError.
    """
    return parse_spec(read_sweep_file(preset, overrides, study))


def parse_spec(file: SweepFile) -> SweepSpec:
    """The checked content of a sweep file. Raises SpecError with a sentence for each problem."""
    try:
        return SweepSpec.model_validate_json(json.dumps(with_choices(file.document), default=str))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise SpecError("\n".join(_sentence(problem, file) for problem in problems)) from None


def _sentence(problem: Any, file: SweepFile) -> str:
    """One of pydantic's problems as a sentence for the person who wrote the file or the flag."""
    location, kind = tuple(problem["loc"]), problem["type"]
    if kind == "union_tag_invalid":
        location = (*location, "choice")
    path = _written_path(location)
    flag = next((item.flag for item in file.overrides if location[: len(item.path)] == item.path), None)
    where = flag or (f"{file.source}: {path}" if path else file.source)
    if kind == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if kind == "union_tag_invalid":
        return f"{where}: found {_shortened(problem['ctx']['tag'])}, expected {problem['ctx']['expected_tags']}"
    if kind == "missing":
        return f"{where} is missing: add it"
    if kind == "extra_forbidden":
        return f"{file.source}: {path} is no known key: {did_you_mean(str(location[-1]), _known_keys(location[:-1]))}"
    expected = re.sub("^Input should (be )?", "", problem["msg"])
    expected = re.sub("^(greater|less) than", r"a number \1 than", expected)
    return f"{where}: found {_shortened(problem['input'])}, expected {expected}"


def _written_path(location: Sequence[str | int]) -> str:
    """The place as the file writes it: without pydantic's names for alternatives of a value and for keys."""
    parts: list[str] = []
    for part in map(str, location):
        is_choice = part in ROUTING_SECTIONS and parts[-1:] == ["routing"]
        if not is_choice and part != "[key]":
            parts.append(part)
    return ".".join(parts)


def _shortened(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """The keys of the table at a location; the keys of per-arm tables (mor-2) belong to their values' table."""
    section: type[BaseModel] = SweepSpec
    for part in map(str, location):
        if part in section.model_fields:
            section = _section_within(section.model_fields[part].annotation) or section
        elif section in ROUTING_SECTIONS.values():
            section = ROUTING_SECTIONS[part]
    return list(section.model_fields)


def _section_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_within, get_args(annotation))), None)
