"""The training curve of one cell as plain values."""

from dataclasses import dataclass

from analysis.statistics.quadratic import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class CellCurve:
    """What one cell logged while it trained."""

    cell: str
    """Its name, such as mor-2/135M/2e18/0."""
    arm: str
    """The architecture."""
    size: str
    """Its base shape."""
    params: float
    """N, unique non-embedding parameters."""
    budget: str
    """FLOPs, an exact decimal integer."""
    tokens: Floats
    """(n,) training tokens at the logged steps, ascending."""
    loss: Floats
    """(n,) training loss there, nats/token, of one batch each."""
    cooldown_from: float | None
    """Training tokens at which the learning rate begins to fall to zero; None without a cooldown of its own."""
    final_loss: float | None
    """Of the evaluation after the cooldown; None where there is none yet."""
