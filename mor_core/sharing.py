"""Layer maps: which unique layer each unrolled layer of a recursive transformer uses.

Source: Bae et al., Mixture-of-Recursions (NeurIPS 2025, arXiv 2507.10524v3), Table 5. With L unrolled layers and Nr
recursions, the shared block holds b layers. The "middle" strategies keep the first and the last layer to themselves.
Where b would not be whole, the depth is raised to the next L that divides, as the paper's main runs do (appendix D), or
lowered, as the released code does.
"""

from typing import Literal, get_args

SharingStrategy = Literal["cycle", "sequence", "middle-cycle", "middle-sequence"]


def num_unshared_layers(strategy: SharingStrategy) -> int:
    """Layers outside the shared block: the first and the last under a middle strategy, else none."""
    if strategy not in get_args(SharingStrategy):
        raise ValueError(f"sharing strategy {strategy!r}: expected one of {', '.join(get_args(SharingStrategy))}")
    return 2 if strategy.startswith("middle") else 0


def raised_depth(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> int:
    """The smallest depth >= num_layers (in unrolled layers) whose shared part divides by num_recursions."""
    unshared = num_unshared_layers(strategy) if num_recursions > 1 else 0
    block = -(-(num_layers - unshared) // num_recursions)
    return block * num_recursions + unshared


def shrunk_depth(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> int:
    """The greatest depth <= num_layers whose shared part divides: what the released code does, and Table 10's 135M row
    of 39M parameters. Raises ValueError where not even one layer is left to share."""
    unshared = num_unshared_layers(strategy) if num_recursions > 1 else 0
    block = (num_layers - unshared) // num_recursions
    if block < 1:
        raise ValueError(f"{num_layers} layers leave nothing to share in {num_recursions} recursions under {strategy}")
    return block * num_recursions + unshared


def block_depth(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> int:
    """b, the number of layers in the shared block. Raises ValueError where num_layers does not divide."""
    unshared = num_unshared_layers(strategy) if num_recursions > 1 else 0
    block, rest = divmod(num_layers - unshared, num_recursions)
    if rest or block < 1:
        raise ValueError(
            f"{num_layers} layers do not divide into {num_recursions} recursions under {strategy}: "
            f"use {raised_depth(max(num_layers, num_recursions + unshared), num_recursions, strategy)} layers"
        )
    return block


def layer_map(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> tuple[int, ...]:
    """phi: for each unrolled layer, the index of the unique layer it uses (paper, Table 5).

    Raises ValueError where num_layers does not divide; `raised_depth` gives a depth that does.
    """
    block = block_depth(num_layers, num_recursions, strategy)
    if num_recursions == 1:
        return tuple(range(num_layers))
    shared_length = block * num_recursions
    if strategy.endswith("cycle"):
        shared = [layer % block for layer in range(shared_length)]
    else:
        shared = [layer // num_recursions for layer in range(shared_length)]
    if num_unshared_layers(strategy) == 0:
        return tuple(shared)
    return (0, *(1 + layer for layer in shared), block + 1)
