"""Expert choice at inference: each token alone goes on or stops, by its router's logit and a threshold.

Shapes: N tokens, D model width, R recursions.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config import ExpertChoice
from mor_core.inference.in_flight import Wave
from mor_core.model.router import Router
from mor_core.model.transformer import Transformer


class Judge:
    """The routers of a model, asked about tokens that are at different recursions; random ones, whose logits are known
    from the beginning, are only compared with thresholds here."""

    def __init__(self, model: Transformer, rule: Literal["threshold", "half"], max_depth: int) -> None:
        routing = model.config.routing
        assert isinstance(routing, ExpertChoice)
        self.routers = model.routers if routing.router != "random" else None
        self.aux_routers = cast(nn.ModuleList, model.aux_routers) if hasattr(model, "aux_routers") else None
        count = model.config.recursion.count
        self.thresholds: list[float] = model.threshold_R.tolist() if rule == "threshold" else [0.0] * count
        self.max_depth = max_depth
        self.is_linear = routing.router == "linear" and self.aux_routers is None
        if self.is_linear and self.routers is not None:
            self.weight_RD = torch.cat([cast(Router, each).score.weight for each in self.routers])

    def scores(self, x_ND: Tensor, made_N: Tensor | None) -> Tensor:
        """The routers' logits of tokens that have made a recursion, or none so far, [N, R], or [N, 2 R] where others
        decide, whose logits come second. Only those of a token's next recursion mean something."""
        if self.is_linear:
            # The other recursions' too, and those of tokens that have made their last: it spares a look at the device.
            return F.linear(x_ND.to(self.weight_RD.dtype), self.weight_RD)
        assert self.routers is not None, "random routers' logits do not come from here"
        scores_NR = _each(self.routers, x_ND, made_N)
        if self.aux_routers is None:
            return scores_NR
        return torch.cat((scores_NR, _each(self.aux_routers, x_ND, made_N)), dim=1)

    def decide(self, waves: Sequence[Wave], scores_NR: Sequence[Sequence[float]], keep_scores: bool) -> None:
        """Set each wave's active tokens. The scores are of those that were active so far."""
        n = 0
        for wave in waves:
            start, n = n, n + len(wave.active)
            recursion = wave.recursion
            # Whatever the logits are: every token makes the first recursion, and none goes on after the deepest.
            if recursion == self.max_depth:
                wave.active = []
                continue
            # Counted from the end: the logits of whoever decides come last.
            own = recursion - len(self.thresholds)
            if n == start + 1 and recursion > 0 and not keep_scores:
                if not scores_NR[start][own] >= self.thresholds[recursion]:
                    wave.active = []
                continue
            judged = [row[own] for row in scores_NR[start:n]]
            if keep_scores:
                for token, logit in zip(wave.active, judged, strict=True):
                    wave.scores[token].append(logit)
            if recursion > 0:
                threshold = self.thresholds[recursion]
                wave.active = [token for token, logit in zip(wave.active, judged, strict=True) if logit >= threshold]


def _each(routers: nn.ModuleList, x_ND: Tensor, made_N: Tensor | None) -> Tensor:
    """Every token's logit by the router of its next recursion, zeros elsewhere, [N, R]."""
    weight = cast(Router, routers[0]).score.weight
    scores_NR = torch.zeros(len(x_ND), len(routers), dtype=weight.dtype, device=x_ND.device)
    if made_N is None:
        scores_NR[:, :1] = routers[0](x_ND[None])[0]
        return scores_NR
    for recursion, router in enumerate(routers):
        rows = (made_N + 1 == recursion).nonzero().squeeze(1)
        if len(rows):
            scores_NR[rows, recursion] = router(x_ND[None, rows])[0, :, 0]
    return scores_NR
