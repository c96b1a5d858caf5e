"""The model family: vanilla, recursive and Mixture-of-Recursions transformers, built from one ModelConfig.

Shapes: B sequences, T tokens, J tokens that reached a recursion, K tokens that it computes, D model width, V
vocabulary, R recursions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mor_core.config.model import ExpertChoice, ModelConfig, TokenChoice
from mor_core.model.attention import compute_dtype, prefix_of
from mor_core.model.language_model import LanguageModel, Routed, RoutingRule
from mor_core.model.layers import KeySource, KeyValues, Layer, RMSNorm, rotary_table
from mor_core.model.router import (
    Router,
    Selection,
    balancing_loss,
    kth_highest,
    put_rows,
    random_logits,
    select_all,
    select_top_k,
    select_where,
    selection_loss,
    take_rows,
)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one forward pass gives."""

    logits_BTV: Tensor
    """Next-token logits."""
    routed: Routed | None
    """None where nothing is routed."""


class Transformer(LanguageModel[ModelConfig]):
    """Token ids to next-token logits.

    Everything that the sharing strategy ties is tied: attention, MLP and norms of a shared layer are one module,
    applied at several depths. (The first public release of the paper's code untied attention by accident; its commit
    82c97f2 of 2026-09-19 fixed that.) `threshold_R` is the running mean of the top-k cut-off of each recursion, in
    router-logit units (the auxiliary router's where there is one); recursion 1 takes every token and uses none.
    `selection_bias_R` is what loss-free balancing adds to token-choice logits before the arg-max. Both are saved with
    the weights.
    """

    threshold_R: Tensor
    threshold_updates: Tensor
    selection_bias_R: Tensor
    rotary_table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        """Execution: keep a layer's input only and compute the rest again in the backward pass."""
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_unique_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.register_buffer("rotary_table", rotary_table(config), persistent=False)
        self._add_routers()

    def _add_routers(self) -> None:
        routing, count, d_model = self.config.routing, self.config.recursion.count, self.config.d_model
        if routing is None:
            return
        expert = isinstance(routing, ExpertChoice)
        owners, outputs = (count, 1) if expert else (1, count)
        if routing.router != "random":
            self.routers = nn.ModuleList(Router(d_model, outputs, routing.router) for _ in range(owners))
        if expert and routing.auxiliary == "router" and routing.router != "random":
            self.aux_routers = nn.ModuleList(Router(d_model, 1, routing.router) for _ in range(count))
        if expert:
            self.register_buffer("threshold_R", torch.zeros(count))
            self.register_buffer("threshold_updates", torch.zeros((), dtype=torch.int64))
        elif routing.balancing == "loss-free":
            self.register_buffer("selection_bias_R", torch.zeros(count))

    @property
    def head_weight_VD(self) -> Tensor:
        """The embedding, which the head is tied to."""
        return self.embedding.weight

    def is_hidden(self, name: str) -> bool:
        """Of the layers."""
        return name.startswith("layers.")

    def apart_parameters(self) -> list[nn.Parameter]:
        """Those of auxiliary routers."""
        return list(self.aux_routers.parameters()) if hasattr(self, "aux_routers") else []

    def checkpoint_in_backward(self) -> None:
        """See LanguageModel."""
        self.checkpoint_activations = True

    def compile_for_training(self) -> None:
        """Send the model through torch.compile. Where every step has the same shapes, a CPU's model is compiled whole,
        since the calls of small operations weigh most there. Else it is each layer by itself: they share their code, so
        that is compiled once per shape, and what routing does between them stays as it is."""
        routing, on_cpu = self.config.routing, self.embedding.weight.device.type == "cpu"
        # How far shared keys are read depends on the chosen positions; a GPU's kernel reads that from a tensor.
        reads_prefixes = routing is not None and self.config.recursion.kv != "recursion-wise" and on_cpu
        changes = isinstance(routing, TokenChoice) or self.config.capacity_warmup_steps > 0 or reads_prefixes
        if on_cpu and not changes:
            self.encode = torch.compile(self.encode, dynamic=False)
            return
        for layer in self.layers:
            layer.compile(dynamic=changes)

    def forward(self, tokens_BT: Tensor, rule: RoutingRule = "top-k") -> Output:
        """Logits for every position; `rule` matters to expert choice only."""
        x_BTD, routed = self.encode(tokens_BT, rule)
        return Output(logits_BTV=F.linear(x_BTD, self.embedding.weight), routed=routed)

    def encode(
        self, tokens_BT: Tensor, rule: RoutingRule = "top-k", step: int | None = None
    ) -> tuple[Tensor, Routed | None]:
        """What the LM head reads, [B, T, D], and what routing did. `step` (from 0) is of use to capacity warm-up."""
        x_BTD = self.embedding(tokens_BT)
        routed = None
        match self.config.routing:
            case ExpertChoice() as routing:
                x_BTD, routed = self._expert_choice(x_BTD, tokens_BT, routing, rule, step)
            case TokenChoice() as routing:
                x_BTD, routed = self._token_choice(x_BTD, tokens_BT, routing)
            case None:
                x_BTD = self._fixed_depth(x_BTD)
        return self.norm(x_BTD), routed

    def _fixed_depth(self, x_BTD: Tensor) -> Tensor:
        rotary = self.rotary_prefix(x_BTD.shape[1])
        shares_kv = self.config.recursion.kv == "shared"
        first: dict[int, KeyValues] = {}
        for index in self.config.layer_map:
            source = KeySource(first[index], None, None, None) if index in first else None
            x_BTD, kv = self.run_layer(self.layers[index], x_BTD, rotary, source)
            if shares_kv:
                first.setdefault(index, kv)
        return x_BTD

    def _expert_choice(
        self, x_BTD: Tensor, tokens_BT: Tensor, routing: ExpertChoice, rule: RoutingRule, step: int | None
    ) -> tuple[Tensor, Routed]:
        """Equation 2.1 at every recursion; the tokens that are not selected keep what they had."""
        x_BTD = self._unshared(x_BTD, first=True)
        noise_BTR = random_logits(tokens_BT, self.config.recursion.count) if routing.router == "random" else None
        block = _Block(self, x_BTD.shape[1])
        x_BJD, selection = x_BTD, select_all(_positions(x_BTD), None)
        levels: list[tuple[Tensor, Selection]] = []
        losses, z_losses, cutoffs = [], [], []
        for recursion, k in enumerate(self.config.tokens_per_recursion(x_BTD.shape[1], step)):
            logits_BJ, judged_BJ = self._expert_logits(recursion, x_BJD, noise_BTR, selection)
            selection = self._select(recursion, rule, k, judged_BJ, logits_BJ, selection)
            levels.append((x_BJD, selection))
            if self.training:
                losses.append(selection_loss(judged_BJ, selection))
                z_losses.append(logits_BJ.square().mean())
            cutoffs.append(_cutoff(routing, judged_BJ, selection, k))
            x_BKD = take_rows(x_BJD, selection.chosen_BK)
            y_BKD = block(x_BKD, selection)
            if routing.gating == "weighted":
                y_BKD = gate(routing, selection.of(logits_BJ)).unsqueeze(-1).to(y_BKD.dtype) * y_BKD
            x_BJD = x_BKD + (y_BKD if selection.valid_BK is None else y_BKD * selection.valid_BK.unsqueeze(-1))
        x_BTD = self._unshared(_unwind(levels, x_BJD), first=False)
        aux_loss = _total(losses, x_BTD)
        # The auxiliary router has an optimiser group of its own, so its loss needs no weight.
        weight = routing.aux_loss_weight if routing.auxiliary == "loss" else 1.0
        return x_BTD, Routed(
            selections=tuple(selection for _, selection in levels),
            loss=weight * aux_loss + routing.z_loss_weight * _total(z_losses, x_BTD),
            aux_loss=aux_loss.detach(),
            statistics_R=torch.stack(cutoffs),
        )

    def _expert_logits(
        self, recursion: int, x_BJD: Tensor, noise_BTR: Tensor | None, reached: Selection
    ) -> tuple[Tensor, Tensor]:
        """The router's logits of the candidates, and those of whoever must tell selected tokens causally."""
        if noise_BTR is not None:
            logits_BJ = noise_BTR[..., recursion].gather(1, reached.positions_BK)
            return logits_BJ, logits_BJ
        logits_BJ = self.routers[recursion](x_BJD).squeeze(-1)
        if not hasattr(self, "aux_routers"):
            return logits_BJ, logits_BJ
        return logits_BJ, self.aux_routers[recursion](x_BJD.detach()).squeeze(-1)

    def _select(
        self, recursion: int, rule: RoutingRule, k: int, judged_BJ: Tensor, logits_BJ: Tensor, reached: Selection
    ) -> Selection:
        if recursion == 0:
            return select_all(reached.positions_BK, reached.valid_BK)
        if rule == "top-k":
            return select_top_k(logits_BJ, reached.positions_BK, k)
        threshold = self.threshold_R[recursion] if rule == "threshold" else 0.0
        return select_where(judged_BJ >= threshold, reached.positions_BK, reached.valid_BK)

    def _token_choice(self, x_BTD: Tensor, tokens_BT: Tensor, routing: TokenChoice) -> tuple[Tensor, Routed]:
        """Equation 2.2: every token goes through the block as often as its router says, at the block's entry."""
        count = self.config.recursion.count
        x_BTD = self._unshared(x_BTD, first=True)
        logits_BTR = random_logits(tokens_BT, count) if routing.router == "random" else self.routers[0](x_BTD)
        probabilities_BTR = logits_BTR.softmax(-1) if routing.activation == "softmax" else logits_BTR.sigmoid()
        biased = routing.balancing == "loss-free"
        depth_BT = (probabilities_BTR + self.selection_bias_R if biased else probabilities_BTR).argmax(dim=-1)
        block = _Block(self, x_BTD.shape[1])
        levels: list[tuple[Tensor, Selection]] = []
        x_BJD, entry_BJD, depth_BJ = x_BTD, x_BTD, depth_BT
        gate_BJR = (routing.alpha * probabilities_BTR).to(x_BTD.dtype)
        reached = select_all(_positions(x_BTD), None)
        for recursion in range(count):
            if recursion > 0:
                reached = select_where(depth_BJ >= recursion, reached.positions_BK, reached.valid_BK)
            levels.append((x_BJD, reached))
            x_BKD, entry_BJD, gate_BJR = (
                take_rows(rows_BJX, reached.chosen_BK) for rows_BJX in (x_BJD, entry_BJD, gate_BJR)
            )
            depth_BJ = reached.of(depth_BJ)
            y_BKD = block(x_BKD, reached)
            gated_BKD = gate_BJR[..., recursion : recursion + 1] * y_BKD
            passed_BKD = gated_BKD if routing.gating == "per-step" else y_BKD
            y_BKD = torch.where((depth_BJ == recursion).unsqueeze(-1), gated_BKD + entry_BJD, passed_BKD)
            x_BJD = y_BKD if reached.valid_BK is None else torch.where(reached.valid_BK.unsqueeze(-1), y_BKD, x_BKD)
        x_BTD = self._unshared(_unwind(levels, x_BJD), first=False)
        balancing = balancing_loss(probabilities_BTR, depth_BT)
        loss = routing.z_loss_weight * logits_BTR.logsumexp(-1).square().mean()
        if routing.balancing == "loss":
            loss = loss + routing.balancing_loss_weight * balancing
        load_R = F.one_hot(depth_BT, count).float().mean(dim=(0, 1))
        selections = tuple(selection for _, selection in levels)
        return x_BTD, Routed(selections=selections, loss=loss, aux_loss=balancing.detach(), statistics_R=load_R)

    def _unshared(self, x_BTD: Tensor, *, first: bool) -> Tensor:
        """The layers before or after the shared block, over every token."""
        edge = self.config.num_unshared_layers // 2
        rotary = self.rotary_prefix(x_BTD.shape[1])
        for layer in self.layers[:edge] if first else self.layers[len(self.layers) - edge :]:
            x_BTD, _ = self.run_layer(layer, x_BTD, rotary, None)
        return x_BTD

    def run_layer(
        self, layer: nn.Module, x_BKD: Tensor, rotary: tuple[Tensor, Tensor], source: KeySource | None
    ) -> tuple[Tensor, KeyValues]:
        if self.checkpoint_activations and self.training:
            return checkpoint(layer, x_BKD, rotary, source, use_reentrant=False)  # pyright: ignore
        return layer(x_BKD, rotary, source)

    def rotary_prefix(self, length: int) -> tuple[Tensor, Tensor]:
        if length > self.config.context_length:
            raise ValueError(f"a sequence of {length} tokens: the model's context is {self.config.context_length}")
        cos, sin = self.rotary_table[:, None, :length, None]
        return cos, sin

    def rotary_at(self, positions_BK: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary_table[:, positions_BK].unsqueeze(-2)
        return cos, sin

    @torch.no_grad()
    def update_router_state(self, statistics_R: Tensor) -> None:
        """Let the routers' state follow one optimiser step, whose `Routed.statistics_R` over the global batch this is.

        Thresholds: a plain mean over the first 1 / (1 - decay) steps, an exponential one after, since scores drift
        while routers learn. Selection bias: a step of fixed size towards an even load (Wang et al. 2024, arXiv
        2408.15664). The released code does not average loads over workers; a global batch does.
        """
        match self.config.routing:
            case ExpertChoice(threshold_decay=decay):
                updates = self.threshold_updates + 1
                weight = torch.maximum(1.0 / updates, torch.tensor(1 - decay)).to(self.threshold_R)
                self.threshold_R.lerp_(statistics_R.to(self.threshold_R), weight)
                self.threshold_updates += 1
            case TokenChoice(balancing="loss-free", bias_update_rate=rate):
                self.selection_bias_R += rate * (statistics_R.mean() - statistics_R).sign()
            case _:
                pass


class _Block:
    """The shared block with its own residual stream, f in equations 2.1 and 2.2, and the keys that it remembers."""

    def __init__(self, model: Transformer, length: int) -> None:
        config = model.config
        edge = config.num_unshared_layers // 2
        self.model, self.length, self.kv = model, length, config.recursion.kv
        self.layers = list(model.layers[edge : edge + config.block_depth])
        self.first: list[KeyValues] = []

    def __call__(self, x_BKD: Tensor, selection: Selection) -> Tensor:
        """One application; the first must be of every token."""
        later = bool(self.first)
        whole = selection.valid_BK is None and x_BKD.shape[1] == self.length
        positions_BK = selection.positions_BK
        rotary = self.model.rotary_prefix(self.length) if whole else self.model.rotary_at(positions_BK)
        prefix = None
        if later and not whole:
            prefix = prefix_of(positions_BK, self.length, self.model.config.d_head, compute_dtype(x_BKD))
        refresh_BK = positions_BK if self.kv == "hybrid" else None
        for index, layer in enumerate(self.layers):
            source = KeySource(self.first[index], prefix, refresh_BK, selection.valid_BK) if later else None
            x_BKD, kv = self.model.run_layer(layer, x_BKD, rotary, source)
            if not later and self.kv != "recursion-wise":
                self.first.append(kv)
        return x_BKD


def _positions(x_BTD: Tensor) -> Tensor:
    return torch.arange(x_BTD.shape[1], device=x_BTD.device).expand(x_BTD.shape[:2])


def gate(routing: ExpertChoice, logits_BK: Tensor) -> Tensor:
    """alpha * activation(logit), what equation 2.1 weights a block's output with."""
    return routing.alpha * activated(routing, logits_BK)


def activated(routing: ExpertChoice, logits_BK: Tensor) -> Tensor:
    """The gate without its scale."""
    match routing.activation:
        case "sigmoid":
            return logits_BK.sigmoid()
        case "tanh":
            return logits_BK.tanh()
        case "none":
            return logits_BK


def _cutoff(routing: ExpertChoice, judged_BJ: Tensor, selection: Selection, k: int) -> Tensor:
    """Mean over sequences of the cut-off that a threshold stands in for; 0 where there was none."""
    if selection.cutoff_B is None:
        return judged_BJ.new_zeros(())
    return (kth_highest(judged_BJ, k) if routing.auxiliary == "router" else selection.cutoff_B).mean()


def _unwind(levels: list[tuple[Tensor, Selection]], x_BKD: Tensor) -> Tensor:
    """Put the tokens of the last recursion back among those of the one before, and so on up to the whole sequence."""
    for before_BJD, selection in reversed(levels):
        x_BKD = put_rows(before_BJD, selection.chosen_BK, x_BKD)
    return x_BKD


def _total(losses: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(losses).sum() if losses else torch.zeros((), device=like.device)


def build_model(config: ModelConfig, seed: int, device: torch.device | str = "cpu") -> Transformer:
    """A new model whose weights are a pure function of (config, seed): every matrix ~ N(0, init_std), norms 1.

    The matrices that write into the residual stream are as `output_init` says.

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
    if config.output_init == "depth-scaled":
        for layer in cast(Iterable[Layer], model.layers):
            for output in (layer.attention.out, layer.mlp.down):
                output.weight.data.mul_((2 * config.num_layers) ** -0.5)
    for name, buffer in model.named_buffers():
        if name != "rotary_table":
            buffer.zero_()
    return model.to(device)
