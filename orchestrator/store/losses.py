"""The losses that a segment leaves: its curve (metrics.jsonl), and what each validation sequence lost
(sequence_losses.npy)."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mor_core.files import UnreadableFileError, read_regular_file, write_bytes
from orchestrator.store.published import StoreError, move_away

if TYPE_CHECKING:  # `status` and plans read thousands of curves, and nothing that needs numpy.
    import numpy as np
    from numpy.typing import NDArray

LOG_EVERY_STEPS = 10
"""The step grid of training curves."""

SPIKE_FACTOR = 10.0
"""A loss so many times the one logged before it is a spike: flagged, never a reason to stop."""

LARGEST_SEQUENCE_LOSSES_BYTES = 64 * 2**20
"""16 million sequences."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a metrics.jsonl says."""

    rows: list[dict[str, Any]]
    """Its lines, as they stand; a step may occur more than once."""
    notes: tuple[str, ...]
    """What was wrong with it and did no harm."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; see `read_curve`."""
    return read_curve(path).rows


def read_curve(path: Path) -> Curve:
    """The lines of a metrics.jsonl. A torn last line, which a killed writer leaves, is dropped with a note.

    Raises StoreError for a line in the middle that cannot be read.
    """
    if not path.exists():
        return Curve(rows=[], notes=())
    *lines, tail = path.read_text(errors="replace").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        row = _json_object(line)
        if row is None:
            raise StoreError(f"{path} line {number} is not JSON: {move_away(path.parent)}")
        rows.append(row)
    last = _json_object(tail)
    notes = (f"{path} ended in the middle of line {len(lines) + 1}, which was dropped",) if tail and not last else ()
    return Curve(rows=[*rows, last] if last else rows, notes=notes)


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "step" in value else None


def curve_until(path: Path, step: int) -> Curve:
    """The rows of a metrics.jsonl up to a step, each step once and in order.

    Raises StoreError where a line in the middle cannot be read, or one of the step grid is not there.
    """
    curve = read_curve(path)
    rows = {row["step"]: row for row in curve.rows if row["step"] <= step}
    first = min(rows, default=step)
    for row_step in range(first, step + 1):
        if row_step % LOG_EVERY_STEPS == 0 and row_step not in rows:
            raise StoreError(f"{path} has no line of step {row_step}")
    return Curve(rows=[rows[row_step] for row_step in sorted(rows)], notes=curve.notes)


def loss_spikes(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The logged steps at which the loss was ten times that of the logged step before."""
    return [after["step"] for before, after in pairwise(rows) if after["loss"] > SPIKE_FACTOR * before["loss"]]


def write_sequence_losses(path: Path, losses: Sequence[float]) -> None:
    """Keep the mean loss of each validation sequence, nats per token, as one row of float32 in NumPy's format."""
    import numpy as np

    content = io.BytesIO()
    np.save(content, np.asarray(losses, dtype="<f4"), allow_pickle=False)
    write_bytes(path, content.getvalue())


def read_sequence_losses(path: Path) -> "NDArray[np.float32] | None":
    """The mean loss of each of the S validation sequences under the rule of `loss`, nats per token; [S]. None where
    there is no file. Raises StoreError for anything but one row of finite float32."""
    import numpy as np
    from numpy.lib import format as npy

    try:
        content = read_regular_file(path, LARGEST_SEQUENCE_LOSSES_BYTES)
    except FileNotFoundError:
        return None
    except UnreadableFileError as error:
        raise StoreError(f"{error}: {move_away(path.parent)}") from error
    file = io.BytesIO(content)
    try:
        npy.read_magic(file)
        shape, _, kind = npy.read_array_header_1_0(file)
        # Not `np.load`, which makes room for whatever the header states, and unpickles.
        losses_S = np.frombuffer(file.read(), dtype="<f4")
    except (ValueError, TypeError, SyntaxError, KeyError) as error:
        raise StoreError(f"{path} cannot be read ({error}): {move_away(path.parent)}") from error
    if kind != np.dtype("<f4") or shape != losses_S.shape or not np.isfinite(losses_S).all():
        raise StoreError(f"{path} holds something else than a row of losses: {move_away(path.parent)}")
    return losses_S
