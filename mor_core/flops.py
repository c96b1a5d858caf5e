"""Parameters and FLOPs of a model: the one home of these numbers. Exact integers or fractions; no torch.

A multiply-add is 2 FLOPs. Three conventions for the cost of training on one token:

exact   3 x the forward pass (backward costs twice the forward): every matrix product, with the real grouped-query
        shapes, the query-key pairs that causal attention needs, the LM head, the routers over their candidates, and
        routed layers at their whole number of tokens k_r. Norms, softmax, RoPE and the embedding look-up are left out.
paper   as the authors of Mixture-of-Recursions count (appendix D): forward only, keys and values as wide as the
        model, T^2/2 pairs, no LM head, no routers, routed layers at the fraction c_r. It reproduces the token counts
        of their Tables 3 and 9 and is good for nothing else.
6nd     6 x unique non-embedding parameters. For reference only: with shared and routed layers it biases exactly the
        comparison of one arm with another.

Of a user's own model (`OwnModel`) the numbers are those that its object gave, or PyTorch's counter: exact is forward
and backward as counted, paper the forward pass alone, 6nd as above.

Plans count a token-choice model at a perfect balance of depths, and shared keys and values at selected tokens that lie
evenly over the sequence: k_r (T + 1) / 2 pairs. What really happened is a second number, from evaluation.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from mor_core.config.model import ExpertChoice, ModelConfig, RouterKind, TokenChoice
from mor_core.config.own_model import Model, OwnModel

Convention = Literal["exact", "paper", "6nd"]
CONVENTIONS: tuple[Convention, ...] = ("exact", "paper", "6nd")

FORWARD_AND_BACKWARD = 3

ROUTER_EXPANSION: dict[RouterKind, int] = {"mlp": 2, "wide-mlp": 4}
"""Hidden width of a router over the model's. The released code makes wide-mlp equal to mlp; the paper says 4."""


def attention_params(config: ModelConfig) -> int:
    """Parameters of one layer's attention: queries, keys, values, output."""
    return config.d_model * config.d_head * 2 * (config.num_heads + config.num_kv_heads)


def kv_params(config: ModelConfig) -> int:
    """Of these, keys and values."""
    return config.d_model * config.d_head * 2 * config.num_kv_heads


def layer_params(config: ModelConfig) -> int:
    """Parameters of one transformer layer, its two norms included."""
    return attention_params(config) + 3 * config.d_model * config.d_ff + 2 * config.d_model


def router_params(config: ModelConfig) -> int:
    """Parameters of all routers: one a recursion (twice that with auxiliary routers), or one of Nr outputs."""
    return sum(_router_network(config, outputs) for outputs in _router_outputs(config))


def _router_outputs(config: ModelConfig) -> tuple[int, ...]:
    """Number of outputs of each router that the model owns."""
    match config.routing:
        case ExpertChoice(auxiliary=auxiliary):
            return (1,) * (config.recursion.count * (2 if auxiliary == "router" else 1))
        case TokenChoice():
            return (config.recursion.count,)
        case None:
            return ()


def _router_network(config: ModelConfig, outputs: int) -> int:
    """Parameters of one router: linear D -> outputs, or D -> hidden -> outputs; a random one has none."""
    assert config.routing is not None
    kind = config.routing.router
    if kind == "random":
        return 0
    if kind == "linear":
        return config.d_model * outputs
    return ROUTER_EXPANSION[kind] * config.d_model * (config.d_model + outputs)


def embedding_params(config: ModelConfig) -> int:
    """Parameters of the embedding, which is also the LM head."""
    return config.vocab_size * config.d_model


def unique_params(config: Model) -> int:
    """N: parameters that exist, without the embedding."""
    if isinstance(config, OwnModel):
        return config.unique_params
    return config.num_unique_layers * layer_params(config) + config.d_model + router_params(config)


def unrolled_params(config: Model) -> int:
    """Non-embedding parameters, each layer counted once per application."""
    if isinstance(config, OwnModel):
        return config.unrolled_params
    return config.num_layers * layer_params(config) + config.d_model + router_params(config)


def total_params(config: Model) -> int:
    """Parameters that exist, embedding included: the size of a checkpoint's weights."""
    if isinstance(config, OwnModel):
        return config.total_params
    return unique_params(config) + embedding_params(config)


@dataclass(frozen=True, kw_only=True)
class KeyValueLayout:
    """How many layers' keys and values a generated token leaves behind (paper, Table 2)."""

    unshared: int
    """Layers outside the shared block: each keeps every token."""
    block: int
    """Layers of keys and values that one pass through the block writes for each token that it computes."""
    passes: int
    """Passes that write keys and values: under shared keys only the first does."""

    def layers(self, mean_passes: Fraction | float) -> Fraction | float:
        """Layers of keys and values per token where a token goes through that many passes on average."""
        return self.unshared + self.block * (mean_passes if self.passes > 1 else 1)


def kv_layout(config: ModelConfig) -> KeyValueLayout:
    """What inference must keep. A model that repeats single layers (sequence sharing) has one pass of them all."""
    recursion, unshared = config.recursion, config.num_unshared_layers
    if not recursion.sharing.endswith("cycle"):
        applications = config.block_depth if recursion.kv == "shared" else config.num_layers - unshared
        return KeyValueLayout(unshared=unshared, block=applications, passes=1)
    passes = 1 if recursion.kv == "shared" else recursion.count
    return KeyValueLayout(unshared=unshared, block=config.block_depth, passes=passes)


def evaluated_flops(config: Model, length: int, work: Sequence["RecursionWork"]) -> Fraction:
    """Exact forward FLOPs of one sequence of `length` tokens as it was evaluated. Of an own model, which no work is
    known of, a share of a full-length sequence's."""
    if isinstance(config, OwnModel):
        return Fraction(config.forward_flops * length, config.context_length)
    return forward_flops(config, length, work)


def kv_bytes_per_token(config: ModelConfig, bytes_per_number: int, mean_depth: float | None = None) -> float:
    """Bytes of keys and values per token of a long sequence, at the planned capacities or at a measured mean depth."""
    depth = sum(config.capacities) if mean_depth is None else mean_depth
    return float(kv_layout(config).layers(depth)) * kv_bytes_per_layer(config, bytes_per_number)


def kv_bytes_read_per_token(
    config: ModelConfig, bytes_per_number: int, capacities: Sequence[Fraction | float] | None = None
) -> float:
    """Bytes of keys and values that a generated token reads, on average, for each token of its sequence.

    A share c_r of the tokens reaches recursion r. There it reads the keys and values of all tokens where later
    recursions see the whole prefix, and otherwise of those that got as far: c_r of them, which do not depend on it.

    Args:
        config: the model.
        bytes_per_number: 2 in bf16.
        capacities: c_r as measured; the planned ones by default.
    """
    shares = config.capacities if capacities is None else capacities
    own_kv = config.recursion.kv == "recursion-wise"
    passes = sum(share * (share if own_kv else 1) for share in shares)
    layers = config.num_unshared_layers + config.block_depth * passes
    return float(layers) * kv_bytes_per_layer(config, bytes_per_number)


def kv_bytes_per_layer(config: ModelConfig, bytes_per_number: int) -> int:
    """Bytes of one token's keys and values in one layer."""
    return 2 * config.num_kv_heads * config.d_head * bytes_per_number


@dataclass(frozen=True, kw_only=True)
class RecursionWork:
    """What one recursion computes of one sequence."""

    tokens: int
    """Tokens that go through the block."""
    pairs: Fraction | int
    """Query-key pairs of one layer."""


def planned_work(config: Model, length: int, tokens_per_recursion: Sequence[int]) -> tuple[RecursionWork, ...]:
    """The work of each recursion over a sequence of `length` tokens when recursion r computes tokens_per_recursion[r].

    With own keys the tokens attend among themselves; with shared ones each attends to its whole prefix, which is
    (length + 1) / 2 tokens on average where the selected lie evenly.
    """
    return tuple(
        RecursionWork(
            tokens=tokens,
            pairs=Fraction(tokens * (length + 1), 2)
            if index and config.recursion.kv != "recursion-wise"
            else tokens * (tokens + 1) // 2,
        )
        for index, tokens in enumerate(tokens_per_recursion)
    )


def forward_flops(config: ModelConfig, length: int, work: Sequence[RecursionWork]) -> Fraction:
    """Exact forward FLOPs of one sequence of `length` tokens, given the work of each recursion.

    Expert-choice routers score every token that reaches them: all at recursion 1, the survivors of r - 1 at r.
    """
    unshared_work = RecursionWork(tokens=length, pairs=length * (length + 1) // 2)
    unshared = config.num_unshared_layers * _layer_forward(config, unshared_work, own_kv=True)
    own_kv = config.recursion.kv != "shared"
    shared = config.block_depth * sum(
        _layer_forward(config, recursion_work, own_kv=own_kv or index == 0) for index, recursion_work in enumerate(work)
    )
    head = 2 * config.d_model * config.vocab_size * length
    return Fraction(unshared + shared + head + _routers_forward(config, length, work))


@dataclass(frozen=True, kw_only=True)
class TokenFlops:
    """Exact forward FLOPs by what is done to single tokens: `forward_flops` is a sum of these."""

    unshared_token: int
    """Of a token in all that is outside the block, but for the head. In a model of one pass that is all layers."""
    unshared_pair: int
    """Of a query with a key there."""
    block_token: tuple[int, ...]
    """Of a token in a pass through the block, at each recursion."""
    block_pair: int
    """Of a query with a key there."""
    head: int
    """Of a token's logits."""


def token_flops(config: ModelConfig) -> TokenFlops:
    """What one more token, and one more pair of a query and a key, add to `forward_flops`."""
    recursions = range(config.recursion.count)

    def of(length: int, tokens_at: int | None = None, pairs_at: int | None = None) -> int:
        work = [RecursionWork(tokens=int(i == tokens_at), pairs=int(i == pairs_at)) for i in recursions]
        return int(forward_flops(config, length, work))

    one, two = of(1), of(2)  # One token and one pair; two tokens and three pairs.
    head = 2 * config.d_model * config.vocab_size
    token, pair = 3 * one - two - head, two - 2 * one
    block_token, block_pair = [of(0, tokens_at=i) for i in recursions], of(0, pairs_at=0)
    if len(recursions) == 1 or not config.recursion.sharing.endswith("cycle"):
        token, pair = token + sum(block_token), pair + len(recursions) * block_pair
        block_token, block_pair = [], 0
    return TokenFlops(
        unshared_token=token, unshared_pair=pair, block_token=tuple(block_token), block_pair=block_pair, head=head
    )


def _layer_forward(config: ModelConfig, work: RecursionWork, *, own_kv: bool) -> Fraction | int:
    """Exact forward FLOPs of one layer."""
    matrices = layer_params(config) - 2 * config.d_model - (0 if own_kv else kv_params(config))
    return 2 * matrices * work.tokens + 4 * config.num_heads * config.d_head * work.pairs


def _routers_forward(config: ModelConfig, length: int, work: Sequence[RecursionWork]) -> int:
    outputs = _router_outputs(config)
    if isinstance(config.routing, TokenChoice):
        return 2 * length * _router_network(config, outputs[0])
    candidates = (length, *(recursion_work.tokens for recursion_work in work[:-1]))
    per_recursion = len(outputs) // config.recursion.count
    return sum(2 * tokens * per_recursion * _router_network(config, 1) for tokens in candidates) if outputs else 0


@lru_cache(maxsize=4096)  # A plan asks for the few models of its thousands of cells again and again.
def _exact_flops_per_token(config: ModelConfig) -> Fraction:
    length = config.context_length
    work = planned_work(config, length, config.tokens_per_recursion())
    return FORWARD_AND_BACKWARD * forward_flops(config, length, work) / length


def _paper_flops_per_token(config: ModelConfig) -> Fraction:
    """Paper appendix D: a layer at capacity c costs c (8 d^2 + 6 d d_ff) + c^2 2 T d; with the first recursion's keys
    and values c (4 d^2 + 6 d d_ff) + c 2 T d. The hybrid strategy, of which it says nothing, projects all four."""
    return _paper_at(config, config.capacities)


def _paper_at(config: ModelConfig, capacities: Sequence[Fraction]) -> Fraction:
    projections, mlp = 4 * config.d_model**2, 6 * config.d_model * config.d_ff
    attention = 2 * config.context_length * config.d_model
    shared = Fraction(0)
    for index, c in enumerate(capacities):
        own_kv = index == 0 or config.recursion.kv != "shared"
        whole_prefix = index > 0 and config.recursion.kv != "recursion-wise"
        shared += c * ((2 if own_kv else 1) * projections + mlp) + (c if whole_prefix else c**2) * attention
    return config.num_unshared_layers * Fraction(2 * projections + mlp + attention) + config.block_depth * shared


def training_flops_per_token(config: Model, convention: Convention) -> Fraction:
    """FLOPs to train on one token of a full-length sequence, in the named convention (see the module's text).

    After capacity warm-up, if there is one: `warmup_surplus` has what comes on top.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"FLOP convention {convention!r}: expected one of {', '.join(CONVENTIONS)}")
    if convention == "6nd":
        return Fraction(6 * unique_params(config))
    if isinstance(config, OwnModel):
        return Fraction(config.training_flops if convention == "exact" else config.forward_flops, config.context_length)
    return _exact_flops_per_token(config) if convention == "exact" else _paper_flops_per_token(config)


def warmup_surplus(config: Model, steps: int, convention: Convention) -> Fraction:
    """FLOPs per sequence of a step, summed over a run's first `steps` steps, that capacity warm-up adds: a run of S
    steps of B sequences costs B (S T training_flops_per_token + warmup_surplus). 0 without warm-up and under 6nd."""
    return _summed_surplus(config, min(steps, config.capacity_warmup_steps), convention)


@lru_cache(maxsize=4096)
def _summed_surplus(config: Model, steps: int, convention: Convention) -> Fraction:
    """The same for steps within the warm-up; kept, for the cells of a plan ask for the same few."""
    if convention == "6nd" or not steps or isinstance(config, OwnModel):
        return Fraction(0)
    length = config.context_length
    settled = training_flops_per_token(config, convention) * length
    surplus = Fraction(0)
    for step in range(steps):
        tokens = config.tokens_per_recursion(step=step)
        if convention == "paper":
            surplus += _paper_at(config, [Fraction(num_tokens, length) for num_tokens in tokens]) * length - settled
        else:
            surplus += FORWARD_AND_BACKWARD * forward_flops(config, length, planned_work(config, length, tokens))
            surplus -= settled
    return surplus


def training_flops(config: Model, tokens: int, convention: Convention) -> int:
    """FLOPs to train on `tokens` tokens at the settled capacities, rounded to a whole number."""
    return round(training_flops_per_token(config, convention) * tokens)


def nearest_steps(model: Model, batch_size: int, budget: int, convention: Convention) -> int:
    """The whole number of optimiser steps whose FLOPs come nearest to the budget."""
    unsettled = model.capacity_warmup_steps
    settled = training_flops_per_token(model, convention) * model.context_length
    steps = round((Fraction(budget, batch_size) - warmup_surplus(model, unsettled, convention)) / settled)
    if steps >= unsettled:
        return steps
    above = bisect_left(
        range(unsettled + 1), budget, key=lambda steps: training_cost(model, batch_size, steps, convention)
    )
    near = [steps for steps in (above - 1, above) if steps >= 0]
    return min(near, key=lambda steps: abs(training_cost(model, batch_size, steps, convention) - budget))


def training_cost(model: Model, batch_size: int, steps: int, convention: Convention) -> Fraction:
    """FLOPs of the first `steps` optimiser steps on batches of full-length sequences, capacity warm-up included."""
    settled = training_flops_per_token(model, convention) * model.context_length
    return batch_size * (steps * settled + warmup_surplus(model, steps, convention))
