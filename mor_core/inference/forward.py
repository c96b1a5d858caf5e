"""The forward pass cut into stages at the places where tokens may leave: what the device does.

Decoding knows two stages: a pass through the block, and what lies between a token's last pass and the next token's
first: last layers, head, choosing the next token, its embedding and first layers. The block's weights are the same at
every depth, so tokens that are at different recursions share its matrix products. A model whose layers repeat one by
one (sequence sharing) or not at all has no block: all of its layers are first ones. Prefill goes through the same
stages, every recursion by the tokens of the prompts that reach it.

Routing is causal: each token alone goes on or stops, by its routers' logits. Each stage is a function of numbers, which
asks the host nothing: so a GPU can record it once and repeat it for other numbers.

Shapes: N tokens of one run, E those that leave, M those that enter, Q rows of what tokens carry, D model width, R
recursions, V vocabulary, T tokens of a context, B logits to choose from.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.config.model import CausalRule, ExpertChoice, TokenChoice
from mor_core.inference.cuda_graphs import Result
from mor_core.inference.kv_cache import KeyValueCache
from mor_core.inference.ragged import Part, applications, run_layers
from mor_core.model.router import Router, random_logits
from mor_core.model.transformer import Transformer, activated


def stacked(routers: Sequence[Router]) -> Callable[[Tensor], Tensor]:
    """Logits of all these routers at once, [N, R]. Of expert choice only that of a token's next recursion means
    something: the others spare a look at the device."""
    if any(router.hidden is not None for router in routers):
        return lambda x_ND: torch.cat([router(x_ND[None])[0] for router in routers], dim=1)
    weight_RD = torch.cat([router.score.weight for router in routers])
    return lambda x_ND: F.linear(x_ND.to(weight_RD.dtype), weight_RD)


class Forward:
    """The stages of a model over one cache, and what tokens carry from one to the next: a row for each."""

    def __init__(self, model: Transformer, cache: KeyValueCache, rule: CausalRule, max_depth: int, rows: int) -> None:
        self.model, self.cache, self.max_depth = model, cache, max_depth
        self.first, self.block, self.last = applications(model)
        self.routing, self.recursions, weight = (
            model.config.routing,
            model.config.recursion.count,
            model.embedding.weight,
        )
        self.is_random = self.routing is not None and self.routing.router == "random"
        self._logits, self._judge = (
            stacked(list(cast(Sequence[Router], getattr(model, name)))) if hasattr(model, name) else None
            for name in ("routers", "aux_routers")
        )
        self.x_QD = weight.new_zeros(rows, weight.shape[1])
        """The residual stream."""
        self.entry_QD = weight.new_zeros(rows if isinstance(self.routing, TokenChoice) else 0, weight.shape[1])
        """Token choice: the block's input at recursion 0."""
        width, dtype = 2 * self.recursions, weight.dtype
        if isinstance(self.routing, ExpertChoice):
            self.threshold_R = model.threshold_R if rule == "threshold" else torch.zeros_like(model.threshold_R)
            width, dtype = self.recursions, torch.float32 if self.is_random else self.threshold_R.dtype
        self.routed = weight.new_zeros((rows, width), dtype=dtype)
        """What routing said of each recursion: logits of expert choice [Q, R], of token choice gates and whether it is
        the last one [Q, 2 R]."""
        self.tokens_QT = torch.zeros_like(cache.tables_PT[: cache.sequences])
        """Of sequences: a random router's logits are a function of each token's prefix."""
        self.token_Q = self.tokens_QT[:, 0].clone()
        """The token of each sequence that was chosen last."""

    def next_tokens(self, parts: Sequence[Part]) -> Result:
        """Tokens' exit and the entry of the next. The answer is which were chosen, with the logits of all."""
        leaving, entering = parts
        tokens_E = logits_EV = None
        if leaving.shape.tokens:
            logits_EV = self.head(self.leave(leaving))
            draws_E4 = torch.stack(leaving.notes, dim=1).view(torch.float64) if leaving.notes else None
            tokens_E = choose(logits_EV, draws_E4)
            self.token_Q.index_copy_(0, leaving.rows, tokens_E)
        if entering.shape.tokens:
            given_M, chosen_M = entering.notes[0], self.token_Q.index_select(0, entering.rows)
            self.enter(entering, torch.where(given_M < 0, chosen_M, given_M))
        return Result(tokens_E, logits_EV)

    def enter(self, part: Part, tokens_N: Tensor) -> Tensor | None:
        """Embedding and first layers. Returns what routers say there: the probabilities of all depths, or of a prompt's
        tokens the logits that decide on the first recursion, which every token makes."""
        x_ND = F.embedding(tokens_N, self.model.embedding.weight)
        x_ND = run_layers(self.first, x_ND, part, self.model, self.cache, self.cache.unshared)
        self.x_QD.index_copy_(0, part.rows, x_ND)
        if self.routing is None:
            return None
        logits_NR = self._noise(tokens_N, part) if self._logits is None else self._logits(x_ND)
        if isinstance(self.routing, TokenChoice):
            return self._choose_depths(part.rows, x_ND, logits_NR, self.routing)
        self.routed.index_copy_(0, part.rows, logits_NR)
        return self._decided(x_ND, logits_NR, torch.zeros_like(part.rows)).details if part.shape.prompts else None

    def _choose_depths(self, rows_N: Tensor, x_ND: Tensor, logits_NR: Tensor, routing: TokenChoice) -> Tensor:
        """Token choice, equation 2.2: how often each token makes the block, and the gates of its outputs. Returns the
        probabilities of all depths."""
        model = self.model
        probabilities_NR = logits_NR.softmax(-1) if routing.activation == "softmax" else logits_NR.sigmoid()
        biased = routing.balancing == "loss-free"
        chosen_N1 = (probabilities_NR + model.selection_bias_R if biased else probabilities_NR).argmax(-1, True)
        last_N1 = chosen_N1.clamp(max=self.max_depth - 1)
        is_last_NR = last_N1 == torch.arange(self.recursions, device=rows_N.device)
        gates_NR = routing.alpha * probabilities_NR
        if routing.gating == "exit":
            gates_NR = gates_NR.where(is_last_NR, 1.0)
        self.entry_QD.index_copy_(0, rows_N, x_ND)
        self.routed.index_copy_(0, rows_N, torch.cat((gates_NR, is_last_NR), dim=1).to(x_ND.dtype))
        return probabilities_NR

    def pass_block(self, parts: Sequence[Part]) -> Result:
        """One pass through the block. The answer is whom routing lets go on, with the logits that decided."""
        (part,) = parts
        rows_N, (recursion_N,) = part.rows, part.notes
        if self.cache.is_hybrid:
            self.cache.name_in_later_passes(part.places, part.slots, recursion_N)
        x_ND = self.x_QD.index_select(0, rows_N)
        y_ND = run_layers(self.block, x_ND, part, self.model, self.cache, self.cache.block)
        match self.routing:
            case None:
                self.x_QD.index_copy_(0, rows_N, y_ND)
                return Result(None, None)
            case TokenChoice():
                gates_N1 = self.routed[rows_N, recursion_N].unsqueeze(1)
                is_last_N1 = self.routed[rows_N, recursion_N + self.recursions].unsqueeze(1)
                x_ND = torch.addcmul(gates_N1 * y_ND, is_last_N1, self.entry_QD.index_select(0, rows_N))
                self.x_QD.index_copy_(0, rows_N, x_ND)
                return Result(is_last_N1.squeeze(1) == 0, None)
            case ExpertChoice(gating="additive"):
                x_ND = x_ND + y_ND
            case ExpertChoice() as routing:
                gates_N1 = activated(routing, self.routed[rows_N, recursion_N].unsqueeze(1)).to(y_ND.dtype)
                x_ND = torch.addcmul(x_ND, gates_N1, y_ND, value=routing.alpha)
        self.x_QD.index_copy_(0, rows_N, x_ND)
        logits_NR = self.routed.index_select(0, rows_N) if self._logits is None else self._logits(x_ND)
        self.routed.index_copy_(0, rows_N, logits_NR)
        return self._decided(x_ND, logits_NR, recursion_N + 1)

    def _decided(self, x_ND: Tensor, logits_NR: Tensor, recursion_N: Tensor) -> Result:
        """Expert choice: whether tokens make this recursion, [N], and the logit that decided, [N, 1], which is the
        routers' own or that of others whose task it is. One that is no number lets nobody go on."""
        if self._judge is not None:
            logits_NR = self._judge(x_ND)
        # Tokens that have made the last recursion are asked about it again; whoever asks knows that they stop.
        recursion_N = recursion_N.clamp(max=self.recursions - 1)
        logit_N1 = logits_NR.gather(1, recursion_N.unsqueeze(1))
        return Result(logit_N1.squeeze(1) >= self.threshold_R[recursion_N], logit_N1)

    def leave(self, part: Part) -> Tensor:
        """Last layers."""
        x_ND = self.x_QD.index_select(0, part.rows)
        return run_layers(self.last, x_ND, part, self.model, self.cache, self.cache.unshared)

    def head(self, x_ND: Tensor) -> Tensor:
        """Logits, [N, V]."""
        return F.linear(self.model.norm(x_ND), self.model.embedding.weight)

    def _noise(self, tokens_N: Tensor, part: Part) -> Tensor:
        """A random router's logits, [N, R]."""
        count = self.recursions
        if part.shape.prompts:
            texts = [tokens_N[None, prompt.start : prompt.stop] for prompt in part.shape.prompts]
            return torch.cat([random_logits(text, count)[0] for text in texts])
        rows_N, positions_N = part.rows, part.positions
        self.tokens_QT.index_put_((rows_N, positions_N), tokens_N)
        prefixes = self.tokens_QT[:, : part.shape.longest].index_select(0, rows_N)
        return random_logits(prefixes, count)[torch.arange(len(rows_N), device=rows_N.device), positions_N]


def choose(logits_BV: Tensor, draws_B4: Tensor | None) -> Tensor:
    """One token for each request, [B]: the most likely one, or drawn, given settings (`draw_settings`) and a number in
    [0, 1) for each. A draw is the inverse of the cumulative distribution, tokens in order of falling probability."""
    if draws_B4 is None:
        return logits_BV.argmax(dim=-1)
    precise = torch.promote_types(logits_BV.dtype, torch.float32)
    temperature_B1, top_p_B1, top_k_B1, uniform_B1 = draws_B4.to(precise).split(1, dim=1)
    sorted_BV, order_BV = logits_BV.to(precise).sort(dim=-1, descending=True, stable=True)
    ranks_V = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    scaled_BV = (sorted_BV / temperature_B1).masked_fill(ranks_V >= top_k_B1, -torch.inf)
    probabilities_BV = scaled_BV.softmax(dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    probabilities_BV = probabilities_BV.masked_fill(before_BV >= top_p_B1, 0.0)
    # The most likely token stays whatever rounding does, so the sum is above 0.
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    last_B1 = (probabilities_BV > 0).sum(dim=-1, keepdim=True) - 1
    rank_B1 = torch.minimum(torch.searchsorted(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:], right=True), last_B1)
    return order_BV.gather(1, rank_B1).squeeze(1)
