"""Expert-choice routing: which tokens of each sequence go on to the next recursion.

Shapes: B sequences, J tokens that reached this recursion, K tokens that it selects. Positions are indices into the
original sequence, ascending, so that causal order survives packing. Source: Bae et al., arXiv 2507.10524v3, section
2.2.1 and equation 2.1; the threshold rule is the causal reading that the paper implies and its released code lacks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The tokens that one recursion computes."""

    positions_BK: Tensor
    """Their positions in the sequence, ascending; padding rows (valid_BK false) repeat unselected positions."""
    logits_BK: Tensor
    """Their router logits."""
    valid_BK: Tensor | None
    """False on padding; None where nothing is padded."""
    cutoff_B: Tensor | None
    """The smallest selected logit of each sequence (top-k only)."""
    aux_loss: Tensor
    """Mean over the J candidates of all sequences of BCE(logit, selected); a scalar, of use in training only."""


class Router(nn.Module):
    """One linear score per token, in fp32 under every precision: thresholds compare scores across batches."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.score = nn.Linear(d_model, 1, bias=False)

    def forward(self, x_BJD: Tensor) -> Tensor:
        """Router logits [B, J]."""
        with torch.autocast(x_BJD.device.type, enabled=False):
            return F.linear(x_BJD.to(self.score.weight.dtype), self.score.weight).squeeze(-1)


def select_all(logits_BJ: Tensor, positions_BJ: Tensor, valid_BJ: Tensor | None) -> Selection:
    """Every candidate goes on (capacity 1, always so at recursion 1); the target of the auxiliary loss is all ones."""
    return Selection(
        positions_BK=positions_BJ,
        logits_BK=logits_BJ,
        valid_BK=valid_BJ,
        cutoff_B=None,
        aux_loss=F.softplus(-logits_BJ).mean(),
    )


def select_top_k(logits_BJ: Tensor, positions_BJ: Tensor, k: int) -> Selection:
    """The k highest logits of each sequence. It compares a token with later ones, so it is not causal."""
    values_BK, chosen_BK = logits_BJ.topk(k, dim=1)
    chosen_BK = chosen_BK.sort(dim=1).values
    target_BJ = torch.zeros_like(logits_BJ).scatter(1, chosen_BK, 1.0)
    return Selection(
        positions_BK=positions_BJ.gather(1, chosen_BK),
        logits_BK=logits_BJ.gather(1, chosen_BK),
        valid_BK=None,
        cutoff_B=values_BK.detach().amin(dim=1),
        aux_loss=F.binary_cross_entropy_with_logits(logits_BJ, target_BJ),
    )


def select_above(logits_BJ: Tensor, positions_BJ: Tensor, valid_BJ: Tensor | None, threshold: Tensor) -> Selection:
    """The tokens whose logit reaches the threshold: a rule that looks at one token alone, so it is causal.

    Sequences select different numbers of tokens: they are packed to the left and padded to the longest.
    """
    goes_on_BJ = logits_BJ >= threshold
    if valid_BJ is not None:
        goes_on_BJ = goes_on_BJ & valid_BJ
    k = int(goes_on_BJ.sum(dim=1).max().clamp(min=1))
    # A stable sort of "not selected" puts the selected tokens first, in their original order.
    chosen_BK = (~goes_on_BJ).to(torch.int8).sort(dim=1, stable=True).indices[:, :k]
    return Selection(
        positions_BK=positions_BJ.gather(1, chosen_BK),
        logits_BK=logits_BJ.gather(1, chosen_BK),
        valid_BK=goes_on_BJ.gather(1, chosen_BK),
        cutoff_B=None,
        aux_loss=logits_BJ.new_zeros(()),
    )
