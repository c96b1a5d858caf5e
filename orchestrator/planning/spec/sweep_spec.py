"""A whole sweep file as one checked value; whatever is wrong in it is one sentence that names the key or the flag."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from mor_core.config.model import Architecture
from mor_core.data.spec import DataSpec
from mor_core.model.own.code import allow_import
from orchestrator.planning.spec.arms import (
    DEFAULT,
    ROUTING_SECTIONS,
    Arm,
    ArmsSection,
    ExpertSection,
    OwnArmSection,
    RoutingTable,
    VariantSection,
    check_label,
    routing_from,
    with_choices,
)
from orchestrator.planning.spec.fields import (
    OWN_LADDERS,
    Ascending,
    Budget,
    FolderName,
    Merged,
    NotEmpty,
    Section,
    TokenCount,
)
from orchestrator.planning.spec.sections import (
    DataSection,
    EvaluationSection,
    ExecutionSection,
    InitFromSection,
    ModelSection,
    ScheduleSection,
    SizesSection,
    TrainSection,
)
from orchestrator.planning.spec.sweep_file import BASE, Override, SpecError, SweepFile, did_you_mean, read_sweep_file


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
    """How the tokens of mor choose their depth; see mor_core.config.model."""
    train: TrainSection
    data: DataSection = DataSection()
    evaluation: EvaluationSection
    execution: ExecutionSection

    def document(self) -> dict[str, Any]:
        """The resolved sweep file as JSON values: what is recorded of a sweep, and what `parse_spec` reads again."""
        document = self.plain()
        if self.init_from is not None:  # What [model] leaves out is then as the weights have it, not the default.
            document["model"] = {key: document["model"][key] for key in self.model.model_fields_set}
        return _without_nulls(document)

    @property
    def data_spec(self) -> DataSpec:
        """The text and the vocabulary that the sweep trains on."""
        return DataSpec(
            corpus=self.data.corpus,
            vocab_size=self.model.vocab_size,
            max_megabytes=self.data.max_megabytes,
            tokenizer=self.data.tokenizer,
            deduplicate=self.data.deduplicate,
            quality=self.data.quality,
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
        for label in self.arms.own if self.arms else ():
            check_label(label, "own", "arms")
            if labels.count(label) > 1:
                raise ValueError(f"two arms are called {label}: give [arms.{label}] another name")
        for label, variant in self.variants.items():
            check_label(label, variant.architecture)
            if labels.count(label) > 1:
                raise ValueError(f"two arms are called {label}: give [variants.{label}] another label")
        for label in self.only or ():
            if label not in labels:
                raise ValueError(f"only: there is no arm {label!r}: {did_you_mean(label, labels)}")
        return self

    @model_validator(mode="after")
    def _own_models_fit(self) -> Self:
        if self.arms is None or not self.arms.own:
            return self
        label = next(iter(self.arms.own))
        if self.init_from is not None:
            raise ValueError(f"init_from fills models of our family, and arms.{label} is one of your own: leave it out")
        if self.budget_convention == "paper":
            raise ValueError(
                f"budget_convention paper counts models of our family, and arms.{label} is one of your own: use exact"
            )
        if self.execution.activation_checkpointing:
            raise ValueError(
                f"execution.activation_checkpointing is for models of our family, and arms.{label} is one of your "
                "own: leave it out"
            )
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


def _without_nulls(document: dict[str, Any]) -> dict[str, Any]:
    """The tables without the keys that are not set."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if value is not None
    }


def _check_arm_table(path: str, table: Mapping[str, object] | None, arms: Sequence[Arm]) -> None:
    """A per-arm table has an entry for each arm, and no key that could never be an arm's."""
    if table is None:
        return
    for arm in arms:
        if not set(arm.entry_keys) & set(table):
            raise ValueError(f"{path} has no entry for the arm {arm.label}: add [{path}.{arm.architecture}]")
    labels = (DEFAULT, *get_args(Architecture), *(arm.label for arm in arms))
    for key in table:
        if key not in labels and not re.fullmatch(r"(mor|recursive)-\d+", key):
            raise ValueError(f"{path}.{key} names no arm: {did_you_mean(key, labels)}")


def load_spec(preset: str = "paper", overrides: Sequence[Override] = (), study: str = "isoflop") -> SweepSpec:
    """The sweep file `preset` (a shipped name of the study, or the path of a TOML file) with flags over it.

    Raises SpecError.
    """
    return parse_spec(read_sweep_file(preset, overrides, study))


def parse_spec(file: SweepFile) -> SweepSpec:
    """The checked content of a sweep file. Raises SpecError with a sentence for each problem."""
    try:
        written = json.dumps(with_choices(file.document), default=str)
        spec = SweepSpec.model_validate_json(written, context={OWN_LADDERS: _has_own_arms(file.document)})
        if file.is_written and spec.arms is not None:
            allow_import(section.model for section in spec.arms.own.values())
        return spec
    except ValidationError as error:
        problems = error.errors(include_url=False)
        absent = [str(problem["loc"][0]) for problem in problems if _is_absent_table(problem)]
        sentences = [_sentence(problem, file) for problem in problems if not _is_absent_table(problem)]
        sentences += [_absent_sentence(absent, file)] if absent else []
        raise SpecError("\n".join(sentences)) from None


def _has_own_arms(document: Mapping[str, Any]) -> bool:
    """Whether a sweep file names models of the user's own."""
    arms = document.get("arms")
    return isinstance(arms, Mapping) and any(isinstance(table, Mapping) and "model" in table for table in arms.values())


def _is_absent_table(problem: Any) -> bool:
    return problem["type"] == "missing" and len(problem["loc"]) == 1


def _absent_sentence(keys: Sequence[str], file: SweepFile) -> str:
    """What a file lacks that every sweep has, and where it may take it from."""
    are = "is" if len(keys) == 1 else "are"
    return (
        f'{file.source}: {", ".join(keys)} {are} missing: add a first line base = "cpu" (or paper, gpu, the path of a '
        "file) for all that the file leaves out, or begin with the commented file that `mor-sweep config init FILE` "
        "writes"
    )


def _sentence(problem: Any, file: SweepFile) -> str:
    """One of pydantic's problems as a sentence for the person who wrote the file or the flag."""
    location, kind = tuple(problem["loc"]), problem["type"]
    if kind == "union_tag_invalid":
        location = (*location, "choice")
    path = _written_path(location)
    flag = next((override.flag for override in file.overrides if location[: len(override.path)] == override.path), None)
    where = flag or (f"{file.source}: {path}" if path else file.source)
    if kind == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if kind == "union_tag_invalid":
        return f"{where}: found {_shortened(problem['ctx']['tag'])}, expected {problem['ctx']['expected_tags']}"
    if kind == "missing":
        return f"{where} is missing: add it"
    if kind == "extra_forbidden" or (location[:1] == ("arms",) and _is_no_own_arm(location)):
        return f"{file.source}: {path} is no known key: {did_you_mean(str(location[-1]), _known_keys(location[:-1]))}"
    expected = re.sub("^Input should (be )?", "", problem["msg"])
    expected = re.sub("^(greater|less) than", r"a number \1 than", expected)
    return f"{where}: found {_shortened(problem['input'])}, expected {expected}"


def _is_no_own_arm(location: Sequence[str | int]) -> bool:
    """Whether a place is a key of [arms] that is neither known nor a table of an own model."""
    return len(location) == 2 and location[1] not in ArmsSection.model_fields


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
        if section is ArmsSection and part not in section.model_fields:
            section = OwnArmSection
        elif part in section.model_fields:
            section = _section_within(section.model_fields[part].annotation) or section
        elif section in ROUTING_SECTIONS.values():
            section = ROUTING_SECTIONS[part]
    return [*section.model_fields, *([] if location else [BASE])]


def _section_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_within, get_args(annotation))), None)
