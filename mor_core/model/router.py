"""Routers, and the rules by which tokens go on to the next recursion.

Shapes: B sequences, T tokens, J tokens that reached a recursion, K tokens that it computes, D model width, R
recursions.
Positions are indices into the original sequence, ascending, so that causal order survives packing. Source: Bae et al.,
arXiv 2507.10524v3, section 2.2.1 and equations 2.1 and 2.2; the calibrated threshold is the causal reading that the
paper implies and its released code lacks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config.model import RouterKind
from mor_core.flops import ROUTER_EXPANSION


class Router(nn.Module):
    """Scores of tokens, in fp32 under every precision: thresholds compare scores across batches.

    linear is D -> outputs; mlp and wide-mlp are D -> 2 D or 4 D, GELU, -> outputs. No biases (paper, appendix G).
    """

    def __init__(self, d_model: int, outputs: int, kind: RouterKind) -> None:
        super().__init__()
        hidden = d_model * ROUTER_EXPANSION.get(kind, 1)
        self.hidden = None if kind == "linear" else nn.Linear(d_model, hidden, bias=False)
        self.score = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x_BJD: Tensor) -> Tensor:
        """Router logits [B, J, outputs]."""
        with torch.autocast(x_BJD.device.type, enabled=False):
            x_BJD = x_BJD.to(self.score.weight.dtype)
            if self.hidden is not None:
                x_BJD = F.gelu(self.hidden(x_BJD))
            return self.score(x_BJD)


_MULTIPLIERS = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""Odd 64-bit constants of SplitMix64 (Steele et al. 2014), as signed integers; torch's int64 wraps around."""


def random_logits(tokens_BT: Tensor, outputs: int) -> Tensor:
    """Logits [B, T, outputs] whose sigmoid is uniform in (0, 1): the control that routes at random.

    They are a fixed pseudo-random function of the tokens up to each position, so they are causal, need no state, and do
    not depend on the micro-batch or on where training was resumed.
    """
    golden, first, second = _MULTIPLIERS
    places = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) * golden + 1
    prefix_BT = _mix((tokens_BT + 1) * golden + places, first, second).cumsum(dim=1)
    streams = torch.arange(1, outputs + 1, device=tokens_BT.device) * golden
    bits = _mix(prefix_BT.unsqueeze(-1) + streams, first, second)
    uniform = (((bits >> 40) & ((1 << 24) - 1)).double() + 0.5) / (1 << 24)
    return uniform.logit().float()


def _mix(bits: Tensor, first: int, second: int) -> Tensor:
    """SplitMix64's finaliser: every input bit moves every output bit."""

    def fold(bits: Tensor, by: int) -> Tensor:
        """bits ^ (bits >> by) as of unsigned numbers: torch's shift copies the sign, which the mask takes off."""
        return bits ^ ((bits >> by) & ((1 << (64 - by)) - 1))

    return fold(fold(fold(bits, 30) * first, 27) * second, 31)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The tokens that one recursion computes."""

    positions_BK: Tensor
    """Their positions in the sequence, ascending; padding rows (valid_BK false) repeat unselected positions."""
    chosen_BK: Tensor | None
    """Their indices among the J candidates; None where every candidate is taken."""
    valid_BK: Tensor | None
    """False on padding; None where nothing is padded."""
    cutoff_B: Tensor | None = None
    """The k-th highest score of each sequence (top-k only)."""
    target_BJ: Tensor | None = None
    """1 where a candidate was selected (top-k only; None where every candidate was)."""

    def of(self, values_BJ: Tensor) -> Tensor:
        """The selected tokens' entries of something that every candidate has one of."""
        return values_BJ if self.chosen_BK is None else values_BJ.gather(1, self.chosen_BK)


def select_all(positions_BJ: Tensor, valid_BJ: Tensor | None) -> Selection:
    """Every candidate goes on (always so at recursion 1)."""
    return Selection(positions_BK=positions_BJ, chosen_BK=None, valid_BK=valid_BJ)


def select_top_k(logits_BJ: Tensor, positions_BJ: Tensor, k: int) -> Selection:
    """The k highest logits of each sequence. It compares a token with later ones, so it is not causal."""
    values_BK, chosen_BK = logits_BJ.detach().topk(k, dim=1)
    chosen_BK = chosen_BK.sort(dim=1).values
    return Selection(
        positions_BK=positions_BJ.gather(1, chosen_BK),
        chosen_BK=chosen_BK,
        valid_BK=None,
        cutoff_B=values_BK[:, -1],
        target_BJ=torch.zeros_like(logits_BJ.detach()).scatter(1, chosen_BK, 1.0),
    )


def select_where(goes_on_BJ: Tensor, positions_BJ: Tensor, valid_BJ: Tensor | None) -> Selection:
    """The candidates that a rule about each token alone lets go on.

    Sequences select different numbers of tokens: they are packed to the left and padded to the longest.
    """
    if valid_BJ is not None:
        goes_on_BJ = goes_on_BJ & valid_BJ
    k = int(goes_on_BJ.sum(dim=1).max().clamp(min=1))
    # A stable sort of "not selected" puts the selected tokens first, in their original order.
    chosen_BK = (~goes_on_BJ).to(torch.int8).sort(dim=1, stable=True).indices[:, :k]
    return Selection(
        positions_BK=positions_BJ.gather(1, chosen_BK),
        chosen_BK=chosen_BK,
        valid_BK=goes_on_BJ.gather(1, chosen_BK),
    )


def selection_loss(logits_BJ: Tensor, selection: Selection) -> Tensor:
    """Mean over the candidates of all sequences of BCE(logit, selected); all count as selected where all were taken."""
    if selection.target_BJ is None:
        return F.softplus(-logits_BJ).mean()
    return F.binary_cross_entropy_with_logits(logits_BJ, selection.target_BJ)


def kth_highest(logits_BJ: Tensor, k: int) -> Tensor:
    """The k-th highest logit of each sequence, [B]: what a threshold must be for k tokens to pass."""
    return logits_BJ.detach().topk(k, dim=1).values[:, -1]


def balancing_loss(probabilities_BTR: Tensor, depth_BT: Tensor) -> Tensor:
    """Nr * sum_r f_r P_r, f_r the share of tokens of depth r and P_r their mean probability (Switch Transformer, arXiv
    2101.03961, equation 4), per sequence and then averaged, so that the micro-batch does not matter. (The released code
    takes f and P over a micro-batch of 16 sequences.)
    """
    count = probabilities_BTR.shape[-1]
    share_BR = F.one_hot(depth_BT, count).to(probabilities_BTR.dtype).mean(dim=1)
    return count * (share_BR * probabilities_BTR.mean(dim=1)).sum(dim=-1).mean()


def take_rows(x_BJD: Tensor, chosen_BK: Tensor | None) -> Tensor:
    """The chosen rows of each sequence, [B, K, D]; all of them for None."""
    if chosen_BK is None:
        return x_BJD
    return x_BJD.flatten(0, 1).index_select(0, _flat(chosen_BK, x_BJD.shape[1])).unflatten(0, chosen_BK.shape)


def put_rows(x_BJD: Tensor, chosen_BK: Tensor | None, rows_BKD: Tensor) -> Tensor:
    """x with the chosen rows of each sequence replaced. Rows are unique, so there is no order to depend on."""
    if chosen_BK is None:
        return rows_BKD
    return x_BJD.flatten(0, 1).index_copy(0, _flat(chosen_BK, x_BJD.shape[1]), rows_BKD.flatten(0, 1)).view_as(x_BJD)


def _flat(chosen_BK: Tensor, length: int) -> Tensor:
    """Indices into [B * J, D]."""
    starts_B1 = torch.arange(chosen_BK.shape[0], device=chosen_BK.device).unsqueeze(1) * length
    return (chosen_BK + starts_B1).flatten()
