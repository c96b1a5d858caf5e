"""The model family written out: one sequence, dense masks, nothing packed or fused. What the real code must equal.

Shapes: T tokens, D model width, H query heads, G key and value heads, C head width. Everything in fp64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mor_core.config.model import ExpertChoice, TokenChoice
from mor_core.model.layers import Layer
from mor_core.model.router import random_logits
from mor_core.model.transformer import Transformer


def rms_norm(x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    return x_TD / (x_TD.square().mean(-1, keepdim=True) + eps).sqrt() * gain_D


def rope(x_THC: Tensor, theta: float) -> Tensor:
    """Rotation as multiplication by exp(i position frequency), pairs being (i, i + C/2)."""
    length, _, width = x_THC.shape
    half = width // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) * 2 / width)
    # The model keeps its table in fp32.
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    turn = torch.complex(angles.cos().float().double(), angles.sin().float().double())
    turned = torch.complex(x_THC[..., :half], x_THC[..., half:]) * turn[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)


@dataclass
class Dense:
    """Runs one sequence through a model. `chosen` records the tokens of each recursion."""

    model: Transformer

    def __post_init__(self) -> None:
        self.chosen: list[set[int]] = []
        self.first: dict[int, tuple[Tensor, Tensor]] = {}

    def logits(self, tokens_T: Tensor, rule: str = "top-k") -> Tensor:
        model, config = self.model, self.model.config
        x_TD = model.embedding.weight[tokens_T]
        match config.routing:
            case None:
                for index in config.layer_map:
                    x_TD = self.layer(index, x_TD, set(range(len(tokens_T))))
            case ExpertChoice():
                x_TD = self.expert_choice(x_TD, tokens_T, rule)
            case TokenChoice():
                x_TD = self.token_choice(x_TD, tokens_T)
        return rms_norm(x_TD, model.norm.weight, config.norm_eps) @ model.embedding.weight.T

    def layer(self, index: int, x_TD: Tensor, tokens: set[int]) -> Tensor:
        """A layer for every token; only the rows of `tokens` mean anything, and only those are keys of their own."""
        config = self.model.config
        layer = self.model.layers[index]
        assert isinstance(layer, Layer)
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.d_head
        normed_TD = rms_norm(x_TD, layer.attention_norm.weight, config.norm_eps)
        q, k, v = layer.attention.qkv.weight.split((heads * width, kv_heads * width, kv_heads * width))
        q_THC = rope((normed_TD @ q.T).unflatten(-1, (heads, width)), config.rope_theta)
        k_TGC = rope((normed_TD @ k.T).unflatten(-1, (kv_heads, width)), config.rope_theta)
        v_TGC = (normed_TD @ v.T).unflatten(-1, (kv_heads, width))
        keys = tokens
        if config.recursion.kv != "recursion-wise" and config.layer_map.count(index) > 1:
            keys = set(range(len(x_TD)))
            first = self.first.setdefault(index, (k_TGC, v_TGC))
            fresh = torch.tensor([t in tokens and config.recursion.kv == "hybrid" for t in keys])[:, None, None]
            k_TGC, v_TGC = torch.where(fresh, k_TGC, first[0]), torch.where(fresh, v_TGC, first[1])
        is_key_T = torch.tensor([t in keys for t in range(len(x_TD))])
        mask_TT = torch.ones(len(x_TD), len(x_TD), dtype=torch.bool).tril() & is_key_T
        spread = heads // kv_heads
        scores_HTT = torch.einsum("qhc,khc->hqk", q_THC, k_TGC.repeat_interleave(spread, 1)) / width**0.5
        # A row that may see no key is the row of a token outside `tokens`: whatever it holds is not used.
        weights_HTT = scores_HTT.masked_fill(~mask_TT, -torch.inf).softmax(-1).nan_to_num()
        y_THC = torch.einsum("hqk,khc->qhc", weights_HTT, v_TGC.repeat_interleave(spread, 1))
        x_TD = x_TD + y_THC.flatten(1) @ layer.attention.out.weight.T
        normed_TD = rms_norm(x_TD, layer.mlp_norm.weight, config.norm_eps)
        gate, up = layer.mlp.gate_up.weight.chunk(2)
        hidden = torch.nn.functional.silu(normed_TD @ gate.T) * (normed_TD @ up.T)
        return x_TD + hidden @ layer.mlp.down.weight.T

    def block(self, x_TD: Tensor, tokens: set[int]) -> Tensor:
        edge = self.model.config.num_unshared_layers // 2
        for index in range(edge, edge + self.model.config.block_depth):
            x_TD = self.layer(index, x_TD, tokens)
        return x_TD

    def around(self, x_TD: Tensor, *, first: bool) -> Tensor:
        if self.model.config.num_unshared_layers:
            x_TD = self.layer(0 if first else len(self.model.layers) - 1, x_TD, set(range(len(x_TD))))
        return x_TD

    def scores(self, x_TD: Tensor, routers: torch.nn.ModuleList, index: int) -> Tensor:
        router = routers[index]
        hidden = x_TD if router.hidden is None else torch.nn.functional.gelu(x_TD @ router.hidden.weight.T)
        return hidden @ router.score.weight.T

    def expert_choice(self, x_TD: Tensor, tokens_T: Tensor, rule: str) -> Tensor:
        """Equation 2.1."""
        model, config = self.model, self.model.config
        routing = config.routing
        assert isinstance(routing, ExpertChoice)
        x_TD = self.around(x_TD, first=True)
        reached = set(range(len(x_TD)))
        for recursion, capacity in enumerate(config.capacities):
            if routing.router == "random":
                logits_T = random_logits(tokens_T[None], config.recursion.count)[0, :, recursion].double()
            else:
                logits_T = self.scores(x_TD, model.routers, recursion)[:, 0]
            judged_T = logits_T
            if routing.auxiliary == "router" and routing.router != "random":
                judged_T = self.scores(x_TD, model.aux_routers, recursion)[:, 0]
            if recursion > 0 and rule == "top-k":
                k = max(1, int(capacity * len(x_TD)))
                reached = set(sorted(reached, key=lambda t: logits_T[t].item(), reverse=True)[:k])
            elif recursion > 0:
                threshold = float(model.threshold_R[recursion]) if rule == "threshold" else 0.0
                reached = {t for t in reached if judged_T[t].item() >= threshold}
            self.chosen.append(reached)
            y_TD = self.block(x_TD, reached)
            gates = {"sigmoid": logits_T.sigmoid(), "tanh": logits_T.tanh(), "none": logits_T}[routing.activation]
            new = x_TD.clone()
            for t in reached:
                gate = routing.alpha * gates[t] if routing.gating == "weighted" else 1.0
                new[t] = x_TD[t] + gate * y_TD[t]
            x_TD = new
        return self.around(x_TD, first=False)

    def token_choice(self, x_TD: Tensor, tokens_T: Tensor) -> Tensor:
        """Equation 2.2, or the released code's gate at the exit alone."""
        model, config = self.model, self.model.config
        routing = config.routing
        assert isinstance(routing, TokenChoice)
        x_TD = self.around(x_TD, first=True)
        count = config.recursion.count
        if routing.router == "random":
            logits = random_logits(tokens_T[None], count)[0]
        else:
            logits = self.scores(x_TD, model.routers, 0)
        gates = logits.softmax(-1) if routing.activation == "softmax" else logits.sigmoid()
        bias = model.selection_bias_R if routing.balancing == "loss-free" else 0.0
        depth = (gates + bias).argmax(-1).tolist()
        entry = x_TD
        for recursion in range(count):
            active = {t for t in range(len(x_TD)) if depth[t] >= recursion}
            self.chosen.append(active)
            y_TD = self.block(x_TD, active)
            new = x_TD.clone()
            for t in active:
                gated = routing.alpha * gates[t, recursion] * y_TD[t]
                if depth[t] == recursion:
                    new[t] = gated + entry[t]
                else:
                    new[t] = gated if routing.gating == "per-step" else y_TD[t]
            x_TD = new
        return self.around(x_TD, first=False)
