"""The named base shapes: the paper's four, and a ladder of small rungs that is smooth in parameters. No torch.

A size is the vanilla shape; `model_config` turns it into an arm by sharing and routing its layers.
"""

from dataclasses import dataclass
from typing import Literal

from mor_core.config.model import ModelConfig, Recursion, Routing, SharingStrategy, num_unshared_layers, raised_depth

DepthFit = Literal["raise", "shrink"]
"""What happens to a depth that does not divide into recursions."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A base shape, named by its non-embedding parameters as a vanilla transformer."""

    name: str
    """What users type and tables show."""
    num_layers: int
    """Layers of the vanilla transformer."""
    d_model: int
    """Width of the residual stream."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    d_ff: int
    """Width of the SwiGLU hidden layer."""

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads


PAPER_SIZES: tuple[Size, ...] = (
    # Bae et al., Table 6. 135M, 360M and 1.7B are SmolLM shapes; 730M is 1.7B's with the width of the table.
    Size(name="135M", num_layers=30, d_model=576, num_heads=9, num_kv_heads=3, d_ff=1536),
    Size(name="360M", num_layers=32, d_model=960, num_heads=15, num_kv_heads=5, d_ff=2560),
    Size(name="730M", num_layers=26, d_model=1536, num_heads=24, num_kv_heads=8, d_ff=4096),
    Size(name="1.7B", num_layers=24, d_model=2048, num_heads=32, num_kv_heads=32, d_ff=8192),
)


def _rung(name: str, num_layers: int, d_model: int, num_heads: int, d_ff: int) -> Size:
    """A rung of the small ladder: half as many key and value heads as query heads, at least one."""
    return Size(
        name=name,
        num_layers=num_layers,
        d_model=d_model,
        num_heads=num_heads,
        num_kv_heads=max(1, num_heads // 2),
        d_ff=d_ff,
    )


# Parameters grow by 1.2 to 1.85 times from rung to rung. Depth stays at 8 or more, and depth - 2 divides by 2 and by 3,
# so that middle-cycle sharing has a block to repeat without raising the depth. d_ff is 8/3 of the width, rounded.
# The rungs below 300k are deeper than is good for them: SHALLOW_LADDER has better ones.
SMALL_LADDER: tuple[Size, ...] = (
    # name, layers, width, query heads, d_ff
    _rung("5.5k", 8, 8, 2, 20),
    _rung("10k", 8, 10, 1, 28),
    _rung("13k", 8, 12, 2, 32),
    _rung("23k", 8, 16, 2, 44),
    _rung("35k", 8, 20, 2, 52),
    _rung("51k", 8, 24, 2, 64),
    _rung("70k", 8, 28, 2, 76),
    _rung("115k", 8, 36, 2, 96),
    _rung("170k", 8, 44, 2, 116),
    _rung("275k", 8, 56, 4, 148),
    _rung("457k", 8, 72, 4, 192),
    _rung("686k", 8, 88, 4, 236),
    _rung("1.1M", 8, 112, 4, 300),
    _rung("1.6M", 8, 136, 4, 360),
    _rung("2.2M", 8, 160, 4, 416),
    _rung("3.2M", 14, 144, 4, 384),
    _rung("4.9M", 14, 176, 8, 480),
    _rung("6.6M", 14, 208, 8, 544),
    _rung("10M", 14, 256, 8, 672),
    _rung("16M", 14, 320, 10, 864),
    _rung("23M", 20, 320, 10, 864),
    _rung("32M", 20, 384, 6, 1024),
    _rung("44M", 20, 448, 8, 1184),
    _rung("57M", 26, 448, 8, 1184),
    _rung("75M", 26, 512, 8, 1376),
)

# What loses least below 300k at equal FLOPs among depths of which middle-cycle can share a block in two recursions
# (four layers and more; fewer lose less still), and is the fastest of these: by a search over depth, width, rate,
# batch, heads and initial scale (results/published/ladder). Three recursions take five layers. From 457k on: the
# small ladder.
SHALLOW_LADDER: tuple[Size, ...] = (
    _rung("2.8k-4L", 4, 8, 2, 20),
    _rung("5.1k-4L", 4, 10, 1, 28),
    _rung("6.4k-4L", 4, 12, 2, 32),
    _rung("12k-4L", 4, 16, 2, 44),
    _rung("17k-4L", 4, 20, 2, 52),
    _rung("26k-4L", 4, 24, 2, 64),
    _rung("35k-4L", 4, 28, 2, 76),
    _rung("45k-4L", 4, 32, 2, 84),
    _rung("57k-4L", 4, 36, 2, 96),
    _rung("85k-4L", 4, 44, 2, 116),
    _rung("120k-4L", 4, 52, 2, 140),
    _rung("182k-4L", 4, 64, 2, 172),
    _rung("281k-4L", 4, 80, 2, 212),
    *(size for size in SMALL_LADDER if size.d_model >= 72),
)

# Six layers at every size: of middle-cycle's four inner layers two recursions share two, four recursions one, so that
# every arm has vanilla's depth. A grid for what a recursion is worth; four layers lose less.
SIX_LAYER_LADDER: tuple[Size, ...] = (
    # name, layers, width, query heads, d_ff
    _rung("4.1k-6L", 6, 8, 2, 20),
    _rung("7.6k-6L", 6, 10, 1, 28),
    _rung("9.7k-6L", 6, 12, 2, 32),
    _rung("17k-6L", 6, 16, 2, 44),
    _rung("26k-6L", 6, 20, 2, 52),
    _rung("38k-6L", 6, 24, 2, 64),
    _rung("53k-6L", 6, 28, 2, 76),
    _rung("67k-6L", 6, 32, 2, 84),
    _rung("86k-6L", 6, 36, 2, 96),
    _rung("127k-6L", 6, 44, 2, 116),
    _rung("180k-6L", 6, 52, 2, 140),
    _rung("273k-6L", 6, 64, 2, 172),
    _rung("422k-6L", 6, 80, 2, 212),
    _rung("610k-6L", 6, 96, 4, 256),
    _rung("832k-6L", 6, 112, 4, 300),
)

SIZES: dict[str, Size] = {size.name: size for size in (*SMALL_LADDER, *SHALLOW_LADDER, *SIX_LAYER_LADDER, *PAPER_SIZES)}


def shrunk_depth(num_layers: int, num_recursions: int, strategy: SharingStrategy) -> int:
    """The greatest depth <= num_layers whose shared part divides: what the released code does, and Table 10's 135M row
    of 39M parameters. Raises ValueError where not even one layer is left to share."""
    unshared = num_unshared_layers(strategy) if num_recursions > 1 else 0
    block = (num_layers - unshared) // num_recursions
    if block < 1:
        raise ValueError(f"{num_layers} layers leave nothing to share in {num_recursions} recursions under {strategy}")
    return block * num_recursions + unshared


def fitted_depth(num_layers: int, recursion: Recursion, fit: DepthFit) -> int:
    """The next depth that divides into the recursions, in unrolled layers: raised (paper, appendix D) or shrunk."""
    fitted = raised_depth if fit == "raise" else shrunk_depth
    return fitted(num_layers, recursion.count, recursion.sharing)


def model_config(
    size: Size,
    *,
    vocab_size: int,
    context_length: int,
    recursion: Recursion | None = None,
    routing: Routing | None = None,
    fit_depth: DepthFit = "raise",
) -> ModelConfig:
    """The size as an arm, of the depth that `fitted_depth` finds for its layers."""
    recursion = recursion or Recursion()
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        num_layers=fitted_depth(size.num_layers, recursion, fit_depth),
        d_model=size.d_model,
        num_heads=size.num_heads,
        num_kv_heads=size.num_kv_heads,
        d_head=size.d_head,
        d_ff=size.d_ff,
        recursion=recursion,
        routing=routing,
    )
