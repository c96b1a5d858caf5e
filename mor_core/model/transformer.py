"""The model family: vanilla, recursive and Mixture-of-Recursions transformers, built from one ModelConfig.

Shapes: B sequences, T tokens, K tokens that a recursion computes, D model width, V vocabulary, R recursions.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config import ModelConfig
from mor_core.model.layers import Layer, RMSNorm, rotary_table
from mor_core.model.router import Router, Selection, select_above, select_all, select_top_k

RoutingRule = Literal["top-k", "threshold"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one forward pass gives."""

    logits_BTV: Tensor
    """Next-token logits."""
    selections: tuple[Selection, ...]
    """One per recursion of a routed model, else empty."""

    @property
    def aux_loss(self) -> Tensor:
        """Sum over recursions of the routers' cross-entropy (paper, Table 13: "AuxLoss"); a scalar."""
        return sum((selection.aux_loss for selection in self.selections), self.logits_BTV.new_zeros(()))


class Transformer(nn.Module):
    """Token ids to next-token logits.

    Everything that the sharing strategy ties is tied: attention, MLP and norms of a shared layer are one module,
    applied at several depths. (The first public release of the paper's code untied attention by accident.)
    `threshold_R` is the running mean of the top-k cut-off of each recursion, in router-logit units; it is saved with
    the weights, and causal evaluation compares against it. Recursion 1 takes every token and uses none.
    """

    threshold_R: Tensor
    threshold_updates: Tensor
    rotary_table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_unique_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.register_buffer("rotary_table", rotary_table(config), persistent=False)
        if config.routing is not None:
            self.routers = nn.ModuleList(Router(config.d_model) for _ in range(config.recursion.count))
            self.register_buffer("threshold_R", torch.zeros(config.recursion.count))
            self.register_buffer("threshold_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens_BT: Tensor, rule: RoutingRule = "top-k") -> Output:
        """Logits for every position; `rule` says how a routed model chooses tokens (others ignore it).

        top-k is the paper's training and evaluation rule; threshold is causal, and is what inference can do.
        """
        x_BTD = self.embedding(tokens_BT)
        selections: tuple[Selection, ...] = ()
        if self.config.routing is None:
            rotary = self._rotary_prefix(tokens_BT.shape[1])
            for layer in self.config.layer_map:
                x_BTD = self.layers[layer](x_BTD, rotary)
        else:
            x_BTD, selections = self._routed(x_BTD, rule)
        return Output(logits_BTV=F.linear(self.norm(x_BTD), self.embedding.weight), selections=selections)

    def _routed(self, x_BTD: Tensor, rule: RoutingRule) -> tuple[Tensor, tuple[Selection, ...]]:
        """The unshared first layer, the recursions over ever fewer tokens, the unshared last layer."""
        length = x_BTD.shape[1]
        edge = self.config.num_unshared_layers // 2
        prefix = self._rotary_prefix(length)
        for layer in self.layers[:edge]:
            x_BTD = layer(x_BTD, prefix)
        positions_BK = torch.arange(length, device=x_BTD.device).expand(x_BTD.shape[0], length)
        valid_BK: Tensor | None = None
        selections: list[Selection] = []
        for recursion, k in enumerate(self.config.tokens_per_recursion(length)):
            candidates_BJD = x_BTD if recursion == 0 else _gather(x_BTD, positions_BK)
            logits_BJ = self.routers[recursion](candidates_BJD)
            if recursion == 0:
                selection = select_all(logits_BJ, positions_BK, valid_BK)
            elif rule == "top-k":
                selection = select_top_k(logits_BJ, positions_BK, k)
            else:
                selection = select_above(logits_BJ, positions_BK, valid_BK, self.threshold_R[recursion])
            x_BTD = self._recur(x_BTD, selection)
            positions_BK, valid_BK = selection.positions_BK, selection.valid_BK
            selections.append(selection)
        for layer in self.layers[len(self.layers) - edge :]:
            x_BTD = layer(x_BTD, prefix)
        return x_BTD, tuple(selections)

    def _recur(self, x_BTD: Tensor, selection: Selection) -> Tensor:
        """H <- H + alpha sigmoid(logit) f(H) for the selected tokens, f being the whole shared block with its own
        residual stream (equation 2.1); the others keep H."""
        assert self.config.routing is not None
        edge = self.config.num_unshared_layers // 2
        whole = selection.valid_BK is None and selection.positions_BK.shape[1] == x_BTD.shape[1]
        rotary = self._rotary_prefix(x_BTD.shape[1]) if whole else self._rotary_at(selection.positions_BK)
        x_BKD = x_BTD if whole else _gather(x_BTD, selection.positions_BK)
        y_BKD = x_BKD
        for layer in self.layers[edge : edge + self.config.block_depth]:
            y_BKD = layer(y_BKD, rotary)
        gate_BK = self.config.routing.alpha * selection.logits_BK.sigmoid()
        if selection.valid_BK is not None:
            gate_BK = gate_BK * selection.valid_BK
        updated_BKD = x_BKD + gate_BK.unsqueeze(-1).to(x_BKD.dtype) * y_BKD
        if whole:
            return updated_BKD
        # Positions are unique within a sequence (padding repeats none), so scatter has no order to depend on.
        return x_BTD.scatter(1, selection.positions_BK.unsqueeze(-1).expand_as(updated_BKD), updated_BKD)

    def _rotary_prefix(self, length: int) -> tuple[Tensor, Tensor]:
        if length > self.config.context_length:
            raise ValueError(f"a sequence of {length} tokens: the model's context is {self.config.context_length}")
        cos, sin = self.rotary_table[:, None, :length, None]
        return cos, sin

    def _rotary_at(self, positions_BK: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary_table[:, positions_BK].unsqueeze(-2)
        return cos, sin

    @torch.no_grad()
    def update_thresholds(self, cutoff_R: Tensor) -> None:
        """Move the running mean towards one optimiser step's mean cut-off per recursion.

        A plain mean over the first 1 / (1 - decay) steps, an exponential one after: scores drift while routers learn.
        """
        assert self.config.routing is not None
        weight = torch.maximum(
            1.0 / (self.threshold_updates + 1), torch.tensor(1 - self.config.routing.threshold_decay)
        ).to(self.threshold_R)
        self.threshold_R.lerp_(cutoff_R.to(self.threshold_R), weight)
        self.threshold_updates += 1


def _gather(x_BTD: Tensor, positions_BK: Tensor) -> Tensor:
    """x at the given positions, [B, K, D]."""
    return x_BTD.gather(1, positions_BK.unsqueeze(-1).expand(-1, -1, x_BTD.shape[-1]))


def build_model(config: ModelConfig, seed: int, device: torch.device | str = "cpu") -> Transformer:
    """A new model whose weights are a pure function of (config, seed): every matrix ~ N(0, init_std), norms 1.

    Weights are drawn on the CPU, so that a seed means the same model on every device.
    """
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to_empty(device="cpu")
    model.rotary_table = rotary_table(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, 0.0, config.init_std, generator=generator)
        else:
            nn.init.ones_(parameter)
    if config.routing is not None:
        model.threshold_R.zero_()
        model.threshold_updates.zero_()
    return model.to(device)
