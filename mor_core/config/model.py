"""A model of our family: its shape, its recursion and its routing. Frozen, validated, hashable; no torch.

Every value is resolved: nothing that reads these recomputes a depth.

Layer maps say which unique layer each unrolled layer of a recursive transformer uses. Source: Bae et al.,
Mixture-of-Recursions (NeurIPS 2025, arXiv 2507.10524v3), Table 5. With L unrolled layers and Nr recursions, the shared
block holds b layers. The "middle" strategies keep the first and the last layer to themselves. Where b would not be
whole, the depth is raised to the next L that divides, as the paper's main runs do (appendix D), or lowered, as the
released code does.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Literal, get_args

from mor_core.config.fields import check_choices, check_not_negative, check_positive, later_field

FamilyArchitecture = Literal["vanilla", "recursive", "mor"]
"""Of our family."""
Architecture = Literal["vanilla", "recursive", "mor", "own"]
"""Three of our family; own is a user's model (`mor_core.config.own_model`)."""
CausalRule = Literal["threshold", "half"]
"""How an expert-choice token goes on when later tokens are unknown (see `mor_core.model.transformer.RoutingRule`)."""

Precision = Literal["fp32", "bf16"]
"""What matrix products are computed in; weights are fp32 under both."""
OutputInit = Literal["constant", "depth-scaled"]
"""How the matrices that write into the residual stream begin (see `ModelConfig.output_init`)."""
SharingStrategy = Literal["cycle", "sequence", "middle-cycle", "middle-sequence"]
"""Which unrolled layers share weights (paper, Table 5)."""
KVStrategy = Literal["recursion-wise", "shared", "hybrid"]
"""Which keys and values a recursion attends to (paper sections 2.2.2 and 4.3; see `Recursion.kv`)."""
LayerSelection = Literal["stepwise", "average", "lower", "upper", "random"]
"""Which pretrained layers fill a shared block (see `mor_core.interop.layer_selection`)."""
RouterKind = Literal["linear", "mlp", "wide-mlp", "random"]
"""The network that scores tokens (see `mor_core.model.router`)."""

LARGEST = {
    "vocab_size": 2**24,
    "context_length": 2**24,
    "num_layers": 10_000,
    "d_model": 2**20,
    "num_heads": 2**16,
    "num_kv_heads": 2**16,
    "d_head": 2**20,
    "d_ff": 2**24,
}
"""Of each number that shapes a model: far above any that was ever trained. A shape is read from files of others, and
what is made for each layer or token of one that is beyond all bounds would fill the memory."""

MOST_CAPACITY_WARMUP_STEPS = 100_000
"""The FLOPs of each of them are counted one by one."""


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """A shared block of layers applied several times."""

    count: int = 1
    """Nr, how often the block is applied; 1 is a vanilla transformer."""
    sharing: SharingStrategy = "middle-cycle"
    """Which unrolled layers share weights."""
    kv: KVStrategy = "recursion-wise"
    """Where the keys and values of a shared layer come from.

    recursion-wise: each recursion computes its own, for the tokens that it computes; they attend among themselves.
    shared: the layer's first application computes them for all tokens; later ones compute queries only and attend to
    the whole prefix. hybrid (expert choice only): the first application's, with those of the selected tokens replaced
    by freshly computed ones; nothing of it is kept for the next recursion.
    """

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"recursion count {self.count}: expected a whole number of at least 1")
        num_unshared_layers(self.sharing)
        check_choices(self)
        if self.count == 1 and self.kv != "recursion-wise":
            raise ValueError(f"kv {self.kv} with 1 recursion: nothing is applied twice, use recursion-wise")


@dataclass(frozen=True, kw_only=True)
class ExpertChoice:
    """At each recursion a router scores the tokens that reached it, and each sequence keeps its top k (section 2.2.1).

    Defaults are the paper's final recipe (Table 13): linear router, sigmoid, alpha 0.1, auxiliary loss 0.001.
    """

    choice: Literal["expert"] = "expert"
    """Recursions choose tokens."""
    router: RouterKind = "linear"
    """One router per recursion, the first included."""
    activation: Literal["sigmoid", "tanh", "none"] = "sigmoid"
    """From router logit to gate, before alpha."""
    alpha: float = 0.1
    """Gate scale: a selected token's update is alpha * activation(logit) * block output (equation 2.1)."""
    gating: Literal["weighted", "additive"] = "weighted"
    """weighted multiplies the block's output by the gate (equation 2.1); additive leaves the gate out (an option of
    the released code), so that only the auxiliary loss trains the router."""
    auxiliary: Literal["loss", "router"] = "loss"
    """What learns to tell selected tokens without looking ahead: the router itself through a cross-entropy term, or a
    second router of the same kind on a stopped gradient, with its own optimiser group, which causal evaluation asks."""
    aux_loss_weight: float = 0.001
    """Weight of the sum over recursions of the router's binary cross-entropy against selection (auxiliary = "loss").
    The released code leaves this term undivided by its accumulation steps, which acts like 0.016 in its main runs."""
    z_loss_weight: float = 0.0
    """Weight of the sum over recursions of the mean squared router logit."""
    capacities: tuple[Fraction, ...] | None = None
    """c_r for r = 1..Nr, not growing, the first 1; None is the paper's (Nr - r + 1) / Nr."""
    capacity_warmup_steps: int = 0
    """Optimiser steps over which capacities fall from 1 to c_r along half a cosine; 0 is the paper's final choice."""
    threshold_decay: float = 0.99
    """Decay per optimiser step of the running mean of the top-k cut-off, the threshold of causal evaluation."""

    def __post_init__(self) -> None:
        check_choices(self, "routing.")
        check_positive("routing.alpha", self.alpha)
        for name in ("aux_loss_weight", "z_loss_weight", "capacity_warmup_steps"):
            check_not_negative(f"routing.{name}", getattr(self, name))
        if self.capacity_warmup_steps > MOST_CAPACITY_WARMUP_STEPS:
            raise ValueError(
                f"routing.capacity_warmup_steps {self.capacity_warmup_steps}: expected at most "
                f"{MOST_CAPACITY_WARMUP_STEPS}"
            )
        if not 0 <= self.threshold_decay < 1:
            raise ValueError(f"routing.threshold_decay {self.threshold_decay}: expected 0 or more and below 1")
        if self.capacities is not None:
            _check_capacities(self.capacities)


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """A router at the entry of the shared block gives each token its depth, for good (section 2.2.1).

    Defaults are the highlighted row of Table 14: linear router, softmax, alpha 1, balancing loss 0.1, no z-loss. (The
    text says that an MLP router does best and names a z-loss of 1e-3; the released configuration uses 1e-5.)
    """

    choice: Literal["token"] = "token"
    """Tokens choose their recursion."""
    router: RouterKind = "linear"
    """One router with Nr outputs."""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """From router logits to gates, before alpha."""
    alpha: float = 1.0
    """Gate scale."""
    gating: Literal["per-step", "exit"] = "per-step"
    """per-step scales every application by its own gate, as equation 2.2 says; exit passes the block's output on as it
    is and scales only the last one, as the released code does. Both add the block's input at the exit."""
    balancing: Literal["loss", "loss-free", "none"] = "loss"
    """What evens out the depths: a Switch-style loss, or a bias on selection that follows the load."""
    balancing_loss_weight: float = 0.1
    """Weight of Nr * sum_r f_r P_r, averaged over sequences (balancing = "loss")."""
    bias_update_rate: float = 0.001
    """Step of the selection bias towards an even load, per optimiser step (balancing = "loss-free")."""
    z_loss_weight: float = 0.0
    """Weight of the mean squared log-sum-exp of the router logits."""

    def __post_init__(self) -> None:
        check_choices(self, "routing.")
        check_positive("routing.alpha", self.alpha)
        for name in ("balancing_loss_weight", "bias_update_rate", "z_loss_weight"):
            check_not_negative(f"routing.{name}", getattr(self, name))


Routing = ExpertChoice | TokenChoice


def _check_capacities(capacities: tuple[Fraction, ...]) -> None:
    shown = ", ".join(map(str, capacities))
    if not capacities or capacities[0] != 1:
        raise ValueError(f"routing.capacities {shown}: the first recursion takes every token, expected 1 first")
    if any(not 0 < after <= before for before, after in pairwise(capacities)):
        raise ValueError(f"routing.capacities {shown}: expected numbers above 0 that do not grow")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama decoder (RMSNorm, RoPE, grouped queries, SwiGLU, tied embeddings) with shared and routed layers."""

    vocab_size: int
    """Number of token ids."""
    context_length: int
    """T, tokens in a training sequence."""
    num_layers: int
    """L, unrolled layers: each application of a shared layer counts. Already raised so that it divides."""
    d_model: int
    """D, width of the residual stream."""
    num_heads: int
    """H, query heads."""
    num_kv_heads: int
    """Key and value heads; divides num_heads."""
    d_head: int
    """Width of one head; even, for RoPE."""
    d_ff: int
    """Width of the SwiGLU hidden layer."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square inside RMSNorm."""
    init_std: float = 0.02
    """Standard deviation of every initial weight matrix and embedding."""
    output_init: OutputInit = later_field("constant", since="0.1.0")
    """That of the matrices that write into the residual stream, of attention and of the MLP: init_std, or,
    depth-scaled, init_std / sqrt(2 L), so that the stream does not grow with L (Radford et al. 2019, section 2.3)."""
    recursion: Recursion = field(default_factory=Recursion)
    """How layers are shared."""
    routing: Routing | None = None
    """How tokens choose their depth; None gives every token the full depth."""

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number from 1 to {largest}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.d_head % 2:
            raise ValueError(f"d_head {self.d_head} must be even, for rotary positions")
        check_choices(self)
        block_depth(self.num_layers, self.recursion.count, self.recursion.sharing)
        self._check_routing()

    def _check_routing(self) -> None:
        recursion, routing = self.recursion, self.routing
        expert = isinstance(routing, ExpertChoice)
        if recursion.kv == "hybrid" and not expert:
            raise ValueError("kv hybrid refreshes the tokens that a router selects: expected expert-choice routing")
        if routing is None:
            return
        if recursion.count < 2:
            raise ValueError("routing needs at least 2 recursions: with 1 there is no depth to choose")
        if not recursion.sharing.endswith("cycle"):
            raise ValueError(f"routing under {recursion.sharing} sharing: expected cycle or middle-cycle")
        if expert and routing.capacities is not None and len(routing.capacities) != recursion.count:
            count = len(routing.capacities)
            raise ValueError(f"routing.capacities has {count} numbers: expected {recursion.count}, one a recursion")

    @property
    def architecture(self) -> Architecture:
        """vanilla, recursive (fixed depth) or mor (routed)."""
        if self.routing is not None:
            return "mor"
        return "recursive" if self.recursion.count > 1 else "vanilla"

    @property
    def layer_map(self) -> tuple[int, ...]:
        """For each unrolled layer, the unique layer it uses."""
        return layer_map(self.num_layers, self.recursion.count, self.recursion.sharing)

    @property
    def num_unique_layers(self) -> int:
        """Layers that own weights."""
        return max(self.layer_map) + 1

    @property
    def num_unshared_layers(self) -> int:
        """Layers outside the shared block, half of them before it and half after it."""
        return num_unshared_layers(self.recursion.sharing) if self.recursion.count > 1 else 0

    @property
    def block_depth(self) -> int:
        """b, layers in the shared block (all layers when nothing is shared)."""
        return block_depth(self.num_layers, self.recursion.count, self.recursion.sharing)

    @property
    def capacities(self) -> tuple[Fraction, ...]:
        """c_r for r = 1..Nr: the share of a sequence's tokens that recursion r computes (paper section 2.2.1).

        Under token choice it is what a perfect balance of depths gives, which is what plans are made with.
        """
        count = self.recursion.count
        if self.routing is None:
            return (Fraction(1),) * count
        if isinstance(self.routing, ExpertChoice) and self.routing.capacities is not None:
            return self.routing.capacities
        return tuple(Fraction(count - r, count) for r in range(count))

    @property
    def capacity_warmup_steps(self) -> int:
        """Optimiser steps during which training computes more tokens than `capacities` says."""
        return self.routing.capacity_warmup_steps if isinstance(self.routing, ExpertChoice) else 0

    def tokens_per_recursion(self, length: int | None = None, step: int | None = None) -> tuple[int, ...]:
        """k_r = max(1, floor(c_r * length)) for r = 1..Nr; `length` in tokens defaults to the context length.

        `step` (from 0) matters within capacity warm-up only, where c + (1 - c) (1 + cos(pi step / steps)) / 2 stands
        for c; None is after it.
        """
        length = self.context_length if length is None else length
        shares: tuple[Fraction | float, ...] = self.capacities
        if step is not None and step < self.capacity_warmup_steps:
            open_share = (1 + math.cos(math.pi * step / self.capacity_warmup_steps)) / 2
            shares = tuple(float(share + (1 - share) * open_share) for share in shares)
        return tuple(max(1, int(share * length)) for share in shares)


def num_unshared_layers(strategy: SharingStrategy) -> int:
    """Layers outside the shared block: the first and the last under a middle strategy, else none."""
    if strategy not in get_args(SharingStrategy):
        raise ValueError(f"sharing strategy {strategy!r}: expected one of {', '.join(get_args(SharingStrategy))}")
    return 2 if strategy.startswith("middle") else 0


def raised_depth(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> int:
    """The smallest depth >= num_layers (in unrolled layers) whose shared part divides by num_recursions."""
    unshared = num_unshared_layers(strategy) if num_recursions > 1 else 0
    block = -(-(num_layers - unshared) // num_recursions)
    return block * num_recursions + unshared


def block_depth(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> int:
    """b, the number of layers in the shared block. Raises ValueError where num_layers does not divide."""
    unshared = num_unshared_layers(strategy) if num_recursions > 1 else 0
    block, rest = divmod(num_layers - unshared, num_recursions)
    if rest or block < 1:
        raise ValueError(
            f"{num_layers} layers do not divide into {num_recursions} recursions under {strategy}: "
            f"use {raised_depth(max(num_layers, num_recursions + unshared), num_recursions, strategy)} layers"
        )
    return block


def layer_map(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> tuple[int, ...]:
    """phi: for each unrolled layer, the index of the unique layer it uses (paper, Table 5).

    Raises ValueError where num_layers does not divide; `raised_depth` gives a depth that does.
    """
    block = block_depth(num_layers, num_recursions, strategy)
    if num_recursions == 1:
        return tuple(range(num_layers))
    shared_length = block * num_recursions
    if strategy.endswith("cycle"):
        shared = [layer % block for layer in range(shared_length)]
    else:
        shared = [layer // num_recursions for layer in range(shared_length)]
    if num_unshared_layers(strategy) == 0:
        return tuple(shared)
    return (0, *(1 + layer for layer in shared), block + 1)
