"""Causal routing: each token alone goes on or stops, by its routers' logits.

Shapes: N tokens, D model width, R recursions.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config import CausalRule, ExpertChoice, TokenChoice
from mor_core.model.router import Router
from mor_core.model.transformer import Transformer


class ExpertRouters:
    """The routers of expert choice, asked about tokens that are at different recursions."""

    def __init__(self, model: Transformer, rule: CausalRule) -> None:
        routing = model.config.routing
        assert isinstance(routing, ExpertChoice)
        self.threshold_R = model.threshold_R if rule == "threshold" else torch.zeros_like(model.threshold_R)
        self._routers = [] if routing.router == "random" else list(cast(Sequence[Router], model.routers))
        self._deciders = list(cast(nn.ModuleList, model.aux_routers)) if hasattr(model, "aux_routers") else []
        is_linear = routing.router == "linear" and not self._deciders
        self._weight_RD = torch.cat([router.score.weight for router in self._routers]) if is_linear else None

    def logits(self, x_ND: Tensor) -> Tensor:
        """Of all routers, [N, R]. Only that of a token's next recursion means something: the others spare a look at the
        device."""
        if self._weight_RD is not None:
            return F.linear(x_ND.to(self._weight_RD.dtype), self._weight_RD)
        return torch.cat([router(x_ND[None])[0] for router in self._routers], dim=1)

    def decide(self, x_ND: Tensor, logits_NR: Tensor, recursion_N: Tensor) -> tuple[Tensor, Tensor]:
        """Whether tokens make this recursion, [N], and the logit that decided, [N, 1]: the routers' own, given, or that
        of others whose task it is. One that is no number lets nobody go on."""
        if self._deciders:
            logits_NR = torch.cat([router(x_ND[None])[0] for router in self._deciders], dim=1)
        # Tokens that have made the last recursion are asked about it again; whoever asks knows that they stop.
        recursion_N = recursion_N.clamp(max=logits_NR.shape[1] - 1)
        logit_N1 = logits_NR.gather(1, recursion_N.unsqueeze(1))
        return logit_N1.squeeze(1) >= self.threshold_R[recursion_N], logit_N1


def chosen_depths(
    model: Transformer, routing: TokenChoice, logits_NR: Tensor, max_depth: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Token choice: the last recursion of each token [N], what it multiplies the block's output by at each recursion
    and whether it adds the block's first input there [N, 2 R], and the probabilities of all depths [N, R]."""
    probabilities_NR = logits_NR.softmax(-1) if routing.activation == "softmax" else logits_NR.sigmoid()
    biased = routing.balancing == "loss-free"
    chosen_N1 = (probabilities_NR + model.selection_bias_R if biased else probabilities_NR).argmax(-1, True)
    last_N1 = chosen_N1.clamp(max=max_depth - 1)
    is_last_NR = last_N1 == torch.arange(logits_NR.shape[1], device=logits_NR.device)
    gates_NR = routing.alpha * probabilities_NR
    if routing.gating == "exit":
        gates_NR = gates_NR.where(is_last_NR, 1.0)
    return last_N1.squeeze(1), torch.cat((gates_NR, is_last_NR), dim=1), probabilities_NR
