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
        self.threshold_R = model.threshold_R if rule == "threshold" else torch.zeros_like(model.threshold_R)
        self.is_linear = routing.router == "linear" and self.aux_routers is None
        if self.is_linear and self.routers is not None:
            self.weight_RD = torch.cat([cast(Router, each).score.weight for each in self.routers])

    def decide(self, waves: Sequence[Wave], x_ND: Tensor, max_depth: int, keep_scores: bool) -> None:
        """Set each wave's active tokens and their logits; x_ND holds the rows of those active so far."""
        counts = [len(wave.active) for wave in waves]
        # Waves at their last recursion are asked too, and ignored: it spares a look at the device.
        last = len(self.threshold_R) - 1
        recursions = [min(wave.recursion, last) for wave, n in zip(waves, counts, strict=True) for _ in range(n)]
        recursion_N = torch.tensor(recursions, device=x_ND.device)
        logits_N, judged_N = self._logits(waves, x_ND, recursion_N)
        goes_on = (judged_N >= self.threshold_R[recursion_N]).tolist()
        judged = judged_N.tolist() if keep_scores else []
        n = 0
        for wave, count in zip(waves, counts, strict=True):
            self._part(wave, logits_N[n : n + count], goes_on[n : n + count], judged[n : n + count], max_depth)
            n += count

    def _part(self, wave: Wave, logits_A: Tensor, goes_on: list[bool], judged: list[float], max_depth: int) -> None:
        if wave.recursion == max_depth:
            wave.active = []
            return
        for token, logit in zip(wave.active, judged, strict=False):
            wave.scores[token].append(logit)
        if wave.recursion == 0 or all(goes_on):
            wave.logits_A = logits_A
            return
        kept = [i for i, on in enumerate(goes_on) if on]
        wave.active = [wave.active[i] for i in kept]
        wave.logits_A = logits_A[torch.tensor(kept, dtype=torch.int64, device=logits_A.device)] if kept else None

    def _logits(self, waves: Sequence[Wave], x_ND: Tensor, recursion_N: Tensor) -> tuple[Tensor, Tensor]:
        """The router's logits, and those of whoever decides."""
        if self.routers is None:
            noise_NR = torch.cat([wave.active_rows(wave.noise_NR) for wave in waves if wave.noise_NR is not None])
            logits_N = noise_NR.gather(1, recursion_N.unsqueeze(1)).squeeze(1)
            return logits_N, logits_N
        if self.is_linear:
            logits_NR = F.linear(x_ND.to(self.weight_RD.dtype), self.weight_RD)
            logits_N = logits_NR.gather(1, recursion_N.unsqueeze(1)).squeeze(1)
            return logits_N, logits_N
        logits_N = _each(self.routers, x_ND, recursion_N)
        return logits_N, logits_N if self.aux_routers is None else _each(self.aux_routers, x_ND, recursion_N)


def _each(routers: nn.ModuleList, x_ND: Tensor, recursion_N: Tensor) -> Tensor:
    """Every token's logit by the router of its recursion."""
    logits_N = torch.empty(len(x_ND), dtype=cast(Router, routers[0]).score.weight.dtype, device=x_ND.device)
    for recursion, router in enumerate(routers):
        rows = (recursion_N == recursion).nonzero().squeeze(1)
        if len(rows):
            logits_N[rows] = router(x_ND[None, rows])[0, :, 0]
    return logits_N
