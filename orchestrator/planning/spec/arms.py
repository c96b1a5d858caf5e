"""The arms of a sweep: the grid of [arms], the named ones of [variants.LABEL], and how their tokens are routed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    model_validator,
)

from mor_core.config.model import (
    Architecture,
    ExpertChoice,
    FamilyArchitecture,
    KVStrategy,
    RouterKind,
    Routing,
    SharingStrategy,
    TokenChoice,
)
from mor_core.config.sizes import DepthFit
from mor_core.files import is_folder_name
from mor_core.model.own.code import NAME
from orchestrator.planning.spec.fields import (
    Ascending,
    Depth,
    ExactFraction,
    Merged,
    NotEmpty,
    PaperNLL,
    Section,
    SizeName,
)

Entry = TypeVar("Entry")

DEFAULT = "default"
"""The key of a per-arm table that holds for every arm without a key of its own."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An architecture being compared, resolved but for the base shape."""

    label: str
    """What tables and files call it: vanilla, recursive-3, mor-3, or the name of its [variants.LABEL] table."""
    architecture: Architecture
    """vanilla, recursive or mor; own of a user's model."""
    recursions: int = 1
    """Nr; 1 for vanilla."""
    sharing: SharingStrategy = "middle-cycle"
    """Which unrolled layers share weights; nothing for vanilla."""
    kv: KVStrategy = "recursion-wise"
    """Where the keys and values of a recursion come from; nothing for vanilla."""
    fit_depth: DepthFit = "raise"
    """What happens to a depth that does not divide into the recursions."""
    num_layers: int | Fraction | None = None
    """Layers in place of the size's, or the share of them that is kept, rounded down; None keeps the size's."""
    routing: Routing | None = None
    """How tokens choose their depth; None unless mor."""
    own: "OwnArmSection | None" = None
    """A user's model; None of our family."""

    @property
    def entry_keys(self) -> tuple[str, ...]:
        """Keys of a per-arm table that hold for it, the most specific first: its label, its architecture, "default". A
        user's model falls back on vanilla's."""
        return (self.label, self.architecture, DEFAULT, *(("vanilla",) if self.own else ()))

    def entry(self, table: Mapping[str, Entry]) -> Entry:
        """Its value in a per-arm table."""
        return next(table[key] for key in self.entry_keys if key in table)


class RoutingSection(Section):
    """[routing] with the keys that are given; those left out are the paper's recipe, see mor_core.config.model."""

    @property
    def given(self) -> dict[str, Any]:
        """The keys that are given, the choice among them."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        try:
            routing_from(self)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("routing.")) from None
        return self


class ExpertSection(RoutingSection):
    """Expert choice; see mor_core.config.model.ExpertChoice for the keys and their defaults."""

    choice: Literal["expert"] = "expert"
    router: RouterKind | None = None
    activation: Literal["sigmoid", "tanh", "none"] | None = None
    alpha: FiniteFloat | None = None
    gating: Literal["weighted", "additive"] | None = None
    auxiliary: Literal["loss", "router"] | None = None
    aux_loss_weight: FiniteFloat | None = None
    z_loss_weight: FiniteFloat | None = None
    capacities: tuple[ExactFraction, ...] | None = None
    capacity_warmup_steps: int | None = None
    threshold_decay: FiniteFloat | None = None


class TokenSection(RoutingSection):
    """Token choice; see mor_core.config.model.TokenChoice for the keys and their defaults."""

    choice: Literal["token"] = "token"
    router: RouterKind | None = None
    activation: Literal["softmax", "sigmoid"] | None = None
    alpha: FiniteFloat | None = None
    gating: Literal["per-step", "exit"] | None = None
    balancing: Literal["loss", "loss-free", "none"] | None = None
    balancing_loss_weight: FiniteFloat | None = None
    bias_update_rate: FiniteFloat | None = None
    z_loss_weight: FiniteFloat | None = None


EXPERT, TOKEN = "expert", "token"
ROUTING_KINDS: dict[str, type[Routing]] = {EXPERT: ExpertChoice, TOKEN: TokenChoice}
ROUTING_SECTIONS: dict[str, type[RoutingSection]] = {EXPERT: ExpertSection, TOKEN: TokenSection}


def _choice(routing: object) -> object:
    """Which way to route a table describes; experts choose where it does not say."""
    return routing.get("choice", EXPERT) if isinstance(routing, Mapping) else getattr(routing, "choice", EXPERT)


RoutingTable = Annotated[
    Annotated[ExpertSection, Tag(EXPERT)] | Annotated[TokenSection, Tag(TOKEN)],
    Discriminator(_choice),
]


def routing_from(section: RoutingSection, laid_over: RoutingSection | None = None) -> Routing:
    """The routing of a section, or of one laid over another; nothing is taken over from another kind of choice."""
    settings = section.given
    if laid_over is not None:
        settings = (settings if laid_over.given["choice"] == settings["choice"] else {}) | laid_over.given
    return ROUTING_KINDS[settings["choice"]](**settings)


def with_choices(document: dict[str, Any]) -> dict[str, Any]:
    """The sweep file with the choice of [routing] written into each variant's routing that names none."""
    base, variants = document.get("routing"), document.get("variants")
    if not isinstance(base, dict) or "choice" not in base or not isinstance(variants, dict):
        return document
    return document | {
        "variants": {label: _with_choice(variant, base["choice"]) for label, variant in variants.items()}
    }


def _with_choice(variant: Any, choice: object) -> Any:
    routing = variant.get("routing") if isinstance(variant, dict) else None
    return variant | {"routing": {"choice": choice} | routing} if isinstance(routing, dict) else variant


def _architecture(name: object) -> object:
    """Points from an arm's label (mor-3) to the two keys that make it; everything else is checked by its type."""
    label = re.fullmatch(r"(recursive|mor)-(\d+)", name) if isinstance(name, str) else None
    if label:
        raise ValueError(
            f"{name!r} is an arm's label: ask for the architecture {label[1]}, and for {label[2]} among the recursions"
        )
    return name


def _check_routable(sharing: SharingStrategy) -> None:
    if not sharing.endswith("cycle"):
        raise ValueError(f"sharing {sharing!r} cannot be routed: for mor, use cycle or middle-cycle")


def _object_name(name: str) -> str:
    """Whether it has the form of an object's name; the code at it is not looked for here."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100}: expected package.module:object, such as my_model:ladder")
    return name


class OwnArmSection(Section):
    """[arms.NAME]: a model of the user's own, which is no part of the grid."""

    model: Annotated[str, AfterValidator(_object_name)]
    """Its object, package.module:object; what that must have is said in docs/guides/own_model.md."""
    sizes: Annotated[tuple[str, ...], NotEmpty, Merged] | None = None
    """Of its ladder; left out, all of them, or a window of them where sizes.auto chooses. --sizes goes before it."""

    def member(self, label: str) -> Arm:
        """The arm."""
        return Arm(label=label, architecture="own", own=self)


class ArmsSection(Section):
    """The grid of arms: architectures times recursion counts; and a table for each model of the user's own."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, OwnArmSection]  # pyright: ignore

    architectures: Annotated[tuple[Annotated[FamilyArchitecture, BeforeValidator(_architecture)], ...], Merged] = ()
    """vanilla, recursive (fixed depth), mor (routed); none where all arms are models of one's own."""
    recursions: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Ascending] = ()
    """Recursion counts of recursive and mor; each count is an arm of its own."""
    sharing: SharingStrategy = "middle-cycle"
    """Which unrolled layers share weights."""
    kv: KVStrategy = "recursion-wise"
    """Where the keys and values of a recursion come from; see mor_core.config.model.Recursion."""
    fit_depth: DepthFit = "raise"
    """What happens to a depth that does not divide into the recursions."""

    @property
    def own(self) -> dict[str, OwnArmSection]:
        """The user's own models, by label."""
        return self.__pydantic_extra__

    def members(self, routing: Routing) -> Iterator[Arm]:
        """The arms, in order: vanilla, recursive-3, mor-2, mor-3, and those of the user's own models."""
        for architecture in self.architectures:
            if architecture == "vanilla":
                yield Arm(label="vanilla", architecture="vanilla")
                continue
            for count in self.recursions:
                yield Arm(
                    label=f"{architecture}-{count}",
                    architecture=architecture,
                    recursions=count,
                    sharing=self.sharing,
                    kv=self.kv,
                    fit_depth=self.fit_depth,
                    routing=routing if architecture == "mor" else None,
                )
        for label, section in self.own.items():
            yield section.member(label)

    @model_validator(mode="after")
    def _has_recursions(self) -> Self:
        if not self.architectures and not self.own:
            raise ValueError('architectures is missing: give architectures = ["vanilla"], or [arms.NAME] with a model')
        if set(self.architectures) - {"vanilla"} and not self.recursions:
            raise ValueError("recursive and mor need at least one recursion count, such as recursions = [3]")
        return self

    @model_validator(mode="after")
    def _routes_a_cycle(self) -> Self:
        if "mor" in self.architectures:
            _check_routable(self.sharing)
        return self


class VariantSection(Section):
    """One named arm. What is left out is as in the paper's main study; None stands for that."""

    architecture: Annotated[FamilyArchitecture, BeforeValidator(_architecture)]
    """vanilla, recursive (fixed depth) or mor (routed)."""
    recursions: Annotated[int, Field(ge=1)] | None = None
    """Nr; 1 for vanilla, at least 2 for the others."""
    sharing: SharingStrategy | None = None
    """Which unrolled layers share weights; None is middle-cycle."""
    kv: KVStrategy | None = None
    """Where the keys and values of a recursion come from; None is recursion-wise."""
    fit_depth: DepthFit | None = None
    """What happens to a depth that does not divide into the recursions; None raises it."""
    num_layers: Depth | None = None
    """Layers in place of the size's, or a share of them such as "1/2", rounded down."""
    routing: RoutingTable | None = None
    """Laid over [routing] where both make the same choice; otherwise it stands alone."""
    paper_nll: dict[SizeName, PaperNLL] | None = None
    """By size, the loss that the paper prints for this arm: shown beside ours, never fitted."""

    def member(self, label: str, base: RoutingSection) -> Arm:
        """The arm."""
        return Arm(
            label=label,
            architecture=self.architecture,
            recursions=self.recursions or 1,
            sharing=self.sharing or "middle-cycle",
            kv=self.kv or "recursion-wise",
            fit_depth=self.fit_depth or "raise",
            num_layers=self.num_layers,
            routing=routing_from(base, self.routing) if self.architecture == "mor" else None,
        )

    @model_validator(mode="after")
    def _has_only_what_it_uses(self) -> Self:
        shared = {name: getattr(self, name) for name in ("sharing", "kv", "fit_depth")}
        present_keys = [name for name, value in shared.items() if value is not None]
        if self.architecture == "vanilla" and (present_keys or self.recursions not in (None, 1)):
            raise ValueError(
                f"a vanilla model shares no layers: leave out {' and '.join(present_keys) or 'recursions'}"
            )
        if self.architecture != "vanilla" and (self.recursions or 1) < 2:
            raise ValueError(f"{self.architecture} needs recursions = 2 or more")
        if self.architecture != "mor" and self.routing is not None:
            raise ValueError(f"{self.architecture} routes no tokens: leave out routing, or use mor")
        if self.architecture == "mor":
            _check_routable(self.sharing or "middle-cycle")
        return self


def check_label(label: str, architecture: Architecture, table: str = "variants") -> None:
    """Raise ValueError for a label that a per-arm table would read as something else."""
    if not is_folder_name(label):
        raise ValueError(f"{table}.{label}: expected letters, digits, dots, dashes and underscores, a letter first")
    if label == DEFAULT or (label in get_args(Architecture) and label != architecture):
        raise ValueError(f"{table}.{label}: {label!r} means something else in per-arm tables, choose another label")
