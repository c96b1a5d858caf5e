"""A toy sweep of 12 cells and the ways to run it through the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from orchestrator.store.published import summed_content
from tests.helpers.command_line import run
from tests.helpers.paths import TOY_PRESET

MOR_SWEEP = [sys.executable, "-c", "from orchestrator.cli.main import main; main()"]
SCIENCE = [
    "sweep",
    "cell_id",
    "status",
    "arm",
    "architecture",
    "recursions",
    "sharing",
    "kv",
    "routing",
    "size",
    "budget",
    "budget_convention",
    "seed",
    "unique_params",
    "unrolled_params",
    "total_params",
    "d_model",
    "num_layers",
    "tokens",
    "steps",
    "schedule",
    "warmup_steps",
    "decay_start",
    "batch_size",
    "context_length",
    "peak_learning_rate",
    "weight_decay",
    "epochs",
    "flops_exact",
    "flops_paper",
    "flops_6nd",
    "loss",
    "loss_half",
    "loss_topk",
    "bits_per_byte",
    "evaluated_tokens",
    "depth_mean",
    "depth_histogram",
    "last_capacity",
    "realised_capacity",
    "realised_capacity_half",
    "forward_flops_per_token",
    "kv_numbers_kept",
    "kv_numbers_read",
    "tasks",
    "task_average",
    "flags",
    "trunk_id",
    "evaluate_segment",
]


@dataclass(frozen=True, kw_only=True)
class ToySweep:
    """The toy sweep in one results folder."""

    results: Path
    text: Path
    cache: Path
    variables: dict[str, str] = field(default_factory=dict)

    def command(self, *flags: str) -> list[str]:
        """The command line of the sweep."""
        common = ["--preset", str(TOY_PRESET), "--data", str(self.text), "--results", str(self.results), "--yes"]
        return [*MOR_SWEEP, "isoflop", *common, *flags]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its commands."""
        return os.environ | {"MOR_SWEEP_CACHE": str(self.cache)} | self.variables

    def run(self, *flags: str, executor: str = "in-process", mlflow: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the sweep to its end: in this process where it can be, for a start costs as much as the training."""
        command = self.command("--executor", executor, *([] if mlflow else ["--no-mlflow"]), *flags)
        if executor == "in-process" and not mlflow:
            return run_here(command[len(MOR_SWEEP) :], self.environment)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=800, check=False)

    def start(self, *flags: str, executor: str = "ray") -> subprocess.Popen[str]:
        """Start the sweep and return at once."""
        return subprocess.Popen(
            self.command("--executor", executor, *flags),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def science(self, name: str = "toy") -> pl.DataFrame:
        """The columns that must not depend on how the sweep was executed."""
        return pl.read_parquet(self.results / "sweeps" / name / "runs.parquet").select(SCIENCE).sort("cell_id")

    def published(self) -> dict[str, bytes]:
        """The bytes of every published result, by segment id."""
        return {path.parent.name: path.read_bytes() for path in self.results.glob("segments/*/result.json")}

    def weights(self) -> dict[str, bytes]:
        """The bytes of every published checkpoint's weights, by segment id."""
        paths = self.results.glob("segments/*/checkpoint/weights.safetensors")
        return {path.parent.parent.name: path.read_bytes() for path in paths}


def rewrite_result(path: Path, change: Callable[[dict], object]) -> None:
    """Change a result.json as this program would have written it: with the sum of what it says now."""
    document = json.loads(path.read_text())
    change(document)
    path.write_bytes(summed_content(document))


def run_here(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What the command line does with these arguments, as if in a process of its own."""
    return run(*arguments, **environment)
