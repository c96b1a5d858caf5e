"""How a segment is executed, and what every part of one attempt at it gets to know.

What a segment computes is in `Segment`; how it is executed here is in `Job` and is recorded as `numerics`, since bits
are promised equal between equal numerics only.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mor_core.config.own_model import OwnModel
from mor_core.model.device import default_device
from mor_core.model.own.model import load_definition
from mor_core.training.distributed import current_world
from orchestrator.planning.identity import Segment
from orchestrator.store.attempts import Attempt
from orchestrator.store.store import Store
from orchestrator.store.workers.stop_request import StopFile

EVALUATION_BATCH = 32
"""Most sequences of a training batch that an evaluation takes at once."""
EVALUATION_TOKENS = 2048
"""An evaluation takes at least so many tokens at once, however small the batches of training: without gradients they
need less memory than a training step, and tiny models spend half of a smaller pass on calls."""
STALL_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """How segments are executed: nothing here changes what they compute beyond rounding."""

    results: str | Path
    """The results, as `open_store` takes them: a folder, or an address for which each host has a folder of its own."""
    data_folder: Path
    """Folder of the data snapshot."""
    data_url: str | None = None
    """Where a machine that has no such folder fetches it from."""
    checkpoint_every_steps: int
    """Steps between checkpoints within a segment: the work that a fault can cost."""
    micro_batch: int | None = None
    """Sequences per forward pass; None takes the whole batch."""
    threads: int = 1
    """torch threads of a CPU worker."""
    init_folder: Path | None = None
    """Folder of the pretrained weights that trunks start from, if they do."""
    task_folder: Path | None = None
    """Folder of the task files, where tasks are scored."""
    text_file: Path | None = None
    """The text, where its loss is measured."""
    import_from: Path | None = None
    """Folder that the code of a user's own models is imported from, if there are any."""
    code_files: Mapping[str, Path] = field(default_factory=dict)
    """Their files by the paths that they have below such a folder, for workers that do not see it."""
    compile: bool = False
    """Whether the model goes through torch.compile: up to a minute on a CPU core, for cells that take far longer."""
    checkpoint_activations: bool = False
    """Whether layers keep their inputs only and compute the rest again in the backward pass: less memory, more time."""
    deterministic: bool = True
    """Whether a GPU must use operations with a fixed order of sums; a CPU worker always does."""
    stall_seconds: float = STALL_SECONDS
    """Without a step for so long, or for 20 times the slowest step where that is longer, an attempt is ended."""
    stop: StopFile | None = None
    """What its driver writes to make the segments stop; None for work that has no driver."""
    run: str = ""
    """Names the run of a command that this work belongs to: retries are counted within one run."""

    def sequences(self, segment: Segment, workers: int = 1) -> int:
        """Sequences in one forward pass of a segment, whose batches so many workers share."""
        share = segment.trunk.train.batch_size // workers
        sequences = min(self.micro_batch or share, share)
        if segment.kind != "evaluate":
            return sequences
        at_least = EVALUATION_TOKENS // segment.trunk.model.context_length if self.micro_batch is None else 0
        return max(at_least, min(EVALUATION_BATCH, sequences))


@dataclass(frozen=True, kw_only=True)
class SegmentRun:
    """One attempt at one segment."""

    segment: Segment
    """What is computed."""
    job: Job
    """How it is executed."""
    store: Store
    """Where earlier attempts and published states are."""
    attempt: Attempt
    """Its private files."""
    on_step: Callable[[], None] = lambda: None
    """Told of every step, and of other work that took as long."""
    on_checkpoint: Callable[[int], None] = lambda _: None
    """Told of the step of every checkpoint that was kept."""

    def where(self, step: int) -> dict[str, str | int]:
        """What a rehearsed fault can ask for."""
        return {
            "segment": self.segment.id,
            "kind": self.segment.kind,
            "step": step,
            "attempt": self.store.attempts(self.segment.id).count(),
            "rank": current_world().rank,
            "micro_batch": self.job.sequences(self.segment, current_world().size),
        }


def numerics(segment: Segment, job: Job) -> dict[str, Any]:
    """What bits depend on beside the recipe: results are comparable bit for bit between equal numerics only. Of a
    user's own model that is its code, too."""
    device, model = default_device(), segment.trunk.model
    code = load_definition(model.object).code().to_numerics() if isinstance(model, OwnModel) else {}
    return code | {
        "precision": segment.trunk.train.precision,
        "micro_batch": job.micro_batch or segment.trunk.train.batch_size,
        "threads": job.threads if device.type == "cpu" else 0,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu {platform.machine()}",
        "torch": torch.__version__,
        "world_size": current_world().size,
        "compile": job.compile,
        "deterministic": job.deterministic or device.type == "cpu",
    }
