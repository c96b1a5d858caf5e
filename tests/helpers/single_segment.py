"""One segment of a small trunk, for tests of what happens around its steps.

As a script, run in a process of its own so that limits and fatal ends are real:
    python single_segment.py RESULTS DATA_FOLDER BATCH STOP_STEP STALL_SECONDS EXTRA_MEGABYTES
It prints the outcome's status and reason. EXTRA_MEGABYTES (0: no limit) is what it may allocate beyond what it holds
once torch is loaded, as the kernel's own limit.
"""

import json
import resource
import sys
from pathlib import Path

from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from orchestrator.planning.identity import Segment, TrunkRecipe, stable_segment
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.worker import run_segment


def segment_on(data: DataSnapshot, *, batch_size: int = 4, stop_step: int = 40) -> Segment:
    """Forty steps of the smallest model."""
    trunk = TrunkRecipe(
        model=model_config(SIZES["13k"], vocab_size=data.vocab_size, context_length=32),
        train=TrainConfig(batch_size=batch_size, peak_learning_rate=0.01, warmup_steps=1),
        data_fingerprint=data.fingerprint,
        tokenizer_fingerprint=data.tokenizer_fingerprint,
        seed=0,
        numerics_version=1,
    )
    return stable_segment(trunk, stop_step)


def job_for(results: str | Path, data: DataSnapshot, **settings) -> Job:
    """A job with a checkpoint every 10 steps, in a results folder that is there or at an address."""
    if isinstance(results, Path):
        results.mkdir(parents=True, exist_ok=True)
    return Job(**({"results": results, "data_folder": data.folder, "checkpoint_every_steps": 10} | settings))


def _held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """See the module."""
    results, folder, batch, stop_step, stall_seconds, extra_megabytes = sys.argv[1:]
    data = load_snapshot(Path(folder))
    segment = segment_on(data, batch_size=int(batch), stop_step=int(stop_step))
    job = job_for(Path(results), data, stall_seconds=float(stall_seconds), run="a run")
    if int(extra_megabytes):
        limit = _held_bytes() + int(extra_megabytes) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcome = run_segment(segment, job)
    print(json.dumps({"status": outcome.status, "reason": outcome.reason}))


if __name__ == "__main__":
    main()
