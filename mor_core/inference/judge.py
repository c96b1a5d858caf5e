"""Expert choice at inference: each token alone goes on or stops, by its router's logit and a threshold.

Shapes: N tokens, D model width, R recursions.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config import ExpertChoice
from mor_core.inference.wave import Wave
from mor_core.model.router import Router
from mor_core.model.transformer import Transformer


class Judge:
    """The routers of a model, asked about tokens that are at different recursions."""

    def __init__(self, model: Transformer, rule: Literal["threshold", "half"]) -> None:
        routing = model.config.routing
        assert isinstance(routing, ExpertChoice)
        self.routers = model.routers if routing.router != "random" else None
        self.aux_routers = cast(nn.ModuleList, model.aux_routers) if hasattr(model, "aux_routers") else None
        count = model.config.recursion.count
        self.thresholds: list[float] = model.threshold_R.tolist() if rule == "threshold" else [0.0] * count
        self.is_linear = routing.router == "linear" and self.aux_routers is None
        if self.is_linear and self.routers is not None:
            self.weight_RD = torch.cat([cast(Router, each).score.weight for each in self.routers])

    def decide(self, waves: Sequence[Wave], x_ND: Tensor, max_depth: int, keep_scores: bool) -> None:
        """Set each wave's active tokens and their logits; x_ND holds the rows of those active so far."""
        # Waves at their last recursion are asked too, and ignored: it spares a look at the device.
        last = len(self.thresholds) - 1
        recursions = [min(wave.recursion, last) for wave in waves for _ in wave.active]
        logits, judged = self._logits(waves, x_ND, recursions)
        n = 0
        for wave in waves:
            stop = n + len(wave.active)
            self._part(wave, logits[n:stop], judged[n:stop], max_depth, keep_scores)
            n = stop

    def _part(self, wave: Wave, logits: list[float], judged: list[float], max_depth: int, keep_scores: bool) -> None:
        if wave.recursion == max_depth:
            wave.active, wave.logits = [], []
            return
        if keep_scores:
            for token, logit in zip(wave.active, judged, strict=True):
                wave.scores[token].append(logit)
        if wave.recursion > 0:
            threshold = self.thresholds[wave.recursion]
            wave.active = [token for token, logit in zip(wave.active, judged, strict=True) if logit >= threshold]
            logits = [own for own, logit in zip(logits, judged, strict=True) if logit >= threshold]
        wave.logits = logits

    def _logits(
        self, waves: Sequence[Wave], x_ND: Tensor, recursions: Sequence[int]
    ) -> tuple[list[float], list[float]]:
        """The router's logits, and those of whoever decides."""
        if self.routers is None:
            scores_NR = torch.cat([wave.active_rows(wave.noise_NR) for wave in waves if wave.noise_NR is not None])
        elif self.is_linear:
            scores_NR = F.linear(x_ND.to(self.weight_RD.dtype), self.weight_RD)
        else:
            logits = _each(self.routers, x_ND, recursions)
            return logits, logits if self.aux_routers is None else _each(self.aux_routers, x_ND, recursions)
        logits = [scores[own] for scores, own in zip(scores_NR.tolist(), recursions, strict=True)]
        return logits, logits


def _each(routers: nn.ModuleList, x_ND: Tensor, recursions: Sequence[int]) -> list[float]:
    """Every token's logit by the router of its recursion."""
    recursion_N = torch.tensor(recursions, device=x_ND.device)
    logits_N = torch.empty(len(x_ND), dtype=cast(Router, routers[0]).score.weight.dtype, device=x_ND.device)
    for recursion, router in enumerate(routers):
        rows = (recursion_N == recursion).nonzero().squeeze(1)
        if len(rows):
            logits_N[rows] = router(x_ND[None, rows])[0, :, 0]
    return logits_N.tolist()
