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

    def decide(self, waves: Sequence[Wave], x_ND: Tensor, noise_NR: Tensor | None, keep_scores: bool) -> None:
        """Set each wave's active tokens and their logits. x_ND, and the logits that a random router drew, are of those
        that were active so far."""
        # Waves at their last recursion are asked too, and ignored: it spares a look at the device.
        last = len(self.thresholds) - 1
        recursions = [min(wave.recursion, last) for wave in waves for _ in wave.active]
        logits, judged = self._logits(x_ND, noise_NR, recursions)
        n = 0
        for wave in waves:
            stop = n + len(wave.active)
            if keep_scores and wave.recursion < self.max_depth:
                for token, logit in zip(wave.active, judged[n:stop], strict=True):
                    wave.scores[token].append(logit)
            # Whatever the logits are: every token makes the first recursion, and none goes on after the deepest.
            if wave.recursion == self.max_depth:
                going = range(0)
            elif wave.recursion == 0:
                going = range(n, stop)
            else:
                threshold = self.thresholds[wave.recursion]
                going = [i for i in range(n, stop) if judged[i] >= threshold]
            if len(going) < len(wave.active):
                wave.active = [wave.active[i - n] for i in going]
            wave.logits = [logits[i] for i in going]
            n = stop

    def _logits(
        self, x_ND: Tensor, noise_NR: Tensor | None, recursions: Sequence[int]
    ) -> tuple[list[float], list[float]]:
        """The router's logits, and those of whoever decides."""
        if self.routers is None:
            assert noise_NR is not None
            scores_NR = noise_NR
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
